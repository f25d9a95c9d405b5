"""What going through Inferential costs over the bare wire: peers and us in turn, in one run.

Every peer has a server in a process of its own and one process of clients, which speak with plain threads; see
`bench.overhead.peers` for each. Per round every peer does every case for a while, one after another; figures are
medians over the rounds. Ratios are to the raw ZeroMQ echo of the same round, seconds before, since the speed of a
virtual machine drifts within minutes; they too are medians over the rounds.
"""

from __future__ import annotations

from contextlib import ExitStack
from statistics import median
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bench.overhead.cases import JOBS, Job
from bench.overhead.environment import PEERS, Peer
from bench.overhead.report import draw, show
from bench.overhead.runner import Running

ROUNDS = 9
HEAVY = ("ray_http",)
RATIOS = ("p50_us", "p99_us", "per_second", "server_cpu_us")


def run(seconds: float) -> dict[str, Any]:
    """All peers and cases; `seconds` is five times that of one case in one round.

    Ray comes after the others, in rounds of its own with the raw echo beside it: its processes are busy also when
    no request is there.
    """
    light = [name for name in PEERS if name not in HEAVY and ":" not in name and name != "litserve"]
    result = measure(light, JOBS, ROUNDS, seconds / 5)
    draw(result)
    result["with_ray"] = measure(["raw", *HEAVY], tuple(job for job in JOBS if job.rate_hz is None), 1, seconds / 5)
    return result


def run_quick(seconds: float) -> dict[str, Any]:
    """Raw echo and us alone, one round."""
    return measure(["raw", "ours"], JOBS, 1, min(seconds, 1.0))


def measure(names: list[str], jobs: tuple[Job, ...], rounds: int, seconds: float) -> dict[str, Any]:
    """Figures by job and peer; a peer that cannot be set up is reported and left out."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    figures: dict[str, dict[str, list[dict[str, float]]]] = {job.name: {} for job in jobs}
    left_out: dict[str, str] = {}
    versions: dict[str, str] = {}
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(*columns, console=console))
        bar = progress.add_task("setting up", total=len(names) * (1 + rounds * len(jobs)))
        peers: dict[str, Running] = {}
        for name in names:
            progress.update(bar, description=f"setting up {name}", advance=1)
            peer: Peer = PEERS[name]
            try:
                peers[name] = stack.enter_context(Running(name, peer.python()))
                versions[name] = peers[name].version
            except RuntimeError as error:
                left_out[name] = str(error)
                progress.advance(bar, rounds * len(jobs))
        for _ in range(rounds):
            for job in jobs:
                for name, running in peers.items():
                    progress.update(bar, description=f"{job.name}: {name}", advance=1)
                    figures[job.name].setdefault(name, []).append(running.measure(job, seconds))
        memory = {name: running.peak_mb() for name, running in peers.items()}
    for name, reason in left_out.items():
        console.print(f"left out {name}: {reason}")
    result = {
        "rounds": rounds,
        "seconds_a_round": seconds,
        "versions": versions,
        "left_out": left_out,
        "jobs": {job: _medians(by_name) for job, by_name in figures.items()},
        "server_peak_mb": memory,
    }
    show(result, console)
    return result


def _medians(by_name: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Of each peer's rounds: medians, and medians of the ratios to what the raw echo had in the same round."""
    raw = by_name.get("raw")
    found: dict[str, dict[str, float]] = {}
    for name, rounds in by_name.items():
        found[name] = {key: round(median(one[key] for one in rounds), 1) for key in rounds[0]}
        for key in RATIOS if raw is not None else ():
            pairs = zip(rounds, raw or (), strict=True)
            ratios = [one[key] / beside[key] for one, beside in pairs if beside[key]]
            if ratios:
                found[name][f"{key}_ratio"] = round(median(ratios), 2)
    return found
