"""Real Chromium, driven by playwright-core; both are set up where they are missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Self

HOME = Path(__file__).parents[2] / ".venv" / "browser"
_PACKAGES = {"playwright-core": "1.64.1", "axe-core": "4.14.1"}


class NoBrowser(Exception):
    """It cannot be set up here; the text says why."""


def executables() -> tuple[str, Path, str]:
    """node, playwright-core and chromium.

    Raises:
        NoBrowser: one of them is not there and cannot be installed.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise NoBrowser("no browser tests: node and npm are not installed")
    core = HOME / "node_modules" / "playwright-core"
    wanted = [f"{name}@{number}" for name, number in _PACKAGES.items() if not (core.parent / name).exists()]
    if wanted:
        HOME.mkdir(parents=True, exist_ok=True)
        _run([npm, "install", "--prefix", str(HOME), "--no-audit", "--no-fund", "--silent", *wanted])
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        apt = shutil.which("apt-get")
        if apt is None or os.geteuid() != 0:
            raise NoBrowser("no browser tests: Chromium is not installed")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        _run([apt, "update", "-qq"], environment)
        _run([apt, "install", "-y", "-qq", "--no-install-recommends", "chromium", "fonts-dejavu-core"], environment)
        chromium = shutil.which("chromium")
        assert chromium is not None
    return node, core, chromium


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise NoBrowser(f"no browser tests: {' '.join(command)} failed: {done.stderr[-300:]}")


class Browser:
    """One page at a time; a context manager."""

    def __init__(self) -> None:
        node, core, chromium = executables()
        script = Path(__file__).with_name("browser.mjs")
        self._process = subprocess.Popen(
            [node, str(script), str(core), chromium], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def do(self, name: str, **options: Any) -> Any:
        """Runs a command of browser.mjs; RuntimeError where it failed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"name": name, **options}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["value"]

    def open(self, url: str, **options: Any) -> None:
        """A page of its own: width, height, scheme (light, dark), motion ("no-preference": each frame is drawn)."""
        self.do("open", url=url, **options)

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        return self.do("evaluate", script=script)

    def wait(self, script: str) -> None:
        """Until an expression is true."""
        self.do("wait", script=script)

    def axe(self) -> list[str]:
        """What axe-core finds wrong with the page as it is now: rules, and where."""
        source = (HOME / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
        self.evaluate(f"{source}; true")
        found: list[str] = self.evaluate(
            "axe.run().then((all) => all.violations.flatMap((one) => "
            "one.nodes.map((node) => `${one.id}: ${node.target}: ${node.failureSummary}`)))"
        )
        return found

    def problems(self) -> list[str]:
        """What the console and the network complained of."""
        found: list[str] = self.do("problems")
        return found
