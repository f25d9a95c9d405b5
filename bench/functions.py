"""What a policy costs that is a plain function or has `infer_batch`: by where it runs, beside other servers.

As `overhead`, with a process, a thread and the event loop as peers of their own, and what a process costs that nothing
but its hand-over belongs to.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from bench.overhead import measure
from bench.overhead.cases import JOBS
from bench.overhead.environment import PLAIN

ROUNDS = 5
_NAMES = {"one": ("1 client, 64 B", "1 client, 150 kB", "1 client, 1 MB"), "eight": ("8 clients, 64 B",)}


def run(seconds: float) -> dict[str, Any]:
    """All peers and cases; `seconds` is ten times that of one measurement in one round."""
    return {case: found(seconds) for case, found in CASES.items()}


def run_quick(seconds: float) -> dict[str, Any]:
    """One round."""
    return {case: _case(case, seconds, 1) for case in CASES}


def _case(case: str, seconds: float, rounds: int = ROUNDS) -> dict[str, Any]:
    """So many clients, one or eight; a run of its own."""
    return measure(list(PLAIN), tuple(job for job in JOBS if job.name in _NAMES[case]), rounds, seconds / 10)


CASES = {case: partial(_case, case) for case in _NAMES}
SAVES_CASES = True
