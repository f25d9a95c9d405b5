"""A worker process as its server sees it: started, loaded, called, watched, ended and started again.

It decides when (`lifecycle.py`) but not which calls it gets. All of it runs on the server's event loop, which reads
the worker's stream itself: no thread hands anything on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from inferential.proto import inferential_pb2 as pb
from inferential.proto.tensors import Buffer
from inferential.replica.busy_polling import BusyPolling
from inferential.replica.calls import Call, OnEnding, end_lost, ignore, note_ending
from inferential.replica.channel import Stream
from inferential.replica.deadline import Deadline
from inferential.replica.end_log import EndLog
from inferential.replica.inbox import Inbox
from inferential.replica.lending import Lending
from inferential.replica.lifecycle import Lifecycle
from inferential.replica.loading_turns import LoadingTurns
from inferential.replica.memory_limit import MemoryLimit
from inferential.replica.outcomes import CallFailed, Died, ModelLoadError
from inferential.replica.pace import Pace
from inferential.replica.pending import Pending
from inferential.replica.rows import RowReader, read_outcomes
from inferential.replica.shared import ALL_ROWS
from inferential.replica.spare import Spare
from inferential.replica.spawn import Spawned, resident_mb, row_began_at, spawn, why_not
from inferential.replica.spec import ModelProcess
from inferential.replica.stream import Frame
from inferential.replica.view import WorkerView
from inferential.replica.warming import warm_up_rows
from inferential.replica.wire import (
    CALL,
    ENDING,
    FAILED,
    HELLO,
    NO_CALL,
    NOTED,
    RESULT,
    SESSIONS,
    WARMING,
    Greeting,
    read_offsets,
    write_head,
)

logger: logging.Logger = logging.getLogger("inferential.replica")

Row = tuple[bytes, Buffer]
"""Description and payload of an observation."""

_ENDS_WITHIN_S = 2.0
_EXITS_WITHIN_S = 0.2  # after the end of its stream


class WorkerProcess(WorkerView):
    """One replica of a `ModelProcess`.

    Args:
        model_id: for messages, the worker's too.
        name: of the replica, for messages.
        spec: what to run, and its limits.
        env: environment variables to add.
        on_change: called on the event loop when `up`, `max_batch_size` or `max_inflight` has changed.
        inbox: what large payloads are received into; None: there is none.
        turns: which replicas load now; None: this one may.
    """

    def __init__(
        self,
        model_id: str,
        name: str,
        spec: ModelProcess,
        env: Mapping[str, str],
        on_change: Callable[[], None],
        inbox: Inbox | None = None,
        turns: LoadingTurns | None = None,
    ) -> None:
        self._model_id = model_id
        self._label = f"model {model_id}" + (f", replica {name}" if name else "")
        self._spec = spec
        self._env = dict(env)
        self._on_change = on_change
        self._inbox = inbox
        self.newest: Callable[[], Row | None] = lambda: None
        """Returns the newest observation of the model, for its warm-up."""
        timeout_ms = spec.call_timeout_ms
        self._life = Lifecycle(spec.load_timeout_s, None if timeout_ms is None else timeout_ms / 1e3)
        self.greeting: Greeting | None = None  # while it takes calls
        self._problem = "it has not been started"
        self._calls: dict[int, Call] = {}
        self._numbers = 0
        self._pace = Pace()
        self._polling = BusyPolling()
        self._reader = RowReader(pb.ModelResponse)
        self._process: Spawned | None = None
        self._lending = Lending(None, None)
        self._stream: Stream | None = None
        self._deadline = Deadline(lambda: self._life.deadline(row_began_at(self._process)), self._on_deadline)
        self._turn = (turns or LoadingTurns()).turn(self._begin_now)
        self._memory_limit = MemoryLimit(
            spec.memory_limit_mb,
            lambda: resident_mb(self._process),
            lambda: bool(self._calls) or not self.up,
            self._kill,
        )
        self._killed_for: tuple[str, bool] | None = None  # why, and whether it is for a call's time
        self._end_log = EndLog(self._label)
        self._first: asyncio.Future[None] | None = None
        self._starting: asyncio.Task[None] | None = None
        self._spare = Spare(self._start, spec.settings()) if spec.spare else None
        self._again: asyncio.TimerHandle | None = None
        self._gone = asyncio.Event()  # set while there is no process
        self._idle = asyncio.Event()  # set when the last call ends
        self._closed = True

    async def start(self) -> None:
        """Starts the process and waits until it has loaded its model.

        Raises:
            ModelLoadError: it cannot; the text says why.
        """
        self.begin()
        self._first = asyncio.get_running_loop().create_future()
        await self._first

    def begin(self) -> None:
        """Starts the process, and another one whenever it cannot load its model."""
        self._closed = False
        if not self._life.broken:
            self._problem = "its process is loading"  # and later ones are, for what ended the one before
        self._begin()

    async def retire(self) -> None:
        """Ends the process once the calls that it has are over; it must get no more."""
        if self._calls:
            self._idle.clear()
            await self._idle.wait()
        await self.close()

    def end_calls(self, why: str) -> None:
        """Ends the process where calls run; they are lost."""
        if self._calls:
            self._kill(why)

    async def close(self) -> None:
        """Ends the process; what runs is lost. Twice is fine."""
        self._closed = True
        if self._again is not None:
            self._again.cancel()
            self._again = None
        self._life.closed(time.monotonic())
        self._turn.end()
        if self._starting is not None:
            with contextlib.suppress(Exception):
                await self._starting
        if self._spare is not None:
            await self._spare.close()
        if self._process is None:
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

    def call(self, rows: Sequence[Row], sessions: Sequence[Any] = (), ends: OnEnding = ignore) -> Pending[list[Any]]:
        """Runs rows as one call, of `sessions` where the model keeps state; `ends` may be called before its end.

        Returns:
            What to await for one `Answer`, `Refused` or `Died` for each row; it raises CallFailed where the model
            failed on a batch as a whole.
        """
        process, stream = self._process, self._stream
        loop = asyncio.get_running_loop() if stream is None else stream.loop
        future: Pending[list[Any]] = Pending(loop)
        if self.greeting is None or process is None or stream is None:
            future.set_result([Died(f"{self._label}: {self._problem}", ran=False)] * len(rows))
            return future
        self._numbers = number = self._numbers + 1
        places = [self._lending.lend(payload) for _, payload in rows]
        frames: list[Buffer] = [number.to_bytes(8, "little"), CALL, write_head(0, places)]
        for (description, payload), place in zip(rows, places, strict=True):
            frames += (description, payload if place is None else b"")
        self._calls[number] = Call(len(rows), future, ends)
        self._life.call_sent(time.monotonic())
        if sessions:
            stream.send([NO_CALL, SESSIONS, json.dumps(sessions).encode()])
        stream.send(frames)
        if self._spec.call_timeout_ms is not None and not self._deadline.watched:
            self._deadline.watch(loop)
        self._memory_limit.watch()
        if self._pace.quick:
            self._polling.call_sent(loop)
        return future

    def _on_end_of_stream(self, error: Exception | None) -> None:
        if error is not None:
            self._kill(f"it speaks another protocol: {error}")
        elif self._process is not None and self._process.pidfd < 0:
            self._on_exit()
        else:  # it ends, which its pidfd tells in a moment, or its model has closed what it does not know
            asyncio.get_running_loop().call_later(_EXITS_WITHIN_S, self._end_deaf, self._process)

    def _end_deaf(self, process: Spawned | None) -> None:
        if process is self._process:
            self._kill("it closed its connection to the server")

    # What comes

    def _take(self, frames: list[Frame]) -> None:
        kind = frames[1]
        if kind == RESULT:
            self._on_result(frames)
        elif kind == ENDING:
            note_ending(self._calls, frames[0])
        elif kind == FAILED:
            text, place = [bytes(frame).decode(errors="replace") for frame in frames[2:4]]
            if number := int.from_bytes(frames[0], "little"):
                call = self._answered(number)
                if call is not None and not call.future.done():
                    call.future.set_exception(CallFailed(text, place))
            else:
                self._killed_for, self._end_log.trace = (text, False), place.partition("\n")[2]
        elif kind == NOTED:
            logger.error("%s: %s", self._label, bytes(frames[2]).decode(errors="replace"))
        elif kind == WARMING:
            self._life.warming(time.monotonic())
            self._on_change()
        elif kind == HELLO:
            self._on_greeting(Greeting.from_bytes(frames[2]))

    def _on_result(self, frames: list[Frame]) -> None:
        if len(frames) % 2 == 0:
            self._lending.take_back(read_offsets(frames.pop()))
        number = int.from_bytes(frames[0], "little")
        call = self._calls.get(number)
        if call is None:
            return
        outcomes = read_outcomes(self._reader, frames)
        if len(outcomes) != call.rows:
            raise ValueError(f"{len(outcomes)} results for {call.rows} observations")
        self._answered(number)  # not before all was read: what it has not answered ends with it
        if call.future.done():
            return
        call.future.set_result(outcomes)  # first: a robot waits for it
        self._note_pace()
        if not self._calls and self._pace.quick:
            self._polling.all_answered(call.future.get_loop())

    def _answered(self, number: int) -> Call | None:
        call = self._calls.pop(number, None)
        self._life.call_answered(time.monotonic(), bool(self._calls))
        if not self._calls:
            self._idle.set()
        return call

    def _note_pace(self) -> None:
        process = self._process
        if process is None or process.memory is None:
            return
        if self._pace.note_total(*process.memory.run_noted()):
            self._on_change()
        if self._pace.heavy:
            process.give_way_if_heavy()

    # Life

    def _begin(self) -> None:
        self._again = None
        (self._turn.take if self._life.is_new else self._begin_now)()
        if self._turn.waits:
            self._life.started(time.monotonic())  # it counts as loading meanwhile

    def _begin_now(self) -> None:
        self._life.started(time.monotonic())
        self._starting = asyncio.get_running_loop().create_task(self._spawn())

    def _start(self) -> Coroutine[Any, Any, Spawned]:
        return spawn(self._spec.python, self._env, -1 if self._inbox is None else self._inbox.fd, self._model_id)

    async def _spawn(self) -> None:
        loop = asyncio.get_running_loop()
        self._killed_for, self._end_log.trace, self._numbers, self._pace = None, "", 0, Pace()
        self._gone.clear()
        try:
            spawned = await (self._start() if self._spare is None else self._spare.take())
        except (OSError, ValueError, RuntimeError, MemoryError) as error:  # RuntimeError: no thread can be started
            why = why_not(error, self._spec.python)
            self._over(f"its interpreter {self._spec.python or sys.executable} cannot be started: {why}")
            return
        finally:
            self._starting = None
        if self._spec.background:
            spawned.stay_behind()
        self._process = spawned
        self._lending = Lending(spawned.memory, self._inbox, self._pace)
        self._stream = Stream(spawned.connected, self._take, self._on_end_of_stream)
        if spawned.pidfd >= 0:
            loop.add_reader(spawned.pidfd, self._on_exit)
        settings = self._spec.settings() | warm_up_rows(self._spec.warm_up, self.newest)
        self._stream.send([NO_CALL, HELLO, json.dumps({"model_id": self._model_id, **settings}).encode()])
        self._deadline.watch(loop)
        self._memory_limit.watch()
        if self._closed:
            self._kill("the server ends")

    def _on_greeting(self, greeting: Greeting) -> None:
        self.greeting = greeting
        self._life.loaded(time.monotonic())
        self._deadline.stop()
        self._turn.end()
        logger.info("%s is up in process %s", self._label, self.pid)
        if self._spare is not None:
            self._spare.prepare()
        if self._first is not None and not self._first.done():
            self._first.set_result(None)
        self._on_change()

    def _on_exit(self) -> None:
        """The process has ended: what it answered before is taken, and the rest is lost."""
        if self._process is None or self._stream is None:
            return
        self._stream.drain()
        reason = self._process.reap()
        self._over(reason if self._killed_for is None else self._killed_for[0])

    def _over(self, cause: str) -> None:
        loop = asyncio.get_running_loop()
        was_up, pid = self.up, self.pid
        reason = f"{cause} (process {pid})" if was_up else cause
        self.greeting, self._problem = None, reason
        timed_out = self._killed_for is not None and self._killed_for[1]
        calls, self._calls = self._calls, {}
        marked = min(calls, default=0), ALL_ROWS
        process, stream = self._process, self._stream
        if process is not None:
            if process.memory is not None:
                marked = process.memory.marked()
            if process.pidfd >= 0:
                loop.remove_reader(process.pidfd)
            process.close()
        if stream is not None:
            stream.close()
        self._process = self._stream = None
        self._polling.stop()
        self._lending = Lending(None, None)
        self._gone.set()
        self._idle.set()
        self._memory_limit.stop()
        self._deadline.stop()
        self._turn.end()
        delay_s = self._life.ended(time.monotonic(), reason, hung=timed_out)
        if self._first is not None and not self._first.done():
            of = f"model {self._model_id!r}, target {self._spec.target!r}"
            self._first.set_exception(ModelLoadError(f"{of}: {reason}"))
            self._closed = True
        if not self._closed:
            self._end_log.note(cause, pid, was_up=was_up, lost=len(calls), delay_s=delay_s)
            self._problem = f"{reason}; it is being started again"
            self._again = loop.call_later(delay_s, self._begin)
            self._on_change()  # first: the end of a call has the server look for what to run next
        end_lost(calls, marked, f"{self._label}: {reason}", timed_out=timed_out)

    def _kill(self, reason: str, timed_out: bool = False) -> None:
        """Ends the process and all that it started; `_on_exit` follows."""
        if self._process is None:
            return
        if self._killed_for is None:
            self._killed_for = reason, timed_out
        self._process.kill()

    def _on_deadline(self) -> None:
        """Something has taken too long."""
        if self.up:
            self._kill(f"a call took longer than call_timeout_ms ({self._spec.call_timeout_ms:g})", timed_out=True)
        else:
            self._kill(f"loading took longer than load_timeout_s ({self._spec.load_timeout_s:g})")
