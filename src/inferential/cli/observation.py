"""From KEY=VALUE on a command line to an observation: numbers, text, and files of images and arrays.

It sends nothing.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inferential import Model
from inferential.cli.errors import CliError, missing

_ARGUMENTS = inspect.signature(Model.infer).parameters.keys() - {"values"}


def observation(arguments: Sequence[str] | None) -> dict[str, Any]:
    """Arrays and strings by key.

    Raises:
        CliError: an argument is no KEY=VALUE, or its key cannot be one, or was there before; the text names it.
    """
    values: dict[str, Any] = {}
    for key, value in map(parse, arguments or ()):
        if key in _ARGUMENTS:
            raise CliError(f"{key}: cannot be a key, it is an argument of the SDK's infer(...)")
        if key in values:
            raise CliError(f"{key}: given twice")
        values[key] = value
    return values


def parse(argument: str) -> tuple[str, Any]:
    """Returns key and value of one argument.

    Raises:
        CliError: it is none, naming the key.
    """
    name, equals, text = argument.partition("=")
    key, _, dtype_name = name.partition(":")
    if not equals or not key:
        raise CliError(f"expected KEY=VALUE, got {argument!r}")
    try:
        dtype = np.dtype(dtype_name or "float32")
    except (TypeError, ValueError, SyntaxError) as error:  # numpy reads a parenthesis as Python
        raise CliError(f"{key}: no dtype {dtype_name!r}; for example float64, int32, uint8") from error
    if text.startswith("@"):
        array = _read(key, Path(text[1:]))
        return key, array.astype(dtype) if dtype_name else array
    try:
        value = json.loads(text)
    except RecursionError:
        raise CliError(f"{key}: nested too deeply") from None
    except ValueError as error:
        if dtype_name:
            raise CliError(f"{key}: expected JSON numbers for {dtype_name}, got {text!r}") from None
        if text.startswith("["):
            raise CliError(f"{key}: expected a list in JSON, got {text!r}{_remedy(argument, error)}") from None
        return key, text
    if isinstance(value, str | dict) or value is None:
        return key, value if isinstance(value, str) else text
    try:
        return key, np.asarray(value, dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise CliError(f"{key}: {error}") from error


def _read(key: str, path: Path) -> Any:
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        from PIL import Image

        with Image.open(path) as image:
            return np.asarray(image if image.mode in ("L", "RGB", "RGBA") else image.convert("RGB"))
    except ModuleNotFoundError as error:
        raise missing(f"{key}: an image", error, "images") from error
    except (OSError, ValueError, EOFError) as error:
        raise CliError(f"{key}: cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def _remedy(argument: str, error: ValueError) -> str:
    """Returns what to do about a list that is not JSON: a shell has split it, or it is none."""
    if isinstance(error, json.JSONDecodeError) and error.pos >= len(error.doc):
        return f"; where it has spaces, quote the whole argument: '{argument} ...]'"
    return f" ({error}); a text that begins so stands in double quotes"
