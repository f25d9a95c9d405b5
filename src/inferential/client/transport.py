"""A robot's transport to its server: sends observations and reads responses, without blocking.

`client.sync` and `client.aio` wait for it, each in its own way.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Sequence
from typing import Protocol

from inferential.client.backoff import LinkTimeouts
from inferential.client.keys import HandshakeMaker
from inferential.client.link import Link
from inferential.client.mailbox import Mailbox
from inferential.client.returning import Returning
from inferential.client.session import Frames, Session
from inferential.zmtp.delivery import Delivery
from inferential.zmtp.ipc import MAX_PATH_BYTES, path_bytes
from inferential.zmtp.protocol import Discarded

RECEIVE_S = 2e-3
"""How long messages are read in one go, so that no server holds a robot's control loop."""


def normalize_address(server: str) -> str:
    """Returns `server` with tcp:// before it where no scheme is given.

    Raises:
        ValueError: it is not an address of a server.
    """
    address = server if "://" in server else f"tcp://{server}"
    transport, _, place = address.partition("://")
    host, _, port = place.rpartition(":")
    is_host = host != "*" and host.startswith("[") == host.endswith("]") and _is_name(host)
    is_tcp = transport == "tcp" and is_host and port.isdecimal() and 0 < int(port) < 65_536
    is_ipc = transport == "ipc" and place != ""
    if is_ipc and (size := path_bytes(place)) > MAX_PATH_BYTES:
        raise ValueError(f"server: expected a path of at most {MAX_PATH_BYTES} bytes, got {size}: {server!r}")
    if not is_tcp and not is_ipc:
        raise ValueError(f"server: expected HOST:PORT, tcp://HOST:PORT or ipc://PATH, got {server!r}")
    if is_tcp and host.lower().strip("[]").startswith("fe80:") and "%" not in host:
        raise ValueError(
            f"server: a link-local address needs its interface's name, as [fe80::1%eth0]:5555, got {server!r}"
        )
    return address


def _is_name(host: str) -> bool:
    try:
        return bool(host.encode("idna")) and host.isprintable()
    except UnicodeError:  # resolving it would raise the same
        return False


def link_timeouts(reconnect_ivl_ms: int, reconnect_max_ms: int) -> LinkTimeouts:
    """Returns the times between attempts to connect.

    Raises:
        ValueError: a time is not whole milliseconds of 0 or more.
    """
    for name, value in (("reconnect_ivl_ms", reconnect_ivl_ms), ("reconnect_max_ms", reconnect_max_ms)):
        if not isinstance(value, int) or not 0 <= value < 2**31:
            raise ValueError(f"{name}: expected whole milliseconds of 0 or more, got {value!r}")
    return LinkTimeouts(reconnect_ivl_ms / 1e3, reconnect_max_ms / 1e3)


class ClientTransport(Protocol):
    """The transport to the server, or to one of several.

    What every observation needs is a method, not a property, which costs more in CPython 3.11.
    """

    @property
    def fd(self) -> int:
        """A descriptor that is readable while `pump` has something to do."""
        ...

    def next_poll_at(self) -> float:
        """Returns when to call `pump` without an event, in seconds of `time.monotonic()`."""
        ...

    @property
    def writable(self) -> bool:
        """Whether the robot's own server is connected, and everything was handed to the system."""
        ...

    def idle(self) -> bool:
        """Returns whether there is nothing to do but to wait for answers: all connections are made, all data is sent
        and, on a link that is not known to be fast, has arrived.

        It is `writable` then.
        """
        ...

    @property
    def last_error(self) -> str | None:
        """Why no server can be reached, in words; None while one is connected."""
        ...

    @property
    def delivery(self) -> Delivery:
        """What the connection to the robot's server carries."""
        ...

    closed: bool
    """Whether `close` was called."""

    def send(self, session: Session, mailbox: Mailbox, request_id: int, frames: Frames) -> bool:
        """Sends an observation, or lets the session hold it where no server can be reached.

        Returns whether another request ended because of it, whose waiter must be woken.
        """
        ...

    def received_s_ago(self) -> float:
        """Returns how long ago the newest data of the robot's server came, in seconds.

        Infinite while none is connected; nan where the system does not say.
        """
        ...

    def heard_s_ago(self) -> float:
        """Returns how long ago the robot's server was heard of, in seconds, see `Link.heard_s_ago`.

        Infinite while none is connected; nan where the system does not say.
        """
        ...

    def pump(self, session: Session) -> int:
        """Sends what is held and reads all messages; returns the number of requests that ended."""
        ...

    def cancel(self, session: Session, request_ids: Sequence[int]) -> None:
        """Takes sent requests back from the server; does nothing while it is away."""
        ...

    def nudge(self) -> None:
        """Sends the robot's server a heartbeat out of turn, if that can be done at once."""
        ...

    def close(self) -> None:
        """Closes the connection."""
        ...


class SingleServer:
    """The transport to one server.

    Raises:
        ValueError: an address or a time is not one.
    """

    def __init__(
        self,
        server: str,
        client_id: str,
        reconnect_ivl_ms: int,
        reconnect_max_ms: int,
        make_handshake: HandshakeMaker | None = None,
    ) -> None:
        address, timeouts = normalize_address(server), link_timeouts(reconnect_ivl_ms, reconnect_max_ms)
        self._selector = selectors.DefaultSelector()
        self._link = Link(address, client_id.encode(), timeouts, self._selector, make_handshake=make_handshake)
        self.fd: int = fd_of(self._selector)
        self.closed: bool = False
        self._held = False  # an observation waits until the link is clear
        self._returning = Returning(self._link)
        self._link.poll(time.monotonic())

    def next_poll_at(self) -> float:
        link = self._link
        if link.unread and link.connected:
            return 0.0  # what was read of the socket already does not make it readable
        return min(link.next_poll_at, link.delivery.clear_at) if self._held and link.writable else link.next_poll_at

    @property
    def writable(self) -> bool:
        return self._link.writable

    def idle(self) -> bool:
        delivery = self._link.delivery
        return self._link.writable and not self._held and not (delivery.clear_at and delivery.expects)

    @property
    def last_error(self) -> str | None:
        return self._link.last_error

    @property
    def delivery(self) -> Delivery:
        return self._link.delivery

    def send(self, session: Session, mailbox: Mailbox, request_id: int, frames: Frames) -> bool:
        link = self._link
        clear_at = link.delivery.clear_at
        if (
            (clear_at and mailbox.handle.queue == "latest" and time.monotonic() < clear_at)
            or (session.has_unsent() and session.must_wait(mailbox))
            or not link.try_send(frames)
        ):
            self._held = True
            return session.hold(mailbox, request_id, frames)
        return False

    def received_s_ago(self) -> float:
        return self._link.received_s_ago()

    def heard_s_ago(self) -> float:
        return self._link.heard_s_ago()

    def pump(self, session: Session) -> int:
        link = self._link
        ended = receive(link, session)
        now = time.monotonic()
        if self._held or not link.writable or now >= link.next_poll_at:
            if link.poll(now):
                ended += self._returning.lost(session, now)
            if self._returning.awaited:
                ended += self._returning.settle(session, now)
            send_held(link, session, now)
            self._held = session.has_unsent()
            ended += receive(link, session)
        return ended

    def cancel(self, session: Session, request_ids: Sequence[int]) -> None:
        if self._link.takes_cancellations:
            for frames in session.cancellations(request_ids):
                self._link.try_send(frames)

    def nudge(self) -> None:
        self._link.nudge(time.monotonic())

    def close(self) -> None:
        self.closed = True
        self._link.close()
        self._selector.close()


def fd_of(selector: selectors.BaseSelector) -> int:
    """Returns the selector's own descriptor."""
    return selector.fileno()  # type: ignore[attr-defined,no-any-return]  # of epoll and kqueue, not of select


def send_held(link: Link, session: Session, now: float) -> None:
    """Sends what is held, as far as the link is clear for it."""
    while (unsent := session.next_unsent(now, latest=link.delivery.clear_at <= now)) is not None:
        if not link.try_send(unsent[1]):
            return
        session.sent(unsent[0])


def receive(link: Link, session: Session) -> int:
    """Reads the messages of a link that have arrived; returns their number.

    Those of a server that sends without end are read for `RECEIVE_S`; `link.unread` says that some may be left.
    """
    count, until = 0, 0.0
    link.unread = False
    while (frames := link.next()) is not None:
        count += 1
        now = time.monotonic()
        if isinstance(frames, list) and len(frames) == 3:
            _, envelope, payload = frames
            session.receive(envelope, payload, now)
        elif frames is not Discarded.PART:
            session.stats.unmatched += 1
        if not link.more:
            return count
        if not until:
            until = now + RECEIVE_S
        elif now >= until:
            link.unread = True
            return count
    link.unread = link.connected and not link.drained
    return count
