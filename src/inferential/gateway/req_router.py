"""A ROUTER for REQ sockets, with bounds that libzmq does not have.

There, frames of a message that does not end are held however many they are. Here a message is an empty frame and
another one; what has more ends its connection, and so does what does not come on.
(ZMTP 3.1, https://rfc.zeromq.org/spec/37/; the request-reply pattern, https://rfc.zeromq.org/spec/28/)
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
from collections.abc import Callable

from inferential.gateway.receiving import RECEIVE_S, Receiving
from inferential.notices import Notices
from inferential.transport.acceptance import HANDSHAKE_S
from inferential.transport.descriptors import has_room
from inferential.transport.keepalive import enable_keepalive
from inferential.transport.listening import Listener
from inferential.transport.silent import SILENT
from inferential.zmtp import ConnectionEnded, ProtocolError, Stream
from inferential.zmtp.handshake import NullHandshake

logger: logging.Logger = logging.getLogger("inferential.gateway.req_router")

LINGER_S = 0.5
"""How long the end waits for replies that are not sent yet."""
_FRAMES = 2  # empty, message
_NO_REQ = "a message of other frames than an empty one and another: it is no REQ socket"
_UNREAD_REPLIES = 4  # of one peer; a REQ socket reads each before it asks again


class ReqPeer:
    """One connection.

    Attributes:
        identity: as its socket says, else a generated one that begins with a zero byte; b"" during the handshake.
        host: its address as HOST:PORT.
    """

    def __init__(self, stream: Stream, host: str) -> None:
        self.stream = stream
        self.host = host
        self.identity = b""
        self.overdue: asyncio.TimerHandle | None = None
        self.writing = False
        self.begun = False  # a large frame of its message


class ReqRouter:
    """Listens for REQ sockets, on the running event loop.

    Args:
        listener: where; it is closed with this.
        largest: the bytes of a message at most.
        on_message: called with each message and who it is from.
        on_refused: called with a peer whose connection ends for its message.
    """

    def __init__(
        self,
        listener: Listener,
        largest: int,
        on_message: Callable[[ReqPeer, bytes], None],
        on_refused: Callable[[ReqPeer], object] = lambda peer: None,
    ) -> None:
        self._listener = listener
        self._largest = largest
        self._on_message = on_message
        self._on_refused = on_refused
        self._loop = asyncio.get_running_loop()
        self._received = Receiving(largest)
        self._peers: dict[ReqPeer, None] = {}
        self._numbers = itertools.count(1)
        self._notices = Notices(logger)
        self._paused = False
        self._sent = asyncio.Event()  # all replies of a peer
        for listening in listener.sockets:
            self._loop.add_reader(listening, self._accept, listening)

    @property
    def address(self) -> str:
        """As tcp://HOST:PORT."""
        return self._listener.address

    def __len__(self) -> int:
        return len(self._peers)

    @property
    def arriving(self) -> int:
        """How many bytes the large messages have that are not whole."""
        return self._received.used

    def _accept(self, listening: socket.socket) -> None:
        try:
            accepted, place = listening.accept()
        except BlockingIOError:
            return
        except OSError as error:  # none is accepted for a second where descriptors are at an end
            self._notices.say("accept", "cannot accept connections: %s", error.strerror, level=logging.ERROR)
            self._loop.remove_reader(listening)
            self._loop.call_later(1.0, self._accept_again, listening)
            return
        if not has_room(accepted.fileno()):
            text = "connections to %s are closed: few file descriptors are left (ulimit -n)"
            self._notices.say("scarce", text, self.address, level=logging.WARNING)
            accepted.close()
            return
        enable_keepalive(accepted)
        handshake = NullHandshake(b"ROUTER", b"", accepting=True)
        try:
            stream = Stream(accepted, b"ROUTER", b"", self._largest, _FRAMES, handshake)
        except (ConnectionEnded, OSError):
            accepted.close()
            return
        peer = ReqPeer(stream, f"{place[0]}:{place[1]}")
        self._peers[peer] = None
        SILENT.note(peer, lambda: self._drop(peer, "it never asked, and descriptors are needed"))
        peer.overdue = self._loop.call_later(HANDSHAKE_S, self._on_overdue, peer, "its handshake takes too long")
        if not self._paused:  # else its greeting would wake the event loop over and over, unread
            self._loop.add_reader(stream.fileno(), self._on_readable, peer)

    def _accept_again(self, listening: socket.socket) -> None:
        if listening.fileno() >= 0:
            self._loop.add_reader(listening, self._accept, listening)

    def _on_readable(self, peer: ReqPeer) -> None:
        if self._paused or peer not in self._peers:
            return
        try:
            if not peer.identity:
                if not peer.stream.handshake():
                    self._flush(peer)
                    return
                self._greeted(peer)
            elif not peer.stream.buffered():
                peer.stream.read()
            while not self._paused and (frames := peer.stream.next()) is not None:
                self._expect_no_more(peer)
                peer.begun = False
                if not isinstance(frames, list) or len(frames) != _FRAMES or len(frames[0]):
                    raise ProtocolError(_NO_REQ)
                SILENT.forget(peer)
                self._on_message(peer, bytes(frames[1]))
        except (ConnectionEnded, MemoryError) as error:
            if isinstance(error, ProtocolError):
                self._refuse(peer, str(error))
            elif isinstance(error, MemoryError):
                self._refuse(peer, "no memory is left for its message")
            else:
                self._drop(peer, "")
            return
        self._flush(peer)

    def _greeted(self, peer: ReqPeer) -> None:
        self._expect_no_more(peer)
        found = peer.stream.peer
        assert found is not None
        peer.identity = found.identity or b"\0" + next(self._numbers).to_bytes(4)
        peer.stream.reserve_by(lambda size: self._reserve(peer, size))

    def _reserve(self, peer: ReqPeer, size: int) -> bool:
        """Notes that a large frame has begun; it is the only one of its message."""
        if peer.begun:
            self._loop.call_soon(self._refuse, peer, _NO_REQ)  # not in the midst of reading it
        self._expect_no_more(peer)
        peer.begun = True
        peer.overdue = self._loop.call_later(RECEIVE_S, self._on_overdue, peer, "a message has not arrived in time")
        # Another peer may end for it, or this one: once it is not in the midst of reading.
        self._received.note(
            peer, size, lambda: self._loop.call_soon(self._refuse, peer, "its message takes the room of others")
        )
        return True

    def _expect_no_more(self, peer: ReqPeer) -> None:
        self._received.done(peer)
        if peer.overdue is not None:
            peer.overdue.cancel()
            peer.overdue = None

    def reply(self, peer: ReqPeer, message: bytes) -> None:
        """Sends a reply, unless the connection has ended."""
        if peer not in self._peers:
            return
        try:
            peer.stream.send((b"", message))
            if peer.stream.unsent > _UNREAD_REPLIES:
                raise ProtocolError("it does not read replies")
        except ConnectionEnded as error:
            self._drop(peer, str(error) if isinstance(error, ProtocolError) else "")
            return
        self._flush(peer)

    def _flush(self, peer: ReqPeer) -> None:
        """Watches for writability while something is unsent."""
        if peer in self._peers and bool(peer.stream.unsent) != peer.writing:
            peer.writing = not peer.writing
            if peer.writing:
                self._loop.add_writer(peer.stream.fileno(), self._on_writable, peer)
            else:
                self._loop.remove_writer(peer.stream.fileno())
                self._sent.set()

    def _on_writable(self, peer: ReqPeer) -> None:
        try:
            peer.stream.flush()
        except ConnectionEnded:
            self._drop(peer, "")
            return
        self._flush(peer)

    def pause(self) -> None:
        """Receives nothing until `resume`: what is sent stays with the system, and in the end with the peers."""
        if not self._paused:
            self._paused = True
            for peer in self._peers:
                self._loop.remove_reader(peer.stream.fileno())

    def resume(self) -> None:
        """Receives again."""
        if self._paused:
            self._paused = False
            for peer in self._peers:
                self._loop.add_reader(peer.stream.fileno(), self._on_readable, peer)
                if peer.stream.buffered():
                    self._loop.call_soon(self._on_readable, peer)

    def _on_overdue(self, peer: ReqPeer, why: str) -> None:
        if self._paused:  # what is late may be there already
            peer.overdue = self._loop.call_later(HANDSHAKE_S, self._on_overdue, peer, why)
        else:
            self._refuse(peer, why)

    def _refuse(self, peer: ReqPeer, why: str) -> None:
        """Ends a connection for what its peer sent, or did not send on; one without an identity has sent no message."""
        if peer in self._peers and peer.identity:
            self._on_refused(peer)
        self._drop(peer, why)

    def _drop(self, peer: ReqPeer, why: str) -> None:
        if self._peers.pop(peer, peer) is peer:
            return  # it has ended already
        if why:
            self._notices.say((peer.host.rpartition(":")[0], why[:80]), "%s: connection ended: %s", peer.host, why)
        SILENT.forget(peer)
        self._expect_no_more(peer)
        self._loop.remove_reader(peer.stream.fileno())
        self._loop.remove_writer(peer.stream.fileno())
        peer.stream.close()
        self._sent.set()

    async def close(self) -> None:
        """Listens no more, sends what is unsent within `LINGER_S`, and ends all connections."""
        for listening in self._listener.sockets:
            self._loop.remove_reader(listening)
        self._listener.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while any(peer.writing for peer in self._peers):
                    self._sent.clear()
                    await self._sent.wait()
        for peer in list(self._peers):
            self._drop(peer, "")
