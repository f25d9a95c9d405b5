"""JSON, with the line of every place.

The standard library's parser does the reading; what is here finds positions and keys that are there twice.
"""

from __future__ import annotations

import bisect
import json
import re
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

from inferential.config.fields import Key
from inferential.config.text import Parsed, SyntaxProblem, check_new

_SPACE = re.compile(r"[ \t\r\n]*")
_ATOM = re.compile(r"[^\s,\]}]*")


def parse_json(text: str) -> Parsed:
    """A JSON document; blank text counts as null.

    Raises:
        SyntaxProblem: it is not valid, or has a key twice.
    """
    if not text.strip():
        return None, {}
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise SyntaxProblem(f"not valid JSON: {error.msg}", error.lineno) from None
    except ValueError as error:
        raise SyntaxProblem(f"not valid JSON: {error}") from None
    lines = _Lines(text)
    lines.value(lines.skip(0), ())
    return value, lines.found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


class _Lines:
    """Walks text that is known to be valid."""

    def __init__(self, text: str) -> None:
        self.found: dict[Key, int] = {}
        self._text = text
        self._ends = [match.start() for match in re.finditer("\n", text)]

    def value(self, at: int, key: Key) -> int:
        """Notes the lines of the value at a position; returns where it ends."""
        self.found.setdefault(key, self.line(at))
        match self._text[at]:
            case "{":
                return self._object(at, key)
            case "[":
                return self._array(at, key)
            case '"':
                return int(scanstring(self._text, at + 1)[1])
        return _end(_ATOM, self._text, at)

    def skip(self, at: int) -> int:
        """The next position that is no white space."""
        return _end(_SPACE, self._text, at)

    def line(self, at: int) -> int:
        """The line of a position, counted from 1."""
        return bisect.bisect_left(self._ends, at) + 1

    def _object(self, at: int, key: Key) -> int:
        names: dict[str, None] = {}
        at = self.skip(at + 1)
        while self._text[at] != "}":
            name, end = scanstring(self._text, at + 1)
            check_new(name, names, key, self.found, self.line(at))
            names[name] = None
            self.found[(*key, name)] = self.line(at)
            colon = self.skip(end)
            at = self._next(self.value(self.skip(colon + 1), (*key, name)))
        return at + 1

    def _array(self, at: int, key: Key) -> int:
        index = 0
        at = self.skip(at + 1)
        while self._text[at] != "]":
            at = self._next(self.value(at, (*key, index)))
            index += 1
        return at + 1

    def _next(self, at: int) -> int:
        at = self.skip(at)
        return self.skip(at + 1) if self._text[at] == "," else at


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return at if match is None else match.end()
