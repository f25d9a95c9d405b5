"""How messages are read from a connection and written to it, as `Stream` needs it: as they are, or in boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from inferential.zmtp.protocol import Buffer, Discarded, Frame


class FrameReader(Protocol):
    """Splits received bytes into messages and commands, as `reader.Reader` does."""

    space: memoryview | None
    buffered: bool
    reserve: Callable[[int], bool] | None

    def feed(self, data: bytes) -> None: ...

    def filled(self, size: int) -> None: ...

    def next(self) -> list[Buffer] | bytes | Discarded | None: ...

    def burst(self) -> list[tuple[bytes, Buffer, int, int]]: ...

    def abandon(self) -> None: ...


class Wire(Protocol):
    """Both directions of a connection."""

    reader: FrameReader

    def message(self, frames: Sequence[Frame], join_below: int) -> list[Buffer]:
        """Returns a message as buffers to send, as `protocol.message` does."""
        ...

    def command(self, body: bytes) -> bytes:
        """Returns a command as bytes to send, as `protocol.command` does."""
        ...
