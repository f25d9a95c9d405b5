"""`python -m bench.fleet_rules`: a part of the comparison, of some rules or cells; nothing is saved."""

from __future__ import annotations

import argparse

from bench.fleet_rules import CELLS, QUICK_SECONDS, RULES, compare


def main() -> None:
    """Runs what the arguments select."""
    parser = argparse.ArgumentParser(prog="python -m bench.fleet_rules", description=__doc__)
    parser.add_argument("--rules", default=",".join(RULES), help="strategies, separated by commas; all by default")
    parser.add_argument("--cells", default="", help="only cells whose name contains one of these, separated by commas")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds a cell (default 1)")
    parser.add_argument("--seconds", type=float, default=QUICK_SECONDS, help="virtual time of a run")
    args = parser.parse_args()
    parts = [part.strip() for part in args.cells.split(",") if part.strip()] or [""]
    cells = [cell for cell in CELLS if any(part in cell.name for part in parts)]
    if not cells:
        parser.error(f"--cells: none contains {args.cells!r}; there are: {', '.join(cell.name for cell in CELLS)}")
    compare(cells, [name.strip() for name in args.rules.split(",")], range(args.seeds), args.seconds)


if __name__ == "__main__":
    main()
