"""What all sources of configuration have in common, and the simplest of the file formats, TOML.

It opens no file; YAML and JSON are in `text_yaml` and `text_json`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from inferential.config.fields import Key, format_path
from inferential.errors import InferentialError

Parsed = tuple[Any, dict[Key, int]]
"""Plain values, and the line that each place begins on, as far as that is known."""


@dataclass(frozen=True, slots=True)
class Layer:
    """Values from one source.

    Attributes:
        name: the source: a file's path, an environment variable's name.
        values: nested as in the schema.
        lines: the line that each place begins on, as far as that is known.
        spell: how this source writes a path.
    """

    name: str
    values: Mapping[str, Any]
    lines: Mapping[Key, int] = field(default_factory=dict)
    spell: Callable[[str], str] = str

    def source(self, key: Key) -> str:
        """Where the value at a place stands: `fleet.yaml:7`, or without the line where it is not known."""
        for length in range(len(key), 0, -1):
            if line := self.lines.get(key[:length]):
                return f"{self.name}:{line}"
        return self.name


class SyntaxProblem(InferentialError):
    """Text that is not of its format.

    Attributes:
        message: what is wrong.
        line: where, counted from 1; None where it is not known.
    """

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


def check_new(name: str, table: Mapping[str, Any], key: Key, lines: Mapping[Key, int], line: int) -> None:
    """Raises SyntaxProblem where the table at `key` has that name already."""
    if name in table:
        path = format_path((*key, name))
        raise SyntaxProblem(f"duplicate key {path}, first on line {lines[(*key, name)]}", line)


def parse_toml(text: str) -> Parsed:
    """A TOML document; the standard library does not tell its lines.

    Raises:
        SyntaxProblem: it is not valid, or has a key twice.
    """
    try:
        return tomllib.loads(text), {}
    except ValueError as error:  # TOMLDecodeError, or a number of thousands of digits
        where = re.search(r" \(at line (\d+), column \d+\)$", str(error))
        message = str(error)[: where.start()] if where else str(error)
        raise SyntaxProblem(f"not valid TOML: {message}", int(where[1]) if where else None) from None
