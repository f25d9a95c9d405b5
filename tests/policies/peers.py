"""Interpreters with what a test environment cannot have: torch, and lerobot with torch, of gigabytes each."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

SOURCES = Path(__file__).parents[2] / "src"
_LEND = f"""
import importlib.util, sys
folder = {str(SOURCES / "inferential")!r}
spec = importlib.util.spec_from_file_location(
    "inferential", folder + "/__init__.py", submodule_search_locations=[folder]
)
sys.modules["inferential"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["inferential"])
"""


def interpreter(package: str) -> str:
    """Returns the interpreter that the environment names; the test is skipped where it names none."""
    variable = f"{package.upper()}_PYTHON"
    found = os.environ.get(variable)
    if not found:
        pytest.skip(f"set {variable} to an interpreter with {package}, numpy and protobuf to run it")
    return found


def vla_interpreter(extra: str) -> str:
    """Returns that of lerobot with what policies of vision and language need, which this extra of it brings."""
    found = interpreter("lerobot")
    look = "import importlib.util; print('true' if importlib.util.find_spec('transformers') else 'false')"
    if not run(found, look):
        pytest.skip(f"the interpreter lacks what such a policy needs: lerobot[{extra}]")
    return found


def run(python: str, code: str, *args: str) -> Any:
    """Runs code there, with this package as a worker has it; returns what it prints last, as JSON."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "program.py"  # torch.jit.script reads the source
        program.write_text(_LEND + code)
        done = subprocess.run(
            [python, program, *args], capture_output=True, text=True, check=False, timeout=500, env=environment
        )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
