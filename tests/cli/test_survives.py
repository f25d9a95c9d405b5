"""What `inferential serve` survives: outputs that are gone, signals at any time, foreign variables."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferential import Connection

COMMAND = [sys.executable, "-m", "inferential.cli.main", "serve", "--bind", "tcp://127.0.0.1:0", "--log-level", "debug"]
Begin = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def begin(place: Path) -> Iterator[Begin]:
    """`begin(command, **options)`: a process whose standard error is read, killed after the test."""
    processes: list[subprocess.Popen[str]] = []

    def begun(command: list[str], **options: Any) -> subprocess.Popen[str]:
        processes.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options))
        return processes[-1]

    yield begun
    for process in processes:
        process.kill()
        process.communicate()


def logged(process: subprocess.Popen[str], pattern: str) -> str:
    """Reads the log until a line matches; returns what matches."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        if (found := re.search(pattern, line)) is not None:
            return found[1] if found.groups() else found[0]
        seen.append(line)
    raise AssertionError(f"{pattern!r} never came: {seen}")


HANGUP_WHILE_IT_IS_IMPORTED = """
import builtins, os, signal, sys
from inferential.cli.main import main
imported = builtins.__import__

def sending(name, *args, **options):
    if name.startswith("inferential."):
        os.kill(os.getpid(), signal.SIGHUP)
    return imported(name, *args, **options)

builtins.__import__ = sending
main(["serve", "--help"])
"""


def test_a_hangup_while_it_is_imported_does_not_end_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGUP_WHILE_IT_IS_IMPORTED], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_container_s_first_process_that_is_stopped_while_it_is_imported_ends_at_once() -> None:
    program = HANGUP_WHILE_IT_IS_IMPORTED.replace("SIGHUP", "SIGTERM")
    # The system sends no signal to a first process that has no handler for it; any other would be killed by it.
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


LISTENING = r"listening on (tcp://\S+?), strategy"


def infer(address: str) -> Any:
    with Connection(address, "robot") as connection:
        return connection.model("arm").infer(60_000, state=np.ones(4, np.float32))


def ended_well(process: subprocess.Popen[str]) -> bool:
    process.send_signal(signal.SIGTERM)
    return process.wait(timeout=60) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output_ends_no_server(begin: Begin) -> None:
    with open("/dev/full", "w") as full:
        process = begin([*COMMAND, "-m", "arm=policies:echo"], stdout=full)
    address = logged(process, LISTENING)
    logged(process, "cannot write to standard output .*; it was: listening on")
    assert infer(address) is not None
    assert ended_well(process)


def test_a_reader_of_standard_output_that_is_gone_ends_no_server(begin: Begin) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = begin([*COMMAND, "-m", "arm=policies:echo"], stdout=writer)
    os.close(writer)
    assert infer(logged(process, LISTENING)) is not None
    assert ended_well(process)


def test_without_standard_output_what_a_model_prints_reaches_no_robot(begin: Begin, place: Path) -> None:
    (place / "talks.py").write_text(
        "import os\ndef echo(observation):\n"
        "    for number in (0, 1):\n        os.write(number, b'something a library says')\n    return observation\n"
    )
    shell = shutil.which("sh") or "/bin/sh"
    process = begin([shell, "-c", 'exec "$@" <&- >&-', "sh", *COMMAND, "-m", "arm=talks:echo"])
    address = logged(process, LISTENING)
    for _ in range(3):
        assert infer(address) is not None
    assert ended_well(process)


def test_a_full_disk_behind_the_log_ends_no_server(place: Path) -> None:
    with open("/dev/full", "w") as full:
        process = subprocess.Popen(
            [*COMMAND, "-m", "arm=policies:echo"], stdout=subprocess.PIPE, stderr=full, text=True
        )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[2].rstrip(",")
        assert infer(address) is not None
        assert ended_well(process)
    finally:
        process.kill()
        process.communicate()


def test_a_hangup_without_a_file_ends_no_server(begin: Begin) -> None:
    process = begin([*COMMAND, "-m", "arm=policies:echo"], stdout=subprocess.DEVNULL)
    address = logged(process, LISTENING)
    process.send_signal(signal.SIGHUP)
    logged(process, "SIGHUP")
    assert infer(address) is not None
    assert ended_well(process)


SLOW = "import time\nopen('importing', 'w').close()\ntime.sleep(600)\ndef echo(observation):\n    return observation\n"
RUN_INLINE = '{"models": {"known": {"arm": {"target": "slow:echo", "run": "thread"}}}}'


@pytest.mark.parametrize("run", ["thread", "process"])
def test_the_first_process_of_a_container_ends_while_models_load(begin: Begin, place: Path, run: str) -> None:
    unshare = ["unshare", "--pid", "--fork", "--kill-child"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("may not make a namespace of processes")
    (place / "slow.py").write_text(SLOW)
    (place / "fleet.json").write_text(RUN_INLINE.replace("thread", run))
    (place / "ready.py").write_text(
        "import signal, subprocess, sys, time\n"
        # The first process of its namespace, which signals itself once it imports: no other can reach it from outside.
        "import os, threading\n"
        "def watch():\n"
        "    while not os.path.exists('importing'):\n        time.sleep(0.02)\n"
        "    os.kill(1, signal.SIGTERM)\n"
        "threading.Thread(target=watch, daemon=True).start()\n"
        "from inferential.cli.main import main\nassert os.getpid() == 1\nmain(sys.argv[1:])\n"
    )
    command = [*unshare, sys.executable, "ready.py", "serve", "fleet.json", "--bind", "tcp://127.0.0.1:0"]
    process = begin(command, stdout=subprocess.DEVNULL)
    assert process.wait(timeout=60) == 0  # long before the model is imported


def test_what_an_orchestrator_sets_for_a_service_of_our_name_is_ignored(begin: Begin) -> None:
    env = {
        "INFERENTIAL_SERVICE_HOST": "10.0.0.1",
        "INFERENTIAL_PORT": "tcp://10.0.0.1:5555",
        "INFERENTIAL_PORT_5555_TCP_ADDR": "10.0.0.1",
    }
    process = begin([*COMMAND, "-m", "arm=policies:echo"], stdout=subprocess.DEVNULL, env={**os.environ, **env})
    assert infer(logged(process, LISTENING)) is not None
    assert ended_well(process)


def test_a_collector_that_never_answers_does_not_hold_up_the_end(begin: Begin) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the system accepts, and no program reads
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = begin([*COMMAND, "-m", "arm=policies:echo", "--otlp", endpoint], stdout=subprocess.DEVNULL)
        assert infer(logged(process, LISTENING)) is not None
        process.send_signal(signal.SIGTERM)
        logged(process, "Failed to export|are lost")
        assert process.wait(timeout=60) == 0
