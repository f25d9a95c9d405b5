"""YAML as version 1.2 of its specification reads it, with the line of every place.

So `off` is a string, `1e3` a number and `2024-01-01` no date: PyYAML by itself reads version 1.1. Anchors and aliases
work; merge keys (`<<`), which 1.2 does not have, do not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml

from inferential.config.fields import Key
from inferential.config.text import Parsed, SyntaxProblem, check_new


def parse_yaml(text: str) -> Parsed:
    """One YAML document.

    Raises:
        SyntaxProblem: it is not valid, has a key twice, or a tag that YAML's core schema does not have.
    """
    try:
        node = yaml.compose(text, _CoreLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(filter(None, [error.context, error.problem]))
        raise SyntaxProblem(f"not valid YAML: {what}", mark.line + 1 if mark else None) from None
    except yaml.YAMLError as error:
        raise SyntaxProblem(f"not valid YAML: {' '.join(str(error).split())}") from None
    lines: dict[Key, int] = {}
    return (None if node is None else _yaml_value(node, (), lines, ())), lines


class _CoreLoader(yaml.SafeLoader):
    """Finds out which plain scalars are numbers, booleans and null by YAML 1.2's core schema (section 10.3.2)."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 (PyYAML's own way of giving them)


for _tag, _pattern in {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}.items():
    _CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), None)


def _yaml_value(node: yaml.Node, key: Key, lines: dict[Key, int], inside: tuple[yaml.Node, ...]) -> Any:
    line = node.start_mark.line + 1
    if node in inside:
        raise SyntaxProblem("an alias that contains itself", line)
    lines.setdefault(key, line)
    if isinstance(node, yaml.MappingNode):
        table: dict[str, Any] = {}
        for key_node, value_node in node.value:
            at = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise SyntaxProblem("a key that is no scalar", at)
            name = key_node.value
            check_new(name, table, key, lines, at)
            lines[(*key, name)] = at
            table[name] = _yaml_value(value_node, (*key, name), lines, (*inside, node))
        return table
    if isinstance(node, yaml.SequenceNode):
        return [_yaml_value(item, (*key, at), lines, (*inside, node)) for at, item in enumerate(node.value)]
    convert = _YAML_SCALARS.get(node.tag.removeprefix("tag:yaml.org,2002:"))
    try:
        if convert is None:
            raise ValueError
        return convert(node.value)
    except ValueError:
        raise SyntaxProblem(f"not valid YAML: {node.tag} {node.value[:40]!r}", line) from None


def _yaml_int(text: str) -> int:
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _yaml_float(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


_YAML_SCALARS: dict[str, Callable[[str], Any]] = {
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": _yaml_int,
    "float": _yaml_float,
    "str": str,
}
