"""Where the system's limits leave gRPC too little it is not started, as it would end the process."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from inferential.gateway.grpc_room import check_room
from inferential.server.service import NoRoom

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits as Linux has them")


def test_with_room_for_it_nothing_is_kept() -> None:
    before = set(threading.enumerate())
    check_room("gateways.lerobot")
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize(
    ("limit", "most", "lacking"),
    [("RLIMIT_NOFILE", 24, "raise the limit of open files"), ("RLIMIT_AS", 600 * 2**20, "address space")],
)
def test_what_is_not_left_is_named(limit: str, most: int, lacking: str) -> None:
    program = f"""
import json, resource
from inferential.gateway.grpc_room import check_room
from inferential.server.service import NoRoom
resource.setrlimit(resource.{limit}, ({most}, {most}))
try:
    check_room("gateways.lerobot")
except NoRoom as error:
    print(json.dumps(error.strerror))
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout).startswith("gateways.lerobot: gRPC is not started")
    assert lacking in found.stdout


def test_threads_that_were_started_end_where_another_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    before, start = threading.active_count(), threading.Thread.start

    def few(thread: threading.Thread) -> None:
        if threading.active_count() >= before + 5:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", few)
    with pytest.raises(NoRoom, match="threads cannot be started"):
        check_room("gateways.lerobot")
    assert threading.active_count() == before


def test_a_server_without_room_for_grpc_serves_its_other_robots(tmp_path: Path) -> None:
    path = tmp_path / "server.json"
    gateways = {name: {"port": 0, "model": "m"} for name in ("lerobot", "kserve_grpc", "act")}
    config = {
        "transport": {"bind": "tcp://127.0.0.1:0"},
        "models": {"known": {"m": {"target": "bench.overload.models:coroutine"}}},
        "gateways": gateways,
    }
    path.write_text(json.dumps(config))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "inferential", "serve", str(path)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (36, limits[1])),
        )
    with server:
        assert server.stdout is not None
        lines = [server.stdout.readline() for _ in range(4)]
        server.terminate()
    assert server.returncode in (0, -15), (tmp_path / "log").read_text()
    assert lines[0].startswith("listening on")
    assert sum("not open" in line for line in lines) == 2
    assert (tmp_path / "log").read_text().count("gRPC is not started") == 2
