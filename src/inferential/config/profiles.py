"""Files of latencies by model and batch size, as `inferential profile` writes them.

What the figures mean is in `scheduler.profile`; this is where they are read and written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from inferential.config.files import read_file
from inferential.config.problems import ConfigError, Problem


class Loads(Protocol):
    """What takes the figures: `Profiles`."""

    def load(self, figures: Mapping[str, Any]) -> None: ...


def load_profiles(profiles: Loads, path: str | Path) -> None:
    """Reads a file (YAML, TOML or JSON) of {model id: [{batch_size, median_ms, high_ms}, ...]}.

    Raises:
        ConfigError: it cannot be read, or an entry is wrong; it names the file and the entry.
    """
    layer = read_file(path)
    try:
        profiles.load(layer.values)
    except ValueError as error:
        field, _, message = str(error).partition(": ")
        raise ConfigError([Problem(field, message, str(path))]) from None


def save_profiles(figures: dict[str, list[dict[str, float]]], path: str | Path) -> None:
    """Writes such a file, as JSON.

    Raises:
        OSError: it cannot be written; a file that was there is as it was.
    """
    text, place = json.dumps(figures, indent=2) + "\n", Path(path).resolve()
    if place.exists() and not place.is_file():  # as /dev/stdout
        place.write_text(text, encoding="utf-8")
        return
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(place)
    finally:
        part.unlink(missing_ok=True)
