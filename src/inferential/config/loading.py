"""From file, environment and arguments to one checked configuration.

Later ones outrank earlier ones: defaults, file, environment, overrides. Tables are merged, lists are replaced.
It does not watch: that is `config.watcher`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from inferential.config.environment import read_environment
from inferential.config.fields import ROOT, Key, Node
from inferential.config.files import read_file
from inferential.config.problems import ConfigError, Problem, from_validation
from inferential.config.schema import InferentialConfig
from inferential.config.section import Section
from inferential.config.text import Layer

OVERRIDES = "overrides"
"""What messages call the source of values given as arguments, unless a better name is given."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that remembers where its values came from."""

    config: InferentialConfig
    origins: Mapping[Key, Layer]

    def source_of(self, key: Key) -> str:
        """Returns the source of a value: `fleet.yaml:7:5`, `INFERENTIAL_...`; 'default' if no source has it."""
        layer = _origin(self.origins, key)
        return "default" if layer is None else layer.source(key)


def load_config(
    path: str | Path | None = None,
    *,
    env: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> InferentialConfig:
    """Reads the configuration.

    Args:
        path: a YAML, TOML or JSON file, by its extension; None: no file.
        env: the environment, `os.environ` where it is not given; `INFERENTIAL_SCHEDULING__STRATEGY=round_robin`
            sets `scheduling.strategy`.
        overrides: nested like a file; outranks both.

    Raises:
        ConfigError: (a ValueError) with one line for each problem: its path, what was expected, what came, from where.
    """
    return load(path, env=env, overrides=overrides).config


def load(
    path: str | Path | None = None,
    *,
    env: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    overrides_name: str = OVERRIDES,
) -> Loaded:
    """Reads the configuration like `load_config`, and keeps the source of each value.

    Args:
        path: as for `load_config`, and `env` and `overrides` too.
        overrides_name: what the source of `overrides` is called.

    Raises:
        ConfigError: as from `load_config`.
    """
    loaded, problems = load_usable(path, env=env, overrides=overrides, overrides_name=overrides_name)
    if problems:
        raise ConfigError(problems)
    return loaded


def load_usable(
    path: str | Path | None = None,
    *,
    env: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    overrides_name: str = OVERRIDES,
) -> tuple[Loaded, list[Problem]]:
    """Reads what of a configuration can be used, to find out what else is wrong with it.

    Returns:
        The configuration without the values that are wrong, and what is wrong with these; no problem: it is whole.

    Raises:
        ConfigError: the file or the environment cannot be read.
    """
    file = None if path is None else read_file(path)
    merged, origins = _merged(file, env, overrides, overrides_name)
    try:
        return _validated(merged, origins), []
    except ValidationError as error:
        problems = from_validation(error, lambda key: _origin(origins, key))
        while True:
            _leave_out(merged, error)
            try:
                return _validated(merged, origins), problems
            except ValidationError as further:
                error = further


def combine(
    file: Layer | None,
    *,
    env: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    overrides_name: str = OVERRIDES,
) -> Loaded:
    """Does what `load` does, with a file that was read before.

    Raises:
        ConfigError: as from `load_config`.
    """
    merged, origins = _merged(file, env, overrides, overrides_name)
    try:
        return _validated(merged, origins)
    except ValidationError as error:
        raise ConfigError(from_validation(error, lambda key: _origin(origins, key))) from None


def _merged(
    file: Layer | None, env: Mapping[str, str] | None, overrides: Mapping[str, Any] | None, overrides_name: str
) -> tuple[dict[str, Any], dict[Key, Layer]]:
    """Returns the values of all sources, and where each came from."""
    merged: dict[str, Any] = {}
    origins: dict[Key, Layer] = {}
    if file is not None:
        _merge(merged, file, origins)
    for layer in read_environment(os.environ if env is None else env, merged):
        _merge(merged, layer, origins)
    if overrides is not None:
        _merge(merged, Layer(overrides_name, overrides), origins)
    return merged, origins


def _validated(merged: Mapping[str, Any], origins: Mapping[Key, Layer]) -> Loaded:
    # Strict: where a number is expected, true and "5" are mistakes, not numbers.
    return Loaded(InferentialConfig.model_validate(merged, strict=True), origins)


def _leave_out(merged: dict[str, Any], error: ValidationError) -> None:
    """Takes out of a configuration what is wrong with it: the value, or the list or table that it is a part of."""
    places = [
        found["loc"][:-1] if found["type"] == "missing" else found["loc"]
        for found in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    if not [place for place in places if _take_out(merged, place)]:
        merged.clear()  # so that it comes to an end


def _take_out(table: dict[Any, Any], place: Sequence[Any]) -> bool:
    """Removes the innermost table of a place, or value of a table, that is there; returns whether one was."""
    if not place or place[0] not in table:
        return False
    name, *rest = place
    inner = table[name]
    if not (isinstance(inner, dict) and _take_out(inner, rest)):
        del table[name]
    return True


def _merge(merged: dict[str, Any], layer: Layer, origins: dict[Key, Layer]) -> None:
    _merge_table(merged, layer.values, (), ROOT, layer, origins)


def _merge_table(
    into: dict[str, Any],
    values: Mapping[str, Any],
    at: Key,
    node: Node | None,
    layer: Layer,
    origins: dict[Key, Layer],
) -> None:
    for name, value in values.items():
        key = (*at, name)
        child = None if node is None else node.child(name)
        value = _plain(value, child)
        if isinstance(value, Mapping):
            if not isinstance(into.get(name), dict):
                into[name] = {}
                origins[key] = layer
            _merge_table(into[name], value, key, child, layer, origins)
        else:
            into[name] = value
            origins[key] = layer


def _plain(value: Any, node: Node | None) -> Any:
    """Returns plain values; a heading with nothing under it, null to YAML, is an empty table or list."""
    if isinstance(value, Section):
        return value.model_dump(exclude_unset=True)
    if value is None and node is not None and not node.nullable:
        return {} if node.is_table else [] if node.is_list else None
    return value


def _origin(origins: Mapping[Key, Layer], key: Key) -> Layer | None:
    """Returns the layer that set the value at a place, or the innermost table around it."""
    for length in range(len(key), 0, -1):
        if layer := origins.get(key[:length]):
            return layer
    return None
