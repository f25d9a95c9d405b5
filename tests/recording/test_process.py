"""The process that writes: one request that cannot be read, its own end, and a disk that takes nothing."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mcap")

from mcap.reader import make_reader
from tests.recording.test_files import KEEP, Requests
from tests.recording.test_recorder import ask, recorded, recording

from inferential.recording import process, recorder
from inferential.recording.entries import Entry
from inferential.recording.memory import RecordersMemory, WritersMemory
from inferential.recording.reading import read_recording
from inferential.server import Server


def framed(*entries: Entry) -> bytes:
    data = pickle.dumps((list(enumerate(entries, 1)), KEEP, 1 << 30, 1 << 40))
    return process.HEAD.pack(len(data)) + data


def written(folder: Path, entries: list[Entry], capsys: pytest.CaptureFixture[str]) -> dict[str, str | int]:
    """Returns the sums, and the texts, of what the process says of these entries."""
    stream = io.BytesIO()
    for entry in entries:
        stream.write(framed(entry))
    stream.seek(0)
    process.write(stream, folder, WritersMemory(RecordersMemory(0).fd))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    counts = {name: sum(line[name] for line in lines) for name in ("recorded", "dropped")}
    return {
        **counts,
        **{name: "\n".join(filter(None, (line[name] for line in lines))) for name in ("problem", "unread")},
    }


def test_an_observation_that_cannot_be_read_is_reported_and_is_no_fault_of_the_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = Requests(10)
    entries = [requests.next(), requests.next("leg", envelope=b"\xff\xff"), requests.next()]
    said = written(tmp_path, entries, capsys)
    assert (said["recorded"], said["dropped"], said["problem"]) == (3, 0, "")
    assert str(said["unread"]).startswith("leg: its observation cannot be read: Failed to decode")
    (path,) = tmp_path.iterdir()
    assert [(one.client_id, one.observation is None) for one in read_recording(path)] == [
        ("arm", False),
        ("leg", True),
        ("arm", False),
    ]


@pytest.mark.parametrize(("behind_s", "age_s"), [(60.0, 0.0), (0.0, -1.0), (0.0, 0.0)])
def test_entries_are_written_in_order_whether_processors_are_idle_become_busy_or_are_busy(
    behind_s: float, age_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(process, "BEHIND_S", behind_s)
    requests = Requests(10)
    entries = [requests.next() for _ in range(60)]
    for number, entry in enumerate(entries):
        entry.ended_ns = time.monotonic_ns() - int(age_s * 1e9)
        entry.common = {**entry.common, "request_id": number}
    process.write(
        io.BytesIO(framed(*entries[:20]) + framed(*entries[20:])), tmp_path, WritersMemory(RecordersMemory(0).fd)
    )
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sum(line["recorded"] for line in lines) == 60
    (path,) = tmp_path.iterdir()
    assert [one.request_id for one in read_recording(path)] == list(range(60))


def test_an_answer_that_cannot_be_read_is_dropped_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    requests = Requests(10)
    bad = requests.next()
    bad.result_envelope = b"\xff\xff"
    said = written(tmp_path, [requests.next(), bad, requests.next()], capsys)
    assert (said["recorded"], said["dropped"], said["problem"]) == (2, 1, "")
    assert "arm: " in str(said["unread"])


def test_a_stream_that_ends_within_an_entry_finishes_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = framed(Requests(10).next())
    stream = io.BytesIO(data + data[:50])
    process.write(stream, tmp_path, WritersMemory(RecordersMemory(0).fd))
    (path,) = tmp_path.iterdir()
    assert len(list(read_recording(path))) == 1


def writer_pid() -> int:
    """The process that writes, which is a child of this one."""
    for children in Path("/proc/self/task").glob("*/children"):
        for pid in children.read_text().split():
            if b"inferential.recording.process" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
    raise AssertionError("none writes")


def threads_of(pid: int) -> list[int]:
    return [int(one.name) for one in Path(f"/proc/{pid}/task").iterdir()]


async def until(is_so: Callable[[], Any]) -> None:
    for _ in range(3000):
        if is_so():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came")


def has_writer() -> bool:
    try:
        return bool(writer_pid())
    except AssertionError:
        return False


async def signal_writer(folder: Path, number: int) -> None:
    """Signals the process that writes, once it has begun a file."""
    await until(lambda: list(folder.iterdir()))
    os.kill(writer_pid(), number)


def drops(server: Server) -> int:
    stats = server.metrics.get_stats("recording_drops")
    return 0 if stats is None else stats.count


pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="Linux only")


def test_where_the_server_is_killed_all_that_it_has_handed_over_is_written(tmp_path: Path) -> None:
    memory, requests = RecordersMemory(0), Requests(10)
    command = [sys.executable, "-m", "inferential.recording.process", str(tmp_path), str(memory.fd)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, pass_fds=[memory.fd], env=environment, **pipes) as writing:
        assert writing.stdout is not None
        writing.stdout.close()
        writing.stdout = None
        entries = [requests.next() for _ in range(5)] + [requests.next("leg", envelope=b"\xff\xff"), requests.next()]
        _, errors = writing.communicate(b"".join(map(framed, entries)), timeout=60)
    assert (writing.returncode, errors.decode()) == (0, "")
    (path,) = tmp_path.iterdir()
    with path.open("rb") as file:
        assert make_reader(file).get_summary() is not None  # it is finished
    assert len(list(read_recording(path))) == 7


async def test_a_process_that_is_killed_is_reported_and_every_request_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recorder, "RETRY_S", 0.0)
    async with recording(tmp_path) as (server, found):
        await ask(server, times=3)
        await signal_writer(tmp_path, signal.SIGKILL)
        await until(lambda: found.dropped)
        await ask(server, times=4)
    assert caplog.text.count("cannot record to") == 1
    assert found.dropped == drops(server) > 0
    assert found.recorded == len(recorded(tmp_path)) >= 4
    assert found.recorded + found.dropped == 7


async def test_where_the_process_is_killed_with_all_that_may_wait_recording_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "RETRY_S", 0.0)
    noise = np.zeros(100_000, np.uint8)
    async with recording(tmp_path, queue_mb=0.4) as (server, found):
        await ask(server, times=1)
        await signal_writer(tmp_path, signal.SIGSTOP)
        await ask(server, times=10, noise=noise)
        assert found.dropped > 5
        os.kill(writer_pid(), signal.SIGKILL)
        await until(lambda: found.sizes()["waiting"] == 0)
        before = found.dropped
        await ask(server, times=1, noise=noise)
        assert found.dropped == before
    assert len(recorded(tmp_path)) >= 1


async def test_the_process_begins_before_the_first_request(tmp_path: Path) -> None:
    async with recording(tmp_path / "folder"):
        await until(has_writer)
    assert not (tmp_path / "folder").exists()


async def test_the_process_writes_on_processors_that_are_idle(tmp_path: Path) -> None:
    async with recording(tmp_path) as (server, _):
        await until(has_writer)
        pid = writer_pid()
        async with asyncio.timeout(60):
            # As it is late, it does not wait.
            while os.SCHED_IDLE not in map(os.sched_getscheduler, threads_of(pid)) or os.getpriority(0, pid) < 10:
                await ask(server, times=1)
        # Of a session of its own it would be given a share, idle or not; of a process group it gets no Ctrl-C.
        assert (os.getsid(pid), os.getpgid(pid)) == (os.getsid(0), pid)


async def test_an_end_of_all_processes_of_the_service_does_not_cut_the_file_short(tmp_path: Path) -> None:
    async with recording(tmp_path) as (server, found):
        await ask(server, times=1)
        await signal_writer(tmp_path, signal.SIGTERM)
        await ask(server, times=2)
    assert (found.recorded, found.dropped) == (3, 0)
    assert len(recorded(tmp_path)) == 3


async def test_a_disk_that_takes_nothing_does_not_keep_the_server_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recorder, "STOP_S", 0.2)
    async with recording(tmp_path) as (server, found):
        await ask(server, times=1)
        await signal_writer(tmp_path, signal.SIGSTOP)
        await ask(server, times=2)
    assert "takes nothing for 0.2 s; its last file is not finished" in caplog.text
    assert (found.recorded, found.dropped) == (0, 3)
    assert drops(server) == 3
