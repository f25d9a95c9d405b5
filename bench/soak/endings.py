"""`python -m bench.soak.endings --seconds N --seed S`: has each request of raw connections end once, whatever happens.

Connections that know of each request how often it ended send good and bad observations, take requests back, vanish
and return, while workers are killed, the configuration is changed, the server is stopped for moments, and in the end is
made to end. What came to them is compared, request by request, with what the server wrote down as it did it (`ledger`).
What is drawn is decided by the seed.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import random
import select
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from bench.overload.serving import Serving
from bench.overload.wire import PAYLOAD, connect, message
from bench.soak import checks, ledger
from bench.soak.__main__ import MODELS, totals
from bench.soak.endings_checks import of_connections, of_requests, of_robots
from bench.soak.lives import Life
from bench.soak.models import MOODS
from inferential.proto import (
    FLOAT32,
    PROTOCOL_VERSION,
    QUEUE_ALL,
    QUEUE_LATEST,
    Cancellation,
    Observation,
)

LIVES = 24
TICK_S = 0.02
SETTLE_S = 12.0
"""How long ends are waited for once nothing goes wrong any more."""
_GATEWAY_MS = 3000.0
_PATIENCE_S = 0.4
"""How long the server waits for the answer to a heartbeat before another may take a connection's place."""
_SCHEDULING: dict[str, tuple[Any, ...]] = {
    "strategy": ("deadline_aware", "round_robin", "batch_optimized", "priority_tiered", "slo_aware", "model_deadline"),
    "max_queue_size": (8, 40, 1000),
    "overflow_policy": ("drop_oldest", "reject_newest"),
    "request_ttl_ms": (200, 1000, 5000),
    "max_retries": (0, 2),
    "supersede": ("aware", "all", "off"),
}


class Drive:
    """What is done to a server, drawn from a seed."""

    def __init__(self, serving: Serving, rng: random.Random) -> None:
        self._serving = serving
        self._rng = rng
        self._numbers = itertools.count(1)
        self._names = itertools.count(1)
        self.lives: list[Life] = []
        self.standing: list[Life] = []
        self.last: list[Life] = []
        self.did: Counter[str] = Counter()
        self.gateway: Counter[str] = Counter()
        self._threads: list[threading.Thread] = []
        self._connecting = ThreadPoolExecutor(1)
        self._listened_at = time.monotonic()
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
        """Reads what comes meanwhile; all else that this thread does takes moments, so heartbeats are answered."""
        until = time.monotonic() + seconds
        while True:
            self.standing = [one for one in self.standing if not one.closed]
            sockets = {one.opened: one for one in self.standing}
            unsent = [one.opened for one in self.standing if one.has_unsent]
            began = time.monotonic()
            within = max(until - began, 0.0)
            ready, writable, _ = select.select(list(sockets), unsent, [], within)
            now = time.monotonic()
            away_s = max(began - self._listened_at, now - began - within)
            for life in self.standing if away_s > _PATIENCE_S / 2 else ():  # this machine is busy
                life.excused = True
            for opened in {*ready, *writable}:
                sockets[opened].read()
            self._listened_at = now
            if now >= until:
                return

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
        life.asked_after = frozenset(life.sent)
        if not life.sent:
            return  # nothing is asked, as the SDK does
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
            life.half = next(reversed(life.sent))
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
        connecting = self._connecting.submit(connect, self._serving.address, name.encode(), life=life)
        while not connecting.done():  # where there is a rival, as long as that may take to answer a heartbeat
            self.listen(TICK_S / 4)
        opened, frames = connecting.result()
        opened.setblocking(False)
        made = Life(name, opened, frames, life=life)
        self.lives.append(made)
        self.standing.append(made)
        return made

    # What happens to the server

    def kill_worker(self) -> None:
        """Kills a process of a model."""
        workers = self._serving.process.children()
        if workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._rng.choice(workers).kill()

    def reload(self) -> None:
        """Changes how requests are scheduled."""
        chosen = {name: self._rng.choice(values) for name, values in _SCHEDULING.items()}
        self._serving.configure(scheduling=chosen)

    def pause(self) -> None:
        """Stops the server for a moment."""
        self._serving.process.suspend()
        self.listen(0.3)
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
        self.last = list(self.standing)
        for life in self.last:
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
    gateways = {"act": {"model": "moody", "port": 0, "timeout_ms": _GATEWAY_MS}}
    with contextlib.ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "ledger"
        before = f"from bench.soak import ledger; ledger.keep({str(path)!r})"
        serving = stack.enter_context(Serving(MODELS, before=before, http={"port": 0}, gateways=gateways))
        driven = Drive(serving, random.Random(seed))
        driven.run(seconds)
        driven.settle(SETTLE_S)
        counts, robots = driven.counts(), {one["client_id"]: one for one in driven.status()["clients"]}
        found = [
            *of_connections(driven.lives, driven.last, "while the server runs"),
            of_robots(driven.lives, robots, ledger.read(path)),
        ]
        found.append(checks.books_balance(counts))
        sent, ends = driven.gateway.pop("sent", 0), dict(driven.gateway)
        answered = sum(count for end, count in ends.items() if end.startswith("HTTP"))
        found.append(checks.Check("each request by HTTP has its answer", sent == answered, f"{sent} sent, {ends}"))
        code = driven.end()
        found += [
            *of_connections(driven.lives, driven.last, "in its end"),
            *of_requests(driven.lives, ledger.read(path)),
        ]
        found.append(checks.Check("the server ends by itself, in order", code == 0, f"exit code {code}"))
        found.append(checks.nothing_unexpected(serving.log_text()))
    ends = sum((one.ends for one in driven.lives), Counter[str]())
    return found, {"did": dict(driven.did), "ends": dict(ends), "counts": counts, "connections": len(driven.lives)}


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
