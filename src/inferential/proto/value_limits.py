"""Bounds how many values a message of msgpack, JSON or protobuf makes, before it makes them.

An empty list is one byte of msgpack and 64 bytes of memory, so a message of a few megabytes could fill a machine, and
take the event loop for minutes. Arrays are a value each, however large they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from google.protobuf.descriptor import Descriptor, FieldDescriptor

MAX_MSGPACK_VALUES = 250_000
"""Of one message: a tenth of a second of work. An image as a list of numbers has fewer, if it is small."""
MAX_JSON_VALUES = 2_000_000
"""The same of JSON, where lists of numbers are what others send too."""
MAX_JSON_BYTES = 64 * 1024 * 1024
"""Of one message of JSON; arrays as bytes beside it, where its protocol has such, may be more."""
MAX_PROTOBUF_FIELDS = 100_000
"""Of one message of protobuf, those of the messages in it included; numbers in lists count besides, as in JSON."""
MAX_TEXT = 16 * 1024 * 1024
"""Characters of all strings of one message: many more than it may have (`observations.max_metadata_bytes`)."""
TOO_MUCH_TEXT = f"more than {MAX_TEXT} characters of strings: send bytes as arrays of uint8"
SMALL_BYTES = 64 * 1024
"""A message of this size has not too many values, whatever it is."""

_NONE, _BYTES, _LIST, _MAP = range(4)
_Form = tuple[int, int, int, int]
"""How values go on that begin with a byte: how many bytes they have at least; how many of these, behind the first, are
a length; of what; and the length where none follows."""


def _forms() -> Iterator[tuple[range, _Form]]:
    # (msgpack, "spec.md", formats)
    yield range(0x00, 0x80), (1, 0, _NONE, 0)
    for first in range(16):
        yield range(0x80 + first, 0x81 + first), (1, 0, _MAP, first)
        yield range(0x90 + first, 0x91 + first), (1, 0, _LIST, first)
    for first in range(32):
        yield range(0xA0 + first, 0xA1 + first), (1 + first, 0, _NONE, 0)
    yield range(0xC0, 0xC4), (1, 0, _NONE, 0)
    for power in range(3):
        size = 1 << power
        yield range(0xC4 + power, 0xC5 + power), (1 + size, size, _BYTES, 0)  # bin
        yield range(0xC7 + power, 0xC8 + power), (2 + size, size, _BYTES, 0)  # ext
        yield range(0xD9 + power, 0xDA + power), (1 + size, size, _BYTES, 0)  # str
    for first, sizes in ((0xCA, (4, 8)), (0xCC, (1, 2, 4, 8)), (0xD0, (1, 2, 4, 8)), (0xD4, (2, 3, 5, 9, 17))):
        for number, size in enumerate(sizes):
            yield range(first + number, first + number + 1), (1 + size, 0, _NONE, 0)
    for power in (1, 2):
        size = 1 << power
        yield range(0xDB + power, 0xDC + power), (1 + size, size, _LIST, 0)
        yield range(0xDD + power, 0xDE + power), (1 + size, size, _MAP, 0)
    yield range(0xE0, 0x100), (1, 0, _NONE, 0)


_FORMS = [form for _, form in sorted((byte, form) for bytes_, form in _forms() for byte in bytes_)]


def check_msgpack(data: bytes | bytearray | memoryview, most: int = MAX_MSGPACK_VALUES) -> None:
    """Counts the values of a msgpack message; what is not msgpack is left to who reads it.

    Raises:
        ValueError: there are more than `most`.
    """
    if len(data) <= SMALL_BYTES:
        return
    view, end, at, seen, left = memoryview(data).cast("B"), len(data), 0, 0, 1
    while left and at < end:
        size, length_bytes, kind, count = _FORMS[view[at]]
        if length_bytes:
            count = int.from_bytes(view[at + 1 : at + 1 + length_bytes], "big")
        if kind == _BYTES:
            at += count
        elif kind:
            left += count if kind == _LIST else 2 * count
        at += size
        seen += 1
        left -= 1
        if seen + left > most:
            raise ValueError(f"more than {most} values: send numbers as arrays, which are one each")


def check_json(text: str | bytes | bytearray, most: int = MAX_JSON_VALUES) -> None:
    """Counts the values of a JSON message, by the signs between them; those within strings count too.

    Raises:
        ValueError: there are more than `most`.
    """
    if len(text) <= SMALL_BYTES:
        return
    if isinstance(text, str):
        count = sum(text.count(sign) for sign in ",[{")
    else:
        count = sum(text.count(sign) for sign in b",[{")
    if count > most:
        raise ValueError(f"more than {most} values: send numbers as arrays, which are one each")


def check_made(value: object, most: int = MAX_MSGPACK_VALUES) -> None:
    """Counts the values of a message that was read, where numbers have become arrays, which are one each.

    Raises:
        ValueError: there are more than `most`, or strings of more than `MAX_TEXT` characters.
    """
    seen, text, parts = 0, 0, [value]
    while parts:
        part = parts.pop()
        seen += 1
        if isinstance(part, dict):
            parts += part.values()
        elif isinstance(part, list):
            parts += part
        elif isinstance(part, str) and (text := text + len(part)) > MAX_TEXT:
            raise ValueError(TOO_MUCH_TEXT)
        if seen + len(parts) > most:
            raise ValueError(f"more than {most} values that are no numbers of an array")


_VARINT, _FIXED64, _LENGTH, _GROUP, _END_GROUP, _FIXED32 = range(6)
_SIZES = {
    FieldDescriptor.TYPE_FLOAT: 4,
    FieldDescriptor.TYPE_FIXED32: 4,
    FieldDescriptor.TYPE_SFIXED32: 4,
    FieldDescriptor.TYPE_DOUBLE: 8,
    FieldDescriptor.TYPE_FIXED64: 8,
    FieldDescriptor.TYPE_SFIXED64: 8,
}
_UNPACKED = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_GROUP)
_Fields = dict[int, Descriptor | int]
"""Of those fields whose bytes are values themselves, by number: the message that they are, or the bytes of each number
at least."""


def check_protobuf(
    data: bytes, kind: Descriptor, most: int = MAX_PROTOBUF_FIELDS, most_numbers: int = MAX_JSON_VALUES
) -> None:
    """Counts the fields of a message of protobuf, and the numbers in its lists; other bytes are left to what reads it.

    Args:
        data: of the message.
        kind: what it is.
        most: fields that it may have.
        most_numbers: numbers that its lists may have together.

    Raises:
        ValueError: it has more.
    """
    if len(data) <= SMALL_BYTES:
        return
    seen = numbers = 0
    parts = [(0, len(data), _fields_of(kind))]
    while parts:
        at, end, fields = parts.pop()
        while at < end:
            tag, at = _varint(data, at, end)
            form = tag & 7
            seen += 1
            if seen > most:
                raise ValueError(f"more than {most} fields: send numbers as raw bytes, which are one each")
            if form == _LENGTH:
                size, at = _varint(data, at, end)
                field = fields.get(tag >> 3)
                if isinstance(field, int):
                    numbers += size // field
                    if numbers > most_numbers:
                        raise ValueError(f"more than {most_numbers} numbers in lists: send them as raw bytes")
                elif field is not None:
                    parts.append((at, min(at + size, end), _fields_of(field)))
                at += size
            elif form == _VARINT:
                _, at = _varint(data, at, end)
            elif form == _FIXED32:
                at += 4
            elif form == _FIXED64:
                at += 8


@cache
def _fields_of(kind: Descriptor) -> _Fields:
    fields: _Fields = {}
    for field in kind.fields:
        if field.message_type is not None:
            fields[field.number] = field.message_type
        elif field.is_repeated and field.type not in _UNPACKED:
            fields[field.number] = _SIZES.get(field.type, 1)
    return fields


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Returns a number and where what follows it begins; what is cut short is 0, up to the end."""
    value = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            break
    return 0, end
