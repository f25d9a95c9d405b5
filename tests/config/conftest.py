"""Configuration files of every format, written to a temporary directory."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML


def to_yaml(values: Mapping[str, Any]) -> str:
    text = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.allow_unicode = False  # else it writes U+0085 so that it is read as a space
    yaml.width = 1_000_000  # else it folds an escaped text and adds a space to it
    yaml.dump(dict(values), text)
    return text.getvalue()


def to_json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False)


def to_toml(values: Mapping[str, Any]) -> str:
    """Inline tables throughout: enough to be read back."""
    return "".join(f"{_toml_string(name)} = {_toml(value)}\n" for name, value in values.items())


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml_string(name)} = {_toml(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return _toml_string(value) if isinstance(value, str) else json.dumps(value)


def _toml_string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


@pytest.fixture(scope="session")
def writers() -> dict[str, Callable[[Mapping[str, Any]], str]]:
    """How each format is written, by extension."""
    return {".yaml": to_yaml, ".json": to_json, ".toml": to_toml}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """`write("fleet.yaml", text)`; the path of the file."""

    def written(name: str, text: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return written
