"""`python -m bench.closed_loop`: the closed loop with options.

It writes bench/results/closed_loop.json and docs/images/closed-loop.png; with --peers those of
closed_loop_peers; with --quick, nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from bench.closed_loop import PEERS, PEERS_OPTIONS, QUICK_LOADS, Options, measure, picture
from bench.harness import save
from inferential.scheduler import scheduler_names
from inferential.sim.tasks import TASKS


def main() -> None:
    """Command line."""
    usual = Options()
    parser = argparse.ArgumentParser(prog="python -m bench.closed_loop", description=__doc__)
    parser.add_argument("--peers", action="store_true", help="all peers beside the default strategy, in 6 minutes")
    parser.add_argument("--seconds", type=float, help=f"length of a cell (default {usual.seconds:g})")
    parser.add_argument("--loads", help=f"default {','.join(f'{load:g}' for load in usual.loads)}")
    parser.add_argument("--tasks", help=f"default {','.join(usual.tasks)}")
    parser.add_argument("--strategies", help=f"default {','.join(usual.strategies)}")
    parser.add_argument("--rounds", type=int, default=usual.rounds, help="with a seed each (default %(default)s)")
    parser.add_argument("--robots", type=int, default=usual.robots, help="in a cell (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="two loads, 3 s a cell, nothing saved")
    args = parser.parse_args()
    usual = PEERS_OPTIONS if args.peers else usual
    loads = QUICK_LOADS if args.quick else usual.loads
    known = (*scheduler_names(), *PEERS)
    try:
        options = Options(
            seconds=args.seconds or (3.0 if args.quick else usual.seconds),
            loads=tuple(map(float, args.loads.split(","))) if args.loads else loads,
            tasks=names(args.tasks, tuple(TASKS), "task") if args.tasks else usual.tasks,
            strategies=names(args.strategies, known, "strategy") if args.strategies else usual.strategies,
            rounds=args.rounds,
            robots=args.robots,
        )
    except ValueError as error:
        parser.error(str(error))
    console = Console(width=None if sys.stdout.isatty() else 120)
    name, draw = ("closed_loop_peers", picture.save_peers) if args.peers else ("closed_loop", picture.save)
    result = measure(options, console)
    if not args.quick:
        for path in (save(name, result), draw(result["cells"])):
            console.print(f"saved {path}")


def names(text: str, known: Sequence[str], what: str) -> tuple[str, ...]:
    """Names separated by commas.

    Raises:
        ValueError: one is not known.
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in known:
            raise ValueError(f"no {what} {name!r}; there are: {', '.join(known)}")
    return names


if __name__ == "__main__":
    main()
