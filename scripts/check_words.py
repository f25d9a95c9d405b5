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
    ".github",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "SECURITY.md",
    "Makefile",
    "bench",
    "docs",
    "fuzz",
    "mkdocs.yml",
    "pyproject.toml",
    "scripts",
    "src",
    "tests",
)
"""What is checked; a folder stands for the files in it."""
SKIPPED = re.compile(r"scripts/check_words\.py|_pb2\.pyi?|bench/results/|bench/rust/target/")
"""What is not: this list itself and what is generated."""
SUFFIXES = {"", ".css", ".html", ".js", ".md", ".mjs", ".py", ".toml", ".yaml", ".yml"}
ALLOWED = "words: ok"

# Words of a dialect, each with what to say instead.
DIALECT = {
    r"(un)?told": "given, set, sent, reported; not given",
    r"nobody|whoever|(any|every|some)body": "no client, any client, each: name who it is",
    r"who asks( whom)?": "the client",
    r"the mind of": "the state of",
    r"the other door": "name the other way",
    r"(is|are|not) spoken( here)?": "is (not) supported",
    r"as of(?! (today|\d))": "such as, like, for; or name the moment",
    r"the books": "accounting",
    r"(is|are|not) believed": "accepted, valid, trusted",
    r"tried again and again": "retrying with backoff",
    r"hearken|hark|thereof|whence|heed": "plain words",
}
# Names that were replaced, each with the new one.
REPLACED = {
    r"never_waits": "completes_inline",
    r"keep_what_is_freed": "raise_mmap_threshold",
    r"goes_straight": "can_bypass",
    r"holds_back": "may_defer",
    r"look_anew": "begin_decision",
    r"ClientBook": "ClientPolicies",
    r"Sighting": "ClientUpdate",
    r"Guest": "GatewayClient",
    r"not_believed": "reject_malformed",
    r"obstacles": "preflight",
}
_RULES = [
    # An underscore parts words too: names are checked as sentences are.
    *(
        (re.compile(rf"(?<![A-Za-z0-9`])(?:{words.replace(' ', '[ _]')})(?![A-Za-z0-9])", re.IGNORECASE), instead)
        for words, instead in DIALECT.items()
    ),
    *((re.compile(rf"(?<!`)\b(?:{name})\b"), instead) for name, instead in REPLACED.items()),
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
            if file.is_file() and file.suffix in SUFFIXES and not SKIPPED.search(file.as_posix()):
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
