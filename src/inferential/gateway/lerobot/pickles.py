"""Reads and writes the pickles inside LeRobot's messages.

Pickles are not loaded. `read` interprets the opcodes that `pickle.dumps` writes in protocols 4 and 5 for the records
that `RobotClient` sends, with a stack and a memo of its own: names are compared with a list and made plain values;
nothing is imported or called, and any other name or opcode is refused. `write_actions` writes the answer's pickle by
hand, so that neither torch nor lerobot is needed here.

(lerobot 0.6.1, `async_inference/helpers.py`; opcodes: the standard library's `pickletools`; protocol 5: PEP 574.)
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from inferential.dtype_names import sent_dtype

_HELPERS = "lerobot.async_inference.helpers"
_MAX_OPCODES = 50_000  # an observation of 30 values has 200; a million would hold up the event loop
_KINDS = "biuf"


@dataclass(slots=True)
class Record:
    """An instance of one of LeRobot's classes: the class's name and the fields."""

    name: str
    fields: dict[str, Any] = field(default_factory=dict)


def read(data: bytes | bytearray | memoryview) -> Any:
    """Returns what a pickle holds, as plain values; LeRobot's instances are records.

    Arrays are views on `data`.

    Raises:
        ValueError: it is truncated or malformed, or has a name or an opcode that is not allowed, which it names.
    """
    try:
        return _Reader(memoryview(data).cast("B")).read()
    except (IndexError, struct.error) as error:
        raise ValueError("pickle: it is truncated, or its opcodes do not fit together") from error


class _Mark:
    """Where a list, tuple or map begins on the stack."""


@dataclass(frozen=True, slots=True)
class _Name:
    """One of the allowed names."""

    name: str


@dataclass(slots=True)
class _DType:
    """A dtype whose byte order comes after it."""

    name: str
    order: Literal["<", ">", "=", "|"] = "|"

    def numpy(self) -> np.dtype[Any]:
        try:
            dtype = sent_dtype(self.name)
        except ValueError as error:
            raise ValueError(f"pickle: {error}") from None
        if dtype.kind not in _KINDS:
            raise ValueError(f"pickle: dtype {self.name[:40]!r}: only numbers and bools are read")
        return dtype if self.order == "|" else dtype.newbyteorder(self.order)


@dataclass(slots=True)
class _Array:
    """An array whose content comes after it."""

    value: np.ndarray[Any, Any] | None = None


_NAMES = {
    **{(_HELPERS, name): name for name in ("RemotePolicyConfig", "TimedAction", "TimedObservation")},
    **{(f"numpy.{core}.multiarray", name): name for core in ("_core", "core") for name in ("_reconstruct", "scalar")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): "_frombuffer" for core in ("_core", "core")},
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
}
"""The names that a pickle may have. Protocol 5 (Python 3.14's default) writes arrays by `_frombuffer`."""
_RECORDS = {"RemotePolicyConfig", "TimedAction", "TimedObservation"}


class _Reader:
    """One run of `read`. Nothing here recurses, so that nested values cannot exhaust the C stack."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0
        self._stack: list[Any] = []
        self._memo: list[Any] = []

    def read(self) -> Any:
        for _ in range(_MAX_OPCODES):
            opcode = self._byte()
            if opcode == 0x2E:  # STOP
                return _finished(self._pop())
            handler = _OPCODES.get(opcode)
            if handler is None:
                raise ValueError(f"pickle: opcode {opcode:#04x} at byte {self._at - 1} is not allowed")
            handler(self)
        raise ValueError(f"pickle: more than {_MAX_OPCODES} opcodes")

    # Reading bytes, and the stack

    def _take(self, size: int) -> memoryview:
        begin, self._at = self._at, self._at + size
        if size < 0 or self._at > len(self._data):
            raise IndexError
        return self._data[begin : self._at]

    def _byte(self) -> int:
        return self._take(1)[0]

    def _number(self, form: str) -> Any:
        (number,) = struct.unpack(form, self._take(struct.calcsize(form)))
        return number

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _Mark:
            raise IndexError
        return value

    def _top(self, kind: type) -> Any:
        value = self._stack[-1]
        if type(value) is not kind:
            raise IndexError
        return value

    def _since_mark(self) -> list[Any]:
        for place in range(len(self._stack) - 1, -1, -1):
            if self._stack[place] is _Mark:
                values = self._stack[place + 1 :]
                del self._stack[place:]
                return values
        raise IndexError

    # Opcodes

    def proto(self) -> None:
        protocol = self._byte()
        if protocol not in (4, 5):
            raise ValueError(f"pickle: protocol {protocol}; only 4 and 5 are read")

    def frame(self) -> None:
        self._number("<Q")

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def long(self) -> None:
        self.push(int.from_bytes(self._take(self._byte()), "little", signed=True))

    def text(self, length: str) -> None:
        data = self._take(self._number(length))
        try:
            self.push(str(data, "utf-8", "surrogatepass"))
        except UnicodeDecodeError as error:
            raise ValueError(f"pickle: text that is not UTF-8: {error}") from error

    def data(self, length: str) -> None:
        self.push(self._take(self._number(length)))

    def tuple_of(self, count: int) -> None:
        self.push(tuple([self._pop() for _ in range(count)][::-1]))

    def tuple_since_mark(self) -> None:
        self.push(tuple(self._since_mark()))

    def append(self) -> None:
        value = self._pop()
        self._top(list).append(value)

    def appends(self) -> None:
        values = self._since_mark()
        self._top(list).extend(values)

    def set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set([(key, value)])

    def set_items(self) -> None:
        values = self._since_mark()
        if len(values) % 2:
            raise IndexError
        self._set(zip(values[::2], values[1::2], strict=True))

    def _set(self, items: Iterable[tuple[Any, Any]]) -> None:
        target = self._top(dict)
        for key, value in items:
            if type(key) is not str:
                raise ValueError(f"pickle: a map's key of type {type(key).__name__}; expected text")
            target[key] = value

    def memoize(self) -> None:
        self._memo.append(self._stack[-1])

    def name(self) -> None:
        name, module = self._pop(), self._pop()
        allowed = _NAMES.get((module, name)) if type(module) is str and type(name) is str else None
        if allowed is None:
            where = f"{module}.{name}" if type(module) is str and type(name) is str else "that is not text"
            raise ValueError(f"pickle: the name {where[:120]} is not allowed")
        self.push(_Name(allowed))

    def new(self) -> None:
        arguments, kind = self._pop(), self._pop()
        if type(kind) is not _Name or kind.name not in _RECORDS or arguments != ():
            raise ValueError("pickle: only LeRobot's own records are made")
        self.push(Record(kind.name))

    def reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if type(function) is not _Name or type(arguments) is not tuple:
            raise ValueError("pickle: a call of what is no name")
        self.push(_made(function.name, arguments))

    def build(self) -> None:
        state, target = self._pop(), self._stack[-1]
        if type(target) is Record and type(state) is dict:
            target.fields.update(state)
        elif type(target) is _DType and type(state) is tuple:
            _set_order(target, state)
        elif type(target) is _Array and type(state) is tuple:
            target.value = _array_of(state)
        else:
            raise ValueError("pickle: a state for what has none")


def _made(name: str, arguments: tuple[Any, ...]) -> Any:
    """Returns the plain value that a call of an allowed name stands for."""
    match name, arguments:
        case "dtype", (str(text), _, _):
            return _DType(text)
        case "_reconstruct", (_Name("ndarray"), tuple(), memoryview()):
            return _Array()
        case "_frombuffer", (memoryview() as data, _DType() as dtype, tuple() as shape, "C" | "F" as order):
            return _Array(_view(data, dtype, shape, order))
        case "scalar", (_DType() as dtype, memoryview() as data):
            return _view(data, dtype, (), "C").item()
    raise ValueError(f"pickle: {name} with arguments that it does not have")


def _set_order(dtype: _DType, state: tuple[Any, ...]) -> None:
    match state:
        case (3, "<" | ">" | "=" | "|" as order, None, None, None, -1, -1, int()):
            dtype.order = order
        case _:
            raise ValueError(f"pickle: dtype {dtype.name[:40]!r} with fields or subarrays")


def _array_of(state: tuple[Any, ...]) -> np.ndarray[Any, Any]:
    match state:
        case (1, tuple() as shape, _DType() as dtype, bool() as fortran, memoryview() as data):
            return _view(data, dtype, shape, "F" if fortran else "C")
    raise ValueError("pickle: an array's state is not (1, shape, dtype, order, bytes)")


def _view(data: memoryview, of: _DType, shape: tuple[Any, ...], order: Literal["C", "F"]) -> np.ndarray[Any, Any]:
    dtype = of.numpy()
    if len(shape) > 16 or any(type(size) is not int or size < 0 for size in shape):
        raise ValueError("pickle: an array's shape is not up to 16 sizes")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"pickle: an array of {dtype} and shape {shape} has {len(data)} bytes")
    return np.ndarray(shape, dtype, data, order=order)


def _finished(value: Any) -> Any:
    """Returns the value with arrays in place of what stood for them, in a record's fields and the maps in these."""
    if type(value) is Record:
        for place in (value.fields, *(inner for inner in value.fields.values() if type(inner) is dict)):
            for key, inner in place.items():
                if type(inner) is _Array:
                    if inner.value is None:
                        raise ValueError(f"pickle: {key[:80]}: an array without content")
                    place[key] = inner.value
    return value


_OPCODES: dict[int, Callable[[_Reader], None]] = {
    0x80: _Reader.proto,
    0x95: _Reader.frame,
    0x28: lambda reader: reader.push(_Mark),
    0x4E: lambda reader: reader.push(None),
    0x88: lambda reader: reader.push(True),
    0x89: lambda reader: reader.push(False),
    0x4A: lambda reader: reader.push(reader._number("<i")),
    0x4B: lambda reader: reader.push(reader._number("<B")),
    0x4D: lambda reader: reader.push(reader._number("<H")),
    0x47: lambda reader: reader.push(reader._number(">d")),
    0x8A: _Reader.long,
    0x8C: lambda reader: reader.text("<B"),
    0x58: lambda reader: reader.text("<I"),
    0x8D: lambda reader: reader.text("<Q"),
    0x43: lambda reader: reader.data("<B"),
    0x42: lambda reader: reader.data("<I"),
    0x8E: lambda reader: reader.data("<Q"),
    0x96: lambda reader: reader.data("<Q"),  # a bytearray
    0x5D: lambda reader: reader.push([]),
    0x61: _Reader.append,
    0x65: _Reader.appends,
    0x29: lambda reader: reader.push(()),
    0x85: lambda reader: reader.tuple_of(1),
    0x86: lambda reader: reader.tuple_of(2),
    0x87: lambda reader: reader.tuple_of(3),
    0x74: _Reader.tuple_since_mark,
    0x7D: lambda reader: reader.push({}),
    0x73: _Reader.set_item,
    0x75: _Reader.set_items,
    0x94: _Reader.memoize,
    0x68: lambda reader: reader.push(reader._memo[reader._number("<B")]),
    0x6A: lambda reader: reader.push(reader._memo[reader._number("<I")]),
    0x93: _Reader.name,
    0x81: _Reader.new,
    0x52: _Reader.reduce,
    0x62: _Reader.build,
}


# Writing

_HEAD = b"\x80\x04"
_NEW_ACTION, _TENSOR = b"h\x00", b"h\x01"  # from the memo


def write_actions(actions: np.ndarray[Any, Any], timestamps: Iterable[float], first_timestep: int) -> bytes:
    """Returns a pickle (protocol 4) of list[TimedAction], as `RobotClient` loads it.

    Args:
        actions: of shape (T, D), any real dtype; the robot gets float32 tensors.
        timestamps: seconds of the robot's wall clock, one for each action.
        first_timestep: of the first action; each following one has the next.
    """
    parts = [_HEAD, _name(_HELPERS, "TimedAction"), b"\x940", _name("torch", "tensor"), b"\x940", b"]("]
    size = struct.Struct(f">{'cd' * actions.shape[1]}")
    for step, (action, timestamp) in enumerate(zip(actions.tolist(), timestamps, strict=True), first_timestep):
        numbers = [part for number in action for part in (b"G", float(number))]
        parts += (
            _NEW_ACTION,
            b")\x81}(",
            _text("timestamp"),
            struct.pack(">cd", b"G", timestamp),
            _text("timestep"),
            _integer(step),
            _text("action"),
            _TENSOR,
            b"](",
            size.pack(*numbers),
            b"e\x85Rub",
        )
    return b"".join((*parts, b"e."))


def _name(module: str, name: str) -> bytes:
    return _text(module) + _text(name) + b"\x93"


def _text(text: str) -> bytes:
    data = text.encode()
    return b"\x8c" + bytes([len(data)]) + data


def _integer(number: int) -> bytes:
    data = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data
