"""Reading a configuration file (YAML, TOML or JSON) into plain values, with the line that each stands on.

It does not know which keys there are. YAML is read as YAML 1.2 defines it, so `off` is a string, `1e3` a number and
`2024-01-01` no date.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from json.decoder import scanstring  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any

import yaml

from inferential.config.fields import Key, format_path
from inferential.config.problems import ConfigError, Problem


@dataclass(frozen=True, slots=True)
class Layer:
    """Values from one source.

    Attributes:
        name: the source: a file's path, an environment variable's name.
        values: nested as in the schema.
        lines: the line that each place begins on, as far as that is known.
    """

    name: str
    values: Mapping[str, Any]
    lines: Mapping[Key, int] = field(default_factory=dict)

    def source(self, key: Key) -> str:
        """Where the value at a place stands: `fleet.yaml:7`, or without the line where it is not known."""
        for length in range(len(key), 0, -1):
            if line := self.lines.get(key[:length]):
                return f"{self.name}:{line}"
        return self.name


class SyntaxProblem(Exception):
    """Text that is not of its format.

    Attributes:
        message: what is wrong.
        line: where, counted from 1; None where it is not known.
    """

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


def read_file(path: str | Path) -> Layer:
    """Reads a file; its format is told by its extension.

    Raises:
        ConfigError: it cannot be read, or is not what its extension says.
    """
    name = str(path)
    parse = _PARSERS.get(Path(path).suffix.lower())
    if parse is None:
        told = Path(path).suffix
        what = f"unknown format {told!r}" if told else "no extension"
        raise ConfigError([Problem("", f"{what}; expected .yaml, .yml, .toml or .json", name)])
    try:
        values, lines = parse(Path(path).read_bytes().decode("utf-8-sig"))
        if values is None:
            values = {}
        if not isinstance(values, dict):
            raise SyntaxProblem(f"expected a table at the top, got {type(values).__name__}", 1)
    except OSError as error:
        raise ConfigError([Problem("", f"cannot be read: {error.strerror}", name)]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([Problem("", f"not UTF-8 text: {error.reason} at byte {error.start}", name)]) from None
    except SyntaxProblem as error:
        source = name if error.line is None else f"{name}:{error.line}"
        raise ConfigError([Problem("", error.message, source)]) from None
    except RecursionError:
        raise ConfigError([Problem("", "nested too deeply", name)]) from None
    return Layer(name, values, lines)


Parsed = tuple[Any, dict[Key, int]]


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
            _no_key_twice(table, name, key, lines, at)
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


def _parse_toml(text: str) -> Parsed:
    try:
        return tomllib.loads(text), {}
    except ValueError as error:  # TOMLDecodeError, or a number of thousands of digits
        where = re.search(r" \(at line (\d+), column \d+\)$", str(error))
        message = str(error)[: where.start()] if where else str(error)
        raise SyntaxProblem(f"not valid TOML: {message}", int(where[1]) if where else None) from None


def _parse_json(text: str) -> Parsed:
    if not text.strip():
        return None, {}
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise SyntaxProblem(f"not valid JSON: {error.msg}", error.lineno) from None
    except ValueError as error:
        raise SyntaxProblem(f"not valid JSON: {error}") from None
    lines: dict[Key, int] = {}
    _json_lines(text, _skip(text, 0), (), lines)
    return value, lines


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _json_lines(text: str, at: int, key: Key, lines: dict[Key, int]) -> int:
    """Notes the lines of the value that begins at `at` in valid JSON; returns where it ends.

    The standard library tells neither positions nor keys that are there twice.
    """
    lines.setdefault(key, _line(text, at))
    if text[at] not in "{[":
        return scanstring(text, at + 1)[1] if text[at] == '"' else _ATOM.match(text, at).end()  # type: ignore
    names: dict[str, None] = {}
    at = _skip(text, at + 1)
    index = 0
    while text[at] not in "}]":
        if text[at] == '"' and text[_skip(text, scanstring(text, at + 1)[1])] == ":":
            name, end = scanstring(text, at + 1)
            _no_key_twice(names, name, key, lines, _line(text, at))
            names[name] = None
            inner: Key = (*key, name)
            lines[inner] = _line(text, at)
            at = _skip(text, _skip(text, end) + 1)
        else:
            inner = (*key, index)
            index += 1
        at = _skip(text, _json_lines(text, at, inner, lines))
        if text[at] == ",":
            at = _skip(text, at + 1)
    return at + 1


_ATOM = re.compile(r"[^\s,\]}]+")
_SPACE = re.compile(r"[ \t\r\n]*")


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return at if match is None else match.end()


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1


def _no_key_twice(table: Mapping[str, Any], name: str, key: Key, lines: Mapping[Key, int], line: int) -> None:
    if name in table:
        path = format_path((*key, name))
        raise SyntaxProblem(f"duplicate key {path}, first on line {lines[(*key, name)]}", line)


_PARSERS: dict[str, Callable[[str], Parsed]] = {
    ".yaml": parse_yaml,
    ".yml": parse_yaml,
    ".toml": _parse_toml,
    ".json": _parse_json,
}
