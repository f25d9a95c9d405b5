"""`python -m bench.soak.endings --seconds N --seed S`: has each request of raw connections end once, whatever happens.

Connections that know of each request how often it ended send good and bad observations, take requests back, vanish
and return, while workers are killed, the configuration is changed, the server is stopped for moments, and in the end is
made to end. What they counted is compared with what the server did. What is drawn is decided by the seed.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import os
import random
import select
import signal
import socket
import struct
import sys
import threading
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from bench.overload.serving import Serving
from bench.overload.wire import PAYLOAD, PING, PONG, Frames, connect, frame, message
from bench.soak import checks
from bench.soak.__main__ import MODELS, totals
from bench.soak.models import MOODS
from inferential.proto import (
    FLOAT32,
    PROTOCOL_VERSION,
    QUEUE_ALL,
    QUEUE_LATEST,
    Cancellation,
    ModelResponse,
    Observation,
    Status,
)

LIVES = 24
TICK_S = 0.02
SETTLE_S = 12.0
"""How long ends are waited for once nothing goes wrong any more."""
_SCHEDULING: dict[str, tuple[Any, ...]] = {
    "strategy": ("deadline_aware", "round_robin", "batch_optimized", "priority_tiered", "slo_aware", "model_deadline"),
    "max_queue_size": (8, 40, 1000),
    "overflow_policy": ("drop_oldest", "reject_newest"),
    "request_ttl_ms": (200, 1000, 5000),
    "max_retries": (0, 2),
    "supersede": ("aware", "all", "off"),
}


@dataclass(eq=False)
class Life:
    """One connection of a robot, and how often each of its requests ended.

    Attributes:
        sent: request ids, in their order.
        ended: in what each ended: one thing.
        ends: the same, by the name of the status.
        taken_back: requests that it took back: of those that wait no more is said.
        strange: what came and was for no request of it.
        closed: who ended the connection; "" while it stands.
        life: of the robot: one that comes back within it is owed what its former connection was.
    """

    name: str
    opened: socket.socket
    frames: Frames
    sent: dict[int, str] = field(default_factory=dict)
    ended: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    ends: Counter[str] = field(default_factory=Counter)
    taken_back: set[int] = field(default_factory=set)
    strange: list[str] = field(default_factory=list)
    closed: str = ""
    life: bytes = b""

    def open_ids(self) -> list[int]:
        """Returns the requests that have not ended, and must."""
        return [number for number in self.sent if number not in self.ended and number not in self.taken_back]

    def read(self) -> None:
        """Takes what has come."""
        while not self.closed:
            try:
                data = self.opened.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.close("server")
                return
            for found in self.frames.feed(data):
                self._take(found)

    def _take(self, found: list[bytes] | bytes) -> None:
        if isinstance(found, bytes):
            if found.startswith(PING):
                self.write(frame(PONG + found[7:], 4))
            return
        response = ModelResponse.FromString(found[1])
        status = Status.Name(response.status)
        if status == "OUTDATED":
            return  # it waits on
        if response.request_id not in self.sent:
            self.strange.append(f"{status} for {response.request_id}: {response.reason}")
        self.ended[response.request_id].append(f"{status} {response.cause}".strip())
        self.ends[status] += 1

    def write(self, data: bytes) -> None:
        """Sends all of it; one that the server ended or that takes no more for a second is closed."""
        until = time.monotonic() + 1.0
        while data and not self.closed:
            try:
                data = data[self.opened.send(data) :]
            except BlockingIOError:
                if time.monotonic() > until:
                    self.close("robot")
                self.read()
                select.select([], [self.opened], [], 0.01)
            except OSError:
                self.close("server")

    def close(self, by: str, *, reset: bool = False) -> None:
        """Ends it."""
        if not self.closed:
            self.closed = by
            if reset:
                self.opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.opened.close()


class Drive:
    """What is done to a server, drawn from a seed."""

    def __init__(self, serving: Serving, rng: random.Random) -> None:
        self._serving = serving
        self._rng = rng
        self._numbers = itertools.count(1)
        self._names = itertools.count(1)
        self.lives: list[Life] = []
        self.standing: list[Life] = []
        self.did: Counter[str] = Counter()
        self.gateway: Counter[str] = Counter()
        self._threads: list[threading.Thread] = []
        self._actions: dict[Callable[[], None], int] = {
            self.ask: 60, self.ask_badly: 6, self.take_back: 8, self.leave: 4, self.come: 6, self.come_back: 4,
            self.rival: 2, self.cut: 2, self.kill_worker: 1, self.reload: 2, self.pause: 1, self.gateway_ask: 4,
        }  # fmt: skip

    def run(self, seconds: float) -> None:
        """Does one thing after another."""
        while len(self.standing) < LIVES // 2:
            self.come()
        actions, weights = list(self._actions), list(self._actions.values())
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            (act,) = self._rng.choices(actions, weights)
            act()
            self.did[act.__name__] += 1
            self.listen(TICK_S)

    def listen(self, seconds: float) -> None:
        """Reads what comes meanwhile."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.standing = [one for one in self.standing if not one.closed]
            for opened in select.select([one.opened for one in self.standing], [], [], left)[0]:
                next(one for one in self.standing if one.opened is opened).read()

    def settle(self, seconds: float) -> None:
        """Waits until all requests of connections that stand have ended."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and any(one.open_ids() for one in self.standing):
            self.listen(0.1)
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0.1))

    # What robots do

    def ask(self) -> None:
        """Sends observations."""
        life = self._rng.choice(self.standing or [self._open(self._new_name())])
        model_id = self._rng.choice(("quick", "batch", "chunks", "moody"))
        count = self._rng.choice((1, 1, 2, 5, 30))
        life.write(b"".join(self._observation(life, model_id) for _ in range(count)))

    def _observation(self, life: Life, model_id: str) -> bytes:
        rng, number = self._rng, next(self._numbers)
        seen = Observation(model_id=model_id, request_id=number, protocol_version=PROTOCOL_VERSION)
        seen.client.id = life.name
        seen.timestamp_ns = time.time_ns()
        seen.queue = rng.choice((QUEUE_ALL, QUEUE_LATEST))
        seen.tensors.add(key="state", dtype=FLOAT32, shape=[7], byte_length=len(PAYLOAD))
        if model_id == "moody":
            seen.metadata["mood"] = rng.choice(MOODS)
        if rng.random() < 0.1:
            seen.steps_remaining = rng.randrange(4)
        life.sent[number] = model_id
        return message(b"", seen.SerializeToString(), PAYLOAD)

    def ask_badly(self) -> None:
        """Sends one observation that is refused: a model that there is not, or a tensor beyond its payload."""
        if not self.standing:
            return
        life, number = self._rng.choice(self.standing), next(self._numbers)
        seen = Observation(model_id=self._rng.choice(("quick", "none")), request_id=number, protocol_version=2)
        seen.client.id = life.name
        seen.tensors.add(key="state", dtype=FLOAT32, shape=[7], byte_length=len(PAYLOAD))
        life.sent[number] = "bad"
        life.write(message(b"", seen.SerializeToString(), PAYLOAD if seen.model_id == "none" else b"short"))

    def take_back(self) -> None:
        """Takes requests back, some of which have ended."""
        lives = [one for one in self.standing if one.sent]
        if lives:
            life = self._rng.choice(lives)
            some = self._rng.sample(list(life.sent)[-20:], min(len(life.sent), self._rng.randint(1, 10)))
            taken = Cancellation(request_ids=some, protocol_version=PROTOCOL_VERSION)
            taken.client.id = life.name
            life.taken_back.update(some)
            life.write(message(b"", taken.SerializeToString(), b""))

    def leave(self) -> None:
        """Ends a connection, by a reset or in order."""
        if len(self.standing) > 3:
            self._rng.choice(self.standing).close("robot", reset=self._rng.random() < 0.5)

    def come(self) -> None:
        """Connects under a new id."""
        if len(self.standing) < LIVES:
            self._open(self._new_name())

    def come_back(self) -> None:
        """Connects under the id of a robot that has left: as one that restarted, or within the same life, which asks
        what became of its requests."""
        here = {one.name for one in self.standing}
        newest = {one.name: one for one in self.lives}
        gone = [one for one in newest.values() if one.closed and one.name not in here]
        if not gone or len(self.standing) >= LIVES:
            return
        former = self._rng.choice(gone[-8:])
        if self._rng.random() < 0.3:
            self._open(former.name)
            return
        life = self._open(former.name, former.life)
        life.sent = {number: former.sent[number] for number in former.open_ids()}
        asked = Cancellation(awaited_ids=list(life.sent), protocol_version=PROTOCOL_VERSION)
        asked.client.id = life.name
        life.write(message(b"", asked.SerializeToString(), b""))
        former.taken_back.update(life.sent)

    def rival(self) -> None:
        """Connects under the id of a robot that is there, and asks."""
        if self.standing and len(self.standing) < LIVES:
            life = self._open(self._rng.choice(self.standing).name)
            life.write(b"".join(self._observation(life, "batch") for _ in range(3)))

    def cut(self) -> None:
        """Ends a connection in the midst of a message."""
        if len(self.standing) > 3:
            life = self._rng.choice(self.standing)
            whole = self._observation(life, "batch")
            life.write(whole[: self._rng.randrange(1, len(whole))])
            life.close("robot")

    def gateway_ask(self) -> None:
        """Asks by HTTP, in a thread."""
        body = {"state": [0.0] * 7, "mood": self._rng.choice(MOODS)}
        self._threads = [one for one in self._threads if one.is_alive()]
        thread = threading.Thread(target=self._post, args=(json.dumps(body),))
        self._threads.append(thread)
        self.gateway["sent"] += 1
        thread.start()

    def _post(self, body: str) -> None:
        host, _, port = self._serving.places["act"].removeprefix("http://").rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=SETTLE_S)
        try:
            connection.request("POST", "/act", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            self.gateway[f"HTTP {answer.status}"] += 1
        except (OSError, http.client.HTTPException) as error:
            self.gateway[type(error).__name__] += 1
        finally:
            connection.close()

    def _new_name(self) -> str:
        return f"robot-{next(self._names)}"

    def _open(self, name: str, life: bytes = b"") -> Life:
        life = life or self._rng.randbytes(16)
        opened, frames = connect(self._serving.address, name.encode(), life=life)
        opened.setblocking(False)
        made = Life(name, opened, frames, life=life)
        self.lives.append(made)
        self.standing.append(made)
        return made

    # What happens to the server

    def kill_worker(self) -> None:
        """Kills a process of a model."""
        workers = self.status()["workers"]
        if workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._rng.choice(workers)["pid"], signal.SIGKILL)

    def reload(self) -> None:
        """Changes how requests are scheduled."""
        chosen = {name: self._rng.choice(values) for name, values in _SCHEDULING.items()}
        self._serving.configure(scheduling=chosen)

    def pause(self) -> None:
        """Stops the server for a moment."""
        self._serving.process.suspend()
        time.sleep(0.3)
        self._serving.process.resume()

    def status(self) -> dict[str, Any]:
        """Returns what the server says of itself."""
        with urllib.request.urlopen(f"{self._serving.places['page']}/api/status", timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def counts(self) -> dict[str, float]:
        """Returns the totals of /metrics, once nothing waits or runs."""
        until = time.monotonic() + SETTLE_S
        while True:
            with urllib.request.urlopen(f"{self._serving.places['page']}/metrics", timeout=10) as answer:
                found = totals(answer.read().decode())
            if not found["busy"] or time.monotonic() > until:
                return found
            time.sleep(0.2)

    def end(self) -> int | None:
        """Asks once more, and tells the server to end meanwhile; returns its exit code."""
        self.listen(0.1)  # one that has a rival and answered no heartbeat has ended
        for life in self.standing:
            life.write(b"".join(self._observation(life, "chunks") for _ in range(5)))
        self.listen(0.1)
        code: list[int | None] = []
        ending = threading.Thread(target=lambda: code.append(self._serving.stop()))
        ending.start()
        while ending.is_alive():
            self.listen(0.05)
        self.listen(0.5)  # what came last
        ending.join()
        return code[0]


def drive(seconds: float, seed: int) -> tuple[list[checks.Check], dict[str, Any]]:
    """Returns what must hold, and what was counted."""
    gateways = {"act": {"model": "moody", "port": 0}}
    with Serving(MODELS, http={"port": 0}, gateways=gateways) as serving:
        driven = Drive(serving, random.Random(seed))
        driven.run(seconds)
        driven.settle(SETTLE_S)
        counts, robots = driven.counts(), {one["client_id"]: one for one in driven.status()["clients"]}
        found = [*_of_connections(driven, "while the server runs"), *_of_robots(driven, robots)]
        found.append(checks.books_balance(counts))
        sent, answered = driven.gateway.pop("sent", 0), sum(driven.gateway.values())
        ends = dict(driven.gateway)
        found.append(checks.Check("each request by HTTP has its answer", sent == answered, f"{sent} sent, {ends}"))
        code = driven.end()
        found += _of_connections(driven, "in its end")
        found.append(checks.Check("the server ends by itself, in order", code == 0, f"exit code {code}"))
        found.append(checks.nothing_unexpected(serving.log_text()))
    ends = sum((one.ends for one in driven.lives), Counter[str]())
    return found, {"did": dict(driven.did), "ends": dict(ends), "counts": counts, "connections": len(driven.lives)}


def _of_connections(driven: Drive, when: str) -> Iterator[checks.Check]:
    uses = Counter(one.name for one in driven.lives)
    # The server may end one that has a rival, as this program does not answer its heartbeats while it sleeps.
    stood = [one for one in driven.lives if not one.closed or (one.closed == "server" and uses[one.name] == 1)]
    lost = {one.name: one.open_ids() for one in stood if one.open_ids()}
    count = sum(len(one.sent) for one in stood)
    yield checks.Check(f"{when}: none is left without a word", not lost, f"{count} sent; without: {lost}")
    twice = {number: said for one in driven.lives for number, said in one.ended.items() if len(said) > 1}
    yield checks.Check(f"{when}: none ends twice", not twice, f"{twice or 'none'}")
    strange = [said for one in driven.lives for said in one.strange]
    yield checks.Check(f"{when}: no answer is another's", not strange, f"{strange[:3] or 'none'}")


def _of_robots(driven: Drive, robots: dict[str, Any]) -> Iterator[checks.Check]:
    """What the server counts of robots that had one connection, whose every request became one, is what they saw."""
    uses = Counter(one.name for one in driven.lives)
    wrong, looked_at = [], 0
    for life in driven.standing:
        seen = robots.get(life.name)
        known = sum(model != "bad" for model in life.sent.values())
        if uses[life.name] > 1 or seen is None or known < len(life.sent) or seen["requests"] != known:
            continue
        if seen["state"] == "gone":  # it was silent for long
            continue
        looked_at += 1
        for name, status in (("answered", ("OK",)), ("superseded", ("SUPERSEDED",))):
            counted = sum(use[name] for use in seen["models"])
            got = sum(life.ends[one] for one in status)
            if counted != got:
                wrong.append(f"{life.name}: {counted} {name}, it got {got}")
    yield checks.Check("the server counts of each robot what it got", not wrong, f"{looked_at} robots; {wrong}")


def main() -> int:
    """Runs what is asked for; returns how many checks failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak.endings", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="length (default 20)")
    parser.add_argument("--seed", type=int, default=1, help="of what is done (default 1)")
    args = parser.parse_args()
    found, counted = drive(args.seconds, args.seed)
    for one in found:
        print(f"{'holds' if one.holds else 'FAILS'}  {one.name}: {one.found}")
    print(json.dumps(counted))
    return sum(not one.holds for one in found)


if __name__ == "__main__":
    sys.exit(main())
