"""`inferential top`, `inferential call` and what goes with them, against a real `inferential serve`."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from inferential.cli.logs import JsonFormatter, TextFormatter
from inferential.cli.page_reader import put_together
from inferential.cli.top import view

Start = Callable[..., "subprocess.Popen[str]"]


def test_a_stream_that_has_some_robots_of_many_at_once_is_put_together() -> None:
    def event(*client_ids: str, **more: Any) -> dict[str, Any]:
        return {"clients": [{"client_id": one} for one in client_ids]} | more

    events = [event("a", "b", "c"), event("b", left=[]), event("d", left=["a"]), event("a")]
    shown = ["".join(client["client_id"] for client in status["clients"]) for status in put_together(events)]
    assert shown == ["abc", "abc", "bcd", "a"]


def test_a_call_shows_the_answer_and_where_its_time_went(run: Any, served: tuple[str, str]) -> None:
    ran = run("call", served[0], "arm", "state=[1, 2.5, 3]")
    assert ran.code == 0
    assert "actions" in ran.out
    assert "float32" in ran.out
    assert "2 5 6" in ran.out
    assert "round trip" in ran.out
    assert "batch of 1" in ran.out


def test_a_model_is_called_in_either_order_of_model_and_server(run: Any, served: tuple[str, str]) -> None:
    assert run("call", "arm", served[0], "state=1", "--json").json["model_id"] == "arm"


def test_json_has_all_values(run: Any, served: tuple[str, str], place: Path) -> None:
    np.save(place / "state.npy", np.arange(3))
    result = run("call", served[0], "echo", "a:int64=@state.npy", "text=pick it up", "n=0.5", "--json").json
    assert result["values"] == {"a": [0, 1, 2], "text": "pick it up", "n": 0.5}
    assert result["server_ms"] >= result["inference_ms"] > 0


def test_an_image_of_a_file_is_sent_as_it_is(run: Any, served: tuple[str, str], place: Path) -> None:
    Image.fromarray(np.full((2, 3, 3), 7, np.uint8)).save(place / "cup.png")
    result = run("call", served[0], "echo", "image=@cup.png", "--json").json
    assert np.shape(result["values"]["image"]) == (2, 3, 3)


def test_several_requests_are_summed_up(run: Any, served: tuple[str, str]) -> None:
    assert "20 requests: p50" in run("call", served[0], "arm", "state=1", "--repeat", "20").out


def test_what_the_server_refuses_is_exit_code_1(run: Any, served: tuple[str, str]) -> None:
    ran = run("call", served[0], "leg", "state=1")
    assert (ran.code, ran.out) == (1, "")
    assert "UnknownModel: no model 'leg'; there is: arm, echo, once" in ran.err
    assert run("call", served[0], "arm", "--json").json["error"] == "ModelFailed"
    assert "KeyError: 'state' (the observation had joints)" in run("call", served[0], "arm", "joints=1").err


def test_where_no_server_is_that_is_said(run: Any) -> None:
    ran = run("call", "127.0.0.1:1", "arm", "state=1", "--timeout-ms", "50")
    assert ran.code == 1
    assert "no answer from 127.0.0.1:1 within 50 ms: Connection refused (nothing listens there; `infer" in ran.err


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_what_is_no_server_for_robots_is_said(run: Any, says: bytes) -> None:
    accepted = []

    def answer(other: socket.socket) -> None:
        accepted.append(other.accept()[0])
        accepted[0].sendall(says)

    with socket.create_server(("127.0.0.1", 0)) as other:
        answering = threading.Thread(target=answer, args=(other,), daemon=True)
        answering.start()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        assert "is it the port for robots, not that of" in run("call", address, "arm", "--timeout-ms", "300").err
        answering.join()
        accepted[0].close()


def test_top_shows_robots_and_models_once(run: Any, served_anew: tuple[str, str]) -> None:
    for _ in range(3):
        run("call", served_anew[0], "arm", "state=1", "--client-id", "robot-7")
    ran = run("top", served_anew[1], "--once")
    assert ran.code == 0
    assert "robot-7" in ran.out
    assert "active" in ran.out
    assert "arm" in ran.out
    result = run("top", served_anew[1], "--json").json
    assert result["clients"][0]["client_id"] == "robot-7"


def test_top_is_live_until_interrupted(served: tuple[str, str]) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "inferential.cli.main", "top", served[1]]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    try:
        seen = b""
        while seen.count(b"Inferential") < 3:  # drawn again and again
            seen += os.read(ours, 65536)
        process.send_signal(signal.SIGINT)
        while True:
            try:
                os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "127.0.0.1:1"])
def test_top_says_where_nothing_answers(run: Any, url: str) -> None:
    ran = run("top", url, "--once")
    assert ran.code == 2
    assert f"nothing answers at {url}" in ran.err


@pytest.mark.parametrize("command", ["top", "advise"])
def test_a_name_that_is_no_host_is_said_to_be_unknown(run: Any, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any, **options: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", fails)
    assert run(command, "flet").err.startswith("error: nothing answers at flet: Name or service not known (")


def test_top_needs_the_token_where_there_is_one(run: Any, start: Start, place: Path) -> None:
    (place / "fleet.yaml").write_text(
        "transport: {bind: 'tcp://127.0.0.1:0'}\n"
        "models: {known: {arm: {target: 'policies:echo'}}}\n"
        "http: {port: 0, token: s3cret}\n"
        "gateways: {openpi: {port: 0, model: arm}, gr00t: {port: 0, model: arm}, lerobot: {port: 0, model: arm},\n"
        "           act: {port: 0, model: arm}}\n"
    )
    process = start("serve", "fleet.yaml")
    assert process.stdout is not None
    process.stdout.readline()
    lines = sorted(process.stdout.readline() for _ in range(5))  # each opens once its model is ready
    where = (
        "/act gateway on http://127.0.0.1:",
        "GR00T gateway on tcp://127.0.0.1:",
        "LeRobot gateway on 127.0.0.1:",
        "openpi gateway on ws://127.0.0.1:",
        "page on http://127.0.0.1:",
    )
    for line, expected in zip(lines, where, strict=True):
        assert line.startswith(expected)
    page = lines[-1].split()[-1]
    assert "asks for a token" in run("top", page, "--once").err
    assert run("top", page, "--once", "--token", "s3cret").code == 0


def status_of(*clients: dict[str, Any], models: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """As `/api/status` tells it, of nothing else."""
    return {
        **dict.fromkeys(("version", "address", "strategy"), ""),
        "waiting": 0,
        "in_flight": 0,
        "draining": False,
        "models": models,
        "clients": clients,
    }


def test_of_many_robots_those_that_need_a_look_come_first() -> None:
    clients = [{"client_id": f"robot-{n}", "state": "overdue" if n == 9 else "active", "models": []} for n in range(10)]
    table, left = view(status_of(*clients), 11).renderables[-2:]
    assert str(table.rows[0][0]) == "robot-9"
    assert str(left) == "and 6 more"


def test_robots_that_are_alike_are_in_the_order_of_their_numbers() -> None:
    names = ["arm-9", "arm-10", "arm-10-a", "leg", "7"]
    clients = [{"client_id": name, "state": "active", "models": []} for name in names]
    table, _ = view(status_of(*clients), 24).renderables[-2:]
    assert [str(row[0]) for row in table.rows] == ["7", "arm-9", "arm-10", "arm-10-a", "leg"]


def test_on_a_narrow_terminal_robots_keep_their_names_and_a_model_its_line() -> None:
    use = {"model_id": "balance", "cadence_ms": 19.4, "age_ms": 113.0, "answered": 12345, "in_time": 12345}
    client = {"client_id": "ballplate-01", "state": "overdue", "models": [{**use, "superseded": 99999, "refused": 0}]}
    latency = [{"batch_size": size, "median_ms": 100.0} for size in range(1, 20)]
    model = {
        "model_id": "balance",
        "state": "ready",
        "waiting": 0,
        "in_flight": 0,
        "replicas": ["a"],
        "max_inflight": 1,
        "calls": 9,
    }
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(view(status_of(client, models=[{**model, "latency": latency}]), 24))
    lines = console.export_text().splitlines()
    assert any(line.startswith("ballplate-01 overdue balance") and "12345" in line for line in lines)
    assert max(map(len, lines)) <= 80
    assert [line.rstrip()[-21:] for line in lines if " 1: 100.0" in line] == [" 1: 100.0  …  19: 100.0"[-21:]]


@pytest.mark.parametrize("width", [20, 30, 40, 60])
def test_on_a_very_narrow_terminal_names_stay_and_counts_are_left_out(width: int) -> None:
    use = {"model_id": "balance", "cadence_ms": 19.4, "age_ms": 113.0, "answered": 12345, "in_time": 12345}
    client = {"client_id": "ballplate-01", "state": "late", "models": [{**use, "superseded": 99999, "refused": 0}]}
    counts = {"waiting": 123, "in_flight": 0, "replicas": ["a"], "max_inflight": 1, "calls": 9}
    model = {"model_id": "balance", "state": "ready", **counts, "latency": []}
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(view(status_of(client, models=[model]), 24))
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert any(line.startswith("balance ready") for line in lines)
    assert any(line.startswith("ball") and " late " in f"{line} " and "113.0" in line for line in lines)


def test_names_that_differ_at_their_end_alone_still_differ_in_80_columns() -> None:
    use = {"model_id": "grasping", "cadence_ms": 101.4, "age_ms": 11.0, "answered": 1234567, "in_time": 1}
    client = {"state": "active", "models": [{**use, "superseded": 99999, "refused": 7}]}
    names = [f"warehouse-4-aisle-{number:02d}-left-arm-{number:02d}" for number in range(3)]
    status = status_of(*({**client, "client_id": name} for name in names))
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(view(status, 24))
    shown = [line.split()[0] for line in console.export_text().splitlines() if line.startswith("wareh")]
    assert sorted(name[-3:] for name in shown) == ["-00", "-01", "-02"]
    assert all("\u2026" in name for name in shown)


def test_long_names_are_cut_so_that_counts_stay_whole_in_80_columns() -> None:
    use = {"model_id": "pi0.5-" + "x" * 40, "cadence_ms": 1019.4, "age_ms": 1113.0, "answered": 1234567, "in_time": 1}
    client = {
        "client_id": "robot-" + "y" * 60,
        "state": "overdue",
        "models": [{**use, "superseded": 99999, "refused": 7}],
    }
    model = {
        "model_id": use["model_id"],
        "state": "loading",
        "waiting": 1234,
        "in_flight": 1,
        "replicas": ["a"],
        "max_inflight": 1,
    }
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(view(status_of(client, models=[{**model, "calls": 9876543, "latency": []}]), 24))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    (robot,) = [line.split() for line in lines if line.startswith("robot-")]
    assert robot[3:] == ["1019.4", "1113.0", "0.0", "1234567", "99999", "7"]
    (served,) = [line.split() for line in lines if line.startswith("pi0.5-")]
    assert served[1:] == ["loading", "1234", "1", "1", "9876543"]


FOREIGN = "\x1b[2J\x9b31m\u202e[/b]"
"""What a terminal would act on, and a tag that closes none."""
SHOWN = "\\x1b[2J\\x9b31m\\u202e[/b]"


def test_top_shows_what_robots_are_called_and_nothing_that_a_terminal_acts_on() -> None:
    use = {"model_id": f"m{FOREIGN}", "cadence_ms": None, "age_ms": 1.0, "answered": 1, "in_time": 1}
    client = {"client_id": f"r{FOREIGN}", "state": "active", "models": [{**use, "superseded": 0, "refused": 0}]}
    model = {
        "model_id": f"n{FOREIGN}",
        "state": "ready",
        "waiting": 0,
        "in_flight": 0,
        "replicas": [],
        "max_inflight": 1,
        "calls": 9,
    }
    status = status_of(client, models=[{**model, "latency": []}])
    console = Console(width=300, file=io.StringIO())
    console.print(view({**status, "strategy": FOREIGN}, 24))
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert [name for name in ("r", "m", "n") if f"{name}{SHOWN}" not in written] == [], written
    assert all(one.isprintable() or one == "\n" for one in written)


def test_call_shows_an_answer_and_nothing_that_a_terminal_acts_on(run: Any, place: Path, start: Start) -> None:
    (place / "rude.py").write_text(
        f"def answer(observation): return {{'k{FOREIGN}': 'v{FOREIGN}', 'lines': 'one\\ntwo'}}\n"
        f"def refuse(observation): raise ValueError('w{FOREIGN}')\n"
    )
    process = start("serve", "-m", "a=rude:answer", "-m", "r=rude:refuse", "--bind", "tcp://127.0.0.1:0")
    assert process.stdout is not None
    where = process.stdout.readline().split()[2].rstrip(",")
    result = run("call", where, "a", "state=1").out
    assert f"k{SHOWN}" in result
    assert f"v{SHOWN}" in result
    assert "two" in result
    refused = run("call", where, "r", "state=1").err
    assert f"w{SHOWN}" in refused
    assert f"w{SHOWN}" in run("bench", where, "r", "state=1").err
    process.send_signal(signal.SIGTERM)
    logged = process.communicate(timeout=60)[1]
    assert f"w{SHOWN}" in logged
    assert all(one.isprintable() or one == "\n" for one in result + refused + logged)


@pytest.mark.parametrize("url", ["http://localhost:here", "http://[::1", "http://", "ftp://localhost", ""])
def test_top_tells_what_is_no_url(run: Any, url: str) -> None:
    assert run("top", url).err == f"error: URL: expected http://HOST:PORT, got {url!r}\n"


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """The URL of something that answers one request so."""
    with socket.create_server(("127.0.0.1", 0)) as other:

        def respond() -> None:
            caller = other.accept()[0]
            with caller:
                caller.recv(65536)
                caller.sendall(answer)

        thread = threading.Thread(target=respond)
        thread.start()
        yield f"http://127.0.0.1:{other.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize("answer", [b"[]", b"<html>", b"{}", b"null"])
def test_top_tells_what_is_no_page_of_ours(run: Any, answer: bytes) -> None:
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer)) as url:
        ran = run("top", url, "--once")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"error: what answers at {url} is no page of `inferential serve --http`\n"


@pytest.mark.parametrize("command", [("top", "--once"), ("models",), ("why", "arm-01")])
def test_a_server_that_ends_within_its_answer_is_said_to_have_ended(run: Any, command: tuple[str, ...]) -> None:
    with answering(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"clients"') as url:
        ran = run(*command, url)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"error: {url}: the server did not answer to the end: it has ended\n"


def test_logs_can_be_json(start: Start) -> None:
    process = start("serve", "-m", "arm=policies:echo", "--bind", "tcp://127.0.0.1:0", "--log-format", "json")
    assert process.stdout is not None
    printed = [process.stdout.readline()]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    printed += out.splitlines(keepends=True)
    logged = [json.loads(line) for line in err.splitlines()]
    (result,) = (one for one in logged if "is loading" in one["message"])
    assert (result["level"], result["logger"]) == ("info", "inferential.models")
    # Who collects the log alone misses nothing that is printed.
    assert [one["message"] + "\n" for one in logged if one["logger"] == "inferential.announced"] == printed
    assert [line.split()[0] for line in printed] == ["listening", "draining,"]


@pytest.mark.parametrize("form", [JsonFormatter(), TextFormatter("%(message)s")])
def test_a_log_has_nothing_that_a_terminal_acts_on(form: logging.Formatter) -> None:
    record = logging.LogRecord("a", logging.ERROR, "f.py", 1, "client %s: é", (FOREIGN,), None)
    line = form.format(record)
    assert line.isprintable()
    assert "é" in line
    if isinstance(form, JsonFormatter):
        assert json.loads(line)["message"] == f"client {FOREIGN}: é"
    else:
        assert line == f"client {SHOWN}: é"


def test_a_logged_exception_is_part_of_its_object() -> None:
    try:
        raise ValueError("no cup")
    except ValueError:
        record = logging.LogRecord("a", logging.ERROR, "f.py", 1, "failed: %s", ("x",), sys.exc_info())
    result = json.loads(JsonFormatter().format(record))
    assert result["message"] == "failed: x"
    assert "ValueError: no cup" in result["exception"]
    assert result["time"].endswith("+00:00")


def test_a_model_that_hangs_and_robots_without_answers_come_first() -> None:
    use = {"model_id": "arm", "cadence_ms": 50.0, "age_ms": 20.0, "answered": 90, "in_time": 90, "missed": 10}
    counts = {"superseded": 0, "refused": 0}
    clients = [
        {"client_id": f"{name}-1", "state": "active", "models": [{**use, **counts, "condition": condition}]}
        for name, condition in (("well", "good"), ("slow", "late"), ("without", "unanswered"))
    ]
    model = {"model_id": "arm", "state": "hung", "since": 1e9, "why": "a call takes longer than 500 ms; " + "x" * 200}
    model |= {"waiting": 3, "in_flight": 1, "replicas": ["a"], "max_inflight": 1, "calls": 100, "answers": 90}
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(view(status_of(*clients, models=[{**model, "latency": []}]), 24))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    (served,) = [line.split() for line in lines if line.startswith("arm ") and "is hung" not in line]
    assert served == ["arm", "hung", "3", "1", "1", "90"]
    assert any(line.startswith("arm is hung since ") and ": a call takes longer" in line for line in lines)
    robots = [line.split() for line in lines if "-1 " in line]
    assert [robot[0] for robot in robots] == ["without-1", "slow-1", "well-1"]
    assert robots[1][1:6] == ["late", "arm", "50.0", "20.0", "90.0"]
