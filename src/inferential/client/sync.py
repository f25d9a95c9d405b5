"""`Connection` and `Model`: the robot SDK for plain threads.

Threads may share a connection and its handles. The socket is used under one lock; of the threads that wait for
responses one at a time, the leader, sleeps on the socket's descriptor with the lock released, and hands out to the
others what comes. There is no thread of our own while a connection stands: a robot with one control loop pays for
none. While one is to be made, or the system does not take all of a message at once, a thread sees to it, as nobody may
call us before the next control period.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from weakref import ref

from inferential.client.arguments import check_names, timeout_s_of
from inferential.client.handle import Handle, ModelFactory, ObservationHints
from inferential.client.mailbox import Mailbox, Outcome, result_of
from inferential.client.result import ClientStats, Result
from inferential.client.servers import open_wire
from inferential.client.session import Session
from inferential.proto.messages import Content

FIRST_CONNECT_MS = 50
"""Longest that the first `observe` of a connection waits for the connection to be made."""
FULL_SOCKET_MS = 5
"""Longest that an `observe` waits for room in the socket; after that none waits until the socket has room again."""
LONGEST_SLEEP_S = 3600.0
"""What one sleep takes at most: the system's own calls know neither infinity nor very long times."""
_TEND_S = 0.5  # after which a connection that nobody has any more can go


class Connection(ModelFactory["Model"]):
    """A connection to an Inferential server; any number of model handles share it.

    It is made in the background and made again whenever it is lost. While the server cannot be reached `observe`
    does not block: of a "latest" handle the newest observation is kept and sent on return, of an "all" handle the
    newest 256.

    Args:
        server: HOST:PORT, tcp://HOST:PORT or ipc://PATH; several of them, as a sequence or with commas between, are
            servers of the same models, of which each robot has its own and goes to another when that one is gone.
        client_id: the robot's name, at most 255 bytes; a unique one is made up where it is empty.
        client_type: what kind of robot it is, for people to read.
        reconnect_ivl_ms: wait before the first attempt to connect again.
        reconnect_max_ms: longest wait between attempts.

    Raises:
        ValueError: for an address or a client id that cannot be used.
        TypeError: naming an argument that is of none of these types.
    """

    def __init__(
        self,
        server: str | Sequence[str] = "localhost:5555",
        client_id: str | int = "",
        client_type: str = "",
        reconnect_ivl_ms: int = 100,
        reconnect_max_ms: int = 5000,
    ) -> None:
        check_names(client_id, client_type)
        self._session = Session(client_id, client_type)
        self._wire = open_wire(server, self._session.client_id, reconnect_ivl_ms, reconnect_max_ms)
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._dozing = 0
        self._leading = False
        self._closed = False
        self._reached = False
        self._flowing = True
        self._woken = False
        self._woken_by, self._wakes = socket.socketpair()
        self._leaders = select.poll()  # used by one thread at a time, without the lock
        self._leaders.register(self._wire.fd, select.POLLIN)
        self._leaders.register(self._woken_by, select.POLLIN)
        self._flow = select.poll()  # used under the lock
        self._flow.register(self._wire.fd, select.POLLIN)
        self._tender: threading.Thread | None = None

    @property
    def client_id(self) -> str:
        """The id that the server knows this connection by."""
        return self._session.client_id

    @property
    def trouble(self) -> str | None:
        """Why the server cannot be reached, in words; None while the connection stands, as far as is known."""
        with self._lock:
            return self._wire.trouble

    @property
    def stats(self) -> ClientStats:
        """What became of the observations so far; live, not a copy."""
        return self._session.stats

    def _open_model(self, handle: Handle) -> Model:
        with self._lock:
            self._check_open()
            return Model(self, self._session.mailbox(handle))

    def close(self) -> None:
        """Closes the connection; threads that wait in it get a ConnectionError. Closing twice is fine."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            while self._leading:
                self._wake()
                self._doze(0.1)
            self._wire.close()
            self._woken_by.close()
            self._wakes.close()
            self._arrived.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _observe(self, mailbox: Mailbox, values: Mapping[str, Any], hints: ObservationHints) -> int:
        now, timestamp_ns = time.monotonic(), time.time_ns()
        content = mailbox.handle.content(values, hints)
        with self._lock:
            return self._send(mailbox, content, hints, now, timestamp_ns, keep=False)

    def _get_result(self, mailbox: Mailbox, timeout_ms: float) -> Result | None:
        deadline = time.monotonic() + timeout_s_of(timeout_ms)
        with self._lock:
            self._check_open()
            if mailbox.unread and self._wire.pump(self._session):  # something newer than that may have come
                self._hand_out()
            outcome = self._wait(mailbox.take, deadline)
        return result_of(outcome)

    def _infer(
        self, mailbox: Mailbox, values: Mapping[str, Any], hints: ObservationHints, timeout_ms: float
    ) -> Result | None:
        timeout_s = timeout_s_of(timeout_ms)
        now, timestamp_ns = time.monotonic(), time.time_ns()
        content = mailbox.handle.content(values, hints)
        outcome = None
        with self._lock:
            request_id = self._send(mailbox, content, hints, now, timestamp_ns, keep=True)
            try:
                outcome = self._wait(lambda: mailbox.take_kept(request_id), time.monotonic() + timeout_s)
            finally:
                if outcome is None:
                    self._session.abandon(mailbox, request_id)
        return result_of(outcome)

    # Under the lock

    def _send(
        self, mailbox: Mailbox, content: Content, hints: ObservationHints, now: float, timestamp_ns: int, *, keep: bool
    ) -> int:
        self._check_open()
        wire = self._wire
        request_id, frames = self._session.observe(mailbox, content, hints, now, timestamp_ns, keep)
        # A robot that was silent for a while may have lost its server meanwhile.
        news = now >= wire.look_at() and wire.pump(self._session) > 0
        if not self._reached:
            self._reached = True
            news = self._wait_for_flow(FIRST_CONNECT_MS) or news
        news = wire.send(self._session, mailbox, request_id, frames) or news
        if wire.settled():
            self._flowing = True
        else:
            news = self._unsettled() or news
        if news:
            self._hand_out()
        return request_id

    def _unsettled(self) -> bool:
        """Sees to what is not sent yet; whether requests ended by it."""
        news = False
        if self._flowing and not self._wire.flows:
            # The system takes a large message in a fraction of a millisecond.
            news = self._wait_for_flow(FULL_SOCKET_MS)
        self._flowing = self._flowing or self._wire.flows
        if self._tender is None and not self._wire.settled():
            self._tender = threading.Thread(target=_tend, args=(ref(self),), name="inferential-tend", daemon=True)
            self._tender.start()
        return news

    def _wait_for_flow(self, timeout_ms: float) -> bool:
        """Waits until the server is connected and was sent all that it is to be sent; whether requests ended by it."""
        now = time.monotonic()
        deadline = now + timeout_ms / 1e3
        ended = 0
        while True:
            ended += self._wire.pump(self._session)
            self._flowing = self._wire.flows
            if self._flowing or now >= deadline:
                return ended > 0
            self._flow.poll(max(min(deadline, self._wire.look_at()) - now, 0.0) * 1e3)
            now = time.monotonic()

    def _tend(self) -> bool:
        """For a while, what nobody may call us for: connecting, sending the rest. False once there is none of it."""
        with self._lock:
            if self._closed or self._wire.settled():
                self._tender = None
                return False
            self._sleep(min(_TEND_S, self._wire.look_at() - time.monotonic()))
            if not self._closed and self._wire.pump(self._session):
                self._hand_out()
            return True

    def _wait(self, take: Callable[[], Outcome | None], deadline: float) -> Outcome | None:
        """Sleeps until there is something to take, and takes it; what has come by the deadline counts."""
        outcome = take()  # it may have come while the rest of its observation was sent
        while outcome is None:
            now = time.monotonic()
            remaining = deadline - now
            if remaining > 0:
                # Of a leader that sleeps already, `look_at` may have changed since.
                self._sleep(min(remaining, self._wire.look_at() - now, LONGEST_SLEEP_S))
                self._check_open()
            if self._wire.pump(self._session):
                self._hand_out()
            outcome = take()
            if remaining <= 0:
                break
        return outcome

    def _sleep(self, timeout_s: float) -> None:
        """Sleeps, the lock released, until something came or another thread has something for us."""
        if self._leading:
            self._doze(timeout_s)
        else:
            self._lead(timeout_s)

    def _lead(self, timeout_s: float) -> None:
        """Sleeps, the lock released, until the socket or another thread wakes us."""
        self._leading = True
        self._lock.release()
        try:
            self._leaders.poll(max(timeout_s, 0.0) * 1e3)
        finally:
            self._lock.acquire()
            self._leading = False
            if self._woken:
                self._woken_by.recv(1)
                self._woken = False
            if self._dozing:  # another must lead if we leave with what we came for
                self._arrived.notify_all()

    def _doze(self, timeout_s: float) -> None:
        """Sleeps, the lock released, until another thread has something for us."""
        self._dozing += 1
        try:
            self._arrived.wait(timeout_s)
        finally:
            self._dozing -= 1

    def _hand_out(self) -> None:
        if self._dozing:
            self._arrived.notify_all()
        if self._leading:
            self._wake()

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._wakes.send(b"\0")

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectionError(f"the connection of client {self.client_id!r} is closed")


def _tend(connection: ref[Connection]) -> None:
    while (tended := connection()) is not None and tended._tend():
        del tended


class Model:
    """A handle to one model; made by `Connection.model`."""

    def __init__(self, connection: Connection, mailbox: Mailbox) -> None:
        self._connection = connection
        self._mailbox = mailbox
        self._model_id = mailbox.handle.model_id

    @property
    def model_id(self) -> str:
        """The model's id."""
        return self._model_id

    @property
    def serve_interval_ms(self) -> float:
        """The shortest interval at which the server can serve this robot, by its newest response; 0: no limit."""
        return self._mailbox.serve_interval_ms

    def observe(
        self,
        urgency: float = 0.0,
        steps_remaining: int | None = None,
        priority: int | None = None,
        **values: Any,
    ) -> int:
        """Sends an observation; does not wait for the answer.

        It returns at once, also while the server is away. Only the first of a connection may wait, for at most 50 ms,
        until the connection is made, and one that finds no room in the socket, for at most 5 ms. Arrays may be reused
        as soon as it returns, except those that are not writable, whose memory is sent as it is.

        Args:
            urgency: 0 to 1.
            steps_remaining: actions that the robot still has.
            priority: that of the handle where it is not told; 0 is the highest.
            values: np.ndarray of any shape and memory order (a tensor), `Jpeg(...)` or `Png(...)` of one, or str
                (metadata).

        Returns:
            The request id, which the result and any error carry.

        Raises:
            TypeError: naming the key of a value that is neither.
            ValueError: for a dtype that the wire does not have, or an image that the encoding cannot hold.
            ConnectionError: after `close`.
        """
        hints = {"urgency": urgency, "steps_remaining": steps_remaining, "priority": priority}
        return self._connection._observe(self._mailbox, values, hints)

    def get_result(self, timeout_ms: float = 100) -> Result | None:
        """The next result of this handle ("latest": the newest), or None after `timeout_ms`; at 0 or less at once.

        Raises:
            InferenceError: a request ended without a result; superseded requests are skipped.
            TypeError, ValueError: for a `timeout_ms` that is no number.
            ConnectionError: after `close`.
        """
        return self._connection._get_result(self._mailbox, timeout_ms)

    def infer(
        self,
        timeout_ms: float = 100,
        urgency: float = 0.0,
        steps_remaining: int | None = None,
        priority: int | None = None,
        **values: Any,
    ) -> Result | None:
        """Sends an observation and waits for the answer to this very one; None after `timeout_ms`.

        Raises:
            InferenceError: the request ended without a result, RequestSuperseded included.
            TypeError, ValueError, ConnectionError: as `observe`.
        """
        hints = {"urgency": urgency, "steps_remaining": steps_remaining, "priority": priority}
        return self._connection._infer(self._mailbox, values, hints, timeout_ms)
