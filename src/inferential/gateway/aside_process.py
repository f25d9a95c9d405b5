"""The process that reads and writes large JSON: `python -m inferential.gateway.aside_process`, started by `Aside`.

It takes calls of functions from its standard input, one at a time, and says on its standard output what they return or
raise, until its input ends. Large buffers go as they are: to copy them takes long, in which Python does nothing else.
"""

from __future__ import annotations

import pickle
import signal
import struct
import sys
from typing import Any, BinaryIO

_HEAD = struct.Struct("<?QQ")
"""Whether a function has returned (of a call: true); how many bytes follow, and how many buffers behind these."""


def send(sink: BinaryIO, has_returned: bool, value: object) -> None:
    """Writes a call, or what became of one.

    Raises:
        OSError: the other end is gone.
    """
    buffers: list[pickle.PickleBuffer] = []
    packed = pickle.dumps(value, 5, buffer_callback=buffers.append)
    parts = [one.raw() for one in buffers]
    sink.write(_HEAD.pack(has_returned, len(packed), len(parts)))
    sink.write(struct.pack(f"<{len(parts)}Q", *(part.nbytes for part in parts)))
    sink.write(packed)
    for part in parts:
        sink.write(part)
    sink.flush()


def receive(source: BinaryIO) -> tuple[bool, Any]:
    """Returns what `send` was given.

    Raises:
        EOFError: the other end is gone.
    """
    has_returned, size, count = _HEAD.unpack(_whole(source, _HEAD.size))
    sizes = struct.unpack(f"<{count}Q", _whole(source, 8 * count))
    packed = _whole(source, size)
    return has_returned, pickle.loads(packed, buffers=[_whole(source, one) for one in sizes])


def _whole(source: BinaryIO, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = source.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise EOFError("its other end is gone")
        view = view[count:]
    return data


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answers calls until there are no more."""
    while True:
        try:
            _, (function, arguments) = receive(source)
        except EOFError:
            return
        try:
            outcome = True, function(*arguments)
        except Exception as error:  # whatever a decoder raises
            outcome = False, _sendable(error)
        del arguments
        send(sink, *outcome)


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error, 5))
    except Exception:
        return ValueError(f"{type(error).__name__}: {error}")
    return error


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):  # it ends with the server, which lets it
        signal.signal(number, signal.SIG_IGN)
    serve(sys.stdin.buffer, sys.stdout.buffer)
