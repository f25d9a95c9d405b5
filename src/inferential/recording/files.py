"""Writes a recording's messages to MCAP files: a new one when one is full, the oldest deleted when all are too much."""

from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path
from typing import BinaryIO

from mcap.writer import CompressionType, Writer

from inferential.recording.entries import Record
from inferential.recording.schemas import NAMES, descriptor_set

logger: logging.Logger = logging.getLogger("inferential.recording")

_CHUNK_BYTES = 256 * 1024
"""What a power failure may cost: messages are written chunk by chunk."""
SUFFIX = ".mcap"


class RecordingFiles:
    """Files in one folder; used by one thread.

    Args:
        folder: is made where it does not exist.
        split_bytes: a file that has grown beyond it is finished, and a new one begun.
        keep_bytes: the oldest files are deleted while all together take more.
    """

    def __init__(self, folder: Path, split_bytes: int, keep_bytes: int) -> None:
        self.split_bytes = split_bytes
        self.keep_bytes = keep_bytes
        self._folder = folder
        self._file: BinaryIO | None = None
        self._writer: Writer | None = None
        self._schemas: dict[str, int] = {}
        self._channels: dict[str, int] = {}
        self._count = 0

    def write(self, record: Record, sequence: int) -> None:
        """Writes one message.

        Raises:
            OSError: the folder or the file cannot be written; the next call begins a new file.
        """
        try:
            writer = self._writer or self._begin()
            channel = self._channels.get(record.topic)
            if channel is None:
                channel = writer.register_channel(record.topic, "protobuf", self._schemas[record.schema])
                self._channels[record.topic] = channel
            writer.add_message(channel, record.time_ns, record.data, record.time_ns, sequence)
            assert self._file is not None
            if self._file.tell() >= self.split_bytes:
                self.close()
                self._delete_oldest()
        except OSError:
            self._give_up()
            raise

    def close(self) -> None:
        """Finishes the file that is being written.

        Raises:
            OSError: it cannot be written.
        """
        file, writer, self._file, self._writer = self._file, self._writer, None, None
        if file is None or writer is None:
            return
        try:
            writer.finish()  # type: ignore[no-untyped-call]
        finally:
            file.close()

    def _begin(self) -> Writer:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._delete_oldest()
        self._count += 1
        stamp = time.strftime("%Y-%m-%dT%H-%M-%S")
        path = self._folder / f"{stamp}-{self._count:03d}{SUFFIX}"
        self._file = path.open("xb")
        writer = self._writer = Writer(self._file, chunk_size=_CHUNK_BYTES, compression=CompressionType.ZSTD)
        writer.start(profile="", library="inferential")
        types = descriptor_set()
        # MCAP: a channel that no schema or registration precedes makes a file that no reader takes.
        self._schemas = {name: writer.register_schema(name, "protobuf", types) for name in NAMES}
        self._channels = {}
        logger.info("recording to %s", path)
        return writer

    def _give_up(self) -> None:
        """Leaves a file as it is, which is readable up to its last whole chunk."""
        file, self._file, self._writer = self._file, None, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()

    def _delete_oldest(self) -> None:
        files = sorted((path.stat().st_mtime, path, path.stat().st_size) for path in self._folder.glob(f"*{SUFFIX}"))
        used = sum(size for _, _, size in files)
        for _, path, size in files:
            if used <= self.keep_bytes:
                return
            path.unlink(missing_ok=True)
            used -= size
            logger.info("recording %s deleted: all take more than recording.keep_gb", path)
