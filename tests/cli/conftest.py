"""The command line, run in this process or as a process of its own, in a directory with models to serve."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from inferential.cli.main import main

POLICIES = '''
"""Models of every form that can be served, and things that are none."""

import os
import time

import numpy as np

def echo(observation):
    return observation

class Doubler:
    def infer(self, observation):
        return observation["state"] * 2

class Batcher:
    max_batch_size = 4
    def infer_batch(self, observations):
        return [one["state"] + 1 for one in observations]

class Quickens:
    max_batch_size = 2
    def __init__(self):
        self.calls = 0
    def infer_batch(self, observations):
        self.calls += len(observations) == 2
        time.sleep(0.05 if 0 < self.calls < 4 else 0)
        return observations

class TakesNone:
    max_batch_size = 0
    def infer_batch(self, observations):
        return []

class NeedsPath:
    def __init__(self, path):
        self.path = path

class Holder:
    instance = Doubler()
    Inner = Doubler

class Callable:
    def __call__(self, observation):
        return observation

def make():
    return Doubler()

def make_with_options(*, scale=1):
    return Doubler()

def makes_none():
    return None

def raises():
    raise RuntimeError("no weights\\nat all")

async def make_async():
    return Doubler()

async def act(observation):
    return observation

def takes_any(*observations):
    return observations[0]

class WaitsForFile:
    def infer(self, observation):
        while not os.path.exists("go"):
            time.sleep(0.01)
        return observation["state"]

class AnswersOnce:
    asked = 0
    def infer(self, observation):
        AnswersOnce.asked += 1
        if AnswersOnce.asked > 1:
            raise RuntimeError("no more")
        return observation

doubler = Doubler()
number = 5
largest = max
'''


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with `policies.py` in it; nothing of INFERENTIAL_* in the environment."""
    (tmp_path / "policies.py").write_text(POLICIES)
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.upper().startswith("INFERENTIAL_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "policies", raising=False)
    return tmp_path


@pytest.fixture
def run(place: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """`run("check", "fleet.yaml")`, in this process."""

    def ran(*args: str) -> Ran:
        with pytest.raises(SystemExit) as ended:
            main(args)
        out, err = capsys.readouterr()
        return Ran(int(ended.value.code or 0), out, err)

    return ran


@pytest.fixture
def start(place: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`start("serve", ...)`: a process of its own, with pipes; it is killed after the test if it still runs."""
    processes: list[subprocess.Popen[str]] = []

    def started(*args: str, **env: str) -> subprocess.Popen[str]:
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "inferential.cli.main", *args],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, **env},
            )
        )
        return processes[-1]

    yield started
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()


_SERVE = ("serve", "-m", "arm=policies:Doubler", "-m", "echo=policies:echo", "-m", "once=policies:AnswersOnce")
_SERVE += ("--bind", "tcp://127.0.0.1:0", "--http", "0")


def announced(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Returns the address and the page that a server prints."""
    assert process.stdout is not None
    address = process.stdout.readline().split()[2].rstrip(",")
    return address, process.stdout.readline().split()[-1]


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Address and page of a server with the models arm (twice the state), echo and once (then it fails).

    All tests of this folder use it; `served_anew` is one that only its test has used.
    """
    folder = tmp_path_factory.mktemp("served")
    (folder / "policies.py").write_text(POLICIES)
    env = {name: value for name, value in os.environ.items() if not name.upper().startswith("INFERENTIAL_")}
    command = [sys.executable, "-m", "inferential.cli.main", *_SERVE]
    # What it logs is not read: a pipe would fill up.
    with subprocess.Popen(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield announced(process)
        finally:
            process.kill()


@pytest.fixture
def served_anew(start: Callable[..., subprocess.Popen[str]]) -> tuple[str, str]:
    """The same of a server that has answered nothing yet."""
    return announced(start(*_SERVE))


@pytest.fixture
def run_apart(start: Callable[..., subprocess.Popen[str]]) -> Run:
    """`run_apart("version")`, in a process of its own."""

    def ran(*args: str, **env: str) -> Ran:
        process = start(*args, **env)
        out, err = process.communicate(timeout=60)
        return Ran(process.returncode, out, err)

    return ran
