"""Writes statistics in a line that a person reads."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from typing import Any


def brief(stats: Any) -> str:
    """Returns a dataclass's fields in one line, those left out that are as they began."""
    shown = []
    for field in fields(stats):
        value = getattr(stats, field.name)
        began = field.default if field.default_factory is MISSING else field.default_factory()
        if value == began or value != value:  # NaN: not known
            continue
        if is_dataclass(value):
            value = f"({brief(value)})"
        elif isinstance(value, float):
            value = round(value, 1)
        elif isinstance(value, dict):
            value = dict(value)
        shown.append(f"{field.name}={value}")
    return ", ".join(shown) or "nothing yet"
