"""A peer that runs: its server's process, its clients' process, and what the server uses."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import psutil

from bench.overhead.cases import Job
from bench.overhead.loops import WARM_UP_S

_PROGRAM = Path(__file__).parent / "peers" / "__main__.py"
PROCESSES = 8


class Running:
    """One peer, served and asked; a context manager.

    Raises:
        RuntimeError: on entering, a process ended before it was ready.
    """

    def __init__(self, name: str, python: Path) -> None:
        self._command = [str(python), str(_PROGRAM), name]
        self._askers: list[subprocess.Popen[str]] = []
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        try:
            self._server = self._start("serve")
            self._address, self.version = self._read(self._server)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def measure(self, job: Job, seconds: float) -> dict[str, float]:
        """One measurement, with the server's CPU time for each answer.

        Clients are processes of their own, as robots are; from PROCESSES up they share them as threads.
        """
        count = min(job.clients, PROCESSES)
        while len(self._askers) < count:
            self._askers.append(self._start("ask", self._address))
        shares = [job.clients // count + (number < job.clients % count) for number in range(count)]
        jobs = [{"observation": job.observation, "clients": share} for share in shares]
        self._ask(jobs)
        start = time.monotonic() + 0.1
        first = 0
        for spec, share in zip(jobs, shares, strict=True):
            spec |= {"rate_hz": job.rate_hz, "start": start, "seconds": seconds, "first": first, "of": job.clients}
            first += share
        before = self._cpu_s()
        latencies = np.concatenate(self._ask(jobs)) * 1e6
        cpu_s = self._cpu_s() - before
        p50, p90, p99, p999 = np.percentile(latencies, [50, 90, 99, 99.9])
        return {
            "p50_us": float(p50),
            "p90_us": float(p90),
            "p99_us": float(p99),
            "p999_us": float(p999),
            "per_second": len(latencies) / seconds,
            # The CPU time is that of the warm-up too: as many answers a second are taken for it.
            "server_cpu_us": cpu_s / (len(latencies) * (1 + WARM_UP_S / seconds)) * 1e6,
        }

    def _ask(self, jobs: list[dict[str, Any]]) -> list[list[float]]:
        for asker, job in zip(self._askers, jobs, strict=False):
            assert asker.stdin is not None
            asker.stdin.write(json.dumps(job) + "\n")
            asker.stdin.flush()
        return [self._read(asker) for asker, _ in zip(self._askers, jobs, strict=False)]

    def peak_mb(self) -> float:
        """The most memory that the server's processes had, of those that are there still."""
        peak = 0
        for process in self._family():
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak += next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)
        return round(peak / 1024, 1)

    def _family(self) -> list[psutil.Process]:
        process = psutil.Process(self._server.pid)
        return [process, *process.children(recursive=True)]

    def _cpu_s(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self._family())

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        env = dict(os.environ)
        if self._command[0] != sys.executable:
            env.pop("PYTHONPATH", None)  # it may lead to this package in place of theirs
        process = subprocess.Popen(
            [*self._command, *arguments],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._processes.append(process)
        return process

    def _read(self, process: subprocess.Popen[str]) -> Any:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("["):  # Ray has more to say
                return json.loads(line)
        assert process.stderr is not None
        raise RuntimeError(f"{' '.join(self._command)} ended: {process.stderr.read()[-2000:]}")

    def _close(self) -> None:
        started: list[psutil.Process] = []
        for process in self._processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                started += psutil.Process(process.pid).children(recursive=True)
        for process in reversed(self._processes):
            assert process.stdin is not None
            process.stdin.close()
        for process in reversed(self._processes):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for one in started:  # LitServe leaves its workers
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
