"""Describes each place in a configuration: its path, what it expects, its default, unit and meaning.

It knows the schema; files and values come in as arguments.
"""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from inferential.config.extensions import GATEWAYS, ExtensionError, extension_names
from inferential.config.gateways import GatewaysConfig
from inferential.config.schema import InferentialConfig
from inferential.config.section import Effect, Expected, Section
from inferential.config.services import gateway_section

Key = tuple[str | int, ...]
"""A place in a configuration: names of fields, model ids, positions in lists."""

_UNITS = {"ms": "ms", "s": "s", "bytes": "bytes"}


@dataclass(frozen=True, slots=True)
class Node:
    """One place in the schema.

    Attributes:
        key: its place; `<id>` stands for a name that users choose, `0` for a position in a list.
        annotation: its type.
        metadata: what its type is annotated with.
        default: its default; PydanticUndefined where there is none.
        description: what it means, one line.
        effect: when a change of it takes effect; None if neither it nor a table around it says.
    """

    key: Key
    annotation: Any
    metadata: tuple[Any, ...] = ()
    default: Any = PydanticUndefined
    description: str = ""
    effect: Effect | None = None

    @property
    def path(self) -> str:
        """Its place as people write it: `clients.known[0].id`."""
        return format_path(self.key)

    @property
    def live(self) -> bool:
        """Whether a running server takes on a change of it."""
        return self.effect is Effect.LIVE

    @property
    def kind(self) -> Any:
        """Its type without annotations and `| None`."""
        return unwrapped(self.annotation)[0]

    @property
    def nullable(self) -> bool:
        """Whether it may be null."""
        return unwrapped(self.annotation)[2]

    @property
    def section(self) -> type[Section] | None:
        """The table that it is, None if it is something else."""
        bare = self.kind
        return bare if isinstance(bare, type) and issubclass(bare, Section) else None

    @property
    def is_table(self) -> bool:
        """Whether it is a table, of fixed or of free names."""
        return self.section is not None or get_origin(self.kind) is dict

    @property
    def is_list(self) -> bool:
        """Whether it is a list."""
        return get_origin(self.kind) is list

    @property
    def entry(self) -> Node | None:
        """What each entry of a table of free names is, as `models.known.<id>`; None unless it is a table itself."""
        inside = self.child("<id>") if self.section is None and self.is_table else None
        return inside if inside is not None and inside.section is not None else None

    @property
    def expected(self) -> str:
        """What a value must be, in words."""
        return _expected(self.annotation, self.metadata)

    @property
    def unit(self) -> str:
        """The unit that its name tells, '' if none."""
        name = self.key[-1] if self.key else ""
        return _UNITS.get(str(name).rpartition("_")[2], "") if "_" in str(name) else ""

    def children(self) -> Iterator[Node]:
        """Yields the fields of a section, in the order of the schema."""
        if self.section is not None:
            for name, info in self.section.model_fields.items():
                yield self._field(name, info)

    def child(self, name: str | int) -> Node | None:
        """Returns what is at `name` inside; None where nothing can be."""
        if self.section is not None:
            info = self.section.model_fields.get(str(name))
            if info is None:
                return self._gateway(str(name)) if self.section is GatewaysConfig else None
            return self._field(str(name), info)
        if get_origin(self.kind) in (dict, list):
            return Node((*self.key, name), get_args(self.kind)[-1], effect=self.effect)
        return None

    def names(self) -> list[str]:
        """Returns the names of the fields of a section; for gateways, those of installed packages too."""
        fields = [str(child.key[-1]) for child in self.children()]
        return sorted({*fields, *extension_names(GATEWAYS)}) if self.section is GatewaysConfig else fields

    def _gateway(self, name: str) -> Node | None:
        """Returns the section of another package's gateway, None where there is none that can be used."""
        try:
            section = gateway_section(name)
        except (KeyError, ExtensionError):
            return None
        description = " ".join((section.__doc__ or "").split())
        return Node((*self.key, name), section | None, (), None, description, self.effect)

    def _field(self, name: str, info: FieldInfo) -> Node:
        return Node(
            key=(*self.key, name),
            annotation=info.annotation,
            metadata=tuple(info.metadata),
            default=info.get_default(call_default_factory=True) if not info.is_required() else PydanticUndefined,
            description=" ".join((info.description or descriptions(self.section).get(name, "")).split()),
            effect=next((mark for mark in info.metadata if isinstance(mark, Effect)), self.effect),
        )


@functools.cache
def descriptions(section: type[Section] | None) -> dict[str, str]:
    """Returns what stands under the fields of a section, in its source and in those of its bases.

    Pydantic would read them when it makes the classes (`use_attribute_docstrings`): a tenth of the time that a server
    takes to start, for texts that it does not need.
    """
    found: dict[str, str] = {}
    for base in reversed(section.__mro__ if section is not None else ()):
        if issubclass(base, Section):
            found |= _under_fields(base)
    return found


def _under_fields(of: type[Section]) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(of))
    except OSError:  # it was made at run time, or its source is not installed
        return {}
    (made,) = ast.parse(source).body
    assert isinstance(made, ast.ClassDef)
    return {
        field.target.id: text.value.value
        for field, text in itertools.pairwise(made.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


ROOT = Node((), InferentialConfig)


def find(key: Key, root: Node = ROOT) -> Node | None:
    """Returns the schema's node at a place of a configuration, None where the schema has none."""
    node: Node | None = root
    for name in key:
        if node is None:
            return None
        node = node.child(name)
    return node


def leaves(node: Node = ROOT) -> Iterator[Node]:
    """Yields every field that is not a table of fixed names, those of list items and named entries included."""
    if node.section is not None:
        for child in node.children():
            yield from leaves(child)
        return
    inside = node.child("<id>" if not node.is_list else 0)
    if inside is not None and inside.section is not None:
        yield from leaves(inside)
    else:
        yield node


def values(section: Section, node: Node = ROOT) -> Iterator[tuple[Node, Any]]:
    """Yields the values of a configuration, a list as one value, the entries of a table of free names one by one."""
    for child in node.children():
        value = getattr(section, str(child.key[-1]))
        yield from _values_of(child, value)
    for name, value in (section.model_extra or {}).items():  # gateways of other packages
        added = node.child(name)
        assert added is not None
        yield from _values_of(added, value)


def items(node: Node, value: Any) -> Iterator[tuple[Node, Any]]:
    """Yields the values of the sections in a list; the value itself where it is no list of sections."""
    inside = node.child(0) if node.is_list else None
    if inside is None or inside.section is None:
        yield node, value
        return
    for index, entry in enumerate(value):
        item = node.child(index)
        assert item is not None
        yield from values(entry, item)


def format_path(key: Sequence[str | int]) -> str:
    """Returns a place as people write it: `models.known."pi0.5".target`, `clients.known[3].id`."""
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if re.fullmatch(r"[\w/<>-]+", part) else f'"{part}"')
    return text


def format_value(value: Any) -> str:
    """Returns a value on one line, as YAML and JSON spell it, cut where it is long."""
    if value is None or value is PydanticUndefined:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return f"{value:.1f}"
    if isinstance(value, Section):
        value = value.model_dump(exclude_unset=True)
    text = json.dumps(value, default=str) if isinstance(value, dict | list) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _values_of(node: Node, value: Any) -> Iterator[tuple[Node, Any]]:
    if node.section is not None and value is not None:
        yield from values(value, node)
        return
    if node.entry is None:
        yield node, value
        return
    for name, entry in value.items():
        item = node.child(name)
        assert item is not None
        yield from values(entry, item)


def unwrapped(annotation: Any) -> tuple[Any, tuple[Any, ...], bool]:
    """Returns a type without its annotations and `| None`, the annotations, and whether there was a `| None`."""
    metadata: tuple[Any, ...] = ()
    nullable = False
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *marks = get_args(annotation)
            for one in marks:
                metadata += tuple(one.metadata) if isinstance(one, FieldInfo) else (one,)
        elif get_origin(annotation) in (Union, UnionType):
            rest = [one for one in get_args(annotation) if one is not type(None)]
            if len(rest) != 1:
                return annotation, metadata, nullable
            annotation, nullable = rest[0], True
        else:
            return annotation, metadata, nullable


def _expected(annotation: Any, metadata: tuple[Any, ...]) -> str:
    bare, inner, nullable = unwrapped(annotation)
    marks = (*metadata, *inner)
    return (_in_words(marks) or _type_in_words(bare, marks)) + (" or null" if nullable else "")


def _in_words(metadata: tuple[Any, ...]) -> str:
    return next((one.text for one in metadata if isinstance(one, Expected)), "")


def _type_in_words(bare: Any, metadata: tuple[Any, ...]) -> str:
    origin, arguments = get_origin(bare), get_args(bare)
    if origin is Literal:
        *others, last = map(str, arguments)
        return f"{', '.join(others)} or {last}" if others else last
    if origin is list:
        return "a list of tables" if isinstance(arguments[0], type) and issubclass(arguments[0], Section) else "a list"
    if bare in (str, SecretStr):
        return "a string that is not empty" if any(isinstance(one, MinLen) for one in metadata) else "a string"
    if bare is bool:
        return "true or false"
    if bare in (int, float):
        return ("a whole number" if bare is int else "a number") + _limits(metadata)
    return "a table"


def _limits(metadata: tuple[Any, ...]) -> str:
    lower, upper = "", ""
    for one in metadata:
        match one:
            case Ge(ge=bound):
                lower = f" of at least {bound}"
            case Gt(gt=bound):
                lower = f" above {bound:g}"
            case Le(le=bound):
                upper = f" at most {bound:g}" if isinstance(bound, float) else f" at most {bound}"
    return lower + (" and" if lower and upper else "") + upper
