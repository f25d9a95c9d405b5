"""The process that reads and writes large JSON: `python -m inferential.gateway.aside_process`, started by `Aside`.

It takes calls of functions from its standard input, one at a time behind their length, and says on its standard output
what they return or raise, until its input ends.
"""

from __future__ import annotations

import pickle
import signal
import struct
import sys
from typing import BinaryIO

HEAD = struct.Struct("<?Q")
"""Whether the function has returned (of a call: true), and how many bytes follow."""


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answers calls until there are no more."""
    while len(head := source.read(HEAD.size)) == HEAD.size:
        _, size = HEAD.unpack(head)
        data = source.read(size)
        if len(data) < size:
            return
        has_returned, packed = _answer(data)
        sink.write(HEAD.pack(has_returned, len(packed)))
        sink.write(packed)
        sink.flush()


def _answer(call: bytes) -> tuple[bool, bytes]:
    try:
        function, arguments = pickle.loads(call)
        return True, pickle.dumps(function(*arguments), 5)
    except Exception as error:  # whatever a decoder raises
        try:
            packed = pickle.dumps(error, 5)
            pickle.loads(packed)
        except Exception:
            packed = pickle.dumps(ValueError(f"{type(error).__name__}: {error}"), 5)
        return False, packed


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):  # it ends with the server, which lets it
        signal.signal(number, signal.SIG_IGN)
    serve(sys.stdin.buffer, sys.stdout.buffer)
