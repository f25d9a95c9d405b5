"""Reads JSON, with the line and column of each value.

The standard library reads the values, which is 30 times as fast as ruamel.yaml; ruamel.yaml finds their positions, when
the first of them is asked for: in an error, or by `inferential check`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from inferential.config.fields import Key
from inferential.config.text import Parsed, Position, SyntaxProblem, check_new
from inferential.config.text_yaml import compose, position_of
from inferential.errors import InferentialError

_NOT_YAML = re.compile("[^\\t\\n\\r\\x20-\\x7e\\xa0-\\u2027\\u202a-\\ud7ff\\ue000-\\ufefe\\uff00-\\ufffd]")
"""What JSON allows in a string, and YAML does not, or takes for the end of a line."""


def parse_json(text: str) -> Parsed:
    """Returns the values of a JSON document and the place of each; blank text counts as null.

    Raises:
        SyntaxProblem: the text is not valid, or a key is duplicated.
    """
    if not text.strip():
        return None, {}
    positions = _Positions(text)
    try:
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_table)
    except json.JSONDecodeError as error:
        raise SyntaxProblem(f"not valid JSON: {error.msg}", Position(error.lineno, error.colno)) from None
    except _DuplicateKeyError as error:
        positions.find()  # raises SyntaxProblem with the place
        raise SyntaxProblem(f"duplicate key {error}") from None
    except ValueError as error:
        raise SyntaxProblem(f"not valid JSON: {error}") from None
    return value, positions


class _DuplicateKeyError(InferentialError):
    """An object has a key twice; the text is the key."""


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        names = [name for name, _ in pairs]
        raise _DuplicateKeyError(next(name for name in names if names.count(name) > 1))
    return table


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number in JSON")


class _Positions(Mapping[Key, Position]):
    """The place of each value of a valid JSON text; found at the first look-up."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __getitem__(self, key: Key) -> Position:
        return self._found[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    @cached_property
    def _found(self) -> dict[Key, Position]:
        try:
            return self.find()
        except (SyntaxProblem, RecursionError):  # YAML limits keys to 1024 characters; errors then name the file alone
            return {}

    def find(self) -> dict[Key, Position]:
        """Returns the place of each value.

        Raises:
            SyntaxProblem: a key is duplicated, or longer than YAML allows.
        """
        found: dict[Key, Position] = {}
        if (root := compose(_NOT_YAML.sub("?", self._text))) is not None:
            self._visit(root, (), found)
        return found

    def _visit(self, node: Node, key: Key, found: dict[Key, Position]) -> None:
        found.setdefault(key, position_of(node))
        if isinstance(node, MappingNode):
            names: dict[str, None] = {}
            for key_node, value_node in node.value:
                # From the text itself: YAML reads an escaped surrogate pair as two characters.
                name = json.loads(self._text[key_node.start_mark.index : key_node.end_mark.index])
                check_new(name, names, key, found, position_of(key_node))
                names[name] = None
                found[(*key, name)] = position_of(key_node)
                self._visit(value_node, (*key, name), found)
        elif isinstance(node, SequenceNode):
            for index, item in enumerate(node.value):
                self._visit(item, (*key, index), found)
