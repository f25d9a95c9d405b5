"""Starts the process of a worker with all that ties it to its server, and ends it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from inferential.errors import system_reason
from inferential.replica.life_line import hold_alone, tie
from inferential.replica.pace import HEAVY_S
from inferential.replica.shared import ServersMemory
from inferential.replica.usage import use_of

logger: logging.Logger = logging.getLogger("inferential.replica")

# OpenMP's threads (numpy's, torch's) would wait for their next work by spinning, on cores that the server, robots and
# other models need: with more to run than there are cores, one call takes ten times as long.
_DEFAULTS = {"OMP_WAIT_POLICY": "PASSIVE"}
_NICER_BY = 5  # a third of the server's weight (sched(7))
_JUDGED_ROWS = 4
_BOOTSTRAP = str(Path(__file__).with_name("bootstrap.py"))


@dataclass(slots=True)
class Spawned:
    """A process that was started.

    Attributes:
        process: itself; it leads a process group of its own.
        connected: the stream to it.
        memory: shared with it; None where the platform has none.
        pidfd: readable once it has ended; -1 where the platform has none (Linux before 5.3).
    """

    process: subprocess.Popen[bytes]
    connected: socket.socket
    memory: ServersMemory | None
    pidfd: int
    _life_line: FileIO
    _gives_way: bool = False
    _ran: tuple[int, int] = (0, 0)  # rows in all, and CPU time in ns at that time

    @property
    def pid(self) -> int:
        """Its id."""
        return self.process.pid

    def give_way_if_heavy(self) -> None:
        """Lets others come first who share its cores, where its latest calls took much of them: the server, robots,
        and models whose calls are short. Calls that are long by the clock alone wait, for a core or an accelerator.

        Nothing is lost where cores are free. It cannot be taken back: to come first again takes privileges.
        """
        if self._gives_way or self.memory is None:
            return
        _, rows = self.memory.run_noted()
        former_rows, former_ns = self._ran
        if rows - former_rows < _JUDGED_ROWS:
            return
        with contextlib.suppress(OSError):  # it has ended, or the platform has none of this
            self._ran = rows, ran_ns = rows, _ran_ns(self.pid)
            if not former_rows or ran_ns - former_ns <= HEAVY_S * 1e9 * (rows - former_rows):
                return
            self._gives_way = True
            for thread in os.listdir(f"/proc/{self.pid}/task"):
                with contextlib.suppress(OSError):
                    os.setpriority(os.PRIO_PROCESS, int(thread), os.getpriority(os.PRIO_PROCESS, 0) + _NICER_BY)

    def stay_behind(self) -> None:
        """Has it run on time alone that nothing else wants (SCHED_IDLE); it cannot be taken back either."""
        self._gives_way = True
        if not self._schedule("SCHED_IDLE"):
            logger.warning("process %d cannot run in the background here, and runs as others do", self.pid)

    def give_room(self) -> None:
        """Has it interrupt nothing that runs when it has something to do (SCHED_BATCH), until `take_room`."""
        self._schedule("SCHED_BATCH")

    def take_room(self) -> None:
        """Has it run as others do."""
        self._schedule("SCHED_OTHER")

    def _schedule(self, policy: str) -> bool:
        """Sets the policy of its threads, and so of those that they start; returns whether the system does that."""
        try:
            for thread in os.listdir(f"/proc/{self.pid}/task"):
                os.sched_setscheduler(int(thread), getattr(os, policy), os.sched_param(0))
        except (OSError, AttributeError):  # AttributeError: of Linux
            return False
        return True

    def discard(self) -> None:
        """Ends it, where it has no model yet, and closes all that ties it to its server."""
        self.reap()
        self.connected.close()
        self.close()

    def kill(self) -> None:
        """Ends it and all that it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()  # its model may have taken it into another group

    def reap(self) -> str:
        """Ends what it started, and returns in words how it ended itself."""
        self.kill()
        status = self.process.wait()
        if status < 0:
            return f"its process was killed by signal {-status} ({signal.Signals(-status).name})"
        return f"its process exited with status {status}"

    def close(self) -> None:
        """Closes the descriptors, the stream's apart."""
        self._life_line.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
        self.pidfd = -1


def resident_mb(spawned: Spawned | None) -> float | None:
    """Returns a process's resident memory; None where it has ended or the platform does not say."""
    use = None if spawned is None else use_of(spawned.pid)
    return None if use is None else use.memory_mb


def row_began_at(spawned: Spawned | None) -> float:
    """Returns when a process began the latest row, in seconds of `time.monotonic()`; 0.0 where it does not say."""
    return 0.0 if spawned is None or spawned.memory is None else spawned.memory.began_at()


def _ran_ns(pid: int) -> int:
    """Returns for how long a process has run on any core, in nanoseconds.

    Raises:
        OSError: it is not there.
    """
    return time.clock_gettime_ns((~pid << 3) | 2)  # its clock of the scheduler's time, as Linux numbers clocks


def why_not(error: Exception, python: str | Path | None = None) -> str:
    """Returns why a process cannot be started, with that interpreter; a MemoryError has no words of its own."""
    if isinstance(error, PermissionError) and python is not None and os.path.isdir(os.path.expanduser(python)):
        return f"it is a folder; name the interpreter in it, as {os.path.join(python, 'bin', 'python')}"
    return (system_reason(error) if isinstance(error, OSError) else str(error)) or "no memory is left"


async def spawn(python: str | Path | None, env: Mapping[str, str], inbox_fd: int = -1, name: str = "") -> Spawned:
    """Starts a worker.

    Args:
        python: the interpreter, of the current directory where its path is relative; None: the one that runs this.
        env: environment variables to add.
        inbox_fd: of the memory that payloads are received into; -1: there is none.
        name: of its model, for people who list the machine's processes.

    Raises:
        OSError: the interpreter cannot be started.
    """
    ours, theirs = socket.socketpair()
    line, life_fd = os.pipe()
    life_line = FileIO(life_fd, "wb")
    hold_alone(ours, life_line)
    try:
        memory: ServersMemory | None = ServersMemory()
    except (OSError, MemoryError) as error:  # which must not leave the descriptors above open
        logger.info("no memory is shared with worker processes: %s", why_not(error))
        memory = None
    memory_fd = -1 if memory is None else memory.fd
    descriptors = (theirs.fileno(), line, memory_fd, inbox_fd)
    fds = [fd for fd in descriptors if fd >= 0]

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [os.path.expanduser(python or sys.executable), _BOOTSTRAP, *map(str, descriptors), ascii(name)[1:-1]],
            stdin=subprocess.DEVNULL,
            pass_fds=fds,
            env={**_DEFAULTS, **os.environ, **env},
            # Ctrl-C is for the server, which then drains. With a session of its own, a worker would weigh as much to
            # the kernel as the server and all else of its session together (sched(7), autogroups).
            process_group=0,
        )
        with contextlib.suppress(OSError):  # it has ended
            tie(line, -process.pid)  # what the interpreter does before the worker's first line may take long
        return process

    try:
        # In a thread: it takes milliseconds.
        process = await asyncio.get_running_loop().run_in_executor(None, start)
    except BaseException:
        ours.close()
        life_line.close()
        raise
    finally:
        theirs.close()
        os.close(line)
        if memory is not None:
            memory.close()
    try:
        pidfd = os.pidfd_open(process.pid)
    except (AttributeError, OSError):
        pidfd = -1
    return Spawned(process, ours, memory, pidfd, life_line)
