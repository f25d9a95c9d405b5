"""`Connection` and `Model`: the robot SDK for threads.

Threads may share a connection and its handles. The socket is used under one lock. Of the threads that wait for
responses one at a time, the leader, sleeps on the socket's descriptor with the lock released, and wakes the others, its
followers, for what arrives. While connected there is no background thread, so a robot with one control loop pays for
none. While connecting, or while the system does not accept all of a message at once, a background thread pumps, since
the next call may come as late as the next control period.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import ref

from inferential.client.arguments import check_names, timeout_s_of
from inferential.client.failover import open_transport
from inferential.client.fork import cannot_be_copied, forked, leave_to_parent
from inferential.client.handle import Handle, ModelFactory, ObservationHints
from inferential.client.keys import client_id_with, robot_keys
from inferential.client.lock import ConnectionLock
from inferential.client.mailbox import Mailbox, Outcome, result_of
from inferential.client.model import Model
from inferential.client.result import ClientStats, Result
from inferential.client.session import Session, SessionSizes
from inferential.proto.messages import Content
from inferential.wall_clock import wall_ns

if TYPE_CHECKING:
    from typing_extensions import Self

FIRST_CONNECT_MS = 50
"""Longest time in milliseconds that the first `observe` of a connection waits until it is connected."""
FULL_SOCKET_MS = 5
"""Longest time that an `observe` waits for room in the socket; later ones do not wait until there was room."""
LONGEST_SLEEP_S = 3600.0
"""Longest single sleep: the system calls accept neither infinity nor very long times."""
_UNREAD_S = 1e-3  # the system says by milliseconds when something came
BACKGROUND_PUMP_S = 0.5
"""Longest sleep of the background thread, after which a connection without references can be collected."""


class Connection(ModelFactory["Model"]):
    """Connects a robot to an Inferential server; any number of model handles share the connection.

    The connection is made in the background, and again whenever it is lost. While the server cannot be reached,
    `observe` does not block: of a "latest" handle the newest observation is kept and sent on reconnecting, of all "all"
    handles together the newest 256. Threads may share a connection. It is a context manager that closes it.

    Args:
        server: HOST:PORT, tcp://HOST:PORT or ipc://PATH. Several addresses, as a sequence or separated by commas, are
            servers of the same models: each robot has a server of its own and uses another while that one is away.
        client_id: the robot's id, at most 255 bytes of printable text; a unique one is made where it is empty.
        client_type: the kind of robot, for people to read.
        reconnect_ivl_ms: wait before the first attempt to reconnect, in milliseconds.
        reconnect_max_ms: longest wait between attempts, in milliseconds.
        server_key: the server's public key, a NAME.key file or 40 characters of Z85; of several servers one for all,
            or one for each. All is encrypted with it. None: what INFERENTIAL_SERVER_KEY says; "": no encryption.
        secret_key: the robot's own key, a NAME.key_secret file or 40 characters of Z85; None: what
            INFERENTIAL_SECRET_KEY says. Where client_id is empty, it is the NAME.

    Raises:
        TypeError, ValueError: naming an argument, its value and what is expected.
        ImportError: keys are given, and PyNaCl is not installed.

    Example:
        ```python
        import numpy as np
        from inferential import Connection

        with Connection("localhost:5555", client_id="arm-01") as connection:
            policy = connection.model("policy", latency_budget_ms=50.0)
            policy.observe(state=np.zeros(7, dtype=np.float32), prompt="pick up the red cube")
            result = policy.get_result(timeout_ms=1000)
            assert result is not None
            print(result["actions"])
        ```
    """

    def __init__(
        self,
        server: str | Sequence[str] = "localhost:5555",
        client_id: str | int = "",
        client_type: str = "",
        reconnect_ivl_ms: int = 100,
        reconnect_max_ms: int = 5000,
        server_key: str | Sequence[str] | None = None,
        secret_key: str | None = None,
    ) -> None:
        check_names(client_id, client_type)
        keys = robot_keys(server_key, secret_key)
        self._session = Session(client_id_with(client_id, keys), client_type)
        self._transport = open_transport(server, self._session.client_id, reconnect_ivl_ms, reconnect_max_ms, keys)
        self._lock = ConnectionLock()
        self._arrived = threading.Condition(self._lock)
        self._followers = 0
        self._leading, self._leader = False, 0  # and the thread that leads
        self._closed = self._released = self._forked = False
        leave_to_parent(self)
        self._reached = False
        self._was_writable = True
        self._looked_at = time.monotonic()  # for answers
        self._woken = False
        self._woken_by, self._wakes = socket.socketpair()
        self._leader_poll = select.poll()  # used by one thread at a time, without the lock
        self._leader_poll.register(self._transport.fd, select.POLLIN)
        self._leader_poll.register(self._woken_by, select.POLLIN)
        self._writable_poll = select.poll()  # used under the lock
        self._writable_poll.register(self._transport.fd, select.POLLIN)
        self._pump_thread: threading.Thread | None = None

    @property
    def client_id(self) -> str:
        """The client id that identifies this connection on the server."""
        return self._session.client_id

    @property
    def last_error(self) -> str | None:
        """Why the server cannot be reached, in words; None while it is connected, as far as is known."""
        with self._lock:
            return self._transport.last_error

    @property
    def stats(self) -> ClientStats:
        """Counts of observations and of what became of them, live, not a copy, and what is known of the link."""
        self._session.stats.note_link(self._transport.delivery)
        return self._session.stats

    @property
    def waiting(self) -> int:
        """How many threads sleep in `get_result` or `infer` now."""
        with self._lock:
            return self._followers + self._leading

    def sizes(self) -> SessionSizes:
        """Returns the sizes of what the connection holds in memory; all are bounded while its handles are."""
        with self._lock:
            return self._session.sizes()

    def _open_model(self, handle: Handle) -> Model:
        with self._lock:
            self._check_open()
            return Model(self, self._session.mailbox(handle))

    def close(self) -> None:
        """Closes the connection; threads that wait in it raise ConnectionError. Closing twice does nothing.

        The handler of a signal may close the connection, too: a call that it interrupts ends in ConnectionError, or as
        it would have ended.
        """
        if self._lock.is_held_here():
            self._closed = True  # the rest is done by the next call, which may be this one again
            return
        with self._lock:
            self._closed = True
            if self._leading and self._leader == threading.get_ident():
                self._wake()  # and by the call that sleeps below this one
                return
            while self._leading:
                self._wake()
                self._wait_as_follower(0.1)
            self._release()

    def _release(self) -> None:
        """Closes what the connection has open, once no thread waits for it."""
        if not self._released and not self._leading:
            self._released = True
            self._transport.close()
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
        now, timestamp_ns = time.monotonic(), wall_ns()
        content = mailbox.handle.content(values, hints)
        with self._lock:
            return self._send(mailbox, content, hints, now, timestamp_ns, keep=False)

    def _awaits(self, mailbox: Mailbox, request_id: int) -> bool:
        with self._lock:
            return mailbox.awaits(request_id)

    def _heard_s_ago(self) -> float:
        with self._lock:
            return self._transport.heard_s_ago()

    def _nudge(self) -> None:
        with self._lock:
            self._check_open()
            self._transport.nudge()

    def _cancel(self, mailbox: Mailbox) -> int:
        with self._lock:
            self._check_open()
            count, sent = self._session.cancel(mailbox)
            self._transport.cancel(self._session, sent)
            self._notify()
            return count

    def _reset(self, model_id: str) -> None:
        with self._lock:
            self._check_open()
            self._session.reset(model_id)
            self._notify()

    def _get_result(self, mailbox: Mailbox, timeout_ms: float) -> Result | None:
        now = time.monotonic()
        deadline = now + timeout_s_of(timeout_ms)
        with self._lock:
            self._check_open()
            looked_at = self._looked_at
            if mailbox.unread and self._transport.pump(self._session):  # something newer may have arrived
                self._notify()
            outcome = self._wait(mailbox.take, deadline)
            self._looked_at = now
            if isinstance(outcome, Result) and now - looked_at > _UNREAD_S:
                lay_s = self._transport.received_s_ago()
                if lay_s == lay_s:  # not nan
                    outcome.lay_unread(min(lay_s, now - looked_at))
        try:
            return result_of(outcome)
        finally:
            del outcome  # see there

    def _infer(
        self, mailbox: Mailbox, values: Mapping[str, Any], hints: ObservationHints, timeout_ms: float
    ) -> Result | None:
        timeout_s = timeout_s_of(timeout_ms)
        now, timestamp_ns = time.monotonic(), wall_ns()
        content = mailbox.handle.content(values, hints)
        outcome = None
        with self._lock:
            request_id = self._send(mailbox, content, hints, now, timestamp_ns, keep=True)
            try:
                outcome = self._wait(lambda: mailbox.take_kept(request_id), time.monotonic() + timeout_s)
            finally:
                if outcome is None:
                    self._transport.cancel(self._session, self._session.abandon(mailbox, request_id))
        try:
            return result_of(outcome)
        finally:
            del outcome  # see there

    # Under the lock

    def _send(
        self, mailbox: Mailbox, content: Content, hints: ObservationHints, now: float, timestamp_ns: int, *, keep: bool
    ) -> int:
        self._check_open()
        transport = self._transport
        request_id, frames = self._session.observe(mailbox, content, hints, now, timestamp_ns, keep)
        # After a pause the connection may have been lost.
        ended = now >= transport.next_poll_at() and transport.pump(self._session) > 0
        if not self._reached and mailbox.waits:
            self._reached = True
            ended = self._wait_until_writable(FIRST_CONNECT_MS) or ended
        ended = transport.send(self._session, mailbox, request_id, frames) or ended
        if transport.idle():
            self._was_writable = True
        else:
            ended = self._finish_sending(mailbox) or ended
        if ended:
            self._notify()
        return request_id

    def _finish_sending(self, mailbox: Mailbox) -> bool:
        """Waits shortly for room in the socket and leaves the rest to a thread; returns whether requests ended."""
        ended = False
        if self._was_writable and not self._transport.writable and mailbox.waits:
            # The system mostly accepts a large message in a fraction of a millisecond.
            ended = self._wait_until_writable(FULL_SOCKET_MS)
        self._was_writable = self._was_writable or self._transport.writable
        if self._pump_thread is None and not self._transport.idle():
            self._pump_thread = threading.Thread(
                target=_background_pump, args=(ref(self),), name="inferential-pump", daemon=True
            )
            self._pump_thread.start()
        return ended

    def _wait_until_writable(self, timeout_ms: float) -> bool:
        """Waits until the transport is writable; returns whether requests ended."""
        now = time.monotonic()
        deadline = now + timeout_ms / 1e3
        ended = 0
        while True:
            ended += self._transport.pump(self._session)
            self._was_writable = self._transport.writable
            if self._was_writable or now >= deadline:
                return ended > 0
            self._writable_poll.poll(max(min(deadline, self._transport.next_poll_at()) - now, 0.0) * 1e3)
            now = time.monotonic()

    def _background_pump(self) -> bool:
        """Connects and sends unsent data for a while; returns False once that is done."""
        with self._lock:
            if self._closed or self._transport.idle():
                self._pump_thread = None
                return False
            self._sleep(min(BACKGROUND_PUMP_S, self._transport.next_poll_at() - time.monotonic()))
            if not self._closed and self._transport.pump(self._session):
                self._notify()
            return True

    def _wait(self, take: Callable[[], Outcome | None], deadline: float) -> Outcome | None:
        """Waits until there is an outcome, and returns it; None after the deadline."""
        outcome = take()  # it may have arrived while the rest of the observation was sent
        while outcome is None:
            now = time.monotonic()
            remaining = deadline - now
            if remaining > 0:
                # If a leader sleeps already, `next_poll_at` may have changed since.
                self._sleep(min(remaining, self._transport.next_poll_at() - now, LONGEST_SLEEP_S))
                self._check_open()
            if self._transport.pump(self._session):
                self._notify()
            outcome = take()
            if remaining <= 0:
                break
        return outcome

    def _sleep(self, timeout_s: float) -> None:
        """Sleeps with the lock released until a message arrives or another thread notifies this one."""
        if self._leading:
            self._wait_as_follower(timeout_s)
        else:
            self._wait_as_leader(timeout_s)

    def _wait_as_leader(self, timeout_s: float) -> None:
        """Sleeps with the lock released until the socket or another thread wakes it."""
        self._leading, self._leader = True, threading.get_ident()
        self._lock.release()
        try:
            self._leader_poll.poll(max(timeout_s, 0.0) * 1e3)
        finally:
            self._lock.acquire()
            self._leading = False
            if self._woken:
                self._woken_by.recv(1)
                self._woken = False
            if self._followers:  # another must lead if this one leaves with its outcome
                self._arrived.notify_all()

    def _wait_as_follower(self, timeout_s: float) -> None:
        """Sleeps with the lock released until another thread notifies it."""
        self._followers += 1
        try:
            self._arrived.wait(timeout_s)
        finally:
            self._followers -= 1

    def _notify(self) -> None:
        if self._followers:
            self._arrived.notify_all()
        if self._leading:
            self._wake()

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._wakes.send(b"\0")

    def __reduce__(self) -> NoReturn:
        raise cannot_be_copied(self.client_id)

    def _after_fork(self) -> None:
        """Leaves the connection to the parent: in the child nothing of it may be read, written or shut down."""
        self._forked = self._closed = self._released = True
        self._lock = ConnectionLock()  # another thread of the parent may have held the one before
        self._arrived = threading.Condition(self._lock)
        self._followers, self._leading = 0, False  # and may have slept, which the child has not

    def _check_open(self) -> None:
        if self._forked:
            raise forked(self.client_id)
        if self._closed:
            self._release()
            raise ConnectionError(f"the connection of client {self.client_id!r} is closed")


def _background_pump(connection: ref[Connection]) -> None:
    while (pumped := connection()) is not None and pumped._background_pump():
        del pumped
