"""The process that writes a recording: `python -m inferential.recording.process`, started by the recorder.

Beside the server's event loop, in a thread, decoding and compressing would take turns with it of milliseconds each. It
reads entries from its standard input, each behind its length, and says on its standard output what became of them.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import sys
import time
from pathlib import Path
from typing import BinaryIO

from inferential.recording.entries import Entry, Images, records_of
from inferential.recording.files import RecordingFiles

HEAD = struct.Struct("<Q")
REPORT_S = 0.25
"""Time between two reports, of which a failure is one at once."""


class _Report:
    """Counts, and says so from time to time."""

    def __init__(self) -> None:
        self.recorded = self.dropped = 0
        self._said_at = 0.0

    def say(self, problem: str = "") -> None:
        """Prints the counts since the last time, at once where there is a problem."""
        now = time.monotonic()
        if not problem and now - self._said_at < REPORT_S:
            return
        self._said_at = now
        line = {"recorded": self.recorded, "dropped": self.dropped, "problem": problem}
        print(json.dumps(line), flush=True)
        self.recorded = self.dropped = 0


def write(source: BinaryIO, folder: Path) -> None:
    """Writes all entries of a stream, until it ends."""
    files, report = RecordingFiles(folder, 0, 0), _Report()
    while len(head := source.read(HEAD.size)) == HEAD.size:
        (size,) = HEAD.unpack(head)
        data = source.read(size)
        if len(data) < size:
            break  # the server is gone
        entry: Entry
        images: Images
        entry, images, files.split_bytes, files.keep_bytes = pickle.loads(data)
        try:
            for record in records_of(entry, images):
                files.write(record, entry.sequence)
            report.recorded += 1
            report.say()
        except OSError as error:
            report.dropped += 1
            report.say(error.strerror or str(error))
        except Exception as error:
            report.dropped += 1
            report.say(f"a request of {entry.common['client_id']} cannot be recorded: {error}")
    try:
        files.close()
    except OSError as error:
        report.say(f"the last file is not finished: {error.strerror or error}")
    report.say(" ")


_NICE = 10
"""How far it stands back where processors are scarce: what a robot waits for comes first, and drops are counted."""

if __name__ == "__main__":
    if hasattr(os, "nice"):
        os.nice(_NICE)
    write(sys.stdin.buffer, Path(sys.argv[1]))
