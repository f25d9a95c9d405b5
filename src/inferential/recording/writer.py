"""The process that writes a recording, as the recorder sees it: entries go in, and what became of them comes back."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from inferential.recording.process import HEAD

_PIPE_BYTES = 1 << 20  # what Linux lets any user have


class Report(NamedTuple):
    """What became of entries since the report before.

    Attributes:
        recorded: how many are in a file.
        dropped: how many are lost.
        problem: why nothing can be written at present; "" where it can.
        unread: why an entry could not be recorded, or not whole; "" for none.
        is_last: whether the process has ended.
    """

    recorded: int = 0
    dropped: int = 0
    problem: str = ""
    unread: str = ""
    is_last: bool = False


class Writer:
    """Starts the process; used by one thread, but for `kill`.

    Args:
        folder: of the files.
        memory: where payloads lie, as its descriptor.
        take: called with each report, in a thread.

    Raises:
        OSError: no process can be started.
    """

    def __init__(self, folder: str, memory: int, take: Callable[[Report], None]) -> None:
        # In a process group of its own: Ctrl-C ends the server, which then lets this one finish its file. Not in a
        # session of its own, which the system may give as much of a processor as the server's (`process.stand_aside`).
        self._process = subprocess.Popen(
            [sys.executable, "-m", "inferential.recording.process", folder, str(memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[memory],
            process_group=0,
            env=_environment(),
        )
        self._take = take
        self._lock = threading.Lock()
        self._open = 0  # entries of which it has not said what became of them
        self._settled = False
        self._finishing = False
        assert self._process.stdin is not None
        if hasattr(fcntl, "F_SETPIPE_SZ"):  # Linux: an image passes in one piece, not in turns of 64 kB
            with contextlib.suppress(OSError):
                fcntl.fcntl(self._process.stdin, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._reader = threading.Thread(target=self._read, name="recording-reports", daemon=True)
        self._reader.start()

    def has_ended(self) -> bool:
        """Returns whether the process has ended."""
        return self._process.poll() is not None

    def send(self, entries: Any, count: int) -> bool:
        """Hands over so many entries, with how to write them; waits while the process is behind.

        Returns:
            Whether the process has them; else they have been reported among those that are lost.

        Raises:
            OSError: the process has ended, and the entries are lost.
        """
        assert self._process.stdin is not None
        data = pickle.dumps(entries, 5)
        with self._lock:
            self._open += count
        try:
            self._process.stdin.write(HEAD.pack(len(data)))
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except OSError:
            with self._lock:
                if self._settled:
                    return False
                self._open -= count
            raise
        return True

    def finish(self) -> None:
        """Lets the process write what it has and finish its file, and waits for that."""
        self._finishing = True
        self.release()

    def release(self) -> None:
        """Sends no more, and waits until the process has ended and all that it said is taken."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait()
        self._reader.join()

    def kill(self) -> None:
        """Ends the process at once."""
        self._finishing = True
        self._process.kill()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                report = Report(**json.loads(line))
                with self._lock:
                    self._open -= report.recorded + report.dropped
                self._take(report)
        status = self._process.wait()
        with self._lock:
            lost, self._settled = self._open, True
        problem = "" if self._finishing else f"the process that writes has ended with status {status}"
        self._take(Report(dropped=lost, problem=problem, is_last=True))


def _environment() -> dict[str, str]:
    """Returns the environment of a process that finds the same packages."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
