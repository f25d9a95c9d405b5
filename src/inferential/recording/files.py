"""Writes a recording's messages to MCAP files: a new one when one is full, the oldest deleted when all are too much."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import time
from pathlib import Path
from typing import BinaryIO

from mcap.writer import CompressionType, Writer

from inferential.recording.cameras import Images
from inferential.recording.entries import Entry, Record, records_of
from inferential.recording.schemas import NAMES, descriptor_set

logger: logging.Logger = logging.getLogger("inferential.recording")

_CHUNK_BYTES = 256 * 1024
"""What a power failure may cost: messages are written chunk by chunk."""
MOST_CHANNELS = 60_000
"""A file with so many is finished: it can number 65,535, and robots choose their ids."""
_STEP_NS = 1_000_000_000
"""A step of the wall clock by more than this begins a new file, so that within each file times are in order."""
SUFFIX = ".mcap"
_NAMES = f"????-??-??T??-??-??-*{SUFFIX}"


class RecordingFiles:
    """Files in one folder; used by one thread.

    Args:
        folder: is made where it does not exist.

    Attributes:
        unwritten: requests that are not in the file yet, as its last chunk is not full.
        lost: requests that the last error cost: those, and the one that was to be written.
    """

    def __init__(self, folder: Path) -> None:
        self.unwritten: int = 0
        self.lost: int = 0
        self._split_bytes = self._keep_bytes = 1 << 62
        self._folder = folder
        self._path = folder
        self._file: BinaryIO | None = None
        self._writer: Writer | None = None
        self._schemas: dict[str, int] = {}
        self._channels: dict[str, int] = {}
        self._count = 0
        self._begun: list[Path] = []  # files of its own, oldest first
        self._head_bytes = self._written_bytes = 0
        self._clock_ns = 0

    def limit(self, split_bytes: int, keep_bytes: int) -> None:
        """Sets how large a file becomes before it is finished and a new one begun, and how much all take at most.

        A file becomes no larger than half of what is kept, whatever `split_bytes` is. Less than before is kept from
        the next file on.
        """
        self._split_bytes, self._keep_bytes = min(split_bytes, keep_bytes // 2), keep_bytes

    def write(self, entry: Entry, images: Images) -> None:
        """Writes the messages of one request, into one file.

        Raises:
            OSError: the folder or the file cannot be written, or is gone; the next call begins a new file.
            ValueError: the request cannot be recorded: its frames cannot be read.
        """
        stepped = abs(entry.clock_ns - self._clock_ns) > _STEP_NS
        clock_ns = entry.clock_ns if stepped else self._clock_ns
        try:
            records = list(records_of(entry, images, clock_ns=clock_ns))
        except OSError as error:  # of what decodes images
            raise ValueError(str(error)) from error
        self.unwritten += 1
        try:
            self._check()
            if stepped:
                self._finish()
                self._clock_ns, self.unwritten = clock_ns, 1
            for record in records:
                self._write(record, entry.sequence)
                assert self._file is not None
                if self._file.tell() != self._written_bytes:
                    self._file.flush()
                    self._written_bytes = self._file.tell()
                    self.unwritten = int(record is not records[-1])
            if self._written_bytes >= self._split_bytes or len(self._channels) >= MOST_CHANNELS:
                self._finish()
        except OSError:
            self._give_up()
            raise

    def close(self) -> None:
        """Finishes the file that is being written.

        Raises:
            OSError: it cannot be written.
        """
        try:
            self._finish()
        except OSError:
            self._give_up()
            raise

    def _check(self) -> None:
        """Sees that the file is still there: into one that was deleted, everything could be written."""
        if self._file is not None and os.fstat(self._file.fileno()).st_nlink == 0:
            raise OSError(errno.ENOENT, f"{self._path.name} was deleted while it was written")

    def _write(self, record: Record, sequence: int) -> None:
        writer = self._writer or self._begin()
        channel = self._channels.get(record.topic)
        if channel is None:
            channel = writer.register_channel(record.topic, "protobuf", self._schemas[record.schema])
            self._channels[record.topic] = channel
        writer.add_message(channel, record.time_ns, record.data, record.time_ns, sequence)

    def _begin(self) -> Writer:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._delete_oldest()
        self._file = self._open()
        # Another server that records to this folder does not delete what is being written.
        with contextlib.suppress(OSError):
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        writer = self._writer = Writer(self._file, chunk_size=_CHUNK_BYTES, compression=CompressionType.ZSTD)
        writer.start(profile="", library="inferential")
        types = descriptor_set()
        # MCAP: a channel that no schema or registration precedes makes a file that no reader takes.
        self._schemas = {name: writer.register_schema(name, "protobuf", types) for name in NAMES}
        self._channels = {}
        self._head_bytes = self._written_bytes = self._file.tell()
        logger.info("recording to %s", self._path)
        return writer

    def _open(self) -> BinaryIO:
        """Opens a new file, whatever is there: a clock that was put back names files as it did before."""
        while True:
            self._count += 1
            self._path = self._folder / f"{time.strftime('%Y-%m-%dT%H-%M-%S')}-{self._count:03d}{SUFFIX}"
            try:
                file = self._path.open("xb")
            except FileExistsError:
                continue
            self._begun.append(self._path)
            return file

    def _finish(self) -> None:
        file, writer = self._file, self._writer
        if file is None or writer is None:
            return
        writer.finish()  # type: ignore[no-untyped-call]
        file.close()
        self._file = self._writer = None
        self.unwritten = 0

    def _give_up(self) -> None:
        """Leaves a file as it is, which is readable up to its last whole chunk; one without a chunk is deleted."""
        self.lost, self.unwritten = self.unwritten, 0
        file, self._file, self._writer = self._file, None, None
        if file is None:
            return
        with contextlib.suppress(OSError):
            file.close()
        if self._written_bytes <= self._head_bytes:
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _delete_oldest(self) -> None:
        """Makes room for a file. Its own are deleted in the order they were begun in, whatever the clock says."""
        order = {path: number for number, path in enumerate(self._begun)}
        found = []
        for path in self._folder.glob(_NAMES):
            with contextlib.suppress(FileNotFoundError):  # another server deletes too
                status = path.stat()
                found.append((order.get(path, -1), status.st_mtime, path, status.st_size))
        used = sum(size for *_, size in found)
        for *_, path, size in sorted(found):
            if used <= self._keep_bytes - self._split_bytes:
                break
            if _is_written(path):
                continue
            path.unlink(missing_ok=True)
            used -= size
            logger.info("recording %s deleted: all take more than recording.keep_gb", path)
        present = {path for *_, path, _ in found}
        self._begun = [path for path in self._begun if path in present]


def _is_written(path: Path) -> bool:
    """Returns whether a server is writing a file at present."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such file, or no locks
        return False
    return False
