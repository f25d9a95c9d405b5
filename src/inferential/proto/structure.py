"""Nested values on the flat wire: maps, lists, numbers and None as tensors and strings, and back as they were.

Observations and results of the wire are flat: tensors and strings by key. Other protocols nest maps, and tell a number
from an array and a slash in a key from nesting. `flatten` writes such a map as flat values and a text that says how
they belong together; `restore` reads both. The text travels as the string `STRUCTURE_KEY` beside the values. It is
empty where the values are flat already, else JSON in which each node is a list that begins with its kind:

    ["value", KEY]           the array or string of that key
    ["number", KEY]          a number of Python
    ["scalar", KEY]          a scalar of numpy
    ["numbers", KEY]         a list of numbers, nested or not
    ["bytes", KEY]           bytes
    ["raw", KEY, DTYPE, SHAPE]        an array of dates or bytes, which the wire has no dtype for
    ["texts", DTYPE, SHAPE, TEXTS]    an array of strings
    ["plain", JSON]          None, a list of strings, and what else JSON says as it is
    ["list", [NODE, ...]]    a list
    ["map", {NAME: NODE}]    a map

Array shapes, dtypes and the keys of tensors do not change from one observation of a robot to the next, so neither does
its text, which is parsed once.
"""

from __future__ import annotations

import copy
import functools
import itertools
import json
import math
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from inferential.dtype_names import sent_dtype
from inferential.proto.value_limits import MAX_TEXT, TOO_MUCH_TEXT

STRUCTURE_KEY = "inferential.structure"
"""Key of the string that describes the structure of an observation or a result."""
_LONGEST_KEY = 200  # bytes; the wire's default limit is 255
_DEEPEST = 32
_PARSED = 256  # texts; the wire's default limit is 64 KiB each
_PLAIN = (type(None), bool, int, float, str)
_NUMBERS = "biuf"
_NO_DTYPE = "MmS"  # kinds that the wire has no dtype for and that are plain bytes
_WIDEST_FLOAT = 8  # bytes
_MAX_TEXTS_BYTES = 1024 * 1024  # of one array of strings
_MOST_VALUES = 4096
"""Of a map, with those in it: many more than a message may have (`observations.max_tensors`), and a few milliseconds of
work until that is said."""


def flatten(tree: Mapping[Any, Any], reserved: Collection[str] = ()) -> tuple[dict[str, Any], str]:
    """Returns flat arrays and strings by key, and the text that `restore` needs; tuples are lists.

    Keys are paths joined by "/", or "#NUMBER" where that is taken, too long or not printable.

    Args:
        tree: the map.
        reserved: keys that no value may have.

    Raises:
        ValueError: naming the key of a value, or a name in a map, that has no place on the wire.
    """
    values: dict[str, Any] = {}
    node = _Flattening(values, {STRUCTURE_KEY, *reserved}).map(tree, "", 0)
    flat = len(values) == len(tree) and all(tree_node == ["value", name] for name, tree_node in node[1].items())
    return values, "" if flat else json.dumps(node[1], separators=(",", ":"))


def restore(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the map that `flatten` was given; arrays are those of `values`.

    Args:
        values: arrays and strings by key, with the structure under `STRUCTURE_KEY`; without one they are flat.

    Raises:
        ValueError: the structure is malformed or does not fit the values.
    """
    left = dict(values)
    text = left.pop(STRUCTURE_KEY, "")
    if not text:
        return left
    try:
        found = {name: build(left) for name, build in _parse(text)}
    except KeyError as error:
        raise ValueError(f"{STRUCTURE_KEY}: there is no value of key {error}, or it is used twice") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{STRUCTURE_KEY}: {error}") from error
    if left:
        raise ValueError(f"{STRUCTURE_KEY}: it has no place for the value of key {min(left)!r}")
    return found


def narrow_float_as_float32(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """Returns an array of bfloat16, float8 or narrower (ml_dtypes) as float32; None for any other dtype."""
    dtype = array.dtype
    if dtype.kind not in "Vf" or not dtype.name.startswith(("bfloat16", "float8_", "float6_", "float4_")):
        return None
    return array.astype(np.float32)


class _Flattening:
    """One run of `flatten`, which fills `values`."""

    def __init__(self, values: dict[str, Any], reserved: Collection[str]) -> None:
        self._values = values
        self._reserved = reserved
        self._numbers = itertools.count(1)
        self._text_left = MAX_TEXT

    def map(self, tree: Mapping[Any, Any], prefix: str, depth: int) -> list[Any]:
        nodes = {}
        for name, value in tree.items():
            if not isinstance(name, str):
                raise ValueError(f"expected keys that are strings, got {name!r}{f' in {prefix[:-1]!r}' * bool(prefix)}")
            nodes[name] = self._node(value, f"{prefix}{name}", depth + 1)
        return ["map", nodes]

    def _node(self, value: Any, path: str, depth: int) -> list[Any]:
        if depth > _DEEPEST:
            raise ValueError(f"{path}: nested deeper than {_DEEPEST} maps and lists")
        if isinstance(value, str):
            self._note_text(len(value), path)
            return ["value", self._put(path, str(value))]
        if isinstance(value, np.ndarray):
            return self._array(value, path)
        if isinstance(value, np.generic) and not isinstance(value, bytes):
            return ["scalar", self._array(np.asarray(value), path)]
        if value is None:
            return ["plain", None]
        if isinstance(value, bool | int | float):
            number = np.asarray(value)
            if number.dtype.kind not in _NUMBERS:  # an int of more than 64 bits
                return ["plain", value]
            return ["number", self._put(path, number)]
        if isinstance(value, bytes | bytearray | memoryview):
            return ["bytes", self._put(path, np.frombuffer(value, np.uint8))]
        if isinstance(value, Mapping):
            return self.map(value, f"{path}/", depth)
        if isinstance(value, list | tuple):
            return self._list(value, path, depth)
        if hasattr(value, "__array__"):
            return self._array(np.asarray(value), path)
        expected = "an array, a number, a string, bytes, None, or a list or map of them"
        raise ValueError(f"{path}: expected {expected}, got {type(value).__name__}")

    def _array(self, array: np.ndarray[Any, Any], path: str) -> list[Any]:
        dtype = array.dtype
        if dtype.kind in _NUMBERS and dtype.itemsize <= _WIDEST_FLOAT:
            return ["value", self._put(path, array)]
        if dtype.kind == "U":
            if array.nbytes > _MAX_TEXTS_BYTES:
                raise ValueError(f"{path}: an array of strings of {array.nbytes} bytes, at most {_MAX_TEXTS_BYTES}")
            codes = np.frombuffer(array.astype(dtype.newbyteorder("=")).tobytes(), np.uint32)
            if codes.max(initial=0) > sys.maxunicode:  # numpy makes strings of any code, which no text format can hold
                raise ValueError(f"{path}: an array of strings has a character with the code {codes.max():#x}")
            return ["texts", dtype.str, list(array.shape), array.ravel().tolist()]
        if dtype.kind in _NO_DTYPE:
            data = np.frombuffer(array.tobytes(), np.uint8)
            return ["raw", self._put(path, data), dtype.str, list(array.shape)]
        if dtype.name == "bfloat16":
            return ["value", self._put(path, array)]
        as_float32 = narrow_float_as_float32(array)
        if as_float32 is None:
            raise ValueError(f"{path}: expected numbers, strings, bytes or dates, got an array of {dtype}")
        return ["value", self._put(path, as_float32)]

    def _list(self, items: Sequence[Any], path: str, depth: int) -> list[Any]:
        types = set(_leaf_types(items))
        if len(types) == 1 and types <= {bool, int, float}:
            numbers = _rectangular(items)
            if numbers is not None and not (types == {int} and numbers.dtype.kind == "f"):
                return ["numbers", self._put(path, numbers)]
        if len(items) == 1:
            return ["list", [self._node(items[0], path, depth + 1)]]  # the text in [["text"]] has the list's own key
        if types <= set(_PLAIN):
            if str in types:
                self._note_text(_text_of(items), path)
            return ["plain", list(items)]
        return ["list", [self._node(item, f"{path}/{index}", depth + 1) for index, item in enumerate(items)]]

    def _note_text(self, size: int, path: str) -> None:
        self._text_left -= size
        if self._text_left < 0:
            raise ValueError(f"{path}: {TOO_MUCH_TEXT}")

    def _put(self, path: str, value: Any) -> str:
        key = path
        if not path or not path.isprintable() or len(path.encode()) > _LONGEST_KEY:
            key = self._next_number()
        while key in self._values or key in self._reserved:
            key = self._next_number()
        self._values[key] = value
        if len(self._values) > _MOST_VALUES:
            raise ValueError(f"more than {_MOST_VALUES} values: send numbers as arrays, which are one each")
        return key

    def _next_number(self) -> str:
        return f"#{next(self._numbers)}"


def _leaf_types(items: Sequence[Any], depth: int = 0) -> Iterator[type]:
    if depth > _DEEPEST:
        yield object
        return
    for item in items:
        if isinstance(item, list | tuple):
            yield from _leaf_types(item, depth + 1)
        else:
            yield type(item)


def _text_of(items: Sequence[Any]) -> int:
    """Returns how many characters the strings of a list have, which is not nested deeper than `_leaf_types` looks."""
    return sum(
        len(item) if isinstance(item, str) else _text_of(item) for item in items if isinstance(item, str | list | tuple)
    )


def _rectangular(items: Sequence[Any]) -> np.ndarray[Any, Any] | None:
    """Returns lists of numbers as an array; None for ragged ones and for ints of more than 64 bits.

    Of ints of which some are above int64 and others not numpy makes floats, which are not the same numbers.
    """
    try:
        numbers = np.asarray(items)
    except ValueError:
        return None
    return numbers if numbers.dtype.kind in _NUMBERS else None


_Build = Callable[[dict[str, Any]], Any]
"""Takes the values of a node out of those that are left, and returns what the node describes."""


@functools.lru_cache(_PARSED)
def _parse(text: str) -> tuple[tuple[str, _Build], ...]:
    try:
        nodes = json.loads(text)
        if not isinstance(nodes, dict):
            raise ValueError(f"expected a map, got {type(nodes).__name__}")
        return tuple((name, _builder(node)) for name, node in nodes.items())
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _builder(node: Any) -> _Build:
    match node:
        case ["value", str(key)]:
            return lambda left: left.pop(key)
        case ["number", str(key)]:
            return lambda left: _numbers(left.pop(key), key).item()
        case ["scalar", inner]:
            build = _builder(inner)
            return lambda left: _numbers(build(left), "a scalar")[()]
        case ["numbers", str(key)]:
            return lambda left: _numbers(left.pop(key), key).tolist()
        case ["bytes", str(key)]:
            return lambda left: _numbers(left.pop(key), key).tobytes()
        case ["raw", str(key), str(name), list(sizes)]:
            dtype, shape = _dtype(name, _NO_DTYPE), _shape(sizes)
            return lambda left: _raw(_numbers(left.pop(key), key), dtype, shape)
        case ["texts", str(name), list(sizes), list(texts)]:
            array = _texts(texts, _dtype(name, "U"), _shape(sizes))
            return lambda left: array.copy()
        case ["plain", plain]:
            return lambda left: copy.deepcopy(plain)
        case ["list", list(nodes)]:
            items = [_builder(one) for one in nodes]
            return lambda left: [build(left) for build in items]
        case ["map", dict(named)]:
            entries = [(name, _builder(one)) for name, one in named.items()]
            return lambda left: {name: build(left) for name, build in entries}
    raise ValueError(f"there is no node {str(node)[:80]!r}")


def _numbers(value: Any, key: str) -> np.ndarray[Any, Any]:
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{key}: expected an array, got {type(value).__name__}")
    return value


def _raw(data: np.ndarray[Any, Any], dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    if data.dtype != np.uint8 or data.nbytes != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"an array of {dtype} and shape {shape} has {data.nbytes} bytes of {data.dtype}")
    return np.ndarray(shape, dtype, data.tobytes())


def _texts(texts: list[Any], dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    if len(texts) * dtype.itemsize > _MAX_TEXTS_BYTES or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"expected strings of at most {_MAX_TEXTS_BYTES} bytes in an array of {dtype}")
    return np.asarray(texts, dtype).reshape(shape)


def _dtype(name: str, kinds: str) -> np.dtype[Any]:
    dtype = sent_dtype(name)
    if dtype.kind not in kinds:
        raise ValueError(f"dtype {name[:40]!r} is not allowed here")
    return dtype


def _shape(sizes: list[Any]) -> tuple[int, ...]:
    if not all(type(size) is int and size >= 0 for size in sizes):
        raise ValueError(f"a shape with sizes {sizes[:8]}")
    return tuple(sizes)
