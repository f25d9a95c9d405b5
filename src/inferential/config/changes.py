"""Compares two configurations: what differs, and which differences a running server can take on.

Which fields these are follows from the marks in the schema (`config.section.Effect`). Nothing is applied here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from inferential.config.fields import ROOT, Key, Node, format_value, values
from inferential.config.schema import InferentialConfig
from inferential.config.section import Section


@dataclass(frozen=True, slots=True)
class Change:
    """Describes one field that differs.

    Attributes:
        path: its place, as `scheduling.strategy`. A list counts as one field.
        old: the value before; the default if an entry such as `models.known.arm` did not exist.
        new: the value after.
        live: whether a running server takes it on; otherwise the change needs a restart.
    """

    path: str
    old: Any
    new: Any
    live: bool

    def __str__(self) -> str:
        restart = "" if self.live else " (takes effect at the next start)"
        return f"{self.path}: {_short(self.old)} -> {_short(self.new)}{restart}"


def diff(old: InferentialConfig, new: InferentialConfig, began: InferentialConfig | None = None) -> list[Change]:
    """Returns the fields that differ, in the order of the schema.

    Args:
        old: the configuration before.
        new: the one after.
        began: with which the server started; None: with the old one. What was on then and stopped by itself goes on.
    """
    before, after = _by_key(old), _by_key(new)
    switched = {change.path: change for change in _switched(old, new, began or old, ROOT)}
    changes = []
    for key, (node, _) in (before | after).items():
        if (section := next((path for path in switched if f"{node.path}.".startswith(f"{path}.")), None)) is not None:
            changes += [change] if (change := switched[section]) not in changes else []
            continue
        was = before[key][1] if key in before else node.default
        now = after[key][1] if key in after else node.default
        if was != now:
            changes.append(Change(node.path, was, now, node.live))
    return changes


def _switched(old: Section, new: Section, began: Section | None, node: Node) -> Iterator[Change]:
    """Yields the services that are turned on or off by the presence of their section.

    What is not there at the start of a server is not started while it runs; what is there may stop by itself.
    """
    for child in node.children():
        if child.section is None:
            continue
        before, after, first = (getattr(one, str(child.key[-1]), None) for one in (old, new, began))
        if before is not None and after is not None:
            yield from _switched(before, after, first, child)
        elif before is not after:
            yield Change(child.path, _state(before), _state(after), child.live and (after is None or first is not None))


def _state(section: Section | None) -> str:
    return "off" if section is None else "on"


def in_force(running: InferentialConfig, new: InferentialConfig) -> InferentialConfig:
    """Returns the configuration in force once a running server has taken on a new one.

    Args:
        running: in force until now.
        new: whose live fields are taken; fields that need a restart keep their running values. An entry that is new,
            such as `models.known.arm`, has the defaults of those.
    """
    merged = new.model_copy(deep=True)
    _keep(merged, running, ROOT)
    return merged


def _keep(new: Section, running: Section, node: Node) -> None:
    """Puts the running values of a section's fields that need a restart in place of the new ones."""
    for child in node.children():
        name = str(child.key[-1])
        before, after = getattr(running, name), getattr(new, name)
        if child.section is not None and before is not None and after is not None:
            _keep(after, before, child)
        elif (entry := child.entry) is not None:
            for key, value in after.items():
                _keep(value, before.get(key) or _defaults(value), entry)
            for key in before.keys() - after.keys():
                _keep(kept := _defaults(before[key]), before[key], entry)
                if kept != _defaults(kept):
                    after[key] = kept  # what was removed from the file and is still in force
        elif not child.live and after != before:
            setattr(new, name, before)
    if new.__pydantic_extra__ is not None and not node.live:  # gateways of other packages
        new.__pydantic_extra__ = dict(running.model_extra or {})


def _defaults(section: Section) -> Section:
    """Returns a section of the same type in which fields that are not required have their defaults."""
    required = {name: getattr(section, name) for name, info in type(section).model_fields.items() if info.is_required()}
    return type(section)(**required)


def _by_key(config: InferentialConfig) -> dict[Key, tuple[Node, Any]]:
    return {node.key: (node, value) for node, value in values(config)}


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} {'entry' if len(value) == 1 else 'entries'}"
    return format_value(value)
