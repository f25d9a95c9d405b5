"""docs/configuration.md: its fields are those of the schema, and every block of code in it works."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from inferential.config import load_config
from inferential.config.fields import leaves

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "configuration.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_config_docs", ROOT / "scripts" / "generate_config_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the page's file in every format, and a model of the name that is in it."""
    for language, text in BLOCKS[:3]:
        (tmp_path / f"fleet.{language}").write_text(text)
    (tmp_path / "policies.py").write_text("class ArmPolicy:\n    def infer(self, observation): return observation\n")
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.upper().startswith("INFERENTIAL_"):
            monkeypatch.delenv(name)
    return tmp_path


def test_the_fields_are_those_of_the_schema(generator: ModuleType) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert generator.updated(page) == page, "out of date: python scripts/generate_config_docs.py"
    fields = re.findall(r"^#### `.+`\n\n(?:.+\n)+\n(?:.+\n)*?.*\*(?:live|restart)\*$", page, re.MULTILINE)
    assert len(fields) == len(list(leaves()))


def test_a_page_without_the_marks_is_an_error(generator: ModuleType) -> None:
    with pytest.raises(ValueError, match="mark the place"):
        generator.updated("# Configuration")


def test_the_check_of_the_script_tells_by_its_exit_code(
    generator: ModuleType, monkeypatch: pytest.MonkeyPatch, fleet: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["generate_config_docs.py", "--check"])
    assert generator.main() == 0
    monkeypatch.setattr(generator, "PAGE", fleet / "configuration.md")
    generator.PAGE.write_text(PAGE.read_text(encoding="utf-8").replace("*live*\n", "*restart*\n"), encoding="utf-8")
    assert generator.main() == 1
    monkeypatch.setattr(sys, "argv", ["generate_config_docs.py"])
    assert generator.main() == 0
    assert generator.PAGE.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")


def test_the_three_files_say_the_same(fleet: Path) -> None:
    assert [language for language, _ in BLOCKS[:3]] == ["yaml", "toml", "json"]
    first, *others = [load_config(fleet / f"fleet.{language}", env={}) for language, _ in BLOCKS[:3]]
    assert all(other == first for other in others)
    json.loads(BLOCKS[2][1])


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    assert [language for language, _ in BLOCKS] == ["yaml", "toml", "json", "sh", "python", "sh", "text", "python"]


@pytest.mark.parametrize("code", [code for language, code in BLOCKS if language == "python"])
def test_python_runs(code: str) -> None:
    names: dict[str, object] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    if "serve" in names:
        asyncio.run(_started_and_stopped(names["serve"]))


async def _started_and_stopped(serve: object) -> None:
    Path("fleet.yaml").write_text("transport: {bind: 'tcp://127.0.0.1:0'}")  # noqa: ASYNC240 (a test's own file)
    assert callable(serve)
    serving = asyncio.create_task(serve("fleet.yaml"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not serving.done()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving


@pytest.mark.parametrize("at", [at for at, (language, _) in enumerate(BLOCKS) if language == "sh"])
def test_commands_run_and_print_what_the_page_shows(at: int) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", "-euc", BLOCKS[at][1]], capture_output=True, text=True, timeout=60, env={**os.environ, "PATH": path}
    )
    assert ran.returncode == 0, ran
    language, shown = BLOCKS[at + 1]
    if language == "text":
        assert ran.stdout == shown
    else:
        assert "other than the defaults" in ran.stdout
        assert "INFERENTIAL_CLIENTS__KNOWN" in ran.stdout
