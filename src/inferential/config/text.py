"""Types that all sources of configuration share, and the reader of TOML.

No file is opened here; YAML and JSON are read in `text_yaml` and `text_json`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from inferential.config.fields import Key, format_path
from inferential.errors import InferentialError


class Position(NamedTuple):
    """A position in a text, counted from 1; the column counts characters."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.line}:{self.column}"


Parsed = tuple[Any, Mapping[Key, Position]]
"""Plain values, and the place of each as far as it is known."""


@dataclass(frozen=True, slots=True)
class Layer:
    """Holds the values of one source.

    Attributes:
        name: the source: a file's path, or the name of an environment variable.
        values: nested as in the schema.
        positions: where each value stands in the source, as far as it is known.
        spell: returns a path as this source writes it.
    """

    name: str
    values: Mapping[str, Any]
    positions: Mapping[Key, Position] = field(default_factory=dict)
    spell: Callable[[str], str] = str

    def source(self, key: Key) -> str:
        """Returns where a value stands as `fleet.yaml:7:5`, or the name of the source if that is not known."""
        for length in range(len(key), 0, -1):
            if place := self.positions.get(key[:length]):
                return f"{self.name}:{place}"
        return self.name


class SyntaxProblem(InferentialError):
    """Raised for text that its format does not allow.

    Attributes:
        message: what is wrong.
        position: where; None if it is not known.
    """

    def __init__(self, message: str, position: Position | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.position = position


def check_new(
    name: str, table: Mapping[str, Any], key: Key, positions: Mapping[Key, Position], position: Position
) -> None:
    """Raises SyntaxProblem if the table at `key` already has an entry of that name."""
    if name in table:
        path = format_path((*key, name))
        raise SyntaxProblem(f"duplicate key {path}, first on line {positions[(*key, name)].line}", position)


def parse_toml(text: str) -> Parsed:
    """Returns the values of a TOML document; tomllib tells no positions.

    Raises:
        SyntaxProblem: the text is not valid, or a key is duplicated.
    """
    try:
        return tomllib.loads(text), {}
    except ValueError as error:  # TOMLDecodeError, or a number of thousands of digits
        where = re.search(r" \(at line (\d+), column (\d+)\)$", str(error))
        message = str(error)[: where.start()] if where else str(error)
        place = Position(int(where[1]), int(where[2])) if where else None
        raise SyntaxProblem(f"not valid TOML: {message}", place) from None
