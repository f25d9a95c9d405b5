"""`python -m bench [NAME ...]`: runs the benchmarks and writes bench/results/NAME.json.

Of one that has cases some can be chosen: `python -m bench overload flood`. Where `SAVES_CASES` is true, their results
take the place of their former ones.
"""

from __future__ import annotations

import argparse
import importlib
import json
from contextlib import nullcontext

from rich.console import Console

from bench.harness import save

NAMES = (
    "overhead",
    "functions",
    "stages",
    "isolation",
    "churn",
    "growth",
    "opcodes",
    "decisions",
    "schedulers",
    "fleet_rules",
    "fleet",
    "closed_loop",
    "ray",
    "overload",
    "curve",
    "rollout",
    "network",
    "outages",
    "policies",
    "recording",
)
SHOW_THEMSELVES = (
    "overhead",
    "functions",
    "schedulers",
    "fleet_rules",
    "fleet",
    "closed_loop",
    "ray",
)  # with a progress bar and a table of their own


def main() -> None:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones; all by default: {', '.join(NAMES)}")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement (default 5)")
    parser.add_argument("--quick", action="store_true", help="less of what takes minutes; nothing is saved")
    parser.add_argument("--json", action="store_true", help="print results as JSON on standard output")
    args = parser.parse_args()
    cases = _cases_of(args.names)
    unknown = [name for name in args.names if name not in NAMES and name not in cases]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are: {', '.join(NAMES)}")
    console = Console(stderr=True)
    for name in [name for name in args.names if name not in cases] or NAMES:
        module = importlib.import_module(f"bench.{name}")
        run = getattr(module, "run_quick", module.run) if args.quick else module.run
        title = f"{name}: {(module.__doc__ or '').splitlines()[0]}"
        with nullcontext() if name in SHOW_THEMSELVES else console.status(title):
            result = {case: module.CASES[case](args.seconds) for case in cases} if cases else run(args.seconds)
        if args.quick or (cases and not getattr(module, "SAVES_CASES", False)):
            path = None
        else:
            path = save(name, result, keep_others=bool(cases))
        if args.json:
            print(json.dumps({name: result}))
        else:
            console.print(f"[bold]{name}[/bold]" + (f" -> {path}" if path else ""))
            if name not in SHOW_THEMSELVES:
                console.print_json(json.dumps(result))


def _cases_of(names: list[str]) -> list[str]:
    """Returns what follows the name of a benchmark that has cases to choose from."""
    if len(names) < 2 or names[0] not in NAMES:
        return []
    cases = getattr(importlib.import_module(f"bench.{names[0]}"), "CASES", {})
    return [name for name in names[1:] if name in cases]


if __name__ == "__main__":
    main()
