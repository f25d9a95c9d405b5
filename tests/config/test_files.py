"""Files: formats, lines, and what is wrong with a file before its keys are looked at."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferential.config import ConfigError
from inferential.config.files import read_file
from inferential.config.text import SyntaxProblem, parse_toml
from inferential.config.text_json import parse_json
from inferential.config.text_yaml import parse_yaml

Write = Callable[[str, str | bytes], Path]

YAML = (
    "scheduling:\n  strategy: round_robin\nclients:\n  known:\n    - id: a\n      model: m\n    - {id: b, model: m}\n"
)
JSON = """{
  "scheduling": {"strategy": "round_robin"},
  "clients": {
    "known": [
      {"id": "a", "model": "m"},
      {"id": "b",
       "model": "m"}
    ]
  }
}"""
TOML = """[scheduling]
strategy = "round_robin"
[[clients.known]]
id = "a"
model = "m"
[[clients.known]]
id = "b"
model = "m"
"""
VALUES = {
    "scheduling": {"strategy": "round_robin"},
    "clients": {"known": [{"id": "a", "model": "m"}, {"id": "b", "model": "m"}]},
}


@pytest.mark.parametrize(
    ("name", "text"),
    [("f.yaml", YAML), ("f.yml", YAML), ("f.json", JSON), ("f.toml", TOML), ("F.YAML", YAML), ("f.yaml", JSON)],
)
def test_each_format_gives_the_same_values(write: Write, name: str, text: str) -> None:
    assert read_file(write(name, text)).values == VALUES


@pytest.mark.parametrize(
    ("name", "text", "model", "strategy"), [("f.yaml", YAML, "7:15", "2:3"), ("f.json", JSON, "7:8", "2:18")]
)
def test_yaml_and_json_give_line_and_column_of_every_value(
    write: Write, name: str, text: str, model: str, strategy: str
) -> None:
    path = write(name, text)
    layer = read_file(path)
    assert layer.source(("clients", "known", 1, "model")) == f"{path}:{model}"
    assert layer.source(("scheduling", "strategy")) == f"{path}:{strategy}"
    assert layer.source(("scheduling", "missing")) == f"{path}:{layer.positions[('scheduling',)]}"
    assert layer.source(("nothing",)) == str(path)


def test_toml_values_are_placed_in_the_file_alone(write: Write) -> None:
    path = write("f.toml", TOML)
    assert read_file(path).source(("scheduling", "strategy")) == str(path)


@pytest.mark.parametrize("name", ["f.yaml", "f.toml", "f.json"])
@pytest.mark.parametrize("text", ["", "\n  \n", "\ufeff"])
def test_an_empty_file_has_no_values(write: Write, name: str, text: str) -> None:
    assert read_file(write(name, text)).values == {}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("f.yaml", "a: 1\nb: [1\nc: 2\n", r":3:\d+: not valid YAML: .*expected ',' or ']'"),
        ("f.yaml", "a: 1\n\tb: 2\n", r":2:\d+: not valid YAML: a tab; lines are indented by spaces$"),
        ("f.yaml", "a:\n\tb: 2\n", r":2:\d+: not valid YAML: a tab; lines are indented by spaces$"),
        ("f.yaml", "a: *b\n", r":1:\d+: not valid YAML: found undefined alias"),
        ("f.yaml", "a: 1\n---\nb: 2\n", r":2:\d+: not valid YAML: expected a single document"),
        ("f.yaml", "a:\n  x: !!python/name:os.system\n", r":2:\d+: not valid YAML: .*python/name"),
        ("f.yaml", "a: !!int x\n", r":1:\d+: not valid YAML: .*int 'x'"),
        ("f.yaml", "a: 1\n[1]: 2\n", r":2:\d+: .*a key must be a scalar"),
        ("f.yaml", "a: &x\n  b: *x\n", r":1:\d+: an alias that contains itself"),
        ("f.yaml", "a: \x01\n", r"f\.yaml: not valid YAML: .*special characters"),
        ("f.yaml", "- 1\n", r":1:\d+: expected a table at the top, got list"),
        ("f.yaml", "a:\n  b: 1\n  c: 2\n  b: 3\n", r":4:\d+: duplicate key a\.b, first on line 2"),
        ("f.toml", "a = 1\nb = \n", r":2:\d+: not valid TOML: Invalid value"),
        ("f.toml", "[a]\nb = 1\nb = 2\n", r":3:\d+: not valid TOML: Cannot overwrite a value"),
        ("f.toml", "a = '", r"f\.toml: not valid TOML: .*end of document"),
        ("f.json", '{"a": 1,\n "b": }', r":2:\d+: not valid JSON: Expecting value"),
        ("f.json", '{"a": NaN}', r"f\.json: not valid JSON: NaN is not a number"),
        ("f.json", "[1]", r":1:\d+: expected a table at the top, got list"),
        ("f.json", '{"a": {"b": 1,\n"c": [{}, {"d": ":"}], "b": 3}}', r":2:\d+: duplicate key a\.b, first on line 1"),
        ("f.conf", "a: 1", r"f\.conf: unknown format '\.conf'; expected \.yaml, \.yml, \.toml or \.json"),
        ("fleet", "a: 1", r"fleet: no extension; expected \.yaml"),
        ("f.yaml", b"a: \xff\n", r"f\.yaml: not UTF-8 text: invalid start byte at byte 3"),
        ("f.yaml", "[" * 10_000, r"f\.yaml: nested too deeply"),
        ("f.json", "[" * 100_000, r"f\.json: nested too deeply"),
        ("f.yaml", "a: " + "9" * 5000, r":1:\d+: not valid YAML: .*int"),
        ("f.json", '{"a": ' + "9" * 5000 + "}", r"not valid JSON: Exceeds the limit"),
        ("f.toml", "a = " + "9" * 5000, r"not valid TOML: Exceeds the limit"),
    ],
)
def test_errors_in_a_file_name_line_and_column(write: Write, name: str, text: Any, message: str) -> None:
    path = write(name, text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_file(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file or directory"):
        read_file(tmp_path / "none.yaml")


def test_the_file_that_was_meant_is_named(write: Write) -> None:
    meant = write("fleet.yaml", "")
    write("fleet.md", "")
    with pytest.raises(ConfigError, match=f"No such file or directory; did you mean {meant}\\?$"):
        read_file(meant.with_suffix(".yml"))
    with pytest.raises(ConfigError, match=r"No such file or directory$"):
        read_file(meant.with_name("nofile.yaml"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", "off"),
        ("NO", "NO"),
        ("1e3", 1000.0),
        ("1_000", "1_000"),
        ("12:30:00", "12:30:00"),
        ("2024-01-01", "2024-01-01"),
        ("0o17", 15),
        ("0x1f", 31),
        ("-.inf", float("-inf")),
        ("007", 7),
        ("'7'", "7"),
        ("!!str 7", "7"),
        ("~", None),
        ("", None),
        ("True", True),
        ("tcp://*:5555", "tcp://*:5555"),
        ("=", "="),
        ("<<", "<<"),
        ("{1: a, null: b, true: c}", {"1": "a", "null": "b", "true": "c"}),
        ("[&a {x: 1}, *a]", [{"x": 1}, {"x": 1}]),
    ],
)
def test_yaml_is_read_as_version_1_2(text: str, value: Any) -> None:
    assert parse_yaml(text)[0] == value


_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    # YAML takes no key of more than 1,024 characters, escapes counted; values of such keys have no place.
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=80), inner),
)


@settings(deadline=None)
@given(_json_values, st.sampled_from([None, 0, "\t"]), st.booleans())
def test_any_json_gets_a_place_for_each_of_its_values(value: Any, indent: Any, escaped: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=escaped)
    parsed, positions = parse_json(text)
    assert parsed == value
    assert set(positions) == set(_places(value, ()))
    lines = text.split("\n")
    assert all(1 <= place.column <= len(lines[place.line - 1]) for place in positions.values())


def test_keys_longer_than_yaml_allows_are_placed_in_the_file_alone() -> None:
    key = "k" * 2000
    values, positions = parse_json(json.dumps({key: 1}))
    assert values == {key: 1}
    assert dict(positions) == {}


def test_json_that_is_valid_is_read_without_looking_for_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inferential.config.text_json.compose", lambda text: pytest.fail("looked for positions"))
    assert parse_json(JSON)[0] == VALUES


def _places(value: Any, at: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    found = [at]
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inner:
        found += _places(one, (*at, name))
    return found


@given(st.text())
def test_no_text_makes_a_parser_fail_otherwise(text: str) -> None:
    for parse in (parse_yaml, parse_toml, parse_json):
        with contextlib.suppress(SyntaxProblem):
            parse(text)
