"""Words the problems of a configuration for the person who wrote it.

The problems are found elsewhere: by files, the environment and the schema.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, Union, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from inferential.config.fields import ROOT, Key, Node, find, format_path, format_value, leaves
from inferential.config.text import Layer
from inferential.errors import InferentialError

_GONE = {
    "scheduling.max_concurrent_dispatch": "gone: each model has a limit of its own, models.default_max_inflight",
    "scheduling.pipeline_dispatch": "gone: a free slot of a model is filled at once, always",
    "scheduling.predictive_pre_dispatch": "gone: nothing is dispatched on a guess",
}
_ELSEWHERE = {
    "robots": "unknown key; a file with robots is a fleet for `inferential simulate`, no server's configuration"
}
_IN_SHORT = {int: ("port",), str: ("bind", "target", "strategy", "mode", "endpoint", "folder")}
"""Fields of tables that a value is likely to be for which stands in the place of the table."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        path: the place in the configuration, '' where it is about a whole file.
        message: what is wrong there, and what was expected.
        source: the file, the environment variable or the argument that it came from; '' where the path says it.
    """

    path: str
    message: str
    source: str

    def __str__(self) -> str:
        if not self.path:
            return f"{self.source}: {self.message}"
        return f"{self.path}: {self.message}" + (f" ({self.source})" if self.source else "")


MOST_PROBLEMS = 50
"""Of one configuration, those that are reported."""


class ConfigError(InferentialError, ValueError):
    """A configuration that cannot be used; its text has one line for each problem.

    Attributes:
        problems: what is wrong with it, at least one.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.problems,))


def from_validation(error: ValidationError, origin: Callable[[Key], Layer | None], root: Node = ROOT) -> list[Problem]:
    """Returns what pydantic found, one problem for each place.

    Args:
        error: raised by a validation of what `root` describes.
        origin: tells where the value at a place came from.
        root: the whole that was validated.
    """
    problems: dict[str, Problem] = {}
    for key, found in _placed(error.errors(include_url=False), root):
        path = format_path(key)
        if len(problems) >= MOST_PROBLEMS:  # of a file that is something else: to report all takes minutes
            layer = origin(key) or Layer("defaults", {})
            problems[""] = Problem("", f"and others; {error.error_count()} values are wrong", layer.source(key))
            break
        if path not in problems:
            layer = origin(key) or Layer("defaults", {})
            unknown = found["type"] == "extra_forbidden"
            message = _unknown_key(key, layer, root) if unknown else _bad_value(key, found, root)
            problems[path] = Problem(path, message, layer.source(key))
    return list(problems.values())


def _placed(errors: Iterable[ErrorDetails], root: Node) -> Iterator[tuple[Key, ErrorDetails]]:
    """Yields errors with their places, in which pydantic puts names of the types that a value may have.

    Of a value that may have several types it has an error for each. What is wrong inside it says most.
    """
    placed = [(*_without_type(found["loc"], root), found) for found in errors]
    inside = {union for key, union, _ in placed if union and key != union}
    for key, union, found in placed:
        if key != union or union not in inside:
            yield key, found


def _without_type(key: Key, root: Node) -> tuple[Key, Key]:
    """Returns a place without the name of a type in it, and the place of the value of several types; () of none."""
    node: Node | None = root
    for at, name in enumerate(key, 1):
        node = node.child(name) if node is not None else None
        if node is not None and get_origin(node.kind) in (Union, UnionType):
            return (*key[:at], *key[at + 1 :]), key[:at]
    return key, ()


def _bad_value(key: Key, found: ErrorDetails, root: Node) -> str:
    if found["type"] == "value_error":
        return str(found["ctx"]["error"])
    node = find(key, root)
    if node is None or node.annotation is Any:  # inside a table that the schema does not describe
        return found["msg"][:1].lower() + found["msg"][1:]
    if found["type"] == "missing":
        return f"expected {node.expected}, got nothing{_meaning(node)}"
    got = _got(found["input"], node)
    return f"expected {node.expected}, got {got}{_field_meant(key, node, found['input'])}"


def _meaning(node: Node) -> str:
    """Returns `; it is ...` with the first sentence of a field's description; that of another package may have none."""
    text = node.description.partition(". ")[0].rstrip(".")
    return f"; it is {text[0].lower()}{text[1:]}" if text else ""


def _field_meant(key: Key, table: Node, value: Any) -> str:
    """Returns `; did you mean ...?` where a value that stands for a table is one of its fields, as `http: 8080`."""
    if table.section is None:
        return ""
    name = next((name for name in _IN_SHORT.get(type(value), ()) if name in table.names()), None)
    return "" if name is None else f"; did you mean {format_path((*key, name))}?"


def _unknown_key(key: Key, layer: Layer, root: Node) -> str:
    if root is ROOT and (known := _GONE.get(format_path(key)) or _ELSEWHERE.get(format_path(key))):
        return known
    parent = find(key[:-1], root) or root
    if not parent.names():
        return "unknown key"
    meant = _meant(key, root)
    if meant is not None:
        return f"unknown key; did you mean {layer.spell(meant)}?"
    return f"unknown key; there is: {', '.join(parent.names())}"


def closest(name: str, known: Sequence[str]) -> str:
    """Returns `; did you mean ...?` where a known name is close, else ''."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _meant(key: Key, root: Node) -> str | None:
    """Returns the path that may be meant: the right name in the wrong table, a similar name, or other dots."""
    name = _plain(str(key[-1]))
    everywhere = [node.path for node in (*root.children(), *leaves(root))]
    flat = {_plain(path): path for path in everywhere}
    if (whole := _plain("_".join(map(str, key)))) in flat:
        return flat[whole]
    parent = find(key[:-1], root) or root
    siblings = {name: format_path((*parent.key, name)) for name in parent.names()}
    if close := difflib.get_close_matches(name, siblings, n=1):
        return siblings[close[0]]
    if same := [path for path in everywhere if path.rpartition(".")[2] == name]:
        return same[0]
    close = difflib.get_close_matches(whole, flat, n=1, cutoff=0.85)
    return flat[close[0]] if close else None


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_")


def _got(value: Any, node: Node | None) -> str:
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    if isinstance(value, str):
        wants_text = node is not None and (node.kind is str or "Literal" in str(node.kind))
        return f"'{format_value(value)}'" if wants_text else f"the string '{format_value(value)}'"
    if node is not None and node.kind is str and value is not None:
        return f"{format_value(value)} (a string is written in quotes)"
    return format_value(value)
