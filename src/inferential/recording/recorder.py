"""Records what robots send and are answered beside a running server.

The event loop copies a payload to memory that it shares with a process, and takes an entry that waits; a moment later a
thread hands what was gathered to the process, which reads, compresses and writes (`process`).
Where too many bytes wait an entry is dropped and counted: recording costs no action.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from queue import SimpleQueue
from typing import ClassVar

from inferential.config.recording import RecordingConfig
from inferential.config.services import ServiceConfig
from inferential.metrics import names
from inferential.notices import Notices
from inferential.proto.tensors import Buffer
from inferential.recording.cameras import images_of
from inferential.recording.entries import Entry
from inferential.recording.making import EntryMaker
from inferential.recording.memory import RecordersMemory
from inferential.recording.unsaid import Unsaid
from inferential.recording.writer import Report, Writer
from inferential.replica.shared import Place
from inferential.scheduler.request import InferenceRequest, RefusalKind
from inferential.server import Server
from inferential.tracking.outcome_counts import UsedLate

logger: logging.Logger = logging.getLogger("inferential.recording")

RETRY_S = 5.0
"""After an error of the disk, entries are dropped for so long."""
STOP_S = 30.0
"""The end of the server waits so long for a disk that takes what waits."""
GATHER_S = 0.1
"""Entries are handed over together, so long after the first: to wake a process up takes longer than to write some."""
_KILLED_S = 5.0  # a process that waits for a disk may not even be killed


class Recorder(EntryMaker):
    """Records while it is entered; an async context manager.

    Args:
        server: a running server.
        config: where to, and what.

    Attributes:
        recorded, dropped: requests so far that were written, and that were not.
    """

    Config: ClassVar[type[ServiceConfig]] = RecordingConfig
    outlives_server: ClassVar[bool] = True  # the last requests are recorded too

    def __init__(self, server: Server, config: RecordingConfig) -> None:
        super().__init__(server, config)
        self.recorded: int = 0
        self.dropped: int = 0
        self._folder = str(config.path)
        self._is_configured = server.config.recording is not None  # else it was made by a program
        self._memory = RecordersMemory(int(config.queue_mb * 1e6))
        self._unsaid = Unsaid()
        self._take_on(config)
        self._gathered: list[tuple[int, Entry]] = []
        self._queue: SimpleQueue[list[tuple[int, Entry]] | None] = SimpleQueue()
        self._taken = self._sent = 0  # entries so far, which are numbered so
        self._waiting: deque[tuple[int, int, Place | None]] = deque()  # number, bytes and place of each that waits
        self._held = 0  # bytes of those
        self._lock = threading.Lock()
        self._notices = Notices(logger)
        self._thread: threading.Thread | None = None
        self._writer: Writer | None = None
        self._hung = False
        self._writable_at = 0.0

    @property
    def address(self) -> str:
        """The folder of its files."""
        return self._folder

    def sizes(self) -> dict[str, int]:
        """Returns what is held: copies of payloads of requests that run, answers of which the
        robot has not said whether it used them in time, requests that wait to be written, places."""
        self._let_go_of_done()
        held = {"running": len(self._copies), "unsaid": len(self._unsaid), "waiting": len(self._waiting)}
        return held | {"places": self._memory.taken}

    def announcement(self) -> str:
        """Returns the folder, and how much of it is kept."""
        return f"recording to {self.address}, at most {self._config.keep_gb:g} GB"

    async def start(self) -> None:
        """Begins to record. A folder that cannot be written is an error in the log, and tried again."""
        self._server.watch(self)
        self._thread = threading.Thread(target=self._write, name="recording", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Writes what waits, and finishes the file."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._server.unwatch(self)
        self._let_unsaid_go(self._unsaid.let_go())
        self._pass_on()
        self._queue.put(None)
        await asyncio.get_running_loop().run_in_executor(None, thread.join, STOP_S)
        if thread.is_alive() and self._writer is not None:
            self._hung = True
            logger.error("recording: %s takes nothing for %g s; its last file is not finished", self.address, STOP_S)
            self._writer.kill()
            await asyncio.get_running_loop().run_in_executor(None, thread.join, _KILLED_S)
        self._memory.close()

    # On the event loop

    def _take_on(self, config: RecordingConfig) -> None:
        """Goes by a configuration from now on; the folder stays."""
        self._config = config
        self._images = images_of(config.images)
        self._clients = frozenset(config.clients)
        self._models = frozenset(config.models)
        self._split_bytes, self._keep_bytes = int(config.split_mb * 1e6), int(config.keep_gb * 1e9)
        self._let_unsaid_go(self._unsaid.let_go())

    def _wants(self, request: InferenceRequest) -> bool:
        config = self._server.config.recording
        if config is None and self._is_configured:  # turned off while the server runs
            self._let_unsaid_go(self._unsaid.let_go())
            return False
        if config is not None and config is not self._config:
            self._take_on(config)
        return (not self._clients or request.client_id in self._clients) and (
            not self._models or request.model_id in self._models
        )

    def _ends(self, request: InferenceRequest, refusal: RefusalKind | None, *, is_late: bool) -> bool:
        only = self._config.only
        if only == "late":
            return is_late or (refusal is None and _may_be_used_late(request))
        return only == "all" or refusal not in (None, RefusalKind.SUPERSEDED)

    def _copy(self, payload: Buffer) -> bytes | Place:
        self._let_go_of_done()
        return self._memory.put(payload) or bytes(payload)

    def _free(self, copy: bytes | Place | None) -> None:
        if isinstance(copy, Place):
            self._memory.give(copy)

    def _take(self, entry: Entry, now: float) -> None:
        if self._config.only == "late" and not entry.answer["late"]:
            self._let_unsaid_go(self._unsaid.keep(entry, self._config.queue_mb * 1e6 / 2))
        else:
            self._line_up(entry, now)

    def used_late(self, used: UsedLate) -> None:
        """Records an answer that was kept until its robot said that it had used it too late."""
        entry = self._unsaid.take(used.client_id, used.model_id, used.request_id)
        if entry is not None:
            entry.answer |= {"late": True, "late_cause": used.cause}
            self._line_up(entry, time.monotonic())
        elif self._unsaid.is_short and self._config.only == "late":
            self._count_dropped(1)
            text = "late answers are not recorded: recording.queue_mb is too little to keep answers until they are used"
            self._notices.say("short", text, level=logging.WARNING)

    def _let_unsaid_go(self, entries: list[Entry]) -> None:
        for entry in entries:
            self._free(entry.place)

    def _line_up(self, entry: Entry, now: float) -> None:
        self._let_go_of_done()
        size = entry.bytes_held
        if self._held + size > self._config.queue_mb * 1e6 or now < self._writable_at:
            self._free(entry.place)
            self._drop()
            return
        self._taken += 1
        self._waiting.append((self._taken, size, entry.place))
        self._held += size
        if not self._gathered:
            asyncio.get_running_loop().call_later(GATHER_S, self._pass_on)
        self._gathered.append((self._taken, entry))

    def _pass_on(self) -> None:
        gathered, self._gathered = self._gathered, []
        self._queue.put(gathered)

    def _let_go_of_done(self) -> None:
        done = self._memory.done
        while self._waiting and self._waiting[0][0] <= done:
            _, size, place = self._waiting.popleft()
            self._held -= size
            self._free(place)

    def _drop(self) -> None:
        self._count_dropped(1)
        self._notices.say(
            "dropped", "requests are not recorded: the disk is slower than they come, or cannot be written",
            level=logging.WARNING,
        )  # fmt: skip

    # In threads

    def _count_dropped(self, count: int) -> None:
        with self._lock:
            self.dropped += count
        for _ in range(count):
            self._server.metrics.record(names.RECORDING_DROPS, 1.0)

    def _write(self) -> None:
        """Hands entries to the process, which is started anew where it has ended.

        Until it has begun, a second or so, entries wait; so it does before the first of them.
        """
        try:
            self._writer = Writer(self._folder, self._memory.fd, self._take_report)
        except OSError as error:
            self._fail(error.strerror or str(error))
        while (gathered := self._queue.get()) is not None:
            if not gathered:
                continue
            last, _ = gathered[-1]
            try:
                has_them = self._hand_over(gathered, last)
            except OSError as error:
                has_them = False
                self._count_dropped(len(gathered))
                self._fail(error.strerror or str(error))
            if not has_them:
                self._memory.note_done(last)
        if self._writer is not None:
            self._writer.finish()

    def _hand_over(self, gathered: list[tuple[int, Entry]], last: int) -> bool:
        """Hands entries to the process, of which the last has this number; returns whether that has them."""
        if self._writer is not None and self._writer.has_ended():
            self._writer.release()
            self._writer = None
        if self._hung or (self._writer is None and time.monotonic() < self._writable_at):
            self._count_dropped(len(gathered))
            return False
        if self._writer is None:
            self._writer = Writer(self._folder, self._memory.fd, self._take_report)
        self._sent = last
        return self._writer.send((gathered, self._images, self._split_bytes, self._keep_bytes), len(gathered))

    def _take_report(self, report: Report) -> None:
        if report.is_last:
            self._memory.note_done(self._sent)
        with self._lock:
            self.recorded += report.recorded
        self._count_dropped(report.dropped)
        if report.problem:
            self._fail(report.problem)
        if report.unread:
            text = "a request is not recorded, or not whole: %s"
            self._notices.say("unread", text, report.unread, level=logging.WARNING)

    def _fail(self, reason: str) -> None:
        self._writable_at = time.monotonic() + RETRY_S
        text = "cannot record to %s: %s; tried again every %g s, and serving goes on"
        self._notices.say("disk", text, self.address, reason, RETRY_S, level=logging.ERROR)


def _may_be_used_late(request: InferenceRequest) -> bool:
    """Returns whether the robot may say of an answer that it used it too late; clients in this process do not."""
    return request.request_id != 0 and request.connection >= 0 and request.deadline < math.inf
