"""A network that is away for a while: a fresh connection overtakes one whose data is stuck."""

from __future__ import annotations

import errno
import selectors
import socket
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from tests.client.test_link import HELLO, LARGE, PATIENCE, Robot, Server, message, pinged
from tests.zmtp.conftest import read_exactly

from inferential.client.attempts import Attempts, every_s
from inferential.client.backoff import Backoff, LinkTimeouts
from inferential.zmtp import protocol as p
from inferential.zmtp import tcp
from inferential.zmtp.sockets import abort
from inferential.zmtp.stream import WITH_NEXT

OURS = p.greeting() + p.ready(b"DEALER", b"robot")


@pytest.fixture
def server() -> Iterator[Server]:
    opened = Server()
    yield opened
    opened.close()


@pytest.fixture
def robot(server: Server) -> Iterator[Robot]:
    made = Robot(server.address)
    yield made
    made.link.close()
    assert not made.selector.get_map()
    made.selector.close()


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on what was sent is stuck; on loopback nothing ever is."""
    return lambda: monkeypatch.setattr(tcp, "is_stuck", lambda *_: True)


def stalled(robot: Robot, server: Server) -> socket.socket:
    """A connection whose heartbeat has got no answer for half a second, and a fresh one beside it; the server's end."""
    end = robot.connect(server)
    assert not robot.poll(1.0)
    assert pinged(end)
    assert not robot.poll(1.5)
    return end


def accepted(server: Server) -> socket.socket:
    """The connection that the robot goes on with; others that it has asked for are closed, and may come first."""
    while True:
        end = server.accept()
        end.setblocking(False)
        try:
            if end.recv(1, socket.MSG_PEEK):
                break
        except BlockingIOError:
            break
    end.settimeout(60)
    return end


def until(robot: Robot, condition: Callable[[], bool]) -> bool:
    """Wakes until the condition holds; returns whether the connection was lost."""
    lost = False
    while not condition():
        assert robot.selector.select(10)
        lost = robot.poll() or lost
    return lost


def test_a_fresh_connection_takes_the_place_of_a_stuck_one(
    robot: Robot, server: Server, cut: Callable[[], None]
) -> None:
    cut()
    old = stalled(robot, server)
    assert robot.link.connected
    assert not robot.link.writable  # what is sent now would come out of date
    assert not robot.link.try_send((b"", b"e", b"stale"))
    assert until(robot, lambda: robot.link.writable)  # and so its requests are lost
    with pytest.raises(ConnectionResetError):
        old.recv(1)
    assert robot.link.try_send((b"", b"e", b"awaited"), WITH_NEXT)  # before the server has said anything
    assert robot.link.try_send((b"", b"e", b"new"))
    fresh = accepted(server)
    # All of it in one packet, as each one may be lost.
    assert fresh.recv(1000) == OURS + message(b"awaited") + message(b"new")
    fresh.sendall(HELLO + message(b"answer"))
    received = robot.next()
    assert bytes(received[2]) == b"answer"
    assert robot.link.last_error is None
    robot.poll(robot.link.next_poll_at)
    assert b"PING" in fresh.recv(100)


def test_the_old_connection_stays_where_it_comes_through_first(
    robot: Robot, server: Server, cut: Callable[[], None]
) -> None:
    cut()
    old = stalled(robot, server)
    old.sendall(p.command(p.PONG) + message(b"answer"))
    while (received := robot.link.next()) is None:
        assert robot.selector.select(10)
    assert bytes(received[2]) == b"answer"  # type: ignore[index,arg-type]
    assert not robot.poll()
    assert robot.link.writable
    assert robot.link.try_send((b"", b"e", b"more"))
    assert read_exactly(old, len(message(b"more"))) == message(b"more")


def test_a_server_that_is_only_slow_keeps_its_connection(robot: Robot, server: Server) -> None:
    end = stalled(robot, server)
    assert not robot.poll(2.4)
    assert robot.link.writable
    assert len(robot.selector.get_map()) == 1
    assert not robot.poll(5.9)
    beside = server.accept()
    assert len(robot.selector.get_map()) == 2
    end.sendall(p.command(p.PONG))
    assert robot.next() is None
    assert not robot.poll(7.0)
    assert robot.link.writable
    assert beside.recv(100) == b""  # nothing was said by it


def silent(robot: Robot, server: Server) -> tuple[socket.socket, socket.socket]:
    """A connection that is silent and not stuck, and the one that is made beside it; the server's ends."""
    old = stalled(robot, server)
    assert not robot.poll(2.5)
    beside = server.accept()
    assert not robot.link.writable
    while robot.selector.select(0.1):  # that it stands is no sign of the server
        assert not robot.poll()
    return old, beside


def until_it_ends(robot: Robot, beside: socket.socket, end: Callable[[socket.socket], object]) -> None:
    """Ends the connection beside a silent one; returns once the robot knows."""
    end(beside)
    while len(robot.selector.get_map()) > 1:
        assert robot.selector.select(10)
        assert not robot.poll()


def test_where_what_is_sent_goes_nowhere_the_connection_by_which_the_server_is_heard_is_used(
    robot: Robot, server: Server
) -> None:
    """As behind a proxy that takes all data, or on a network that keeps packets for later."""
    old, beside = silent(robot, server)
    beside.sendall(p.greeting()[:11])
    assert until(robot, lambda: robot.link.writable)
    with pytest.raises(ConnectionResetError):
        read_exactly(old, 1000)
    assert robot.link.try_send((b"", b"e", b"new"))
    assert read_exactly(beside, len(OURS + message(b"new"))) == OURS + message(b"new")
    beside.sendall(HELLO[11:] + message(b"answer"))
    assert bytes(robot.next()[2]) == b"answer"


@pytest.mark.parametrize("end", [socket.socket.close, abort], ids=["close", "reset"])
def test_a_connection_that_ends_beside_a_silent_one_is_made_again_after_a_while(
    end: Callable[[socket.socket], object], robot: Robot, server: Server
) -> None:
    _, beside = silent(robot, server)
    until_it_ends(robot, beside, end)
    assert not robot.poll(robot.link.next_poll_at)
    assert robot.now == pytest.approx(2.6)
    assert server.accept()


@pytest.mark.parametrize("end", [socket.socket.close, abort], ids=["close", "reset"])
def test_the_more_of_them_end_the_later_the_next_is_made(
    end: Callable[[socket.socket], object], robot: Robot, server: Server
) -> None:
    """As beside a server that is stopped, behind a proxy that cannot reach it."""
    _, beside = silent(robot, server)
    made = [robot.now]
    while robot.link.connected:
        until_it_ends(robot, beside, end)
        while robot.link.connected and len(robot.selector.get_map()) == 1:
            robot.poll(robot.link.next_poll_at)
        if robot.link.connected:
            made.append(robot.now)
            beside = server.accept()
    assert np.diff(made) == pytest.approx([0.1, 0.2, 0.4, 0.8, PATIENCE.reconnect_max_s], abs=0.11)


def test_a_connection_that_is_heard_between_is_made_again_as_soon_as_at_first(robot: Robot, server: Server) -> None:
    old, beside = silent(robot, server)
    for _ in range(3):
        until_it_ends(robot, beside, socket.socket.close)
        while len(robot.selector.get_map()) == 1:
            robot.poll(robot.link.next_poll_at)
        beside = server.accept()
    old.sendall(p.command(p.PONG))
    assert robot.next() is None
    assert not robot.poll()
    since = robot.now
    while len(robot.selector.get_map()) == 1:
        assert not robot.poll(robot.link.next_poll_at)
    first = robot.now
    assert first - since < 2.5
    until_it_ends(robot, server.accept(), socket.socket.close)
    while len(robot.selector.get_map()) == 1:
        assert not robot.poll(robot.link.next_poll_at)
    assert robot.now == pytest.approx(first + 0.1)


def test_where_the_machine_refuses_a_connection_beside_a_stuck_one_it_is_asked_less_and_less_often(
    robot: Robot, server: Server, cut: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut()
    tries: list[float] = []

    def refuse(self: Attempts, address: object) -> None:
        tries.append(robot.now)
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    end = robot.connect(server)
    monkeypatch.setattr(Attempts, "begin", refuse)
    robot.poll(1.0)
    assert pinged(end)
    while robot.link.connected:
        robot.poll(robot.link.next_poll_at)
    assert np.diff(tries)[:5] == pytest.approx([0.1, 0.2, 0.4, 0.7, 0.7], abs=0.03)


def test_once_the_silent_one_is_given_up_the_server_is_listened_for_on(robot: Robot, server: Server) -> None:
    """An observation that left before the network is back would be old when it arrives."""
    _, beside = silent(robot, server)
    assert robot.poll(6.0)
    assert robot.is_listening
    beside.sendall(p.greeting()[:11])
    assert not until(robot, lambda: robot.link.writable)
    assert read_exactly(beside, len(OURS)) == OURS


def test_a_server_that_says_nothing_first_hears_the_robot_after_some_seconds(robot: Robot, server: Server) -> None:
    """As a proxy may wait for what the robot says before it connects to the server."""
    _, beside = silent(robot, server)
    assert robot.poll(6.0)
    for now in (6.5, 7.5, 9.0, 10.9):
        assert not robot.poll(now)
        assert robot.is_listening
    assert len(robot.selector.get_map()) <= 1 + 5  # few connections of one robot
    assert not robot.poll(11.1)
    assert robot.link.writable
    assert read_exactly(beside, len(OURS)) == OURS


@pytest.mark.parametrize("end", [socket.socket.close, abort], ids=["close", "reset"])
def test_after_the_one_beside_it_has_ended_a_connection_that_is_heard_again_sends(
    end: Callable[[socket.socket], object], robot: Robot, server: Server
) -> None:
    """As behind a proxy that takes connections and ends those that it cannot hand on."""
    old, beside = silent(robot, server)
    until_it_ends(robot, beside, end)
    old.sendall(p.command(p.PONG))
    assert robot.next() is None
    assert not robot.poll()
    assert robot.link.writable
    assert robot.link.try_send((b"", b"e", b"new"))


def test_beside_an_observation_that_leaves_slowly_no_connection_is_made(robot: Robot, server: Server) -> None:
    end = robot.connect(server)
    assert robot.link.try_send((b"", b"e", LARGE))
    assert robot.link.next_poll_at <= 1.0
    for now in (1.0, 1.5, 2.5):
        assert not robot.poll(now)
    assert len(robot.selector.get_map()) == 1
    assert end


def test_fresh_connections_outlast_the_old_one(
    robot: Robot, server: Server, cut: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut()
    stalled(robot, server)
    with monkeypatch.context() as patch:
        patch.setattr(Attempts, "advance", lambda self, heard=False: (None, []))  # the network is away for them too
        assert robot.poll(6.0)
        assert robot.link.last_error == "no answer to heartbeats"
    assert not until(robot, lambda: robot.link.writable)
    fresh = accepted(server)
    assert read_exactly(fresh, len(OURS)) == OURS


@pytest.mark.parametrize(
    "said",
    [b"HTTP/1.1 400 Bad Request\r\n", p.greeting() + p.ready(b"PUB", b""), p.greeting("CURVE")],
    ids=["http", "another socket", "keys"],
)
def test_another_server_in_its_place_is_found_out(
    said: bytes, robot: Robot, server: Server, cut: Callable[[], None]
) -> None:
    cut()
    stalled(robot, server)
    until(robot, lambda: robot.link.writable)
    accepted(server).sendall(said)
    while robot.link.next() is None and not robot.link.ended:
        assert robot.selector.select(10)
    assert robot.poll()
    assert robot.is_away
    robot.poll(robot.link.next_poll_at)  # and from then on it waits for what that says
    fresh = server.accept()
    robot.poll()
    assert read_exactly(fresh, len(p.greeting())) == p.greeting()
    assert not robot.link.connected


# Attempts


@pytest.mark.parametrize(("round_trip_s", "looks_at"), [(0.05, 1.5), (0.3, 1.9), (2.0, 4.0)])
def test_a_heartbeat_has_as_long_for_its_answer_as_the_network_needs(
    round_trip_s: float, looks_at: float, robot: Robot, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp, "round_trip_s", lambda _: round_trip_s)
    end = robot.connect(server)
    robot.poll(1.0)
    assert pinged(end)
    assert robot.link.next_poll_at == pytest.approx(looks_at)


def test_attempts_become_rarer_with_the_outage() -> None:
    assert [every_s(outage) for outage in (0.0, 5.0, 30.0, 3600.0)] == [0.02, 0.025, 0.15, 1.0]


def test_of_many_attempts_the_first_ones_and_the_newest_go_on() -> None:
    """So that a round trip of seconds is served, and a network that is back is found soon."""
    selector = selectors.DefaultSelector()
    attempts = Attempts(selector)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        keys = []
        for _ in range(40):
            attempts.begin((socket.AF_INET, deaf.getsockname()))
            keys.append(max(selector.get_map()))
        assert len(attempts) == len(selector.get_map()) == 32
        attempts.close()
        assert not selector.get_map()
    selector.close()


def test_while_the_network_is_away_the_wait_follows_the_outage_and_not_the_count_of_attempts() -> None:
    backoff = Backoff(LinkTimeouts(0.1, 5.0), lambda: 0.0)
    assert [backoff.next_s(errno.ENETUNREACH, 5.0) for _ in range(8)] == [0.1] * 8
    assert backoff.next_s(errno.EHOSTUNREACH, 3600.0) == 1.0
    assert backoff.next_s(None, 3600.0) == 5.0
    slow = Backoff(LinkTimeouts(2.0, 5.0), lambda: 0.0)
    assert slow.next_s(errno.ENETUNREACH, 5.0) == 2.0  # as it was configured


def test_the_system_is_asked_whether_a_connection_is_stuck() -> None:
    assert PATIENCE.heartbeat_s == 1.0
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as end:
        tcp.prepare(end)
        assert not tcp.is_stuck(end, 1)
        assert 0 <= tcp.round_trip_s(end) < 1
    first, second = socket.socketpair()
    with first, second:
        assert not tcp.is_stuck(first, 1)
        assert tcp.round_trip_s(first) == 0.0
