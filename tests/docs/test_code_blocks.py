"""Every code block of the README and of docs/: it runs, or is what it says it is.

Python blocks run in a process of their own, against a real server; `<!-- continues -->` before a block joins it to the
one before. A block that runs a server for good is that server. docs/configuration.md has a test of its own
(tests/config/test_page.py).
"""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from inferential import Connection, UnknownModel
from inferential.config import load_config
from inferential.metrics import recorder

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").glob("*.md") if path.name != "configuration.md")]
DRAWINGS = {"text"}
SERVES = "server.run())"

# What the client pages talk to; the README brings a server of its own.
FIXTURE_SERVER = """
import asyncio
import numpy as np
from inferential import LocalDispatcher, Server

def model(observation):
    return {"actions": np.zeros(7, dtype=np.float32)}

server = Server("tcp://127.0.0.1:5555", dispatcher=LocalDispatcher({"policy": model, "vlm": model}))
asyncio.run(server.run())
"""


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str
    continues: bool

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks() -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```(\S*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            before = text[: match.start()].rstrip()
            line = text[: match.start()].count("\n") + 1
            continues = before.endswith("<!-- continues -->")
            found.append(Block(page, line, match[1], match[2], continues))
    return found


def programs() -> list[Block]:
    """Python blocks, those that continue joined to what they continue."""
    joined: list[Block] = []
    for block in blocks():
        if block.language != "python":
            continue
        if block.continues:
            first = joined.pop()
            assert first.page == block.page
            block = Block(first.page, first.line, "python", first.text + "\n" + block.text, False)
        joined.append(block)
    return joined


def of_language(*languages: str) -> list[Block]:
    return [block for block in blocks() if block.language in languages]


@contextmanager
def running(program: str, port: int) -> Iterator[None]:
    """A server in a process of its own, ended as a person would end it."""
    process = subprocess.Popen([sys.executable, "-c", program.replace(":5555", f":{port}")])
    try:
        with Connection(f"127.0.0.1:{port}", reconnect_ivl_ms=20) as connection:
            probe = connection.model("is it there?")
            for _ in range(100):
                try:
                    assert probe.infer(timeout_ms=200) is None
                except UnknownModel:
                    break
            else:
                pytest.fail("the server did not answer within 20 s")
        yield
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    known = {"python", "console", "toml", "yaml", "json", "proto"} | DRAWINGS
    assert [str(block) for block in blocks() if block.language not in known] == []
    assert len(blocks()) > 20


@pytest.mark.parametrize("program", [one for one in programs() if SERVES not in one.text], ids=str)
def test_python_runs(program: Block, port: int, tmp_path: Path) -> None:
    own = [one.text for one in programs() if one.page == program.page and SERVES in one.text]
    with running(own[0] if own else FIXTURE_SERVER, port):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program.text.replace(":5555", f":{port}")],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", of_language("console"), ids=str)
def test_commands_name_what_there_is(block: Block) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for line in block.text.splitlines():
        command, *arguments = line.partition("#")[0].split()
        if command == "make":
            assert arguments[0] in targets
        else:
            assert (command, arguments[0]) == ("pip", "install"), f"say how to test: {line}"
            assert all(name in extras for name in re.findall(r"\[(\w+)\]", line))


@pytest.mark.parametrize("block", of_language("toml", "yaml", "json"), ids=str)
def test_configuration_is_valid(block: Block, tmp_path: Path) -> None:
    if "entry-points" in block.text:
        assert tomllib.loads(block.text)["project"]["entry-points"]
        return
    path = tmp_path / f"fleet.{block.language}"
    path.write_text(block.text)
    load_config(path, env={})


@pytest.mark.parametrize("block", of_language("proto"), ids=str)
def test_the_schema_on_the_page_is_the_schema(block: Block) -> None:
    schema = (ROOT / "src/inferential/proto/inferential.proto").read_text()
    for message in block.text.strip().split("\n\n"):
        assert message in schema


def test_the_table_of_metrics_has_every_metric_that_is_recorded() -> None:
    page = (ROOT / "docs" / "serving.md").read_text()
    told = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    source = Path(recorder.__file__).read_text()
    recorded = set(re.findall(r'_record\(\s*"(\w+)"', source)) | set(recorder._REFUSED.values()) | {"queue_full_drops"}
    assert told == recorded


def test_links_between_pages_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "docs" / "configuration.md"]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
