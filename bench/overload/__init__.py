"""A server that is asked for more than it can do: what it still answers, and what a flood costs the others.

Each case is a function that returns its figures; `python -m bench overload CASE ...` runs some of them. Clients are
epoll loops in processes of their own (`clients`), so that a thousand fit beside the server on two cores.
"""

from __future__ import annotations

from typing import Any

from bench.overload import closed, crowd, flood, probed, watched

CASES = {
    "crowd": crowd.run,
    "flood": flood.run,
    "apart": flood.run_apart,
    "closed": closed.run,
    "nameless": flood.run_nameless,
    "page": watched.run_page,
    "readyz": probed.run,
    "restart": watched.run_restart,
}


def run(seconds: float) -> dict[str, Any]:
    """Returns the figures of all cases."""
    return {name: case(seconds) for name, case in CASES.items()}
