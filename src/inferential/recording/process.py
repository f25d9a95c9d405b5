"""The process that writes a recording: `python -m inferential.recording.process`, started by the recorder.

Beside the server's event loop, in a thread, decoding and compressing would take turns with it of milliseconds each. It
reads entries from its standard input, some at a time behind their length, and says on its standard output what became
of them.

It writes while processors are idle: a robot's request that came while it ran would else wait for the rest of its time
slice, which a tenth of the requests did, however nice it was. Where none is idle for half a second it takes a small
share of one, for as long as it is behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import struct
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import BinaryIO

from inferential.errors import InferentialError
from inferential.recording.cameras import Images
from inferential.recording.entries import Entry
from inferential.recording.files import RecordingFiles
from inferential.recording.memory import WritersMemory

HEAD = struct.Struct("<Q")
BEHIND_S = 0.5
"""Entries wait for idle processors for so long at most; as many as may wait come in a few seconds."""
REPORT_S = 0.25
"""Time between two reports, of which a failure is one at once."""


class _Report:
    """Counts, and says so from time to time."""

    def __init__(self) -> None:
        self.recorded = self.dropped = 0
        self._said_at = 0.0

    def say(self, problem: str = "", *, unread: str = "", at_once: bool = False) -> None:
        """Prints the counts since the last time; at once where there is something to tell.

        Args:
            problem: why nothing can be written at present.
            unread: why one request could not be recorded, or not whole.
            at_once: whether to print it in any case.
        """
        now = time.monotonic()
        if not (problem or unread or at_once) and now - self._said_at < REPORT_S:
            return
        self._said_at = now
        line = {"recorded": self.recorded, "dropped": self.dropped, "problem": problem, "unread": unread}
        try:
            print(json.dumps(line), flush=True)
        except BrokenPipeError:  # the server was killed: what it has handed over is written nevertheless
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (until this process ends)
        self.recorded = self.dropped = 0


def write(source: BinaryIO, folder: Path, memory: WritersMemory) -> None:
    """Writes all entries of a stream, until it ends.

    Args:
        source: the stream.
        folder: of the files.
        memory: where payloads lie that are not in the stream.
    """
    files, report = RecordingFiles(folder), _Report()
    with ThreadPoolExecutor(1, "recording-idle", stand_aside) as idle:
        _write_all(source, files, memory, report, idle)
    before = files.unwritten
    try:
        files.close()
        report.recorded += before
    except OSError as error:
        report.dropped += files.lost
        report.say(f"the last file is not finished: {error.strerror or error}")
    report.say(at_once=True)


def _write_all(
    source: BinaryIO, files: RecordingFiles, memory: WritersMemory, report: _Report, idle: ThreadPoolExecutor
) -> None:
    while len(head := source.read(HEAD.size)) == HEAD.size:
        (size,) = HEAD.unpack(head)
        data = source.read(size)
        if len(data) < size:
            break  # the server is gone
        gathered: list[tuple[int, Entry]]
        images: Images
        gathered, images, split_bytes, keep_bytes = pickle.loads(data)
        files.limit(split_bytes, keep_bytes)
        rest, hurry = iter(gathered), threading.Event()
        write_rest = partial(_write_until, hurry, rest, files, images, memory, report)
        if time.monotonic_ns() - gathered[0][1].ended_ns < BEHIND_S * 1e9:
            writing = idle.submit(write_rest)
            if not wait((writing,), BEHIND_S).done:
                hurry.set()
            writing.result()
        hurry.clear()
        write_rest()


def _write_until(
    hurry: threading.Event,
    entries: Iterator[tuple[int, Entry]],
    files: RecordingFiles,
    images: Images,
    memory: WritersMemory,
    report: _Report,
) -> None:
    """Writes entries until there are none, or it is too slow; each of the two threads goes on where the other ended."""
    for number, entry in entries:
        if entry.place is not None:
            entry.payload = memory.view(entry.place)
        _write_reported(files, entry, images, report)
        memory.note_done(number)
        if hurry.is_set():
            return


def _write_reported(files: RecordingFiles, entry: Entry, images: Images, report: _Report) -> None:
    before = files.unwritten
    try:
        unread = _write(files, entry, images)
        report.recorded += before + 1 - files.unwritten
        report.say(unread=unread)
    except OSError as error:
        report.recorded += before + 1 - files.lost
        report.dropped += files.lost
        report.say(error.strerror or str(error))
    except Exception as error:
        report.dropped += 1
        report.say(unread=f"{entry.common['client_id']}: {error}")


def _write(files: RecordingFiles, entry: Entry, images: Images) -> str:
    """Writes an entry; without its observation where that cannot be read. Returns why it could not be, or ""."""
    try:
        files.write(entry, images)
    except (InferentialError, ValueError) as error:
        if entry.envelope is None:
            raise
        entry.envelope = None
        files.write(entry, images)
        return f"{entry.common['client_id']}: its observation cannot be read: {error}"
    return ""


_NICE = 10


def stand_back() -> None:
    """Has this process take a small share of processors that are scarce."""
    if hasattr(os, "nice"):
        os.nice(_NICE)


def stand_aside() -> None:
    """Has this thread run on processors that are idle, and no longer than they are.

    To be nice is no more than to get less: since Linux 6.6 what runs keeps its processor for a time slice of
    milliseconds, whatever else wakes up (EEVDF, Documentation/scheduler/sched-eevdf.rst), but for SCHED_IDLE
    (sched(7)). That holds among processes of one group, be it a control group or a session's own: this one stays in
    the server's.
    """
    if hasattr(os, "SCHED_IDLE"):
        with contextlib.suppress(OSError):  # what a container forbids
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


if __name__ == "__main__":
    stand_back()
    # A signal to all processes of a service ends the server, which then ends this one: so the last file is finished.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    write(sys.stdin.buffer, Path(sys.argv[1]), WritersMemory(int(sys.argv[2])))
