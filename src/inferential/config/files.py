"""Reads configuration files into plain values with their positions.

Which keys are valid is the schema's business; the formats are in `text`, `text_yaml` and `text_json`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

from inferential.config.problems import ConfigError, Problem
from inferential.config.text import Layer, Parsed, Position, SyntaxProblem, parse_toml
from inferential.config.text_json import parse_json
from inferential.config.text_yaml import parse_yaml

_PARSERS: dict[str, Callable[[str], Parsed]] = {
    ".yaml": parse_yaml,
    ".yml": parse_yaml,
    ".toml": parse_toml,
    ".json": parse_json,
}


def read_file(path: str | Path) -> Layer:
    """Reads a file whose format follows from its extension.

    Raises:
        ConfigError: the file cannot be read, or its content is not of its format.
    """
    _parser(path)
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        meant = _meant(Path(path)) if isinstance(error, FileNotFoundError) else ""
        raise ConfigError([Problem("", f"cannot be read: {error.strerror}{meant}", str(path))]) from None
    return parse_content(path, content)


def parse_content(path: str | Path, content: bytes) -> Layer:
    """Returns the values of a file from its content.

    Raises:
        ConfigError: the content is not of the format that the path's extension names.
    """
    name = str(path)
    try:
        values, positions = _parser(path)(content.decode("utf-8-sig"))
        if values is None:
            values = {}
        if not isinstance(values, dict):
            raise SyntaxProblem(f"expected a table at the top, got {type(values).__name__}", Position(1, 1))
    except UnicodeDecodeError as error:
        raise ConfigError([Problem("", f"not UTF-8 text: {error.reason} at byte {error.start}", name)]) from None
    except SyntaxProblem as error:
        source = name if error.position is None else f"{name}:{error.position}"
        raise ConfigError([Problem("", error.message, source)]) from None
    except RecursionError:
        raise ConfigError([Problem("", "nested too deeply", name)]) from None
    return Layer(name, values, positions)


def _meant(path: Path) -> str:
    """Returns which file was probably meant by one that is not there, for an error; "" where none is like it."""
    try:
        names = {one.stem: one.name for one in sorted(path.parent.iterdir()) if one.suffix.lower() in _PARSERS}
    except OSError:
        return ""
    close = difflib.get_close_matches(path.stem, names, n=1, cutoff=0.75)
    return f"; did you mean {path.with_name(names[close[0]])}?" if close else ""


def _parser(path: str | Path) -> Callable[[str], Parsed]:
    extension = Path(path).suffix
    if extension.lower() not in _PARSERS:
        what = f"unknown format {extension!r}" if extension else "no extension"
        raise ConfigError([Problem("", f"{what}; expected .yaml, .yml, .toml or .json", str(path))])
    return _PARSERS[extension.lower()]
