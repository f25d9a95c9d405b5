"""Drives many clients from one process: one epoll loop over raw sockets, at fixed rates, whether answered or not."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import time
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.overload.wire import PING, PONG, Observations, connect, frame
from inferential.proto import ModelResponse, Status

_TICK_S = 0.002
_READ_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Plan:
    """What the clients of one process do.

    Attributes:
        server: tcp://HOST:PORT.
        model_id: which model they ask.
        clients: how many, each with a connection of its own.
        rate_hz: observations a second of each.
        start: when to begin, in seconds of `time.monotonic()`, which all processes of a machine share.
        warm_s, seconds: how long before anything is counted, and how long it is counted.
        queue: "latest" or "all".
        prefix: of their ids.
        renames: each message has a new client id, and the connections have no identity.
        reconnects_after: messages after which a client ends its connection and opens another one; 0: it does not.
        cpu: the core that their process is kept to; None: any.
        nice: how much their process gives way to others on its core, 19 the most.
    """

    server: str
    model_id: str
    clients: int
    rate_hz: float
    start: float
    warm_s: float
    seconds: float
    queue: str = "latest"
    prefix: str = "robot"
    renames: bool = False
    reconnects_after: int = 0
    cpu: int | None = None
    nice: int = 0


@dataclass(slots=True)
class Outcome:
    """What was sent and what came while time was counted.

    Attributes:
        sent, unsent: handed to the system; not sent because the system had not taken the one before.
        answered: results that came, also those of observations of the warm-up.
        refused: refusals that came, by the name of the status.
        ms: how old the observations were whose results came.
        server_ms: how long each of these was on the server, from when it was read.
        longest_gap_s: the longest time that any client was without a result.
        ended: connections that the server ended.
        slip_ms: the longest delay of this process's own loop.
    """

    sent: int = 0
    unsent: int = 0
    answered: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    ms: array[float] = field(default_factory=lambda: array("d"))
    server_ms: array[float] = field(default_factory=lambda: array("d"))
    longest_gap_s: float = 0.0
    ended: int = 0
    slip_ms: float = 0.0
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Returns the figures."""
        reported: dict[str, Any] = {
            "sent_per_s": round(self.sent / self.seconds),
            "unsent_per_s": round(self.unsent / self.seconds),
            "answered_per_s": round(self.answered / self.seconds),
            "refused_per_s": {name: round(count / self.seconds) for name, count in self.refused.items()},
            "longest_gap_s": round(self.longest_gap_s, 2),
            "connections_ended": self.ended,
            "loop_slip_ms": round(self.slip_ms, 1),
        }
        if self.ms:
            p50, p99, most = map(float, np.percentile(np.frombuffer(self.ms), [50, 99, 100]))
            reported |= {"p50_ms": round(p50, 2), "p99_ms": round(p99, 2), "max_ms": round(most, 1)}
            reported["server_p99_ms"] = round(float(np.percentile(np.frombuffer(self.server_ms), 99)), 2)
        return reported


class _Client:
    __slots__ = (
        *("answered_at", "due", "frames", "identity", "messages", "numbers", "pending", "sent", "sent_at", "server"),
        *("socket", "writing"),
    )

    def __init__(self, plan: Plan, number: int, numbers: itertools.count[int]) -> None:
        name = f"{plan.prefix}-{number}"
        self.server, self.identity = plan.server, b"" if plan.renames else name.encode()
        self.connect()
        self.messages = Observations(name, plan.model_id, plan.queue)
        self.numbers = numbers
        self.answered_at = plan.start + plan.warm_s
        self.due = plan.start + number / plan.clients / plan.rate_hz
        self.sent_at: dict[int, float] = {}

    def connect(self) -> None:
        """Opens a connection."""
        self.socket, self.frames = connect(self.server, self.identity)
        self.socket.setblocking(False)
        self.pending, self.sent = b"", 0
        self.writing = False  # the poll tells when the rest of `pending` can be sent


def drive(plan: Plan) -> Outcome:
    """Runs the plan; returns what became of it."""
    if plan.cpu is not None:
        os.sched_setaffinity(0, {plan.cpu})
    os.nice(plan.nice)
    return _Drive(plan).run()


class _Drive:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.counted_from = plan.start + plan.warm_s
        self.until = self.counted_from + plan.seconds
        self.outcome = Outcome(seconds=plan.seconds)
        self.poll = select.epoll()
        self.numbers = itertools.count(1)
        self.by_fd: dict[int, _Client] = {}

    def run(self) -> Outcome:
        plan, outcome = self.plan, self.outcome
        clients = [_Client(plan, number, self.numbers) for number in range(plan.clients)]
        for client in clients:
            self.by_fd[client.socket.fileno()] = client
            self.poll.register(client.socket, select.EPOLLIN)
        looked = time.monotonic()
        while (now := time.monotonic()) < self.until:
            if now >= self.counted_from:
                outcome.slip_ms = max(outcome.slip_ms, (now - looked) * 1e3)
            looked = now
            if plan.start <= now:
                for client in clients:
                    if client.due <= now:
                        self._send(client, now)
            wait = min((client.due for client in clients), default=now) - now if len(clients) < 64 else _TICK_S
            for fd, events in self.poll.poll(min(max(wait, 0.0005), _TICK_S)):
                self._attend(self.by_fd[fd], events)
        for client in clients:
            self._gap(client, self.until)
            client.socket.close()
        self.poll.close()
        return outcome

    def _send(self, client: _Client, now: float) -> None:
        plan = self.plan
        count = int((now - client.due) * plan.rate_hz) + 1
        client.due += count / plan.rate_hz
        counted = now >= self.counted_from
        if client.pending or client.socket.fileno() < 0:
            self.outcome.unsent += count if counted else 0
            return
        if plan.reconnects_after and client.sent >= plan.reconnects_after:
            self._reconnect(client)
        client.sent += count
        now_ns = time.time_ns()
        parts = []
        for request_id in itertools.islice(client.numbers, count):
            client.sent_at[request_id] = now
            if plan.renames:
                name = f"{plan.prefix}-{request_id}"
                parts.append(Observations(name, plan.model_id, plan.queue).message(request_id, now_ns))
            else:
                parts.append(client.messages.message(request_id, now_ns))
        self.outcome.sent += count if counted else 0
        client.pending = b"".join(parts)
        self._flush(client)

    def _reconnect(self, client: _Client) -> None:
        del self.by_fd[client.socket.fileno()]
        self.poll.unregister(client.socket)
        client.socket.close()
        client.connect()
        self.by_fd[client.socket.fileno()] = client
        self.poll.register(client.socket, select.EPOLLIN)

    def _flush(self, client: _Client) -> None:
        try:
            client.pending = client.pending[client.socket.send(client.pending) :]
        except BlockingIOError:
            pass
        except OSError:
            self._end(client)
            return
        if client.writing != bool(client.pending):
            client.writing = not client.writing
            self.poll.modify(client.socket, select.EPOLLIN | (select.EPOLLOUT if client.pending else 0))

    def _attend(self, client: _Client, events: int) -> None:
        if client.socket.fileno() < 0:
            return
        if events & select.EPOLLOUT:
            self._flush(client)
        try:
            data = client.socket.recv(_READ_BYTES) if events & ~select.EPOLLOUT else None
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data is None:
            return
        if not data:
            self._end(client)
            return
        now = time.monotonic()
        for found in client.frames.feed(data):
            if isinstance(found, bytes):
                if found.startswith(PING):
                    client.pending += frame(PONG + found[7:], 4)
                    self._flush(client)
            elif len(found) == 3:
                self._take(client, found[1], now)

    def _take(self, client: _Client, envelope: bytes, now: float) -> None:
        response = ModelResponse.FromString(envelope)
        sent_at = client.sent_at.pop(response.request_id, None)
        if not self.counted_from <= now < self.until:
            return
        if response.status:
            self.outcome.refused[Status.Name(response.status)] += 1
        elif sent_at is not None:
            self.outcome.answered += 1
            self.outcome.ms.append((now - sent_at) * 1e3)
            self.outcome.server_ms.append(response.timing.server_ms)
            self._gap(client, now)
            client.answered_at = now

    def _gap(self, client: _Client, now: float) -> None:
        self.outcome.longest_gap_s = max(self.outcome.longest_gap_s, now - client.answered_at)

    def _end(self, client: _Client) -> None:
        self.outcome.ended += 1
        with contextlib.suppress(OSError, KeyError, ValueError):
            self.poll.unregister(client.socket)
        client.socket.close()
