"""What an operator reads of a server whose models fail: each event in one line."""

from __future__ import annotations

import re
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tests.cli.conftest import announced

from inferential import Connection, InferenceError

Start = Callable[..., "subprocess.Popen[str]"]

POLICIES = """
import os

def good(observation):
    return observation["state"]

def broken(observation):
    return observation["gripper"]

def exits(observation):
    os._exit(3)

class Heavy:
    def __init__(self):
        raise OSError("no weights")

    def infer(self, observation):
        return observation
"""
FLEET = """
transport: {bind: "tcp://127.0.0.1:0"}
http: {port: 0}
models:
  known:
    good: {target: "fleet_policies:good"}
    broken: {target: "fleet_policies:broken"}
    exits: {target: "fleet_policies:exits"}
    heavy: {target: "fleet_policies:Heavy"}
    heavy_here: {target: "fleet_policies:Heavy", run: thread}
    broken_here: {target: "fleet_policies:broken", run: thread}
"""
WANTED = {
    r"INFO .*: model good is loading": 1,
    r"INFO .*: model good is up in process \d+": 1,
    r"INFO .*: model broken_here is up in this process": 1,
    r"INFO .*: client arm connected": 1,
    r"ERROR .*: model broken failed for client arm: KeyError: 'gripper' \(\S+fleet_policies.py:8, process \d+\)": 1,
    r"ERROR .*: model broken_here failed for client arm: KeyError: 'gripper' \(\S+fleet_policies.py:8\)": 1,
    r"ERROR .*: model exits: its process exited with status 3 \(process \d+\); calls lost: 1; it is started again": 1,
    r"INFO .*: client arm: a request for model exits was refused \(WorkerDied\)": 1,
    r"ERROR .*: model heavy: .*OSError: no weights \(\S+:15\) \(process \d+\); it is started again in 0.1 s": 1,
    r"ERROR .*: model heavy_here: .*OSError: no weights \(\S+:15\)": 1,
    r"INFO .*: client arm: a request for model heavy was refused": 1,
    r"INFO .*: client arm: a request for model heavy_here was refused": 1,
    r"    KeyError: 'gripper'": 2,
    r"    OSError: no weights": 2,
    r"    Traceback": 4,
    r".*listening on": 0,
}
"""Lines of the log, and how often they are there."""


def test_each_event_is_one_line(start: Start, place: Path) -> None:
    (place / "fleet_policies.py").write_text(POLICIES)
    (place / "fleet.yaml").write_text(FLEET)
    process = start("serve", "fleet.yaml")
    where, _ = announced(process)
    with Connection(where, "arm") as connection:
        assert connection.model("good").infer(60_000, state=np.zeros(2)) is not None
        for name in ("broken", "broken_here", "exits", "heavy", "heavy_here"):
            for _ in range(1 if name == "exits" else 3):
                try:
                    connection.model(name).infer(60_000, state=np.zeros(2))
                except InferenceError:
                    continue
                raise AssertionError(f"{name} answered")
    process.send_signal(signal.SIGTERM)
    lines = process.communicate(timeout=60)[1].splitlines()
    lines = [re.sub(r"^\d{4}-\d\d-\d\d [\d:,]+ ", "", line) for line in lines]
    found = {pattern: sum(bool(re.match(pattern, line)) for line in lines) for pattern in WANTED}
    assert found == WANTED, "\n".join(lines)
    events = [re.sub(r"process \d+|in [\d.]+ s", "", line) for line in lines if not line.startswith(" ")]
    again = {line for line, times in Counter(events).items() if times > 1 and "as before" not in line}
    # A process that ends is started again, and is up again: that is what was asked for.
    assert again <= {"INFO inferential.replica: model exits is up in "}
