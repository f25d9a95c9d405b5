"""`python -m fuzz [TARGET ...] --minutes N`: fuzzes the targets in turn; what fails is kept in their corpus.

Each round of Hypothesis has another seed, which is printed with what it found.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import hypothesis

from fuzz import listening
from fuzz.inputs import CORPUS, FOUND, mutated
from fuzz.targets import TARGETS

_ROUND = 2000  # examples
_ROUND_OF_HTTP = 50  # each waits for a socket


def main() -> int:
    """Runs what is asked for; the exit code is the number of targets that failed."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"all by default: {', '.join(TARGETS)}")
    parser.add_argument("--minutes", type=float, default=1.0, help="for all targets together (default 1)")
    parser.add_argument("--seed", type=int, default=None, help="of the first round; a random one by default")
    args = parser.parse_args()
    unknown = [name for name in args.targets if name not in TARGETS]
    if unknown:
        parser.error(f"no target {unknown[0]!r}; there are: {', '.join(TARGETS)}")
    names = args.targets or list(TARGETS)
    seed = random.SystemRandom().randrange(2**32) if args.seed is None else args.seed
    try:
        return _rounds(names, args.minutes * 60, seed)
    finally:
        listening.close()


def _rounds(names: list[str], seconds: float, seed: int) -> int:
    """Gives each target its share of the time."""
    failed = 0
    for name in names:
        until, count = time.monotonic() + seconds / len(names), 0
        while time.monotonic() < until:
            error = _round(name, seed + count)
            count += 1
            if error is not None:
                failed += 1
                print(f"{name}: FAILED, seed {seed + count - 1}: {error}", flush=True)
                break
        else:
            print(f"{name}: {count} rounds from seed {seed}, nothing found", flush=True)
    return failed


def _round(name: str, seed: int) -> str | None:
    """Runs one round; returns what failed, None where nothing did."""
    target, last = TARGETS[name], b""

    def check(data: bytes) -> None:
        nonlocal last
        last = data
        target(data)

    examples = _ROUND_OF_HTTP if name.startswith("http") else _ROUND
    settings = hypothesis.settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    run: Callable[[], None] = hypothesis.seed(seed)(settings(hypothesis.given(mutated(name))(check)))
    try:
        run()
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:500]} ({_keep(name, last)})"
    return None


def _keep(name: str, data: bytes) -> Path:
    path = CORPUS / name / f"{FOUND}{hashlib.sha256(data).hexdigest()[:12]}.bin"
    path.write_bytes(data)
    return path


if __name__ == "__main__":
    sys.exit(main())
