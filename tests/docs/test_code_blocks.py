"""Every code block of the README, of docs/ and of docstrings: it runs, or is what it says it is.

A block's language says what is done with it:

- python: it runs in a process of its own, in a directory with the page's files, against a server where it needs one:
  the page's own (a block that runs a server for good, or `inferential serve`), else one with the models `policy` and
  `vlm`. Servers are ended by SIGINT, as a person would, and must end well. What imports openpi's client runs in an
  environment that has it.
- console: `make` names a target that there is, `pip install` extras that there are; other commands run, against a
  server where they name its port.
- yaml, toml, json: a configuration, entry points, a fleet ("robots") or trace ("deadline_ms") to simulate, or
  applications of Ray Serve ("import_path").
- proto: a part of the schema.
- text: a drawing. No other language is let through untested.

A comment before a block tells what cannot be seen: `<!-- continues -->` joins it to the python block before it,
`<!-- file: NAME -->` makes it a file, and the commands of a
`<!-- before -->` run before each of the page's others. In docstrings, python blocks alone are run.
docs/configuration.md has a test of its own (tests/config/test_page.py).
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import textwrap
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from tests.peers.conftest import with_openpi_client

from inferential import AsyncConnection, Connection, Model, UnknownModel
from inferential.client import ChunkRuntime
from inferential.config import load_config
from inferential.config.extensions import BACKENDS, GATEWAYS
from inferential.scheduler.base import ENTRY_POINTS
from inferential.sim.virtual.fleet_file import load_fleet
from inferential.sim.virtual.trace import load_trace

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.name != "configuration.md")]
DRAWING = "text"
TESTED = {"python", "console", "yaml", "toml", "json", "proto"}
PORT = ":5555"
"""What the pages call the server's port; a free one takes its place, and that of openpi's."""
OPENPI_PORT = re.compile(r"\b8000\b")
OPENPI_CLIENT = "openpi_client"

SERVER_OF_THE_TESTS = """
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
    mark: str = ""

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def file(self) -> str | None:
        """The name of the file that it is."""
        return self.mark.removeprefix("file: ") if self.mark.startswith("file: ") else None

    @property
    def serves(self) -> bool:
        """Whether it is a server that runs until it is stopped."""
        return "server.run())" in self.text or self.text.startswith("inferential serve ")


def _blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"(?:^<!-- ([^\n]*) -->\n)?^```(\S*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, match.start(2)) + 1
        yield Block(page, line, match[2], match[3], match[1] or "")


def _examples(source: Path) -> Iterator[Block]:
    """The python blocks of a module's docstrings."""
    text = source.read_text(encoding="utf-8")
    for match in re.finditer(r"^( *)```python\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL):
        yield Block(source, text.count("\n", 0, match.start()) + 1, "python", textwrap.dedent(match[2]))


COMMON = Block(PAGES[0], 0, "python", SERVER_OF_THE_TESTS)
"""The tests' own server, which all pages without one share."""
BLOCKS = [block for page in PAGES for block in _blocks(page)]
BLOCKS += [block for source in sorted((ROOT / "src").rglob("*.py")) for block in _examples(source)]


def of_language(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


def programs() -> list[Block]:
    """Python blocks that are no files, those that continue joined to what they continue."""
    joined: list[Block] = []
    for block in of_language("python"):
        if block.mark == "continues":
            first = joined.pop()
            assert first.page == block.page
            joined.append(replace(first, text=f"{first.text}\n{block.text}"))
        elif block.file is None:
            joined.append(block)
    return joined


def commands() -> list[Block]:
    """The lines of console blocks, each as a block."""
    return [
        replace(block, line=block.line + number, text=command.strip())
        for block in of_language("console")
        for number, line in enumerate(block.text.splitlines(), 1)
        if (command := line.partition("#")[0])
    ]


def servers(page: Path) -> list[Block]:
    """The page's own servers; that of the tests where it has none."""
    own = [block for block in (*programs(), *commands()) if block.page == page and block.serves]
    return own or [COMMON]


def asks(block: Block) -> bool:
    """Whether it needs a server."""
    return (PORT in block.text or OPENPI_CLIENT in block.text) and not block.serves


CLIENTS = [block for block in (*programs(), *commands()) if asks(block)]
PAIRS = [(server, client) for client in CLIENTS for server in servers(client.page)]
PAIRS.sort(key=lambda pair: str(pair[0]))
ALONE = [block for block in programs() if PORT not in block.text and not asks(block)]
RUN = [
    block
    for block in commands()
    if not block.text.startswith(("make", "pip")) and not block.serves and not asks(block) and block.mark != "before"
]


@dataclass(frozen=True)
class Ports:
    """Free ones, in place of those that the pages name."""

    server: int
    openpi: int

    def put_into(self, text: str) -> str:
        return OPENPI_PORT.sub(str(self.openpi), text.replace(PORT, f":{self.server}"))


def free_ports() -> Ports:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return Ports(one.getsockname()[1], other.getsockname()[1])


@pytest.fixture
def ports() -> Ports:
    return free_ports()


class Running:
    """The server that a test needs: that of the test before it, where it is the same.

    A server that is not needed any more is ended, and must end well; `tests/conftest.py` gives the clients of one
    server to one process.
    """

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._running = ExitStack()
        self._last: tuple[Block, Path, Ports] | None = None

    def of(self, server: Block) -> tuple[Path, Ports]:
        """Returns where a server runs, with the files of its page, and the ports that it has."""
        if self._last is None or self._last[0] != server:
            self.end()
            directory, ports = self._folders.mktemp("server"), free_ports()
            prepare(server.page, directory, ports)
            self._running.enter_context(running(server, directory, ports))
            self._last = server, directory, ports
        return self._last[1:]

    def end(self) -> None:
        self._last = None
        self._running.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    served = Running(tmp_path_factory)
    yield served
    served.end()


def write_files(page: Path, directory: Path, ports: Ports) -> None:
    for block in BLOCKS:
        if block.page == page and block.file is not None:
            (directory / block.file).write_text(ports.put_into(block.text))


def command_of(block: Block, ports: Ports) -> list[str]:
    text = ports.put_into(block.text)
    if block.language == "python":
        if OPENPI_CLIENT in text:
            return [str(with_openpi_client()), "-c", text]
        strict = [] if "import ray" in text else ["-W", "error"]  # Ray's own modules warn
        return [sys.executable, *strict, "-c", text]
    name, *arguments = shlex.split(text)
    assert name in ("inferential", "python"), f"{block}: say how to test {text!r}"
    return [str(Path(sys.executable).with_name(name)), *arguments]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("INFERENTIAL_")}


def prepare(page: Path, directory: Path, ports: Ports) -> None:
    write_files(page, directory, ports)
    for block in commands():
        if block.page == page and block.mark == "before":
            run(block, directory, ports)


def keys_in(directory: Path) -> dict[str, str]:
    """Those of the first robot, where the page has made some."""
    secret = next(iter(sorted(directory.glob("keys/clients/*.key_secret"))), None)
    return {} if secret is None else {"server_key": str(directory / "keys/server.key"), "secret_key": str(secret)}


def run(block: Block, directory: Path, ports: Ports) -> None:
    """Runs a block, once more where a model is still being loaded that it asks within a budget."""
    for _ in range(240):
        done = subprocess.run(
            command_of(block, ports),
            cwd=directory,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        if "inferential.errors.ModelLoading" not in done.stderr:
            break
    assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"


def wait_for_gateway(server: Block, process: subprocess.Popen[bytes], directory: Path, ports: Ports) -> None:
    """Until the page's gateway takes connections, where there is one: it opens once its model is ready."""
    texts = [server.text, *(path.read_text() for path in directory.glob("*.yaml"))]
    while any("openpi: {" in text for text in texts) and process.poll() is None:
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", ports.openpi)):
                break
        time.sleep(0.02)


@contextmanager
def running(server: Block, directory: Path, ports: Ports) -> Iterator[None]:
    process = subprocess.Popen(command_of(server, ports), cwd=directory, env=environment(), stdout=subprocess.DEVNULL)
    try:
        with Connection(f"127.0.0.1:{ports.server}", reconnect_ivl_ms=20, **keys_in(directory)) as connection:  # type: ignore[arg-type]
            probe = connection.model("is it there?")
            for _ in range(1200):  # Ray takes its time
                assert process.poll() is None, f"{server} ended"
                try:
                    assert probe.infer(timeout_ms=200) is None
                except UnknownModel:
                    break
            else:
                pytest.fail(f"{server} did not answer within 240 s")
        wait_for_gateway(server, process, directory, ports)
        yield
        process.send_signal(signal.SIGINT)
        assert process.wait(240) == 0, f"{server} did not end well"
    finally:
        process.kill()
        process.wait()


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    assert [str(block) for block in BLOCKS if block.language not in TESTED | {DRAWING}] == []
    assert CLIENTS
    assert ALONE
    assert RUN


@pytest.mark.parametrize("of", [Connection, AsyncConnection, Model.infer, ChunkRuntime], ids=lambda of: of.__qualname__)
def test_what_a_robot_uses_first_has_an_example(of: Callable[..., object]) -> None:
    assert "```python" in (of.__doc__ or "")


def test_every_mark_before_a_block_is_understood() -> None:
    assert {block.mark for block in BLOCKS if block.file is None} <= {"", "continues", "before"}
    assert {block.language for block in BLOCKS if block.mark == "continues"} == {"python"}
    for page in PAGES:
        fences = re.findall(r"^```", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) == 2 * sum(block.page == page for block in BLOCKS), page.name


def test_every_program_that_serves_for_good_tells_where() -> None:
    silent = [
        block for block in programs() if block.serves and "logging.basicConfig(level=logging.INFO)" not in block.text
    ]
    assert [str(block) for block in silent] == []


@pytest.mark.parametrize(("server", "client"), PAIRS, ids=str)
def test_a_client_runs_against_a_server(server: Block, client: Block, served: Running, tmp_path: Path) -> None:
    directory, ports = served.of(server)
    if server == COMMON:  # its folder has not the files of the client's page
        directory = tmp_path
        prepare(client.page, directory, ports)
    run(client, directory, ports)


@pytest.mark.parametrize("program", ALONE, ids=str)
def test_a_program_runs(program: Block, ports: Ports, tmp_path: Path) -> None:
    write_files(program.page, tmp_path, ports)
    run(program, tmp_path, ports)


@pytest.mark.parametrize("command", RUN, ids=str)
def test_a_command_runs(command: Block, ports: Ports, tmp_path: Path) -> None:
    prepare(command.page, tmp_path, ports)
    run(command, tmp_path, ports)


@pytest.mark.parametrize("command", [block for block in commands() if block.text.startswith(("make", "pip"))], ids=str)
def test_a_command_of_make_or_pip_names_what_there_is(command: Block) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    name, *arguments = shlex.split(command.text)
    if name == "make":
        assert arguments[0] in targets
    else:
        assert (name, arguments[0]) == ("pip", "install")
        found = re.fullmatch(r"inferential(?:\[(\w+)\])?", arguments[1])
        assert found is not None
        assert found[1] is None or found[1] in extras


@pytest.mark.parametrize("block", of_language("toml", "yaml", "json"), ids=str)
def test_a_file_is_valid(block: Block, tmp_path: Path) -> None:
    if "entry-points" in block.text:
        groups = tomllib.loads(block.text)["project"]["entry-points"]
        (group,) = groups
        assert group in (ENTRY_POINTS, GATEWAYS, BACKENDS)
        assert all(re.fullmatch(r"[\w.]+:\w+", target) for target in groups[group].values())
        return
    path = tmp_path / f"fleet.{block.language}"
    path.write_text(block.text)
    if "import_path:" in block.text:
        from ray.serve.schema import ServeDeploySchema

        assert ServeDeploySchema.model_validate(YAML(typ="safe", pure=True).load(block.text)).applications
    elif "robots:" in block.text:
        assert load_fleet(path).robots
    elif '"deadline_ms"' in block.text:
        assert load_trace(path)
    else:
        load_config(path, env={})


@pytest.mark.parametrize("block", of_language("proto"), ids=str)
def test_a_part_of_the_schema_is_in_the_schema(block: Block) -> None:
    schema = (ROOT / "src/inferential/proto/inferential.proto").read_text()
    for part in block.text.strip().split("\n\n"):
        assert part in schema
