"""Reads YAML 1.2 (core schema) into plain values and the line and column of each of them.

ruamel.yaml finds nodes and their positions. Its resolver also reads dates, `1_000` and merge keys (`<<`), which the
core schema (YAML 1.2.2, section 10.3.2) does not have, so plain scalars are resolved here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.resolver import VersionedResolver

from inferential.config.fields import Key
from inferential.config.text import Parsed, Position, SyntaxProblem, check_new


def parse_yaml(text: str) -> Parsed:
    """Returns the values of a YAML document and the place of each.

    Raises:
        SyntaxProblem: the text is not valid, a key is duplicated, or a tag is not part of the core schema.
    """
    positions: dict[Key, Position] = {}
    node = compose(text)
    return (None if node is None else _value(node, (), positions, ())), positions


def compose(text: str) -> Node | None:
    """Returns the root node of a YAML document, None for an empty one.

    Raises:
        SyntaxProblem: the text is not valid YAML.
    """
    yaml = YAML(typ="safe", pure=True)  # the C parser reads YAML 1.1
    yaml.Resolver = _CoreResolver
    try:
        root: Node | None = yaml.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(filter(None, [error.context, error.problem]))
        if "'\\t'" in what:
            what = "a tab; lines are indented by spaces"
        raise SyntaxProblem(f"not valid YAML: {what}", mark and Position(mark.line + 1, mark.column + 1)) from None
    except YAMLError as error:
        raise SyntaxProblem(f"not valid YAML: {' '.join(str(error).split())}") from None
    return root


def position_of(node: Node) -> Position:
    """Returns where a node begins, counted from 1."""
    return Position(node.start_mark.line + 1, node.start_mark.column + 1)


_CORE_SCHEMA = [
    (f"tag:yaml.org,2002:{tag}", re.compile(rf"^(?:{pattern})$"))
    for tag, pattern in [
        ("null", r"~|null|Null|NULL|"),
        ("bool", r"true|True|TRUE|false|False|FALSE"),
        ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"),
        ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
    ]
]
_BY_FIRST_CHARACTER = dict.fromkeys(["", *"~nNtTfF-+.0123456789"], _CORE_SCHEMA)


class _CoreResolver(VersionedResolver):
    """Decides which plain scalars are numbers, booleans and null by the core schema."""

    @property
    def versioned_resolver(self) -> dict[str, list[tuple[str, re.Pattern[str]]]]:
        return _BY_FIRST_CHARACTER


def _value(node: Node, key: Key, positions: dict[Key, Position], inside: tuple[Node, ...]) -> Any:
    place = position_of(node)
    if node in inside:
        raise SyntaxProblem("an alias that contains itself", place)
    positions.setdefault(key, place)
    if isinstance(node, MappingNode):
        table: dict[str, Any] = {}
        for key_node, value_node in node.value:
            at = position_of(key_node)
            if not isinstance(key_node, ScalarNode):
                raise SyntaxProblem("a key must be a scalar, not a list or a table", at)
            name = key_node.value
            check_new(name, table, key, positions, at)
            positions[(*key, name)] = at
            table[name] = _value(value_node, (*key, name), positions, (*inside, node))
        return table
    if isinstance(node, SequenceNode):
        return [_value(item, (*key, at), positions, (*inside, node)) for at, item in enumerate(node.value)]
    tag = str(node.tag)
    convert = _SCALARS.get(tag.removeprefix("tag:yaml.org,2002:"))
    try:
        if convert is None:
            raise ValueError
        return convert(node.value)
    except ValueError:
        raise SyntaxProblem(f"not valid YAML: {tag} {node.value[:40]!r}", place) from None


def _int(text: str) -> int:
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _float(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


_SCALARS: dict[str, Callable[[str], Any]] = {
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": _int,
    "float": _float,
    "str": str,
}
