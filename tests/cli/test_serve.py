"""`inferential serve`: real processes, sockets, files and signals."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from websockets.sync.client import connect

from inferential import Connection
from inferential.proto.msgpack_numpy import pack, unpack

WAIT_MS = 60_000
STATE = np.arange(4, dtype=np.float32)
Start = Callable[..., "subprocess.Popen[str]"]


def line_with(text: str, stream: IO[str] | None) -> str:
    """Reads until a line has the text; the test's time limit is the only one."""
    assert stream is not None
    seen = []
    for line in stream:
        if text in line:
            return line
        seen.append(line)
    raise AssertionError(f"{text!r} never came: {seen}")


def address(process: subprocess.Popen[str]) -> str:
    """Where a server listens, as its line tells."""
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.match(r"listening on (tcp://127\.0\.0\.1:[1-9]\d+|ipc://\S+), strategy \w+, models: ", line)
    assert found, (line, process.stderr and not line and process.stderr.read())
    return found[1]


def replace(path: Path, text: str) -> None:
    """Writes a file in one go, so that no reader sees half of it."""
    other = path.with_name("other")
    other.write_text(text)
    other.replace(path)


def infer(where: str, model: str) -> Any:
    with Connection(where, "robot") as connection:
        return connection.model(model).infer(WAIT_MS, state=STATE)


def test_models_of_a_file_and_of_the_command_line_are_served(start: Start, place: Path) -> None:
    (place / "fleet.yaml").write_text(
        "transport: {bind: 'tcp://127.0.0.1:0'}\n"
        "scheduling: {strategy: round_robin}\n"
        "models: {known: {arm: {target: 'policies:Doubler'}, hand: {target: 'policies:echo'}}}\n"
    )
    process = start("serve", "fleet.yaml", "-m", "leg=policies:Batcher", "--model", "hand=policies:make")
    where = address(process)
    np.testing.assert_array_equal(infer(where, "arm")["actions"], STATE * 2)
    np.testing.assert_array_equal(infer(where, "hand")["actions"], STATE * 2)
    np.testing.assert_array_equal(infer(where, "leg")["actions"], STATE + 1)


def test_the_line_tells_address_strategy_and_models(start: Start, place: Path) -> None:
    options = ["--bind", "ipc://robots.sock", "--strategy", "priority_tiered", "-m", "b=policies:echo"]
    process = start("serve", *options, "-m", "a=policies:echo")
    assert process.stdout is not None
    assert process.stdout.readline() == "listening on ipc://robots.sock, strategy priority_tiered, models: a, b\n"


def test_several_servers_need_models_on_ray(start: Start) -> None:
    process = start("serve", "-m", "arm=policies:echo", "--servers", "2")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert not out
    assert "--servers: servers share models on Ray Serve, and arm is in the server's own process" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_well(start: Start, number: signal.Signals) -> None:
    process = start("serve", "-m", "arm=policies:echo", "--bind", "tcp://127.0.0.1:0")
    address(process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    reported = "draining, for 5 s at most; Ctrl-C again ends it at once\n"
    assert out == (reported if number == signal.SIGINT else "")
    assert "Traceback" not in err


def test_a_second_interrupt_ends_it_at_once(start: Start, place: Path) -> None:
    (place / "fleet.yaml").write_text(
        "transport: {bind: 'tcp://127.0.0.1:0'}\n"
        "server: {drain_timeout_s: 3600}\n"
        "models: {known: {arm: {target: 'policies:WaitsForFile'}}}\n"
        "http: {port: 0}\n"
    )
    process = start("serve", "fleet.yaml")
    where = address(process)
    assert process.stdout is not None
    page = process.stdout.readline().split()[-1]
    with Connection(where, "robot") as connection:
        connection.model("arm").observe(state=STATE)
        while fetched(f"{page}/api/status")[1]["in_flight"] == 0:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "draining, for 3600 s at most; Ctrl-C again ends it at once\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    assert "Traceback" not in process.communicate()[1]


@pytest.mark.parametrize(
    "section",
    [
        "http: {{port: {}}}",
        "http: {{port: 0}}\ngateways: {{openpi: {{model: arm, port: {}}}}}",
        "http: {{port: {}}}\ngateways: {{gr00t: {{model: arm, port: 0}}}}",
    ],
)
def test_where_a_port_beside_it_is_taken_it_ends_with_one_line(run_apart: Any, place: Path, section: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (place / "fleet.yaml").write_text(
            "transport: {bind: 'ipc://robots.sock'}\n"
            "models: {known: {arm: {target: 'policies:echo'}}}\n"
            f"{section.format(port)}\n"
        )
        ran = run_apart("serve", "fleet.yaml", "--log-level", "warning")
    assert ran.code == 2
    assert "gateway" not in ran.out
    if section.startswith("http: {{port: {}"):  # a gateway opens when its model is ready, the page before
        assert ran.out == ""
    assert re.fullmatch(rf"error: [a-z.]+: cannot listen on 127\.0\.0\.1:{port}: Address already in use\n", ran.err)
    assert not (place / "robots.sock").exists()


def fetched(url: str) -> tuple[int, Any]:
    """Status and JSON of a page."""
    try:
        with urllib.request.urlopen(url) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_gateway_opens_when_its_model_is_ready(start: Start, place: Path) -> None:
    (place / "slowly.py").write_text(
        "import os, time\nfrom policies import Doubler\nwhile not os.path.exists('go'):\n    time.sleep(0.01)\n"
    )
    (place / "fleet.yaml").write_text(
        "transport: {bind: 'tcp://127.0.0.1:0'}\n"
        "server: {ready_wait_s: 0.01}\n"
        "models: {known: {arm: {target: 'slowly:Doubler'}, echo: {target: 'policies:echo'}}}\n"
        "gateways: {openpi: {port: 0, model: arm}}\n"
        "http: {port: 0}\n"
    )
    process = start("serve", "fleet.yaml")
    address(process)
    page = line_with("page on", process.stdout).split()[-1]
    assert fetched(f"{page}/readyz/arm")[0] == 503
    line_with("gateways.openpi: waits for model arm", process.stderr)
    while fetched(f"{page}/readyz/echo")[0] != 200:
        assert process.poll() is None
    (place / "go").touch()
    with connect(line_with("openpi", process.stdout).split()[3].rstrip(",")) as robot:
        robot.recv()
        robot.send(pack({"state": STATE}))
        np.testing.assert_array_equal(unpack(robot.recv())["actions"], STATE * 2)


def test_while_it_drains_robots_of_gateways_are_answered_and_readiness_says_so(start: Start, place: Path) -> None:
    (place / "fleet.yaml").write_text(
        "transport: {bind: 'tcp://127.0.0.1:0'}\n"
        "server: {drain_timeout_s: 60}\n"
        "models: {known: {arm: {target: 'policies:WaitsForFile'}}}\n"
        "gateways: {openpi: {port: 0, model: arm}}\n"
        "http: {port: 0}\n"
    )
    process = start("serve", "fleet.yaml")
    address(process)
    assert process.stdout is not None
    announced = {line.split()[0]: line.split() for line in (process.stdout.readline(), process.stdout.readline())}
    gateway, page = announced["openpi"][3].rstrip(","), announced["page"][-1]
    code, reported = fetched(f"{page}/readyz")
    assert (code, reported["ready"], reported["problems"]) == (200, True, [])
    with connect(gateway) as robot:
        robot.recv()
        robot.send(pack({"state": STATE}))
        while fetched(f"{page}/api/status")[1]["in_flight"] == 0:
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        while (reported := fetched(f"{page}/readyz"))[0] == 200:
            assert process.poll() is None
        assert (reported[0], reported[1]["ready"], reported[1]["problems"]) == (503, False, ["the server is draining"])
        (place / "go").touch()
        np.testing.assert_array_equal(unpack(robot.recv())["actions"], STATE)
    assert process.wait(timeout=60) == 0


def test_a_policy_server_of_openpi_is_a_target(start: Start, place: Path) -> None:
    (place / "fleet.yaml").write_text(
        "transport: {bind: 'tcp://127.0.0.1:0'}\n"
        "models: {known: {arm: {target: 'policies:Doubler'}}}\n"
        "gateways: {openpi: {port: 0, model: arm}}\n"
    )
    there = start("serve", "fleet.yaml")
    address(there)
    assert there.stdout is not None
    target = there.stdout.readline().split()[3].rstrip(",").replace("ws://", "openpi://")
    here = start("serve", "-m", f"pi0={target}", "--bind", "tcp://127.0.0.1:0")
    np.testing.assert_array_equal(infer(address(here), "pi0")["actions"], STATE * 2)


def test_the_environment_counts_and_is_outranked_by_options(start: Start, place: Path) -> None:
    process = start(
        "serve",
        "--strategy",
        "round_robin",
        INFERENTIAL_SCHEDULING__STRATEGY="priority_tiered",
        INFERENTIAL_TRANSPORT__BIND="tcp://127.0.0.1:0",
        INFERENTIAL_MODELS__KNOWN="{arm: {target: 'policies:Doubler'}}",
    )
    assert process.stdout is not None
    assert "strategy round_robin, models: arm" in process.stdout.readline()


def test_a_changed_file_is_taken_on_while_it_serves(start: Start, place: Path) -> None:
    fleet = place / "fleet.toml"
    text = '[transport]\nbind = "tcp://127.0.0.1:0"\n[models.known.arm]\ntarget = "policies:Doubler"\n'
    replace(fleet, text)
    process = start("serve", "fleet.toml", "--strategy", "round_robin")
    where = address(process)
    assert infer(where, "arm") is not None

    replace(fleet, text + "[clients]\naccept_unkown = false\n")
    assert "the old one stays" in line_with("fleet.toml changed", process.stderr)
    assert "did you mean clients.accept_unknown? (fleet.toml)" in line_with("accept_unkown", process.stderr)
    assert infer(where, "arm") is not None

    replace(fleet, text.replace(":0", ":1") + '[scheduling]\nstrategy = "x"\n[clients]\naccept_unknown = false\n')
    line_with("transport.bind: tcp://127.0.0.1:0 -> tcp://127.0.0.1:1 (takes effect at the next start)", process.stderr)
    line_with("clients.accept_unknown: true -> false", process.stderr)
    with pytest.raises(Exception, match="not accepted"):
        infer(where, "arm")

    replace(fleet, text)
    line_with("clients.accept_unknown: false -> true", process.stderr)
    process.send_signal(signal.SIGHUP)
    line_with("SIGHUP: configuration reloaded", process.stderr)
    assert infer(where, "arm") is not None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0


def test_a_hangup_is_handled_as_soon_as_it_listens(start: Start, place: Path) -> None:
    (place / "f.json").write_text('{"transport": {"bind": "tcp://127.0.0.1:0"}}')
    process = start("serve", "f.json", "-m", "arm=policies:echo")
    where = address(process)
    process.send_signal(signal.SIGHUP)
    line_with("SIGHUP: configuration reloaded", process.stderr)
    assert infer(where, "arm") is not None


def test_a_change_while_models_are_imported_is_not_lost(start: Start, place: Path) -> None:
    text = "transport: {bind: 'tcp://127.0.0.1:0'}\nmodels: {known: {m: {target: 'slow:echo'}}}\n"
    (place / "f.yaml").write_text(text)
    (place / "slow.py").write_text(
        "from pathlib import Path\nfrom policies import echo\n"
        "Path('new').write_text(Path('f.yaml').read_text() + 'scheduling: {max_retries: 3}')\n"
        "Path('new').replace('f.yaml')\n"
    )
    process = start("serve", "f.yaml")
    line_with("scheduling.max_retries: 0 -> 3", process.stderr)
    assert infer(address(process), "m") is not None


def test_a_strategy_that_does_not_exist_is_not_taken_on(start: Start, place: Path) -> None:
    fleet = place / "fleet.yaml"
    text = "transport: {bind: 'tcp://127.0.0.1:0'}\nmodels: {known: {arm: {target: 'policies:Doubler'}}}\n"
    replace(fleet, text)
    process = start("serve", "fleet.yaml")
    where = address(process)
    replace(fleet, text + "scheduling: {strategy: fastest}\n")
    line = line_with("is not taken on", process.stderr)
    assert "Unknown scheduler strategy 'fastest'" in line
    assert infer(where, "arm") is not None


def test_the_log_goes_to_standard_error_from_its_level_on(start: Start) -> None:
    process = start("serve", "-m", "arm=policies:echo", "--bind", "tcp://127.0.0.1:0", "--log-level", "warning")
    where = address(process)
    assert infer(where, "arm") is not None
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (out, err) == ("", "")


LEAVES = """
import asyncio, contextvars, sys

def leave():
    sys.exit(5)

async def leaving(observation):
    asyncio.get_running_loop().call_soon(leave)
    await asyncio.sleep(0.01)
    return observation

async def ending(observation):
    asyncio.get_running_loop().call_soon(leave, context=contextvars.Context())
    await asyncio.sleep(60)
"""


def test_where_code_that_runs_in_it_calls_sys_exit_the_log_says_where_and_what_keeps_a_model_from_it(
    start: Start, place: Path
) -> None:
    (place / "leaves.py").write_text(LEAVES)
    known = ", ".join(f"{name}: {{target: 'leaves:{name}', run: inline}}" for name in ("leaving", "ending"))
    (place / "f.yaml").write_text(f"models: {{known: {{{known}}}}}")
    process = start("serve", "f.yaml", "--bind", "tcp://127.0.0.1:0")
    where = address(process)
    assert infer(where, "leaving") is not None  # what a model left ends alone
    assert f"{place / 'leaves.py'}:5" in line_with("model leaving: a callback that it left", process.stderr)
    with Connection(where, "robot") as connection:
        connection.model("ending").observe(state=STATE)
        said = line_with("the server ends", process.stderr)
        process.communicate(timeout=60)
    assert process.returncode == 5
    assert f"{place / 'leaves.py'}:5" in said
    assert "run: process" in said


def test_settings_without_a_target_are_logged(start: Start, place: Path) -> None:
    (place / "f.yaml").write_text("models: {known: {amr: {max_inflight: 2}}}")
    process = start("serve", "f.yaml", "-m", "arm=policies:echo", "--bind", "tcp://127.0.0.1:0")
    line_with("models.known.amr has settings but no target: it is not served", process.stderr)
    address(process)


def test_a_gateway_to_a_model_that_is_not_served_is_logged(start: Start, place: Path) -> None:
    (place / "f.yaml").write_text("gateways: {kserve: {port: 0}, openpi: {model: amr, port: 0}}")
    args = ("-m", "arm=policies:echo", "--bind", "tcp://127.0.0.1:0", "--log-level", "warning")
    process = start("serve", "f.yaml", *args)
    address(process)
    process.send_signal(signal.SIGTERM)
    warned = process.communicate(timeout=60)[1]
    assert warned.count("WARNING") == 1
    assert "gateways.openpi.model: 'amr' is not served: its robots will be refused" in warned


def test_a_model_behind_another_server_is_not_said_to_fail_while_the_server_starts(start: Start) -> None:
    args = ("-m", "far=kserve://127.0.0.1:1/arm", "--bind", "tcp://127.0.0.1:0", "--log-level", "warning")
    process = start("serve", *args)
    address(process)
    process.send_signal(signal.SIGTERM)
    assert "failing" not in process.communicate(timeout=60)[1]


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ((), "no models to serve: give one with --model ID=module:object, or as models.known.ID.target in a "),
        (("f.yaml",), "or as models.known.ID.target in f.yaml"),
        (("none.yaml",), "none.yaml: cannot be read: No such file or directory"),
        (("-m", "arm"), "--model: expected ID=module:object, got 'arm'"),
        (("-m", "=policies:echo"), "--model: expected ID=module:object, got '=policies:echo'"),
        (("-m", "a=policies:echo", "-m", "a=policies:make"), "--model: 'a' is given twice"),
        (
            ("-m", "arm=policies"),
            "target: expected 'policies:NAME', a module and the name of the model in it, got 'policies' (command line)",
        ),
        (
            ("-m", "arm=lab.policies.Arm"),
            "target: expected 'lab.policies:Arm', with a colon before the model's name, got 'lab.policies.Arm'",
        ),
        *(
            (
                ("-m", f"arm={given}"),
                f"models.known.arm.target: expected {meant!r} for a policy in a file, got {given!r}",
            )
            for given, meant in (
                ("arm.onnx", "onnx:arm.onnx"),
                ("models/arm.onnx", "onnx:models/arm.onnx"),
                ("ONNX:arm.onnx", "onnx:arm.onnx"),
                ("torch:arm.pt", "torchscript:arm.pt"),
            )
        ),
        (
            ("-m", "arm=onnx:https://hub/arm.onnx"),
            "models.known.arm.target: expected a file or folder of this machine, got 'onnx:https://hub/arm.onnx': "
            "download it first",
        ),
        (
            ("-m", "arm=policies:Doubler", "-m", "leg=ray:leg"),
            "models.known.arm.target: a server has its models either on Ray Serve or in its own process",
        ),
        (("-m", "arm=policies:Dubler"), "policies has no 'Dubler'; did you mean 'Doubler'?"),
        (
            ("-m", "arm=policies.py"),
            "models.known.arm.target: expected 'policies:NAME', a module and the name of the model",
        ),
        (("-m", "arm=policies.py:echo"), "no module 'policies.py', neither installed nor in "),
        (("-m", "arm=policies.py:echo"), "; of a file it is the name without .py: policies"),
        (("-m", "arm=policies:echo", "--strategy", "x"), "scheduling.strategy: expected one of batch_optimized, "),
        (("-m", "arm=policies:echo", "--bind", "robots"), "transport.bind: expected an address like tcp://*:5555 or "),
        (("-m", "arm=policies:echo", "--bind", "127.0.0.1:5555"), "; did you mean 'tcp://127.0.0.1:5555'?"),
        (("-m", "arm=policies:echo", "--bind", "5555"), "; did you mean 'tcp://*:5555'?"),
        (("-m", "arm=policies:echo", "--http", "page"), "--http: expected PORT or HOST:PORT, got 'page'"),
        (("-m", "arm=policies:echo", "--foxglove", "0.0.0.0:99999"), "foxglove.port"),
        (("-m", "arm=policies:echo", "--otlp", "collector"), "otlp.endpoint"),
    ],
)
def test_what_cannot_be_served_is_one_line_and_exit_code_2(
    run: Any, place: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], error: str
) -> None:
    monkeypatch.setenv("INFERENTIAL_SERVER__READY_WAIT_S", "60")  # for a process that finds no model
    (place / "f.yaml").write_text("metrics: {enabled: true}")
    free = () if "--bind" in args else ("--bind", "tcp://127.0.0.1:0")  # another test may listen at the default address
    ran = run("serve", *args, *free)
    assert ran.code == 2
    assert ran.err.startswith("error: ")
    assert error in ran.err
    assert ran.err.count("\n") == 1
    assert ran.out == ""


def test_each_problem_of_a_file_is_a_line(run: Any, place: Path) -> None:
    (place / "f.yaml").write_text("metrics: {enabled: 1}\nx: 1\n")
    lines = run("serve", "f.yaml").err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("error: ") for line in lines)


def test_an_address_in_use_is_one_line_and_exit_code_2(run_apart: Any, place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        ran = run_apart("serve", "-m", "arm=policies:echo", "--bind", bind)
    assert ran.code == 2
    assert ran.err == (
        f"error: transport.bind: cannot listen on '{bind}': Address already in use (end the "
        "program that listens there, or choose another port)\n"
    )
