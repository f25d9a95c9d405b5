"""`python -m bench.fleet_rules`: a part of the comparison, of some rules or cells.

Nothing is saved, but with `--replace`: then the rows that were run take the place of those in bench/results.
"""

from __future__ import annotations

import argparse

from bench.fleet_rules import QUICK_SECONDS, RULES, SECONDS, SEEDS, compare, replace_rows
from bench.fleet_rules.cells import CELLS


def main() -> None:
    """Runs what the arguments select."""
    parser = argparse.ArgumentParser(prog="python -m bench.fleet_rules", description=__doc__)
    parser.add_argument("--rules", default=",".join(RULES), help="strategies, separated by commas; all by default")
    parser.add_argument("--cells", default="", help="only cells whose name contains one of these, separated by commas")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds a cell (default 1)")
    parser.add_argument("--seconds", type=float, default=QUICK_SECONDS, help="virtual time of a run")
    parser.add_argument("--replace", action="store_true", help="save the rows; all seeds and the whole time are run")
    args = parser.parse_args()
    seeds, seconds = (SEEDS, SECONDS) if args.replace else (range(args.seeds), args.seconds)
    parts = [part.strip() for part in args.cells.split(",") if part.strip()] or [""]
    cells = [cell for cell in CELLS if any(part in cell.name for part in parts)]
    if not cells:
        parser.error(f"--cells: none contains {args.cells!r}; there are: {', '.join(cell.name for cell in CELLS)}")
    result = compare(cells, [name.strip() for name in args.rules.split(",")], seeds, seconds)
    if args.replace:
        print(replace_rows(result["rows"]))


if __name__ == "__main__":
    main()
