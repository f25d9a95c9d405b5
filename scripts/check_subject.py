"""Checks a commit's subject: `scope: imperative`, at most 72 characters.

python scripts/check_subject.py FILE            a file with the message, as git's commit-msg hook has it
git log --format=%s main.. | python scripts/check_subject.py -    one subject a line
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

LONGEST = 72
SUBJECT = re.compile(r"[a-z0-9][a-z0-9_./-]*(, [a-z0-9][a-z0-9_./-]*)*: \S.*[^.\s]")
_GIT_MADE = ("Merge ", "Revert ", "fixup! ", "squash! ")


def problem(subject: str) -> str | None:
    """Returns what is wrong with a subject, None if nothing is."""
    if subject.startswith(_GIT_MADE):
        return None
    if len(subject) > LONGEST:
        return f"{len(subject)} characters, expected at most {LONGEST}: {subject}"
    if SUBJECT.fullmatch(subject) is None:
        return f"expected 'scope: imperative' without a full stop, as 'config: name the column of an error': {subject}"
    return None


def main(argv: list[str]) -> int:
    if len(argv) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    if argv[0] == "-":
        subjects = sys.stdin.read().splitlines()
    else:
        lines = Path(argv[0]).read_text(encoding="utf-8").splitlines()
        subjects = [next((line for line in lines if line.strip() and not line.startswith("#")), "")]
    problems = [found for subject in subjects if (found := problem(subject))]
    for found in problems:
        print(found, file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
