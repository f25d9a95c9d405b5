"""Signals to all processes of a service: a worker leaves them to its server, and what its model starts does not."""

from __future__ import annotations

import subprocess
import sys

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
