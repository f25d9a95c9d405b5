"""A worker process: runs one model, one call after another, for the server that started it.

The thread that waits for calls runs them, so that none is handed on and the process costs nothing while idle. It ends
with its server, however that one ends.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from time import monotonic_ns, perf_counter  # not by way of the module: a model may replace what that has
from typing import Any

from inferential.errors import InvalidObservation, reason_of, words_of
from inferential.policies.batching import split
from inferential.replica.call_wait import CallWait
from inferential.replica.end_notice import EndNotice
from inferential.replica.failures import FailurePlaces
from inferential.replica.inbox import InboxView
from inferential.replica.life_line import end_with_server, leave_signals_to_server
from inferential.replica.metadata import metadata_of
from inferential.replica.method_caller import MethodCaller
from inferential.replica.model import Method, methods_of
from inferential.replica.observations import ObservationReader
from inferential.replica.outcomes import BY_MODEL
from inferential.replica.results import ResultWriter
from inferential.replica.rows import write_refusal
from inferential.replica.sessions import NO_ROBOT, SessionRow, SessionStore
from inferential.replica.shared import ALL_ROWS, ReplicasMemory
from inferential.replica.stacked import StackedModel, StackedRows
from inferential.replica.stream import Frame, MessageReader, write_message
from inferential.replica.structured import rows_of
from inferential.replica.targets import TargetError, import_module_of, load_target
from inferential.replica.warming import LAST, Measured, load_observations, warmed
from inferential.replica.wire import (
    CALL,
    ENDING,
    FAILED,
    GONE,
    HELLO,
    NO_CALL,
    NOTED,
    PREPARE,
    RESULT,
    SESSIONS,
    WARMING,
    Greeting,
    read_head,
    write_offsets,
)

_READ_BYTES = 256 * 1024
_HOLD_S = 0.5e-3  # answers of short calls wait up to this long for those of the next calls that are there already
_HOLD_BYTES = 64 * 1024
_MAX_INFLIGHT = 1


def main(socket_fd: int, life_fd: int, memory_fd: int, inbox_fd: int) -> None:
    """Runs a worker until its server goes.

    Args:
        socket_fd: of the stream to the server.
        life_fd: of a pipe whose other end the server has and never writes to.
        memory_fd: of the memory that both share; -1: none.
        inbox_fd: of the memory that the server receives into; -1: none.
    """
    end_with_server(life_fd)
    leave_signals_to_server()
    for fd in (socket_fd, life_fd, memory_fd, inbox_fd):
        if fd >= 0:
            os.set_inheritable(fd, False)
    memory = None
    if memory_fd >= 0:
        memory = ReplicasMemory(memory_fd)
        os.close(memory_fd)
    inbox = None
    if inbox_fd >= 0:
        inbox = InboxView(inbox_fd)
        os.close(inbox_fd)
    with socket.socket(fileno=socket_fd) as stream:
        worker = Worker(stream, memory, inbox)
        if worker.load():
            worker.serve()
    os._exit(0)  # a model's threads or exit handlers must not keep it


class Worker:
    """The model and its calls.

    Args:
        stream: to the server.
        memory: shared with it; None: payloads come over the stream.
        inbox: what it receives into; None: payloads do not lie there.
    """

    def __init__(self, stream: socket.socket, memory: ReplicasMemory | None, inbox: InboxView | None) -> None:
        self._inbox = inbox
        self._stream = stream
        self._wait = CallWait(stream)
        self._memory = memory
        self._messages = MessageReader()
        self._observations = ObservationReader(memory, inbox)
        self._places = FailurePlaces(f"process {os.getpid()}")
        self._written = ResultWriter(self._places).write
        self._call = MethodCaller().call
        self._single: Method | None = None
        self._sessions: SessionStore | None = None
        self._rows_of: list[list[Any]] = []  # whose the rows of the next call are
        self._batch: Method | None = None
        self._model: Any = None
        self._stacked: StackedRows | None = None
        self._model_id = ""
        self._ran_ns = self._ran_rows = 0
        self._notice = EndNotice(self._send_ending)

    def load(self) -> bool:
        """Makes the model as the server's first message says, and greets; returns whether there is one."""
        settings: dict[str, Any] | None = None
        while settings is None:
            data = self._stream.recv(_READ_BYTES)
            if not data:
                return False
            self._messages.feed(data)
            for frames in self._messages.take():
                given = json.loads(bytes(frames[2]))
                if frames[1] == PREPARE:
                    self._prepare(given)
                else:
                    settings = given
        self._model_id = settings["model_id"]
        self._add_path(settings)
        try:
            self._model = load_target(settings["target"], settings["args"])
            methods = methods_of(self._model_id, self._model)
            self._single, self._batch, self._sessions = methods.single, methods.batch, methods.sessions
            if isinstance(self._model, StackedModel):
                self._stacked = StackedRows(self._model.inputs, self._observations.descriptions)
            metadata = metadata_of(self._model)
            sees = bool(getattr(self._model, "sees_timestamps", False))
            measured = self._warm_up(settings, methods.max_batch_size)
        except BaseException as error:  # of any kind: a module may call sys.exit
            is_ours = isinstance(error, TargetError | TypeError | ValueError)
            text = str(error).removeprefix(f"model {self._model_id!r}: ") if is_ours else words_of(error)
            place = self._places.of(error.__cause__ or error)
            self._send([NO_CALL, FAILED, *(one.encode(errors="replace") for one in (text, place))])
            return False
        os.register_at_fork(after_in_child=self._leave)
        singly, sessions = methods.batch is None, self._sessions is not None
        greeting = Greeting(methods.max_batch_size, _MAX_INFLIGHT, "", singly, metadata, measured, sessions, sees)
        self._send([NO_CALL, HELLO, greeting.to_bytes()])
        gc.collect()
        gc.freeze()  # collections do not look at the model again, which takes tens of milliseconds
        return True

    def _add_path(self, settings: Mapping[str, Any]) -> None:
        path = settings["path"]  # in the server's order: what is found first there is to be found first here
        sys.path[:] = [one for one in sys.path if one not in path] + path

    def _prepare(self, settings: Mapping[str, Any]) -> None:
        """Imports the module of a target, ahead of the model's turn; what is wrong with it shows then."""
        self._add_path(settings)
        with contextlib.suppress(BaseException):  # a module that calls sys.exit, for example
            import_module_of(settings["target"])

    def _warm_up(self, settings: dict[str, Any], largest: int) -> Measured:
        source = settings.get("warm_up")
        if source is None:
            return []
        self._send([NO_CALL, WARMING, b""])
        rows: list[Any] = [
            self._observations.one(base64.b64decode(description), base64.b64decode(payload))
            for description, payload in settings.get("warm_up_rows", ())
        ]
        if source != LAST:
            rows = load_observations(source)
        measured = warmed(rows, self._run_warm_up, largest) if rows else []
        if rows and self._sessions is not None:
            self._call(self._sessions.end, NO_ROBOT[0])
        return measured

    def _run_warm_up(self, rows: list[Any]) -> None:
        if self._sessions is not None:
            rows = [SessionRow(row, *NO_ROBOT) for row in rows]
        if self._batch is not None and (len(rows) > 1 or self._single is None):
            self._call(self._batch, rows)
            return
        assert self._single is not None
        for row in rows:
            self._call(self._single, row)

    def _send(self, frames: Sequence[Any]) -> None:
        for buffer in write_message(frames):
            self._stream.sendall(buffer)

    def _leave(self) -> None:
        """Lets go of the server in a process that the model has forked, which has no second thread."""
        self._notice = EndNotice(lambda call: None)
        self._stream.close()

    def serve(self) -> None:
        """Runs calls until the server goes."""
        messages = self._messages
        held: list[Any] = []
        buffer = memoryview(bytearray(_READ_BYTES))  # one for all: new memory of this size costs more than a short call
        while True:
            try:
                size = self._read(buffer)
            except ConnectionError:
                return
            if not size:
                return
            began, size = perf_counter(), 0
            for frames in messages.take():
                if frames[1] in (SESSIONS, GONE):
                    self._on_sessions(frames)
                    continue
                buffers = write_message(self._answer(frames))
                held += buffers
                size += sum(map(len, buffers))
                del frames, buffers
                if size > _HOLD_BYTES or perf_counter() - began > _HOLD_S:
                    self._flush(held)
                    began, size = perf_counter(), 0
            if held:
                self._flush(held)

    def _on_sessions(self, frames: list[Frame]) -> None:
        if frames[1] == SESSIONS:
            self._rows_of = json.loads(bytes(frames[2]))
            return
        for client_id in json.loads(bytes(frames[2])):
            try:
                if self._sessions is not None:
                    self._call(self._sessions.end, client_id)
            except BaseException as error:
                text = f"close failed: {words_of(error)}{self._places.of(error)}"
                self._send([NO_CALL, NOTED, text.encode(errors="replace")])

    def _read(self, buffer: memoryview) -> int:
        messages = self._messages
        announced, messages.announced = messages.announced, False
        if not announced or not self._wait.look():
            self._wait.sleep()
        if messages.space is not None:
            size = self._stream.recv_into(messages.space)
            messages.filled(size)
        else:
            size = self._stream.recv_into(buffer)
            messages.feed(bytes(buffer[:size]))
        return size

    def _answer(self, frames: list[Frame]) -> list[Any]:
        """Runs one call, whatever the model does; returns the frames of its answer."""
        try:
            answer = self._run(frames)
        except BaseException as error:  # where a result is looked at, for example
            answer = self._failed(frames[0], error)
        self._notice.cancel()  # of a call that failed
        if self._stream.fileno() < 0:
            os._exit(0)  # the model has forked, and this is not the process that was called
        return answer

    def _flush(self, held: list[Any]) -> None:
        try:
            for buffer in held if len(held) == 1 or sum(map(len, held)) > _HOLD_BYTES else (b"".join(held),):
                self._stream.sendall(buffer)
        except ConnectionError:
            os._exit(0)  # the server is gone
        held.clear()

    def _failed(self, number: Frame, error: BaseException) -> list[Any]:
        """Returns the frames of the answer of a call that failed as a whole."""
        said = words_of(error), self._places.of(error)
        return [number, FAILED, *(text.encode(errors="replace") for text in said)]

    def _run(self, frames: list[Frame]) -> list[Any]:
        """Runs one call; returns the frames of its answer."""
        number = frames[0]
        if frames[1] != CALL:
            return [number, FAILED, b"ValueError: expected a call"]
        layouts: Any = frames[3::2]
        payloads: Any = frames[4::2]
        call, count = int.from_bytes(number, "little"), len(layouts)
        _, places = read_head(frames[2], count)
        if self._stacked is not None and count > 1 and not any(places):
            arrays = self._stacked.read(layouts, payloads)
            if arrays is not None:
                return self._answered(number, self._run_stacked(call, arrays, count))
        rows, refused = self._observations.read(layouts, payloads, places)
        if self._sessions is not None:
            whose: list[Any] = self._rows_of if self._rows_of else [NO_ROBOT] * count
            rows = [row if row is None else SessionRow(row, *of) for row, of in zip(rows, whose, strict=True)]
        known = list(rows) if self._sessions is not None else []
        self._rows_of = []
        if self._batch is not None and (count - len(refused) > 1 or self._single is None):
            answered = self._run_batch(call, rows, refused)
        else:
            answered = self._run_each(call, rows, refused)
        rows.clear()  # and with them the views on shared memory
        fresh = "\0" + "".join(str(int(getattr(row, "fresh", False))) for row in known) if known else ""
        known.clear()
        return self._answered(number, answered, fresh)

    def _answered(self, number: Frame, answered: list[Any] | BaseException, fresh: str = "") -> list[Any]:
        """Returns the frames of a call's answer."""
        if isinstance(answered, BaseException):
            return self._failed(number, answered)
        version = getattr(self._model, "model_version", None)
        said = f"{'' if version is None else version}{fresh}"
        answer: list[Any] = [number, RESULT, said.encode(errors="replace"), *answered]
        freed = [] if self._memory is None else self._memory.freed()
        if self._inbox is not None:
            freed += self._inbox.freed()
        if freed:
            answer.append(write_offsets(freed))
        return answer

    def _run_stacked(self, call: int, arrays: dict[str, Any], count: int) -> list[Any] | BaseException:
        assert self._stacked is not None
        self._begin(call, ALL_ROWS, count)
        try:
            outputs = self._model.infer_stacked(arrays)
        except BaseException as error:
            return error
        self._ended(count, announces=False)
        answered = self._stacked.write(outputs, count)
        return answered or [part for row in split(outputs, count) for part in self._written(row)]

    def _run_batch(self, call: int, rows: list[Any], refused: dict[int, bytes]) -> list[Any] | BaseException:
        sound = [row for at, row in enumerate(rows) if at not in refused]
        count = len(sound)
        results: Any = ()
        if sound:
            self._begin(call, ALL_ROWS, count)
            try:
                assert self._batch is not None
                results = self._call(self._batch, sound)
                results = results if isinstance(results, list) else rows_of(results, count)
                if len(results) != count:
                    raise ValueError(f"the model gave {len(results)} results for {count} observations")
            except InvalidObservation as error:
                if count > 1:  # which one's, each alone will tell
                    return error
                results = [error]
            except BaseException as error:
                return error
            self._ended(count, announces=not refused and not any(isinstance(one, Exception) for one in results))
        outcomes = iter(results)
        return [
            part
            for at in range(len(rows))
            for part in ((refused[at], b"") if at in refused else self._written(next(outcomes)))
        ]

    def _run_each(self, call: int, rows: list[Any], refused: dict[int, bytes]) -> list[Any]:
        parts: list[Any] = []
        for at, row in enumerate(rows):
            if at in refused:
                parts += (refused[at], b"")
                continue
            self._begin(call, at, len(rows))
            try:
                assert self._single is not None
                result = self._call(self._single, row)
            except InvalidObservation as error:
                parts += (write_refusal("INVALID_OBSERVATION", reason_of(error), cause=BY_MODEL), b"")
            except BaseException as error:
                parts += (write_refusal("MODEL_FAILED", words_of(error), self._places.of(error)), b"")
            else:
                self._ended(1, announces=True)
                parts += self._written(result)
            rows[at] = row = None
        return parts

    def _begin(self, call: int, row: int, rows: int) -> None:
        if self._memory is not None:
            self._memory.mark(call, row, monotonic_ns())
        self._notice.begin(call if row == ALL_ROWS or rows == 1 else 0, rows)

    def _ended(self, rows: int, *, announces: bool) -> None:
        took_ns = self._notice.end(announces=announces)
        if self._memory is not None:
            self._ran_ns += took_ns
            self._ran_rows += rows
            self._memory.note_run(self._ran_ns, self._ran_rows)

    def _send_ending(self, call: int) -> None:
        self._send([call.to_bytes(8, "little"), ENDING, b""])
