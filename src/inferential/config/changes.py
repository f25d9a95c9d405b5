"""What differs between two configurations, and which of it a running server can take on.

It changes nothing: the server does, in `reconfigure`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from inferential.config.fields import Key, Node, format_value, values
from inferential.config.schema import InferentialConfig


@dataclass(frozen=True, slots=True)
class Change:
    """One field that differs.

    Attributes:
        path: its place, as `scheduling.strategy`. A list counts as one field.
        old: the value before; the default where an entry such as `models.known.arm` was not there.
        new: the value after.
        live: whether a running server takes it on; if not, it takes a restart.
    """

    path: str
    old: Any
    new: Any
    live: bool

    def __str__(self) -> str:
        restart = "" if self.live else " (takes effect at the next start)"
        return f"{self.path}: {_short(self.old)} -> {_short(self.new)}{restart}"


def diff(old: InferentialConfig, new: InferentialConfig) -> list[Change]:
    """The fields that differ, in the order of the schema."""
    before, after = _by_key(old), _by_key(new)
    changes = []
    for key, (node, _) in (before | after).items():
        was = before[key][1] if key in before else node.default
        now = after[key][1] if key in after else node.default
        if was != now:
            changes.append(Change(node.path, was, now, node.live))
    return changes


def _by_key(config: InferentialConfig) -> dict[Key, tuple[Node, Any]]:
    return {node.key: (node, value) for node, value in values(config)}


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} {'entry' if len(value) == 1 else 'entries'}"
    return format_value(value)
