"""Robots kept up against load: every strategy, and other software in environments of its own, in one run.

Each cell is a fleet in real time, as in `inferential demo`: same robots, seed, cost of the models and length for all.
Cells take turns, so that other load on the machine affects all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench.closed_loop import environment, picture
from bench.closed_loop.report import table, warnings
from inferential.scheduler import scheduler_names
from inferential.sim.fleet import Plan
from inferential.sim.fleet import run as run_fleet
from inferential.sim.tasks import TASKS
from inferential.sim.watch import Watch

PEERS = tuple(environment.PEERS)
"""Inferential 1.4.0, and other servers at their best; a load may be above what they are left of the machine."""
LOADS = (0.2, 0.7, 1.5, 3.0, 4.5, 6.0)
QUICK_LOADS = (0.7, 3.0)
ROBOTS = 12
_CELL_OVERHEAD_S = 60.0  # for processes to start and end


@dataclass(frozen=True, slots=True)
class Options:
    """What is run.

    Attributes:
        seconds: length of a cell.
        loads, tasks, strategies: each with each; a name of PEERS is that software, with its default strategy.
        rounds: how often, each time with another seed.
        robots: in each cell.
    """

    seconds: float = 6.0
    loads: tuple[float, ...] = LOADS
    tasks: tuple[str, ...] = tuple(TASKS)
    strategies: tuple[str, ...] = (*scheduler_names(), *PEERS)
    rounds: int = 1
    robots: int = ROBOTS


PEERS_OPTIONS = Options(
    seconds=5.0, loads=(0.2, 0.7, 1.5, 3.0, 6.0), tasks=("balance",), strategies=("deadline_aware", *PEERS)
)
"""Other servers beside this one, with its default strategy."""


def run(seconds: float) -> dict[str, Any]:
    """The whole of it, cells of so many seconds; draws the picture."""
    result = measure(Options(seconds=seconds), _console())
    picture.save(result["cells"])
    return result


def run_quick(seconds: float) -> dict[str, Any]:
    """Two loads only, and no picture."""
    return measure(Options(seconds=seconds, loads=QUICK_LOADS), _console())


def measure(options: Options, console: Console) -> dict[str, Any]:
    """Runs every cell and prints the table.

    Raises:
        RuntimeError: a process of a cell failed, or the environment of a peer cannot be made.
    """
    pythons = {name: environment.python(name) for name in options.strategies if name in PEERS}
    todo = [
        (task, load, seed, strategy)
        for seed in range(options.rounds)
        for load in options.loads
        for task in options.tasks
        for strategy in options.strategies
    ]
    cells = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task("closed loop", total=len(todo))
        for task, load, seed, strategy in todo:
            progress.update(bar, description=f"{task} {load:g}x {strategy}")
            is_peer = strategy in pythons
            software = strategy if is_peer else "this"
            plan = Plan(task, options.robots, options.seconds, load, "deadline_aware" if is_peer else strategy, seed)
            summary = _of_peer(strategy, pythons[strategy], plan) if is_peer else _of_ours(plan)
            cells.append({"software": software, "strategy": strategy, **cell(summary)})
            progress.advance(bar)
    console.print(table(cells))
    for warning in warnings(cells):
        console.print(f"warning: {warning}", soft_wrap=True)
    return {
        "options": asdict(options),
        "versions": {name: version(name) for name in ("mujoco", "gymnasium")}
        | {"peers": [environment.PEERS[name][1][0] for name in pythons]},
        "cells": cells,
    }


def cell(summary: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a run's summary; ages are those of all robots' control periods."""
    robots = summary["robots"]
    periods = sum(robot["periods"] for robot in robots) or 1
    seconds = summary["plan"]["seconds"]
    return {
        "task": summary["plan"]["task"],
        "load": summary["plan"]["load"],
        "seed": summary["plan"]["seed"],
        "robots": len(robots),
        "kept_up": sum(robot["falls"] == 0 for robot in robots),
        "falls": sum(robot["falls"] for robot in robots),
        "up_share": round(float(np.mean([robot["up_share"] for robot in robots])), 4),
        "age_p50_ms": summary["age_p50_ms"],
        "age_p95_ms": summary["age_p95_ms"],
        "on_time": round(sum(robot["on_time"] for robot in robots) / periods, 4),
        "actions_per_s": round(sum(robot["fresh"] for robot in robots) / seconds, 1),
        "served_per_s": round(summary["served"] / seconds, 1),
        "mean_batch_size": summary["mean_batch_size"],
        "refused": summary["refused"],
        "behind": summary["behind"],
    }


def _of_ours(plan: Plan) -> dict[str, Any]:
    watch = Watch(plan)
    for reports in run_fleet(plan):
        watch.take(reports)
    return watch.summary()


def _of_peer(name: str, python: Path, plan: Plan) -> dict[str, Any]:
    """1.4.0 logs an error for each robot that has left before its answer: printed only where the run fails."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}  # it may lead to this package
    with tempfile.TemporaryFile("w+") as errors:
        done = subprocess.run(
            [str(python), str(environment.program(name))],
            env=env,
            input=json.dumps(asdict(plan)),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            timeout=plan.seconds + _CELL_OVERHEAD_S,
            check=False,
        )
        if done.returncode:
            errors.seek(0)
            raise RuntimeError(f"the run of {name} failed:\n{errors.read()[-2000:]}")
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def _console() -> Console:
    return Console(stderr=True, width=None if sys.stderr.isatty() else 120)
