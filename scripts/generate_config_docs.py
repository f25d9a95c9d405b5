"""Writes the field tables of docs/configuration.md from the schema.

    python scripts/generate_config_docs.py          write them
    python scripts/generate_config_docs.py --check  exit code 1 if they are out of date

What stands around the tables is written by hand.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic_core import PydanticUndefined

from inferential.config.fields import ROOT, Node, format_value, leaves

PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"
BEGIN = "<!-- the tables below are written by scripts/generate_config_docs.py -->\n"
END = "<!-- end of the tables -->\n"


def main() -> int:
    page = PAGE.read_text(encoding="utf-8")
    new = updated(page)
    if "--check" in sys.argv[1:]:
        if new != page:
            print(f"{PAGE} is out of date: python {sys.argv[0]}", file=sys.stderr)
        return int(new != page)
    PAGE.write_text(new, encoding="utf-8")
    return 0


def updated(page: str) -> str:
    """The page with the tables as the schema has them now."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE}: the lines {BEGIN!r} and {END!r} mark the place of the tables")
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


def tables() -> str:
    """A table for each section of the configuration."""
    return "\n".join(_table(section) for section in ROOT.children())


def _table(section: Node) -> str:
    lines = [
        f"### `{section.path}`",
        "",
        _sentence((section.section.__doc__ if section.section else None) or section.description),
        "",
        "| field | value | unit | default | meaning | change |",
        "|---|---|---|---|---|---|",
        *(_row(section, node) for node in leaves(section)),
        "",
    ]
    return "\n".join(lines)


def _row(section: Node, node: Node) -> str:
    name = node.path.removeprefix(f"{section.path}.").replace("[0]", "[]")
    default = "required" if node.default is PydanticUndefined else f"`{format_value(node.default)}`"
    cells = (f"`{name}`", node.expected, node.unit, default, node.description, "live" if node.live else "restart")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _sentence(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
