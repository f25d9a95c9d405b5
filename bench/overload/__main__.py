"""`python -m bench.overload [CASE ...]`: runs some of the cases and prints their figures as JSON; nothing is saved."""

from __future__ import annotations

import argparse
import json

from bench.overload import CASES


def main() -> None:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench.overload", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"which ones; all by default: {', '.join(CASES)}")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement (default 5)")
    args = parser.parse_args()
    unknown = [name for name in args.cases if name not in CASES]
    if unknown:
        parser.error(f"no case {unknown[0]!r}; there are: {', '.join(CASES)}")
    for name in args.cases or CASES:
        print(json.dumps({name: CASES[name](args.seconds)}, indent=2), flush=True)


if __name__ == "__main__":
    main()
