"""Runs `inferential serve` in a process of its own, for loads and soaks."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

ROOT = Path(__file__).parents[2]
_PROGRAM = """
import os, signal, sys
exec(os.environ.get("BENCH_BEFORE", ""))
if sys.platform == "linux":  # it ends with the process that started it, however that ends
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
from inferential.cli.main import main
main()
"""
_START_S, _END_S = 60.0, 20.0
_GATEWAYS = {
    "openpi": "openpi gateway",
    "gr00t": "GR00T gateway",
    "act": "/act gateway",
    "kserve": "KServe gateway",
    "kserve_grpc": "KServe gateway over gRPC",
    "lerobot": "LeRobot gateway",
}
_PLACES = {
    "address": r"^listening on (\S+?),",
    "page": r"^page on (\S+)",
    **{name: rf"^{title} on (\S+?)," for name, title in _GATEWAYS.items()},
}


class Serving:
    """A server's process; a context manager.

    Args:
        models: targets by model id, as `module:object`.
        log: where its standard error goes; a temporary file where it is not given.
        cpu: the core that it is kept to; None: any.
        before: Python that its process runs first.
        config: other tables of its configuration file.

    Raises:
        RuntimeError: on entering, it ended before it listened.
    """

    def __init__(
        self,
        models: Mapping[str, str],
        log: Path | None = None,
        cpu: int | None = None,
        before: str = "",
        **config: Any,
    ) -> None:
        config = {"transport": {"bind": "tcp://127.0.0.1:0"}, **config}
        config["models"] = {**config.get("models", {}), "known": {name: {"target": at} for name, at in models.items()}}
        self._config = config
        self._folder = tempfile.TemporaryDirectory(prefix="inferential-load-")
        self._cpu = cpu
        self._before = before
        self._log = log or Path(self._folder.name) / "log"
        self.places: dict[str, str] = {}

    @property
    def address(self) -> str:
        """Where robots connect."""
        return self.places["address"]

    @property
    def process(self) -> psutil.Process:
        """The server's process."""
        return psutil.Process(self._process.pid)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._folder.cleanup()

    def start(self) -> None:
        """Starts the process and waits until it listens, again on the address that it had before."""
        if self.places:
            self._config["transport"] = {"bind": self.address}
        path = self._write()
        paths = os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")])
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *([] if self._cpu is None else ["taskset", "-c", str(self._cpu)]),
                    *(sys.executable, "-c", _PROGRAM, "serve", str(path), "--log-level", "warning"),
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": paths, "BENCH_BEFORE": self._before},
                text=True,
            )
        expected = {"address", *self._config.get("gateways", {})}
        expected |= {"page"} if "http" in self._config else set()
        timer = threading.Timer(_START_S, self._process.kill)
        timer.start()
        try:
            self.places = dict(self._read(expected))
        finally:
            timer.cancel()
        if expected - self.places.keys():
            self.kill()
            raise RuntimeError(f"the server ended before it listened:\n{self._log.read_text()[-2000:]}")

    def _write(self) -> Path:
        path = Path(self._folder.name) / "server.json"
        path.write_text(json.dumps(self._config))
        return path

    def configure(self, **config: Any) -> None:
        """Changes tables of its configuration file, and has it read that."""
        self._config.update(config)
        self._write()
        self._process.send_signal(signal.SIGHUP)

    def _read(self, expected: set[str]) -> Iterator[tuple[str, str]]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            for name, pattern in _PLACES.items():
                if (found := re.match(pattern, line)) is not None:
                    expected.discard(name)
                    yield name, found[1]
            if not expected:
                return

    def kill(self) -> None:
        """Ends it without a word."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def stop(self) -> int | None:
        """Ends it as an operator would; returns its exit code, None where it had to be killed."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(_END_S)
            if self._process.stdout is not None:
                self._process.stdout.close()
            return code
        self.kill()
        return None

    def log_text(self) -> str:
        """What it has written to standard error so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""
