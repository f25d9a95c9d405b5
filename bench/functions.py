"""What a policy costs that is a plain function or has `infer_batch`: by where it runs, beside other servers.

As `overhead`, with a process, a thread and the event loop as peers of their own.
"""

from __future__ import annotations

from typing import Any

from bench.overhead import measure
from bench.overhead.cases import JOBS
from bench.overhead.environment import PLAIN

ROUNDS = 5
_NAMES = ("1 client, 64 B", "1 client, 150 kB", "1 client, 1 MB", "8 clients, 64 B")
_JOBS = tuple(job for job in JOBS if job.name in _NAMES)


def run(seconds: float) -> dict[str, Any]:
    """All peers and cases; `seconds` is ten times that of one case in one round."""
    return measure(list(PLAIN), _JOBS, ROUNDS, seconds / 10)


def run_quick(seconds: float) -> dict[str, Any]:
    """One round."""
    return measure(list(PLAIN), _JOBS, 1, min(seconds, 0.5))
