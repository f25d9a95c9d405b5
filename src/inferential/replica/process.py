"""A worker process as its server sees it: started, loaded, called, watched, ended and started again.

It decides when (`lifecycle.py`) but not which calls it gets. All of it runs on the server's event loop, which reads
the worker's stream itself: no thread hands anything on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inferential.proto import inferential_pb2 as pb
from inferential.proto.tensors import Buffer
from inferential.replica.channel import Stream
from inferential.replica.lifecycle import Lifecycle
from inferential.replica.outcomes import CallFailed, Died, ModelLoadError, Refused, Values
from inferential.replica.pace import SHARED_ROWS, Pace
from inferential.replica.pending import Pending
from inferential.replica.rows import Layout, RowReader
from inferential.replica.shared import ALL_ROWS, Place, ServersMemory
from inferential.replica.spec import ModelProcess
from inferential.replica.wire import (
    CALL,
    FAILED,
    HELLO,
    NO_CALL,
    RESULT,
    Greeting,
    read_offsets,
    write_head,
)

logger = logging.getLogger("inferential.replica")

Row = tuple[bytes, Buffer]
"""Description and payload of an observation."""

_BOOTSTRAP = str(Path(__file__).with_name("bootstrap.py"))
_WATCH_MEMORY_S = 0.1
_ENDS_WITHIN_S = 2.0
_MEGABYTE = 1_000_000
_QUICK_INFLIGHT = 2  # of a model whose calls are short: the next call is there when one ends
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(slots=True)
class _Call:
    rows: int
    future: Pending[list[Any]]
    places: list[Place | None]


class WorkerProcess:
    """One replica of a `ModelProcess`.

    Args:
        model_id: for messages, and told to the worker.
        name: of the replica, for messages.
        spec: what to run, and its limits.
        env: environment variables to add.
        on_change: called on the event loop when `up`, `max_batch_size` or `max_inflight` has changed.
    """

    def __init__(
        self, model_id: str, name: str, spec: ModelProcess, env: Mapping[str, str], on_change: Callable[[], None]
    ) -> None:
        self._model_id = model_id
        self._label = f"model {model_id}" + (f", replica {name}" if name else "")
        self._spec = spec
        self._env = dict(env)
        self._on_change = on_change
        timeout_ms = spec.call_timeout_ms
        self._life = Lifecycle(spec.load_timeout_s, None if timeout_ms is None else timeout_ms / 1e3)
        self._greeting: Greeting | None = None
        self._problem = "it has not been started"
        self._broken = False
        self._calls: dict[int, _Call] = {}
        self._numbers = 0
        self._pace = Pace()
        self._ran = 0, 0
        self._reader = RowReader(pb.ModelResponse)
        self._process: subprocess.Popen[bytes] | None = None
        self._stream: Stream | None = None
        self._pidfd = -1
        self._life_fd = -1
        self._memory: ServersMemory | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._memory_timer: asyncio.TimerHandle | None = None
        self._killed_for: tuple[str, bool] | None = None  # why, and whether it is for a call's time
        self._first: asyncio.Future[None] | None = None
        self._starting: asyncio.Task[None] | None = None
        self._again: asyncio.TimerHandle | None = None
        self._gone = asyncio.Event()  # set while there is no process
        self._closed = True

    @property
    def up(self) -> bool:
        """Whether it takes calls."""
        return self._greeting is not None

    @property
    def problem(self) -> str | None:
        """Why it takes no calls; None where it does."""
        return None if self.up else self._problem

    @property
    def broken(self) -> bool:
        """Whether the latest process ended before its model was loaded: waiting for the next one is of little use."""
        return self._broken

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return None if self._process is None else self._process.pid

    @property
    def max_batch_size(self) -> int:
        """Rows that one call takes; of a model without `infer_batch`, rows that go over together."""
        greeting = self._greeting
        if greeting is None:
            return 1
        return SHARED_ROWS if greeting.runs_singly and self._pace.quick else greeting.max_batch_size

    @property
    def max_inflight(self) -> int:
        """Calls that it takes at once, of which it runs one; 0 while it takes none.

        A broken one takes calls, to fail them at once.
        """
        if self._greeting is None:
            return 1 if self._broken else 0
        return _QUICK_INFLIGHT if self._pace.quick else self._greeting.max_inflight

    async def start(self) -> None:
        """Starts the process and waits until it has loaded its model.

        Raises:
            ModelLoadError: it cannot; the text says why.
        """
        self._closed = False
        self._first = asyncio.get_running_loop().create_future()
        self._begin()
        await self._first

    async def close(self) -> None:
        """Ends the process; what runs is lost. Twice is fine."""
        self._closed = True
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._starting is not None:
            with contextlib.suppress(Exception):
                await self._starting
        process = self._process
        if process is None:
            return
        if self._calls or not self.up:
            self._kill("the server ends")
        elif self._stream is not None:
            self._stream.finish()  # it reads the end of the stream, and ends
        try:
            await asyncio.wait_for(self._gone.wait(), _ENDS_WITHIN_S)
        except TimeoutError:
            self._kill("the server ends")
            await self._gone.wait()

    # Calls

    def call(self, rows: Sequence[Row]) -> Pending[list[Any]]:
        """Runs rows as one call.

        Returns:
            What to await for one `Values`, `Refused` or `Died` for each row; it raises CallFailed where the model
            failed on a batch as a whole.
        """
        loop = asyncio.get_running_loop()
        future: Pending[list[Any]] = Pending(loop)
        if self._greeting is None:
            future.set_result([Died(f"{self._label}: {self._problem}", ran=False)] * len(rows))
            return future
        self._numbers += 1
        number = self._numbers
        memory = self._memory
        places = [None if memory is None else memory.put(payload) for _, payload in rows]
        frames: list[Buffer] = [number.to_bytes(8, "little"), CALL, write_head(0, places)]
        for (description, payload), place in zip(rows, places, strict=True):
            frames += (description, payload if place is None else b"")
        self._calls[number] = _Call(len(rows), future, places)
        self._life.call_sent(time.monotonic())
        assert self._stream is not None
        self._stream.send(frames)
        if self._spec.call_timeout_ms is not None and self._timer is None:
            self._set_timer(loop)
        if self._spec.memory_limit_mb is not None and self._memory_timer is None:
            self._memory_timer = loop.call_later(_WATCH_MEMORY_S, self._watch_memory)
        return future

    def _on_end_of_stream(self, error: Exception | None) -> None:
        if error is not None:
            logger.error("%s (process %s) speaks another protocol: %s", self._label, self.pid, error)
            self._kill(f"it speaks another protocol: {error}")
        elif self._pidfd < 0:
            self._on_exit()

    # What comes

    def _take(self, frames: list[bytes]) -> None:
        kind = frames[1]
        if kind == RESULT:
            self._on_result(frames)
        elif kind == FAILED:
            number = int.from_bytes(frames[0], "little")
            text = frames[2].decode(errors="replace")
            if number:
                call = self._answered(number)
                if call is not None and not call.future.done():
                    call.future.set_exception(CallFailed(text))
            else:
                self._killed_for = text, False
        elif kind == HELLO:
            self._on_greeting(Greeting.from_bytes(frames[2]))

    def _on_result(self, frames: list[bytes]) -> None:
        if len(frames) % 2 == 0:
            self._free(read_offsets(frames.pop()))
        call = self._answered(int.from_bytes(frames[0], "little"))
        if call is None or call.future.done():
            return
        version = frames[2].decode()
        outcomes: list[Any] = []
        for at in range(3, len(frames), 2):
            layout = self._reader.layout(frames[at])
            if isinstance(layout, Layout):
                outcomes.append(Values(layout.values(frames[at + 1]), version))
            else:
                outcomes.append(Refused(*layout))
        if len(outcomes) != call.rows:
            raise ValueError(f"{len(outcomes)} results for {call.rows} observations")
        self._note_pace()
        call.future.set_result(outcomes)

    def _answered(self, number: int) -> _Call | None:
        call = self._calls.pop(number, None)
        self._life.call_answered(time.monotonic(), bool(self._calls))
        return call

    def _free(self, offsets: Sequence[int]) -> None:
        if self._memory is not None:
            for offset in offsets:
                self._memory.give(offset)

    def _note_pace(self) -> None:
        if self._memory is None:
            return
        ran_ns, rows = self._memory.run_noted()
        before_ns, before_rows = self._ran
        if rows == before_rows:
            return
        self._ran = ran_ns, rows
        per_row_s = (ran_ns - before_ns) / (rows - before_rows) / 1e9
        if self._pace.note(per_row_s):
            self._on_change()

    # Life

    def _begin(self) -> None:
        self._again = None
        self._starting = asyncio.get_running_loop().create_task(self._spawn())

    async def _spawn(self) -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        line, self._life_fd = os.pipe()
        try:
            self._memory = ServersMemory()
        except OSError as error:
            logger.info("%s: no memory is shared: %s", self._label, error)
            self._memory = None
        memory_fd = -1 if self._memory is None else self._memory.fd
        python = str(self._spec.python or sys.executable)
        command = [python, _BOOTSTRAP, str(theirs.fileno()), str(line), str(memory_fd)]
        fds = [fd for fd in (theirs.fileno(), line, memory_fd) if fd >= 0]
        self._killed_for, self._numbers, self._ran, self._pace = None, 0, (0, 0), Pace()
        self._problem = "its process is loading"
        self._life.started(time.monotonic())
        self._gone.clear()
        try:
            # In a thread: starting a process takes milliseconds.
            self._process = await loop.run_in_executor(None, self._popen, command, fds)
        except OSError as error:
            ours.close()
            self._over(f"its interpreter {python} cannot be started: {error}")
            return
        finally:
            theirs.close()
            os.close(line)
            if self._memory is not None:
                self._memory.close()
            self._starting = None
        self._stream = Stream(ours, self._take, self._on_end_of_stream)
        with contextlib.suppress(AttributeError, OSError):  # of Linux 5.3 on; elsewhere the end of the stream must do
            self._pidfd = os.pidfd_open(self._process.pid)
            loop.add_reader(self._pidfd, self._on_exit)
        settings = {
            "model_id": self._model_id,
            "target": self._spec.target,
            "args": dict(self._spec.args),
            "path": [path for path in sys.path if path] if self._spec.python is None else [],
        }
        self._stream.send([NO_CALL, HELLO, json.dumps(settings).encode()])
        self._set_timer(loop)
        if self._spec.memory_limit_mb is not None:
            self._watch_memory()
        if self._closed:
            self._kill("the server ends")

    def _popen(self, command: list[str], fds: list[int]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            pass_fds=fds,
            env={**os.environ, **self._env},
            start_new_session=True,  # Ctrl-C is for the server, which then drains
        )

    def _on_greeting(self, greeting: Greeting) -> None:
        self._greeting, self._broken = greeting, False
        self._life.loaded(time.monotonic())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        logger.info("%s is up in process %s", self._label, self.pid)
        if self._first is not None and not self._first.done():
            self._first.set_result(None)
        self._on_change()

    def _on_exit(self) -> None:
        """The process has ended: what it answered before is taken, and the rest is lost."""
        process, stream = self._process, self._stream
        if process is None or stream is None:
            return
        stream.drain()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # what the model started itself
        status = process.wait()
        if self._killed_for is not None:
            reason = self._killed_for[0]
        elif status < 0:
            reason = f"its process was killed by signal {-status} ({signal.Signals(-status).name})"
        else:
            reason = f"its process exited with status {status}"
        self._over(f"{reason} (process {process.pid})" if self.up else reason)

    def _over(self, reason: str) -> None:
        loop = asyncio.get_running_loop()
        was_up, self._greeting, self._problem = self.up, None, reason
        self._broken = not was_up
        timed_out = self._killed_for is not None and self._killed_for[1]
        calls, self._calls = self._calls, {}
        marked, row = (0, 0) if self._memory is None else self._memory.marked()
        if self._memory is None and calls:
            marked, row = min(calls), ALL_ROWS
        if self._pidfd >= 0:
            loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
        if self._stream is not None:
            self._stream.close()
        if self._life_fd >= 0:
            os.close(self._life_fd)
        self._pidfd = self._life_fd = -1
        self._process, self._stream, self._memory = None, None, None
        self._gone.set()
        for timer in (self._timer, self._memory_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._memory_timer = None
        delay_s = self._life.ended(time.monotonic())
        text = f"{self._label}: {reason}"
        for number, call in calls.items():
            if not call.future.done():
                ran = number == marked
                call.future.set_result(
                    [Died(text, ran and row in (ALL_ROWS, at), ran and timed_out) for at in range(call.rows)]
                )
        if self._first is not None and not self._first.done():
            whose = f"model {self._model_id!r}, target {self._spec.target!r}"
            self._first.set_exception(ModelLoadError(f"{whose}: {reason}"))
            self._closed = True
        if self._closed:
            return
        logger.error("%s; %d calls were lost; it is started again in %.1f s", text, len(calls), delay_s)
        self._problem = f"{reason}; it is being started again"
        self._again = loop.call_later(delay_s, self._begin)
        self._on_change()

    def _kill(self, reason: str, timed_out: bool = False) -> None:
        """Ends the process and all that it started; `_on_exit` follows."""
        if self._process is None:
            return
        if self._killed_for is None:
            self._killed_for = reason, timed_out
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    # Limits

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        deadline = self._life.deadline()
        if deadline < float("inf"):
            self._timer = loop.call_later(max(deadline - time.monotonic(), 0.0), self._on_deadline)

    def _on_deadline(self) -> None:
        """Something may have taken too long; the timer is not set anew with each call, so it may ring early."""
        loop = asyncio.get_running_loop()
        if self._life.deadline() > time.monotonic():
            self._set_timer(loop)
        elif self.up:
            self._timer = None
            self._kill(f"a call took longer than call_timeout_ms ({self._spec.call_timeout_ms:g})", timed_out=True)
        else:
            self._timer = None
            self._kill(f"loading took longer than load_timeout_s ({self._spec.load_timeout_s:g})")

    def _watch_memory(self) -> None:
        """Looks at the process's memory while it loads or runs calls: an idle one takes no more."""
        self._memory_timer = None
        limit_mb = self._spec.memory_limit_mb
        if self._process is None or limit_mb is None:
            return
        used_mb = resident_mb(self._process.pid)
        if used_mb is not None and used_mb > limit_mb:
            self._kill(f"its process took {used_mb:.0f} MB, memory_limit_mb is {limit_mb:g}")
        elif self._calls or not self.up:
            loop = asyncio.get_running_loop()
            self._memory_timer = loop.call_later(_WATCH_MEMORY_S, self._watch_memory)


def resident_mb(pid: int) -> float | None:
    """Returns the resident memory of a process; None where it is gone or the platform does not say."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return None
    return int(fields[1]) * _PAGE_BYTES / _MEGABYTE
