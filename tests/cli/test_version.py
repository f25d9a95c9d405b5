"""`inferential version`."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any


def test_it_tells_the_versions_of_what_is_installed(run: Any) -> None:
    ran = run("version")
    assert ran.code == 0
    result = dict(line.split(maxsplit=1) for line in ran.out.splitlines())
    assert result["inferential"] == version("inferential")
    assert result["python"] == platform.python_version()
    assert {"pyzmq", "protobuf", "numpy"} <= set(result)


def test_it_is_an_option_too(run: Any) -> None:
    ran = run("--version")
    assert (ran.code, ran.out, ran.err) == (0, f"inferential {version('inferential')}\n", "")


def test_json_has_null_for_what_is_not_installed(run: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("inferential.cli.version.PACKAGES", ("numpy", "no-such-package"))
    assert run("version", "--json").json == {
        "numpy": version("numpy"),
        "no-such-package": None,
        "python": platform.python_version(),
    }
    assert "no-such-package  not installed" in run("version").out


def test_the_installed_script_is_the_same(place: Path) -> None:
    script = Path(sys.executable).with_name("inferential")
    ran = subprocess.run([script, "version"], capture_output=True, text=True, timeout=60, check=True)
    assert "inferential" in ran.stdout
