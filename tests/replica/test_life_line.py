"""What ties a worker to its server: it ends when that is killed, and leaves signals to all of a service to it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="workers run where there are POSIX signals")

PROGRAM = """
import os, signal, subprocess, sys
from inferential.replica.life_line import leave_signals_to_server

leave_signals_to_server()
number = signal.Signals[sys.argv[1]]
os.kill(os.getpid(), number)
print("goes on", flush=True)

forked = os.fork()
if not forked:
    handler = signal.getsignal(number)
    print("forked:", handler in (signal.SIG_DFL, signal.default_int_handler), flush=True)
    os._exit(0)
os.waitpid(forked, 0)
waits = "import signal; print('ready', flush=True); signal.pause()"
started = subprocess.Popen([sys.executable, "-c", waits], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
started.stdout.readline()
started.send_signal(number)
print("started:", started.wait(60) == -number, flush=True)
"""


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_a_worker_goes_on_and_what_its_model_starts_is_ended(number: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, number], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.splitlines() == ["goes on", "forked: True", "started: True"], done.stderr


SERVER = """
import asyncio, os, signal, sys
import numpy as np
from inferential import AsyncConnection, LocalDispatcher, ModelProcess, Server
from inferential.replica.spawn import spawn

async def noted():
    while not os.path.exists("pid"):
        await asyncio.sleep(0.01)

async def main():
    how, python = sys.argv[1:]
    if how == "starts":
        spawned = await spawn(python, {})
        await noted()
        os.kill(os.getpid(), signal.SIGKILL)
    dispatcher = LocalDispatcher({"m": ModelProcess("life_line_models:" + how)})
    async with Server("tcp://127.0.0.1:0", dispatcher=dispatcher) as server:
        await server.model_ready("m")
        async with AsyncConnection(server.address) as connection:
            await connection.model("m").observe(state=np.zeros(2))
            await noted()
            if how == "idles":
                await connection.model("m").infer(timeout_ms=60_000, state=np.zeros(2))
            if how != "leaves" and not os.fork():
                signal.pause()
            os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""
MODELS = """
import os, time

def note():
    with open("noted", "w") as file:
        file.write(str(os.getpid()))
    os.rename("noted", "pid")

def idles(observation):
    note()
    return observation["state"]

def hangs(observation):
    note()
    time.sleep(600)

def leaves(observation):
    os.setpgid(0, os.getpgid(os.getppid()))
    hangs(observation)
"""
# What an interpreter does before the worker's first line may take long: its site, a file system that is away.
NEVER_STARTED = "#!/bin/sh\necho $$ > noted && mv noted pid\nexec sleep 600\n"


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends workers on Linux")
@pytest.mark.parametrize("how", ["starts", "idles", "hangs", "leaves"])
def test_a_worker_ends_with_a_killed_server_whatever_it_is_at_and_whatever_the_server_had_forked(
    how: str, tmp_path: Path
) -> None:
    (tmp_path / "life_line_models.py").write_text(MODELS)
    never = tmp_path / "never_started"
    never.write_text(NEVER_STARTED)
    never.chmod(0o755)
    arguments = [sys.executable, "-c", SERVER, how, str(never)]
    # In a group of its own, so that what the server forked can be ended.
    server = subprocess.Popen(arguments, cwd=tmp_path, start_new_session=True)
    try:
        assert server.wait(60) == -signal.SIGKILL
        pid = int((tmp_path / "pid").read_text())
        deadline = time.monotonic() + 60
        while not is_gone(pid):
            assert time.monotonic() < deadline, "it outlives its server"
            time.sleep(0.01)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


FULL = """
import os, resource
from io import FileIO
from inferential.replica.life_line import hold_alone

reading, writing = os.pipe()
line = FileIO(writing, "wb")
hold_alone(line)
last = os.open(os.devnull, os.O_RDONLY)
while last < 64:
    last = os.open(os.devnull, os.O_RDONLY)
resource.setrlimit(resource.RLIMIT_NOFILE, (last + 1, last + 1))
forked = os.fork()
if not forked:
    print(os.path.samestat(os.fstat(writing), os.stat(os.devnull)), flush=True)
    os._exit(0)
os.waitpid(forked, 0)
"""


def test_what_a_server_forks_lets_go_of_the_line_where_no_descriptor_is_left() -> None:
    done = subprocess.run([sys.executable, "-c", FULL], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == ["True"], done.stderr
