"""Writes the table of metrics in docs/serving.md from the declarations in `inferential.metrics.names`.

python scripts/generate_metric_docs.py          write it
python scripts/generate_metric_docs.py --check  exit code 1 if it is out of date
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from inferential.metrics.names import METRICS, Metric

PAGE = Path(__file__).resolve().parent.parent / "docs" / "serving.md"
BEGIN = "<!-- the table below is written by scripts/generate_metric_docs.py -->\n"
END = "<!-- end of the table -->\n"


def main() -> int:
    page = PAGE.read_text(encoding="utf-8")
    new = updated(page)
    if "--check" in sys.argv[1:]:
        if new != page:
            print(f"{PAGE} is out of date: python {sys.argv[0]}", file=sys.stderr)
        return int(new != page)
    PAGE.write_text(new, encoding="utf-8")
    return 0


def updated(page: str, metrics: Iterable[Metric] = METRICS.values()) -> str:
    """Returns the page with the table as the declarations are now."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE}: the lines {BEGIN!r} and {END!r} mark the place of the table")
    return f"{before}{BEGIN}\n{table(metrics)}\n{END}{after}"


def table(metrics: Iterable[Metric]) -> str:
    """Returns the table of metrics."""
    lines = ["| metric | unit | labels | recorded |", "|---|---|---|---|"]
    lines += [f"| `{one.name}` | {one.unit} | {', '.join(one.labels)} | {one.description} |" for one in metrics]
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
