"""`inferential models`, against a server with a page."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests.cli.test_serve import Start, line_with

CONFIG = """
transport: {bind: "tcp://127.0.0.1:0"}
http: {port: 0}
models:
  known:
    m:
      versions:
        a: {target: "policies:make_with_options", args: {scale: 1}}
        b: {target: "policies:make_with_options", args: {scale: 2}}
        c: {target: "policies:make_with_options", args: {scale: 3}}
      active: a
      shadow: b
    n:
      target: "policies:echo"
      inputs: {state: {dtype: float32, shape: [-1]}, task: {dtype: string}}
"""


def test_models_and_their_versions_are_shown(start: Start, place: Path, run: Any) -> None:
    (place / "f.yaml").write_text(CONFIG)
    process = start("serve", "f.yaml")
    url = re.search(r"http://\S+", line_with("page on", process.stdout))
    assert url is not None
    for _ in range(200):  # they may still load
        shown = run("models", url[0])
        assert shown.code == 0
        if "loading" not in shown.out:
            break
        time.sleep(0.05)
    for words in (("m", "a", "active", "ready"), ("m", "b", "shadow"), ("m", "c", "idle", "stopped"), ("n", "active")):
        assert any(all(word in line.split() for word in words) for line in shown.out.splitlines()), (words, shown.out)
    assert re.search(r"^n +1 +state: float32 \[\*\], task: string of any shape$", shown.out, re.MULTILINE)
    seen = run("top", url[0], "--once").out.splitlines()
    for words in (("m@a", "active", "ready"), ("m@b", "shadow", "ready")):
        assert any(all(word in line.split() for word in words) for line in seen), (words, seen)
    compared = run("models", url[0], "--diff")
    assert compared.code == 0
    assert "median ms" in compared.out
    assert not any(line.startswith("n ") for line in compared.out.splitlines())  # it has one version
    found = json.loads(run("models", url[0], "--json").out)
    assert [one["version"] for one in found[0]["versions"]] == ["a", "b", "c"]
    assert found[1]["inputs"][0] == {"name": "state", "dtype": "float32", "shape": [-1]}
    assert found[1]["outputs"] == []


WHERE = "the page is at the port of `inferential serve --http PORT`, or `http.port` of the configuration\n"


GREETING = b"\xff\0\0\0\0\0\0\0\1\x7f\3\0"  # of a ZeroMQ socket


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (GREETING, " is where robots connect; "),
        (b"220 mail.local ESMTP\r\n", " answers with something else than HTTP; "),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", " has no /api/status: HTTP 404 no; "),
    ],
)
def test_what_listens_there_and_has_no_page_is_named(run: Any, answer: bytes, text: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def respond() -> None:
            accepted, _ = listening.accept()
            with accepted:
                accepted.recv(65536)
                accepted.sendall(answer)

        thread = threading.Thread(target=respond)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        shown = run("models", url)
        thread.join()
    assert (shown.code, shown.err) == (2, f"error: {url}{text}{WHERE}")


def test_an_address_for_robots_is_no_page(run: Any) -> None:
    shown = run("models", "tcp://127.0.0.1:5555")
    assert (shown.code, shown.err) == (2, f"error: tcp://127.0.0.1:5555 is where robots connect; {WHERE}")


def test_no_page_is_an_error(run: Any) -> None:
    shown = run("models", "http://127.0.0.1:1")
    assert shown.code == 2
    assert "nothing answers at http://127.0.0.1:1" in shown.err
