"""Reading a configuration file into plain values that know where they stand.

It does not know which keys there are; the formats are in `text`, `text_yaml` and `text_json`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from inferential.config.problems import ConfigError, Problem
from inferential.config.text import Layer, Parsed, SyntaxProblem, parse_toml
from inferential.config.text_json import parse_json
from inferential.config.text_yaml import parse_yaml

_PARSERS: dict[str, Callable[[str], Parsed]] = {
    ".yaml": parse_yaml,
    ".yml": parse_yaml,
    ".toml": parse_toml,
    ".json": parse_json,
}


def read_file(path: str | Path) -> Layer:
    """Reads a file; its format is told by its extension.

    Raises:
        ConfigError: it cannot be read, or is not what its extension says.
    """
    _parser(path)
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError([Problem("", f"cannot be read: {error.strerror}", str(path))]) from None
    return parse_content(path, content)


def parse_content(path: str | Path, content: bytes) -> Layer:
    """What a file says whose content is read already.

    Raises:
        ConfigError: it is not what the path's extension says.
    """
    name = str(path)
    try:
        values, lines = _parser(path)(content.decode("utf-8-sig"))
        if values is None:
            values = {}
        if not isinstance(values, dict):
            raise SyntaxProblem(f"expected a table at the top, got {type(values).__name__}", 1)
    except UnicodeDecodeError as error:
        raise ConfigError([Problem("", f"not UTF-8 text: {error.reason} at byte {error.start}", name)]) from None
    except SyntaxProblem as error:
        source = name if error.line is None else f"{name}:{error.line}"
        raise ConfigError([Problem("", error.message, source)]) from None
    except RecursionError:
        raise ConfigError([Problem("", "nested too deeply", name)]) from None
    return Layer(name, values, lines)


def _parser(path: str | Path) -> Callable[[str], Parsed]:
    told = Path(path).suffix
    if told.lower() not in _PARSERS:
        what = f"unknown format {told!r}" if told else "no extension"
        raise ConfigError([Problem("", f"{what}; expected .yaml, .yml, .toml or .json", str(path))])
    return _PARSERS[told.lower()]
