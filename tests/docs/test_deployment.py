"""What docs/deployment.md tells one to run, run: the unit's and the container's commands, and the probes.

The image is not built: that needs a Docker daemon and the network. Its command runs as process 1 of a PID namespace, as
in a container: there a signal without a handler would be ignored.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from ruamel.yaml import YAML

from inferential import Connection
from inferential.config import InferentialConfig

PAGE = Path(__file__).parents[2] / "docs" / "deployment.md"
UNIT, DOCKERFILE, PODS = re.findall(r"^```text\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
TOKEN = "s3cret"
DRAIN_S = InferentialConfig().server.drain_timeout_s
POLICIES = """
import os
import time

class Doubler:
    def infer(self, observation):
        while "wait" in observation and not os.path.exists("go"):
            time.sleep(0.01)
        return observation["state"] * 2
"""
FLEET = f"""
transport: {{bind: "tcp://127.0.0.1:0"}}
http: {{port: 0, token: {TOKEN}}}
models: {{known: {{arm: {{target: "policies:Doubler"}}}}}}
"""
PROBE = {"httpGet", "initialDelaySeconds", "periodSeconds", "timeoutSeconds", "failureThreshold", "successThreshold"}
HTTP_GET = {"host", "httpHeaders", "path", "port", "scheme"}
IN_CONTAINER = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]
Start = Callable[..., "Served"]


class Served:
    """A server's process, its address and its page."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self.address = process.stdout.readline().split()[2].rstrip(",")
        self.page = process.stdout.readline().split()[-1]

    def ask(self, path: str, headers: dict[str, str]) -> int:
        """The status of an answer of the page."""
        request = urllib.request.Request(f"{self.page}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def answer(self) -> float:
        """What the model answers."""
        with Connection(self.address) as connection:
            result = connection.model("arm").infer(60_000, state=np.ones(1))
        assert result is not None
        return float(result["actions"][0])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "policies.py").write_text(POLICIES)
    (tmp_path / "fleet.yaml").write_text(FLEET)
    return tmp_path


@pytest.fixture
def start(place: Path) -> Iterator[Start]:
    """`start(command)`: until it listens; killed after the test, and what it began with it."""
    started: list[subprocess.Popen[str]] = []

    def run(command: list[str]) -> Served:
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=place, start_new_session=True, **pipes))
        return Served(started[-1])

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def unit() -> dict[str, str]:
    """The unit's settings."""
    return dict(line.split("=", 1) for line in UNIT.splitlines() if "=" in line)


def command(of: list[str]) -> list[str]:
    """A command of the page with this Python's `inferential`."""
    assert Path(of[0]).name == "inferential"
    return [sys.executable, "-m", "inferential.cli.main", *of[1:]]


def test_systemd_finds_nothing_wrong_with_the_unit(place: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd is not installed")
    program = place / ".venv" / "bin" / "inferential"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    (place / "inferential.service").write_text(UNIT.replace("/opt/robots", str(place)))
    done = subprocess.run(
        [analyze, "verify", "./inferential.service"], cwd=place, capture_output=True, text=True, timeout=60, check=False
    )
    found = [line for line in done.stderr.splitlines() if "inferential.service" in line]
    assert (done.returncode, found) == (0, [])


def test_the_units_commands_check_serve_reload_and_end_in_time(place: Path, start: Start) -> None:
    settings = unit()
    checked = command(shlex.split(settings["ExecStartPre"]))
    done = subprocess.run(checked, cwd=place, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    served = start(command(shlex.split(settings["ExecStart"])))
    assert served.answer() == 2.0
    assert settings["ExecReload"] == "/bin/kill -HUP $MAINPID"
    (place / "fleet.yaml").write_text(FLEET + "scheduling: {max_retries: 0}\n")
    served.process.send_signal(signal.SIGHUP)
    assert served.process.stderr is not None
    while "SIGHUP: configuration reloaded" not in (line := served.process.stderr.readline()):
        assert line
    assert served.answer() == 2.0
    served.process.send_signal(signal.Signals[settings["KillSignal"]])
    assert served.process.wait(60) == 0
    assert float(settings["TimeoutStopSec"]) > DRAIN_S


def test_a_stop_that_reaches_every_process_of_the_unit_answers_the_robots_that_wait(place: Path, start: Start) -> None:
    served = start(command(shlex.split(unit()["ExecStart"])))
    with Connection(served.address) as connection:
        model = connection.model("arm")
        model.observe(state=np.ones(1), wait="yes")
        while connection.stats.observed and not _runs(served):
            pass
        for process in psutil.Process(served.process.pid).children(recursive=True):  # KillMode=control-group
            process.terminate()
        served.process.terminate()
        (place / "go").touch()
        result = model.get_result(60_000)
        assert result is not None
        assert result["actions"] == 2.0
    assert served.process.wait(60) == 0


def probes() -> dict[str, dict[str, Any]]:
    """The three probes of the container."""
    spec = YAML(typ="safe").load(PODS)["spec"]
    assert spec["terminationGracePeriodSeconds"] > DRAIN_S
    (container,) = spec["containers"]
    assert [port["containerPort"] for port in container["ports"]] == [5555, 8080]
    return {name: probe for name, probe in container.items() if name.endswith("Probe")}


def test_the_containers_command_as_process_1_is_probed_drains_and_ends(place: Path, start: Start) -> None:
    instructions = dict(line.split(" ", 1) for line in DOCKERFILE.splitlines())
    assert all((place / name).exists() for name in instructions["COPY"].split()[:-1])
    if subprocess.run([*IN_CONTAINER, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no PID namespace can be made here")
    served = start([*IN_CONTAINER, *command(json.loads(instructions["ENTRYPOINT"]))])
    (first,) = psutil.Process(served.process.pid).children()
    assert served.answer() == 2.0

    found = probes()
    assert list(found) == ["startupProbe", "livenessProbe", "readinessProbe"]
    asked = {}
    for name, probe in found.items():
        assert probe.keys() <= PROBE
        assert probe["httpGet"].keys() <= HTTP_GET
        assert probe["httpGet"]["port"] == 8080
        headers = {one["name"]: one["value"].replace("TOKEN", TOKEN) for one in probe["httpGet"].get("httpHeaders", [])}
        asked[name] = probe["httpGet"]["path"], headers
    assert {name: served.ask(*one) for name, one in asked.items()} == dict.fromkeys(found, 200)

    with Connection(served.address) as connection:
        model = connection.model("arm")
        model.observe(state=np.ones(1), wait="yes")
        while connection.stats.observed and not _runs(served):
            pass
        first.send_signal(signal.Signals[instructions["STOPSIGNAL"]])
        while served.ask(*asked["readinessProbe"]) == 200:
            pass
        during = {name: served.ask(*one) for name, one in asked.items()}
        assert during == {"startupProbe": 200, "livenessProbe": 200, "readinessProbe": 503}
        (place / "go").touch()
        result = model.get_result(60_000)
        assert result is not None
        assert result["actions"] == 2.0
    assert served.process.wait(60) == 0


def _runs(served: Served) -> bool:
    """Whether the model runs a call."""
    request = urllib.request.Request(f"{served.page}/api/status", headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return bool(json.load(answer)["in_flight"])
