"""Writes the fields in docs/configuration.md from the schema.

    python scripts/generate_config_docs.py          write them
    python scripts/generate_config_docs.py --check  exit code 1 if they are out of date

Each field has a heading, so that the site's search leads to it and it can be linked. What stands around them is written
by hand.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

from pydantic_core import PydanticUndefined

from inferential.config.fields import ROOT, Node, format_value, leaves

PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"
BEGIN = "<!-- the fields below are written by scripts/generate_config_docs.py -->\n"
END = "<!-- end of the fields -->\n"


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
    """The page with the fields as the schema has them now."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE}: the lines {BEGIN!r} and {END!r} mark the place of the fields")
    return f"{before}{BEGIN}\n{fields()}\n{END}{after}"


def fields() -> str:
    """The sections of the configuration with their fields."""
    return "\n".join(_section(section) for section in ROOT.children())


def _section(section: Node) -> str:
    about = _sentence((section.section.__doc__ if section.section else None) or section.description)
    return "\n".join([f"### `{section.path}`", "", _wrapped(about), "", *map(_field, leaves(section))])


def _field(node: Node) -> str:
    name = node.path.replace("[0]", "[]")
    expected = _escaped(node.expected) + (f", in {node.unit}" if node.unit else "")
    default = "required" if node.default is PydanticUndefined else f"default `{format_value(node.default)}`"
    change = "live" if node.live else "restart"
    about = _wrapped(_escaped(_sentence(node.description)))
    return f"#### `{name}`\n\n{about}\n\n{_wrapped(f'Expects {expected}; {default}; *{change}*')}\n"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _escaped(text: str) -> str:
    """Returns text with what Markdown would act on escaped, code apart."""
    return re.sub(r"`[^`]*`|[*<]", lambda found: found[0] if found[0][0] == "`" else f"\\{found[0]}", text)


def _sentence(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
