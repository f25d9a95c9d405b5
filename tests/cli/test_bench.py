"""`inferential bench` against a real `inferential serve`."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
import urllib.request
from array import array
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inferential.cli import bench as bench_module
from inferential.cli.bench import figures
from inferential.sim.load import Load, Tally

SHORT = ("--robots", "3", "--rate", "20", "--seconds", "0.5")
Start = Callable[..., "subprocess.Popen[str]"]


def adds_up(result: dict[str, Any]) -> bool:
    ended = result["answered"] + result["superseded"] + sum(result["refused"].values()) + result["unanswered"]
    return bool(result["sent"] == ended)


def test_it_tells_what_became_of_the_observations_and_how_long_they_took(run: Any, served: tuple[str, str]) -> None:
    ran = run("bench", served[0], "arm", "state=[1,2]", *SHORT)
    assert ran.code == 0
    assert ran.out.startswith(f"3 robots at 20 Hz for 0.5 s, arm at {served[0]}, 8 bytes an observation")
    assert re.search(r"^answered +[1-9]\d* +\d+\.\d\d %", ran.out, re.MULTILINE)  # a busy machine supersedes some
    assert re.search(r"^round trip( +\d+\.\d\d){6}$", ran.out, re.MULTILINE)
    assert "█" in ran.out
    assert re.search(r"rows in a batch: \d", ran.out)
    assert ran.err == ""


def test_json_stands_alone_and_adds_up(run: Any, served: tuple[str, str]) -> None:
    ran = run("bench", served[0], "arm", "state=[1,2]", "--payload", "2kB", "--json", *SHORT)
    result = ran.json
    assert ran.err == ""
    assert result["sent"] > 0
    assert adds_up(result)
    assert result["payload_bytes"] == 2008
    assert sum(one["count"] for one in result["histogram"]) == result["answered"]
    assert result["round_trip_ms"]["p50"] <= result["round_trip_ms"]["max"] <= result["histogram"][-1]["up_to_ms"]


def test_in_closed_loop_there_is_no_rate(run: Any, served: tuple[str, str]) -> None:
    result = run("bench", served[0], "arm", "state=1", "--closed", "--robots", "2", "--seconds", "0.5", "--json").json
    assert result["rate_hz"] is None
    assert result["answered"] > 2
    assert adds_up(result)


def test_an_observation_is_read_as_that_of_a_call(run: Any, served: tuple[str, str], place: Path) -> None:
    Image.fromarray(np.full((2, 3, 3), 7, np.uint8)).save(place / "cup.png")
    result = run("bench", served[0], "echo", "image=@cup.png", "n:float64=1", "prompt=go", "--json", *SHORT).json
    assert result["payload_bytes"] == 2 * 3 * 3 + 8


def test_ctrl_c_ends_it_with_the_figures_so_far(served_anew: tuple[str, str], start: Start) -> None:
    process = start("bench", served_anew[0], "arm", "state=1", "--rate", "50", "--seconds", "600", "--json")
    answered = 0
    while answered < 600:  # more than those of the warm-up
        assert process.poll() is None
        with urllib.request.urlopen(f"{served_anew[1]}/api/status") as response:
            clients = json.load(response)["clients"]
        answered = sum(use["answered"] for client in clients for use in client["models"])
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    result = json.loads(out)
    assert (process.returncode, err) == (0, "")
    assert 0 < result["seconds"] < 600
    assert result["answered"] > 0
    assert adds_up(result)


def test_on_a_terminal_there_is_a_bar_meanwhile(served: tuple[str, str]) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "inferential.cli.main", "bench", served[0], "arm", "state=1", *SHORT]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    seen = b""
    try:
        while True:
            seen += os.read(ours, 65536)
    except OSError:  # the other end is closed
        os.close(ours)
    out, _ = process.communicate(timeout=60)
    assert b"warming up" in seen
    assert b"answers/s" in seen
    assert out.startswith(b"3 robots")


def test_where_nothing_is_answered_the_exit_code_is_1(run: Any, served_anew: tuple[str, str]) -> None:
    ran = run("bench", served_anew[0], "once", "state=1", "--json", *SHORT)
    assert ran.code == 1
    assert ran.json["refused"] == {"ModelFailed": ran.json["sent"] - ran.json["superseded"]}
    assert ran.json["round_trip_ms"] is None
    assert ran.json["histogram"] == []


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (("leg", "state=1"), "the first observation got no answer: UnknownModel: no model 'leg'; there is: arm, "),
        (("arm", "other=1"), "the first observation got no answer: ModelFailed: KeyError: 'state'"),
        (("arm",), "nothing to send: give what the model reads as KEY=VALUE, or --payload SIZE"),
        (("arm", "state=@nothing.png"), "state: cannot read nothing.png"),
        (("arm", "state=1", "state=2"), "state: given twice"),
        (("arm", "payload=1", "--payload", "1MB"), "--payload is the key payload, which is given"),
        (("arm", "--payload", "many"), "--payload: expected a size of 1 B to 256 MiB, as 64, 150kB or 1MB, got 'many'"),
        (("arm", "--payload", "0"), "--payload: expected a size"),
        (("arm", "--payload", "257MiB"), "--payload: expected a size"),
        (("arm", "state=1", "--closed", "--rate", "5"), "--closed has no rate: leave out --rate, or --closed"),
        (("arm", "state=1", "--robots", "0"), "--robots"),
        (("arm", "state=1", "--rate", "0"), "--rate"),
    ],
)
def test_what_is_wrong_is_one_line_before_any_load(
    run: Any, served: tuple[str, str], args: tuple[str, ...], error: str
) -> None:
    ran = run("bench", served[0], *args)
    assert (ran.code, ran.out) == (2, "")
    assert error in ran.err
    assert ran.err.count("\n") == 1


def test_where_no_server_is_that_is_said(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_module, "FIRST_ANSWER_MS", 50.0)
    ran = run("bench", "127.0.0.1:1", "arm", "state=1")
    assert ran.code == 2
    assert "no answer from 127.0.0.1:1 within 0.05 s: Connection refused" in ran.err


def test_an_invalid_address_is_an_error(run: Any) -> None:
    assert "server: expected HOST:PORT" in run("bench", "tcp://", "arm", "state=1").err


@pytest.mark.parametrize(
    ("text", "size"), [("64", 64), ("1.5kB", 1500), ("1 MB", 10**6), ("2KiB", 2048), ("256MiB", 2**28)]
)
def test_sizes_have_units(text: str, size: int) -> None:
    assert bench_module.parse_size(text) == size


LOAD = Load("localhost:5555", "arm", {"state": np.zeros(2)}, 1, 100.0, 2.0, 50.0)


def test_the_histogram_counts_each_answer_once_by_its_bound() -> None:
    tally = Tally(sent=4, answered=4, round_trip_ms=array("d", [1.0, 1.1, 2.0, 4.1]))
    bars = figures(LOAD, tally, 2.0)["histogram"]
    assert [one["up_to_ms"] for one in bars] == pytest.approx([2 ** (step / 3) for step in range(8)])
    assert [one["count"] for one in bars] == [1, 1, 0, 1, 0, 0, 0, 1]


def test_rows_in_a_batch_are_those_of_a_call() -> None:
    # Four calls: three of one row and one of nine. By answers the mean would be 7.
    assert figures(LOAD, Tally(batch_sizes=Counter({1: 3, 9: 9})), 2.0)["mean_batch_size"] == 3.0


def test_a_load_that_is_late_itself_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    for late_ms in (1.0, 3.0):
        tally = Tally(sent=1, unanswered=1, slip_ms=array("d", [late_ms]))
        bench_module.show(LOAD, figures(LOAD, tally, 2.0))
        assert ("warning: this machine was late itself" in capsys.readouterr().out) == (late_ms > 2)


async def test_it_runs_where_the_event_loop_knows_no_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise NotImplementedError

    class Done:
        counted_s = 1.5

        async def run(self) -> None: ...

    monkeypatch.setattr(asyncio.get_running_loop(), "add_signal_handler", unknown)
    assert await bench_module.driven(Done(), None) == 1.5  # type: ignore[arg-type]
