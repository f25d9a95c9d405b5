"""Checks that docs, comments and error texts are plain technical English, and use one word for one thing.

    python scripts/check_words.py [PATH ...]    the paths below where none is given

docs/glossary.md has the words to use. A line that must have one of these words ends with a comment `words: ok`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATHS = (
    "CONTRIBUTING.md",
    "README.md",
    "SECURITY.md",
    "docs/deployment.md",
    "docs/glossary.md",
    "docs/guarantees.md",
    "docs/index.md",
    "docs/sizing.md",
    "docs/troubleshooting.md",
    "src/inferential/config",
    "src/inferential/cluster.py",
    "src/inferential/telemetry",
    "src/inferential/web",
)
"""What is checked; a folder stands for the files in it."""
SKIPPED: tuple[str, ...] = ()
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".js", ".html"}
ALLOWED = "words: ok"

# Words of a dialect, each with what to say instead.
DIALECT = {
    r"(un)?told": "given, set, sent; not given",
    r"nobody|whoever": "no client, any client: name who it is",
    r"the mind of": "the state of",
    r"the other door": "name the other way",
    r"is (not )?spoken here": "is (not) supported",
    r"as of(?=[.,;:)]|$)": "such as, like",
    r"the books": "accounting",
    r"believed": "accepted, valid",
    r"tried again and again": "retrying with backoff",
}
# Names that were replaced, each with the new one.
REPLACED = {
    r"never_waits": "completes_inline",
    r"keep_what_is_freed": "raise_mmap_threshold",
    r"goes_straight": "can_bypass",
    r"look_anew": "begin_decision",
    r"ClientBook": "ClientPolicies",
    r"obstacles": "preflight",
}
_RULES = [
    *((re.compile(rf"(?<![\w`])(?:{words})(?!\w)", re.IGNORECASE), instead) for words, instead in DIALECT.items()),
    *((re.compile(rf"\b(?:{name})\b"), instead) for name, instead in REPLACED.items()),
]


def problems(text: str) -> Iterator[tuple[int, str, str]]:
    """Yields the line (from 1), the words found, and what to say instead."""
    for number, line in enumerate(text.splitlines(), 1):
        if ALLOWED in line:
            continue
        for rule, instead in _RULES:
            for found in rule.finditer(line):
                yield number, found[0], instead


def files(paths: list[Path]) -> Iterator[Path]:
    """Yields the files to check, those of folders included."""
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.suffix in SUFFIXES and not file.as_posix().endswith(SKIPPED):
                yield file


def main(argv: list[str]) -> int:
    found = 0
    for file in files([Path(arg) for arg in argv] or [ROOT / path for path in PATHS]):
        for line, words, instead in problems(file.read_text(encoding="utf-8")):
            print(f"{file}:{line}: {words!r}: say {instead}")
            found += 1
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
