"""A link with a controlled clock: when it connects, when it times out, and what it delivers."""

from __future__ import annotations

import contextlib
import math
import selectors
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.zmtp.conftest import fill, read_exactly

from inferential.client import link as module
from inferential.client.attempts import Attempts
from inferential.client.backoff import LinkTimeouts
from inferential.client.dialer import CONNECT_S
from inferential.client.link import HANDSHAKE_S, Link
from inferential.zmtp import ConnectionEnded
from inferential.zmtp import protocol as p
from inferential.zmtp.sockets import Connected, abort

PATIENCE = LinkTimeouts(reconnect_s=0.1, reconnect_max_s=1.0, heartbeat_s=1.0, silence_s=5.0)
HELLO = p.greeting() + p.ready(b"ROUTER", b"")
LARGE = bytes(8_000_000)


def message(payload: bytes) -> bytes:
    return b"".join(bytes(part) for part in p.message([b"", b"e", payload], 1))


class Server:
    """A listening socket, and the connections that it has accepted."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(60)
        self.port = self.listener.getsockname()[1]
        self.ends: list[socket.socket] = []

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def accept(self) -> socket.socket:
        end, _ = self.listener.accept()
        end.settimeout(60)
        self.ends.append(end)
        return end

    def close(self) -> None:
        for one in (self.listener, *self.ends):
            one.close()


class Robot:
    """A link, what wakes it, and the time."""

    def __init__(
        self, address: str, timeouts: LinkTimeouts = PATIENCE, jitter: Callable[[], float] = lambda: 0.0
    ) -> None:
        self.selector = selectors.DefaultSelector()
        self.link = Link(address, b"robot", timeouts, self.selector, jitter)
        self.now = 0.0

    def poll(self, now: float | None = None) -> bool:
        self.now = self.now if now is None else now
        return self.link.poll(self.now)

    def wake(self) -> None:
        """Something must come; then looks, at the same time as before."""
        assert self.selector.select(10)
        self.poll()

    def until(self, condition: Callable[[], Any]) -> None:
        while not condition():
            self.wake()

    def next(self) -> Any:
        assert self.selector.select(10)
        return self.link.next()

    def connect(self, server: Server) -> socket.socket:
        """Until it is connected; the server's end."""
        if self.is_away:
            self.poll(max(self.now, self.link.next_poll_at))
        end = server.accept()
        end.sendall(HELLO)
        self.until(lambda: self.link.connected)
        assert read_exactly(end, 64) == p.greeting()
        assert read_exactly(end, len(p.ready(b"DEALER", b"robot"))) == p.ready(b"DEALER", b"robot")
        return end

    @property
    def is_listening(self) -> bool:
        """Whether connections are being made, or stand, of which none is used."""
        return not self.link.connected and bool(self.selector.get_map())

    @property
    def is_away(self) -> bool:
        """Whether there is nothing to wait for but the time."""
        return not self.link.connected and not self.selector.get_map()


@pytest.fixture
def server() -> Iterator[Server]:
    opened = Server()
    yield opened
    opened.close()


@pytest.fixture
def make_robot() -> Iterator[Callable[..., Robot]]:
    made: list[Robot] = []

    def make(*inputs: Any, **options: Any) -> Robot:
        made.append(Robot(*inputs, **options))
        return made[-1]

    yield make
    for robot in made:
        robot.link.close()
        robot.link.close()
        assert not robot.selector.get_map()
        robot.selector.close()


@pytest.fixture
def robot(server: Server, make_robot: Callable[..., Robot]) -> Robot:
    return make_robot(server.address)


Make = Callable[..., Robot]


# Away


def test_an_outage_is_logged_once_with_its_reason_and_so_is_its_end(
    robot: Robot, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.close()
    waits(robot, 3)
    assert robot.link.last_error == "Connection refused"
    assert [record.message for record in caplog.records] == [
        f"cannot connect to {server.address} (Connection refused); retrying with backoff"
    ]
    server.listener = socket.create_server(("127.0.0.1", server.port))
    robot.poll(robot.link.next_poll_at)
    robot.connect(server)
    assert robot.link.last_error is None
    assert caplog.records[-1].message == f"connected to {server.address}"
    assert len(caplog.records) == 2


def waits(robot: Robot, count: int) -> list[float]:
    """How long it waits after each of so many attempts that fail."""
    found = []
    for _ in range(count):
        robot.poll(robot.link.next_poll_at)
        robot.until(lambda: robot.is_away)
        found.append(round(robot.link.next_poll_at - robot.now, 9))
    return found


def test_without_a_listener_the_wait_doubles_up_to_that_after_a_refusal(server: Server, robot: Robot) -> None:
    server.close()
    assert waits(robot, 6) == [0.1, 0.2, 0.4, 0.7, 0.7, 0.7]


def test_robots_whose_server_restarts_are_all_back_within_two_seconds(server: Server, make_robot: Make) -> None:
    timeouts = LinkTimeouts(0.1, 5.0)
    robots = [make_robot(server.address, timeouts, lambda number=number: number / 7) for number in range(8)]
    server.close()
    for robot in robots:
        assert max(waits(robot, 8)) <= 1.4
    assert len({round(robot.link.next_poll_at - robot.now, 3) for robot in robots}) == 8  # and not all at once


def test_a_path_that_is_not_there_is_tried_again(short_path: Path, make_robot: Make) -> None:
    assert waits(make_robot(f"ipc://{short_path}/nothing"), 2) == [0.1, 0.2]


def test_a_longest_wait_below_the_first_changes_nothing(server: Server, make_robot: Make) -> None:
    server.close()
    assert waits(make_robot(server.address, LinkTimeouts(0.1, 0.05)), 3) == [0.1, 0.1, 0.1]


def test_a_wait_of_nothing_still_leaves_the_processor_to_others(server: Server, make_robot: Make) -> None:
    server.close()
    assert waits(make_robot(server.address, LinkTimeouts(0.0, 0.0)), 2) == [0.001, 0.001]


def test_robots_that_lost_their_server_at_once_do_not_come_back_at_once(server: Server, make_robot: Make) -> None:
    server.close()
    assert waits(make_robot(server.address, jitter=lambda: 0.5), 3) == [0.15, 0.25, 0.45]


def test_nothing_is_tried_before_the_time_has_come(server: Server, robot: Robot) -> None:
    server.listener.close()
    waits(robot, 1)
    robot.poll(robot.link.next_poll_at - 0.01)
    assert robot.is_away


def test_once_it_was_connected_the_first_wait_is_the_shortest_again(server: Server, robot: Robot) -> None:
    real, server.listener = server.listener, socket.socket()
    real.close()
    assert waits(robot, 3)[-1] == 0.4
    server.listener.close()
    server.listener = socket.create_server(("127.0.0.1", server.port))
    server.listener.settimeout(60)
    robot.connect(server).close()
    assert robot.next() is None
    assert robot.poll()
    assert round(robot.link.next_poll_at - robot.now, 9) == 0.1


def test_nothing_can_be_sent_while_it_is_away(server: Server, robot: Robot) -> None:
    server.close()
    assert not robot.link.try_send((b"", b"e", b"p"))
    assert robot.link.next() is None
    waits(robot, 1)
    assert not robot.link.writable
    assert not robot.link.try_send((b"", b"e", b"p"))


# Names


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What is found of a name, and `asked`, which lets it be found."""
    known: dict[str, Any] = {"asked": threading.Event()}
    real = socket.getaddrinfo

    def find(host: str, port: int, flags: int = 0, **inputs: Any) -> Any:
        if flags & socket.AI_NUMERICHOST or host not in known:
            return real(host, port, flags=flags, **inputs)
        known["asked"].wait(60)
        if not known[host]:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in known[host]]

    monkeypatch.setattr(socket, "getaddrinfo", find)
    yield known
    known["asked"].set()


def test_a_name_is_looked_for_without_waiting(server: Server, make_robot: Make, names: dict[str, Any]) -> None:
    names["server.lan"] = ["127.0.0.1"]
    robot = make_robot(f"tcp://server.lan:{server.port}")
    robot.poll(0.0)
    robot.poll(5.0)
    assert not robot.link.connected
    names["asked"].set()
    robot.wake()
    server.accept().sendall(HELLO)
    robot.until(lambda: robot.link.connected)


def test_an_unknown_name_is_resolved_again(make_robot: Make, names: dict[str, Any]) -> None:
    names["server.lan"] = []
    names["asked"].set()
    assert waits(make_robot("tcp://server.lan:5555"), 3) == [0.1, 0.2, 0.4]


def test_it_can_be_closed_while_a_name_is_looked_for(make_robot: Make, names: dict[str, Any]) -> None:
    names["server.lan"] = ["127.0.0.1"]
    robot = make_robot("tcp://server.lan:5555")
    robot.poll(0.0)
    robot.link.close()
    assert robot.is_away


def test_of_several_addresses_the_next_is_tried_at_once(
    server: Server, make_robot: Make, names: dict[str, Any]
) -> None:
    names["server.lan"] = ["127.0.0.2", "127.0.0.1"]  # the server listens on the second only
    names["asked"].set()
    robot = make_robot(f"tcp://server.lan:{server.port}")
    robot.poll(0.0)
    robot.until(lambda: robot.is_away and robot.link.next_poll_at == 0.0)
    robot.connect(server)
    assert robot.now == 0.0


def test_an_address_that_does_not_answer_costs_a_quarter_of_a_second(
    server: Server, make_robot: Make, names: dict[str, Any]
) -> None:
    """By a listener whose queue is full: the system answers no attempt to connect to it."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.3", server.port))
        deaf.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.3", server.port))
        names["server.lan"] = ["127.0.0.3", "127.0.0.1"]
        names["asked"].set()
        robot = make_robot(f"tcp://server.lan:{server.port}")
        robot.poll(0.0)
        while robot.link.next_poll_at != 0.25:
            robot.wake()
        robot.poll(0.25)
        robot.connect(server)
        assert robot.now == 0.25
        for one in waiting:
            one.close()


def test_a_server_that_was_lost_may_be_found_elsewhere(server: Server, make_robot: Make, names: dict[str, Any]) -> None:
    names["server.lan"] = ["127.0.0.1", "127.0.0.9"]
    names["asked"].set()
    robot = make_robot(f"tcp://server.lan:{server.port}")
    robot.poll(0.0)
    robot.wake()
    robot.connect(server).close()
    names["server.lan"] = ["127.0.0.1"]
    assert robot.next() is None
    assert robot.poll()
    robot.poll(robot.link.next_poll_at)
    robot.wake()
    robot.connect(server)


# Connecting and shaking hands


def test_connecting_to_a_silent_server_times_out(server: Server, robot: Robot) -> None:
    robot.poll(0.0)
    end = server.accept()
    end.sendall(HELLO[:70])
    robot.wake()
    assert robot.link.next_poll_at == HANDSHAKE_S
    robot.poll(HANDSHAKE_S - 0.1)
    assert not robot.is_away
    assert not robot.poll(HANDSHAKE_S)  # it never stood
    assert robot.is_away
    assert round(robot.link.next_poll_at - robot.now, 9) == 0.1


def test_connecting_to_an_unreachable_server_times_out(make_robot: Make) -> None:
    with socket.socket() as listener:  # which has no room: what comes is left without an answer
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for one in fillers:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        robot = make_robot(f"tcp://127.0.0.1:{listener.getsockname()[1]}")
        robot.poll(0.0)
        for asked_at in (0.25, 0.75, 1.5, 2.5):  # again, beside, as a packet may have been lost
            assert robot.link.next_poll_at == asked_at
            robot.poll(asked_at)
        robot.poll(CONNECT_S - 0.1)
        assert not robot.is_away
        robot.poll(CONNECT_S)
        assert robot.is_away
        for one in fillers:
            one.close()


@pytest.mark.skipif(sys.platform != "linux", reason="these are options of Linux")
def test_a_connection_is_completed_by_its_first_data(server: Server) -> None:
    server.listener.settimeout(0)

    def waits_for_data() -> bool:
        with selectors.DefaultSelector() as selector:
            attempts = Attempts(selector)
            attempts.begin((socket.AF_INET, ("127.0.0.1", server.port)))
            connected, _ = attempts.advance()
            assert connected is not None
            try:
                server.accept()
                return False  # the system waits 0.2 s for data, this program may have been held up for longer
            except BlockingIOError:
                connected.send(bytes(64))
                return len(server.accept().recv(100)) == 64
            finally:
                attempts.discard(connected)

    assert any(waits_for_data() for _ in range(5))


@pytest.mark.skipif(sys.platform != "linux", reason="these are options of Linux")
def test_the_first_attempts_wait_for_a_round_trip_of_many_seconds_and_others_are_asked_for_twice() -> None:
    with socket.socket() as listener, selectors.DefaultSelector() as selector:
        listener.bind(("127.0.0.1", 0))
        attempts = Attempts(selector)
        listener.listen(0)  # has room for one, and the others get no answer
        for _ in range(6):
            attempts.begin((socket.AF_INET, listener.getsockname()))
        asked = [one.getsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT) for one in sockets(selector)]
        assert asked == [4, 4, 4, 4, 1, 1]
        attempts.close()


def sockets(selector: selectors.BaseSelector) -> list[socket.socket]:
    """What is registered with a selector, in that order."""
    return [key.fileobj for key in selector.get_map().values() if isinstance(key.fileobj, socket.socket)]


@pytest.mark.parametrize(
    "said", [b"HTTP/1.1 400 Bad Request\r\n", p.greeting() + p.ready(b"PUB", b""), p.greeting() + p.command(p.ERROR)]
)
def test_what_is_no_server_of_ours_is_tried_again_later(said: bytes, server: Server, robot: Robot) -> None:
    robot.poll(0.0)
    end = server.accept()
    end.sendall(said)
    robot.until(lambda: robot.is_away)
    assert robot.link.next_poll_at == 0.1
    end.settimeout(60)
    while end.recv(1000):  # it ends the connection
        pass


def test_a_connection_that_breaks_as_it_is_made_leaves_nothing(
    server: Server, robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ConnectionEnded("just now")

    monkeypatch.setattr(module, "Stream", broken)
    robot.poll(0.0)
    end = server.accept()
    robot.until(lambda: robot.is_away)
    assert end.recv(1) == b""


# Connected


def test_messages_go_and_come(server: Server, robot: Robot) -> None:
    end = robot.connect(server)
    assert robot.link.writable
    assert robot.link.try_send((b"", b"e", b"hello"))
    assert read_exactly(end, len(message(b"hello"))) == message(b"hello")
    end.sendall(message(b"one") + message(b"two"))
    assert [bytes(robot.next()[2]), bytes(robot.link.next()[2])] == [b"one", b"two"]  # type: ignore[index]
    assert robot.link.next() is None


def test_what_the_system_does_not_take_is_sent_when_it_does(server: Server, robot: Robot) -> None:
    end = robot.connect(server)
    robot.link.delivery.mark_every = math.inf
    assert robot.link.try_send((b"", b"e", LARGE))
    assert robot.link.connected
    assert not robot.link.writable
    assert not robot.link.try_send((b"", b"e", b"later"))
    data = b""
    while not robot.link.writable:
        data += end.recv(1_000_000)
        robot.poll()
    assert robot.link.try_send((b"", b"e", b"later"))
    whole = message(LARGE) + message(b"later")
    assert (data + read_exactly(end, len(whole) - len(data))) == whole


def test_what_came_before_the_end_is_given_first(server: Server, robot: Robot) -> None:
    end = robot.connect(server)
    end.sendall(p.ping() + message(b"last words"))
    end.close()
    assert bytes(robot.next()[2]) == b"last words"
    robot.until(lambda: robot.link.next() is None and robot.link.ended)
    assert not robot.link.writable
    assert robot.poll()
    assert robot.is_away


def test_what_ends_while_an_observation_is_being_sent_may_be_above_a_limit(server: Server, robot: Robot) -> None:
    end = robot.connect(server)
    assert "limit" not in robot.link.lost_reason
    assert robot.link.try_send((b"", b"e", LARGE))
    abort(end)
    robot.until(lambda: robot.is_away)
    assert robot.link.lost_reason.endswith("is it above the server's observations.max_payload_bytes?")


def test_an_end_that_sending_finds_is_for_look_to_see_to(server: Server, robot: Robot) -> None:
    end = robot.connect(server)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    end.close()
    assert robot.selector.select(10)
    assert not robot.link.try_send((b"", b"e", b"p"))
    assert not robot.link.writable  # or no thread would attend to it
    assert robot.poll()
    assert not robot.poll()


def test_an_answer_to_a_heartbeat_that_the_system_does_not_take_leaves_later(server: Server, robot: Robot) -> None:
    end = robot.connect(server)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)  # or the system makes it larger, as bytes come
    (connected,) = robot.selector.get_map().values()
    skipped = 0
    while robot.link.writable:  # the system frees room in a full socket at times, and takes the answer after all
        skipped += fill(connected.fd)
        end.sendall(p.ping())
        assert robot.next() is None
        if robot.link.writable:
            skipped += len(p.command(p.PONG))
    read_exactly(end, skipped)
    robot.until(lambda: robot.link.writable)
    assert read_exactly(end, 7) == p.command(p.PONG)


# Heartbeats


def pinged(end: socket.socket) -> bool:
    return read_exactly(end, len(p.ping())) == p.ping()


def test_a_server_that_gives_no_sign_of_life_after_a_heartbeat_is_lost(server: Server, robot: Robot) -> None:
    end = robot.connect(server)
    assert robot.link.next_poll_at == 1.0
    assert not robot.poll(1.0)
    assert pinged(end)
    assert robot.link.next_poll_at == 1.5  # to see whether the network is away
    assert not robot.poll(1.5)
    assert robot.link.next_poll_at == 1.52
    assert not robot.poll(5.99)
    assert robot.link.next_poll_at == 6.0
    assert robot.poll(6.0)
    assert not robot.link.connected


@pytest.mark.parametrize("round_trip_s", [2.0, 3.0, 10.0])
def test_on_a_slow_network_a_server_has_three_round_trips_for_its_sign_of_life(
    round_trip_s: float, server: Server, robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connected, "round_trip_s", lambda self: round_trip_s)
    end = robot.connect(server)
    assert not robot.poll(1.0)
    assert pinged(end)
    assert robot.link.next_poll_at == 1.0 + 1.5 * round_trip_s  # nothing else is tried before
    assert robot.link.heard_s_ago() <= 1.0
    lost_at = 1.0 + max(3 * round_trip_s, 5.0)
    assert not robot.poll(lost_at - 0.01)
    monkeypatch.setattr(Connected, "received_s_ago", lambda self: 12.0)
    assert robot.link.heard_s_ago() == 12.0
    assert robot.poll(lost_at)


def test_a_handshake_over_a_slow_network_has_four_round_trips(
    server: Server, robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connected, "round_trip_s", lambda self: 6.0)
    robot.poll(0.0)
    end = server.accept()
    end.sendall(HELLO[:70])
    robot.wake()
    assert not robot.poll(23.9)
    end.sendall(HELLO[70:])
    robot.until(lambda: robot.link.connected)


@pytest.mark.parametrize("sign", [p.command(p.PONG), message(b"an answer"), p.ping()])
def test_any_sign_of_life_will_do(sign: bytes, server: Server, robot: Robot) -> None:
    end = robot.connect(server)
    for number in range(1, 20):
        assert not robot.poll(float(number))
        assert pinged(end)
        end.sendall(sign)
        robot.next()
        if sign == p.ping():
            read_exactly(end, len(p.command(p.PONG)))
        while robot.link.next() is not None:
            pass


def test_a_heartbeat_of_an_idle_robot_does_not_end_the_measuring_of_its_link(server: Server, robot: Robot) -> None:
    """Its PONG is as empty as that of a peer which cannot say what it answers."""
    end = robot.connect(server)
    assert not robot.poll(1.0)
    assert pinged(end)
    end.sendall(p.command(p.PONG))
    robot.next()
    robot.link.try_send((b"", b"e", bytes(150_000)))
    assert robot.link.delivery.outstanding_bytes == 150_001


def test_a_nudge_is_the_next_heartbeat_where_the_last_one_was_answered(server: Server, robot: Robot) -> None:
    robot.link.nudge(0.0)  # while it is away, nothing
    end = robot.connect(server)
    robot.poll(1.0)
    assert pinged(end)
    end.sendall(p.command(p.PONG))
    assert robot.next() is None
    robot.link.nudge(1.9)
    assert pinged(end)
    assert robot.link.next_poll_at == 2.4  # whether there is an answer
    end.sendall(p.command(p.PONG))
    assert robot.next() is None
    robot.poll(2.4)
    assert robot.link.next_poll_at == 2.9
    robot.poll(2.9)
    assert pinged(end)


def test_nudges_give_the_server_no_longer_to_answer_a_heartbeat(server: Server, robot: Robot) -> None:
    end = robot.connect(server)
    robot.poll(1.0)
    assert pinged(end)
    for tenth in range(11, 60):
        robot.link.nudge(tenth / 10)
    assert pinged(end)
    assert not robot.poll(5.99)
    assert robot.poll(6.0)


def test_the_answer_to_a_marked_heartbeat_saves_the_wakeup_that_would_look_for_it(server: Server, robot: Robot) -> None:
    end = robot.connect(server)
    assert robot.link.try_send((b"", b"e", b"small"))
    read_exactly(end, len(message(b"small")))
    robot.poll(1.0)
    ping = end.recv(100)
    assert robot.link.next_poll_at == 1.5
    end.sendall(p.command(p.pong_body(ping[2:])))
    assert robot.next() is None
    assert robot.link.next_poll_at == 2.0


def test_nothing_is_nudged_while_data_is_unsent(server: Server, robot: Robot) -> None:
    end = robot.connect(server)
    robot.link.try_send((b"", b"e", LARGE))
    robot.link.nudge(0.5)
    received = len(end.recv(100_000))
    while not robot.link.writable:
        robot.poll()
        received += len(end.recv(1_000_000))
    end.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while data := end.recv(1_000_000):
            received += len(data)
    assert received <= len(message(LARGE)) + 2 * len(p.command(p.PING_BODY + bytes(8)))


def test_a_nudge_may_find_that_the_connection_has_ended(server: Server, robot: Robot) -> None:
    abort(robot.connect(server))
    assert robot.selector.select(10)
    robot.link.nudge(0.5)
    assert robot.link.ended
    assert robot.poll(0.6)


def test_a_robot_that_slept_and_was_answered_meanwhile_is_still_connected(server: Server, robot: Robot) -> None:
    end = robot.connect(server)
    robot.poll(1.0)
    assert pinged(end)
    end.sendall(p.command(p.PONG))
    assert robot.next() is None  # all that came is read, then comes the look
    assert not robot.poll(60.0)
    assert pinged(end)
    assert robot.link.next_poll_at == 60.5


def test_a_robot_that_slept_and_was_not_answered_connects_anew(server: Server, robot: Robot) -> None:
    end = robot.connect(server)
    robot.poll(1.0)
    assert pinged(end)
    assert robot.poll(60.0)
    assert robot.link.next_poll_at == 60.0  # at once: that the network was away says nothing against its server


def test_a_server_that_takes_a_large_message_slowly_is_not_lost(server: Server, robot: Robot) -> None:
    end = robot.connect(server)
    assert robot.link.try_send((b"", b"e", LARGE))
    taken = 0
    for second in range(1, 30):
        if robot.link.writable:
            break
        while not robot.selector.select(0):  # until the system takes more of it
            taken += len(end.recv(100_000))
        assert not robot.poll()
        assert not robot.poll(10.0 * second)
    assert robot.link.connected
    assert taken > 0


def test_a_server_that_takes_nothing_of_a_large_message_is_lost(server: Server, robot: Robot) -> None:
    robot.connect(server)
    assert robot.link.try_send((b"", b"e", LARGE))
    robot.poll(1.0)
    robot.poll(2.0)
    assert robot.poll(6.0)
