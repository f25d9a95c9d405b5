"""Steps without an action under every strategy, ours and those of other systems, on the workloads of all.

All in virtual time: `python -m bench fleet_rules` runs three seeds a cell and saves bench/results/fleet_rules.json;
`--quick` runs one seed and less time. `python -m bench.fleet_rules --rules slo_aware,edf_full --cells H25` runs a part.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from bench.fleet_rules import rules
from bench.fleet_rules.cells import ATTAINMENT, CELLS, EXECUTED, Cell
from bench.fleet_rules.report import tables, verdict
from bench.harness import RESULTS, machine, save
from inferential.sim.virtual import generate
from inferential.sim.virtual.fleet_file import Fleet
from inferential.sim.virtual.measures import measure
from inferential.sim.virtual.planning.search import Search
from inferential.sim.virtual.simulation import simulate
from inferential.sim.virtual.starvation import play_by_class, play_of, starved_share
from inferential.sim.virtual.world import Run

SEEDS = (0, 1, 2)
SECONDS = 8.0
QUICK_SECONDS = 6.0
OURS = ("slo_aware", "slo_aware:answers", "deadline_aware", "round_robin")
"""After a colon: the objective."""
RULES = (*OURS, *rules.NAMES)
DRAWN = "64 H25" + EXECUTED
DRAWN_RULES = ("slo_aware", "deadline_aware", "robot_time", "rosa_rate")
DRAWN_SECONDS = 20.0
PLANNED = ("64 H50" + EXECUTED, "64 H25" + EXECUTED)
PLANNED_RULES = ("slo_aware", "deadline_aware")
PLANNED_DEVICES = 6
PLANNED_SHARE = 0.95
IMAGES = Path(__file__).parents[2] / "docs" / "images"
_MOST_ROBOTS = 40


@dataclass(frozen=True, slots=True)
class Job:
    """One rule on one cell, one seed."""

    cell: Cell
    rule: str
    seed: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Row:
    """Figures of one rule on one cell; over seeds the mean, and of those in `_WORST` the worst.

    Attributes:
        starved, starved_worst, longest_gap_s, executed_per_s, action_age_p95_ms, fairness, in_slo, qualified_per_s,
            task_s: of robots in closed loop (`sim.virtual.starvation.Play`).
        worst_of_class: the largest `starved` of a robot over the mean of its class; 1 where none starves.
        answers_per_s: rows of all calls.
        classes: `starved` of each class.
        robots: of "robots at 98 %", the most that are answered in time at that share.
        decision_us: mean wall time of a decision.
    """

    cell: str
    rule: str
    starved: float | None = None
    starved_worst: float | None = None
    longest_gap_s: float | None = None
    executed_per_s: float | None = None
    action_age_p95_ms: float | None = None
    fairness: float | None = None
    in_slo: float | None = None
    qualified_per_s: float | None = None
    task_s: float | None = None
    worst_of_class: float | None = None
    answers_per_s: float | None = None
    classes: dict[str, float] | None = None
    robots: float | None = None
    decision_us: float | None = None


def run(seconds: float = 5.0) -> dict[str, Any]:
    """Runs all cells and draws a picture for the docs; `seconds` is ignored."""
    result = compare(CELLS, RULES, SEEDS, SECONDS)
    draw()
    return result


def run_quick(seconds: float = 5.0) -> dict[str, Any]:
    """Runs all cells with one seed and less time."""
    return compare(CELLS, RULES, SEEDS[:1], QUICK_SECONDS)


def draw() -> None:
    """Draws each robot's share of steps without an action, and how many robots devices carry, to docs/images."""
    from inferential.sim.virtual import pictures

    (cell,) = (cell for cell in CELLS if cell.name == DRAWN)
    runs = [_run(cell.fleet, Job(cell, rule, 0, DRAWN_SECONDS), 1.0) for rule in DRAWN_RULES]
    pictures.save_starved(runs, [IMAGES / "sim-starved.png"])
    curves = {}
    for name in PLANNED:
        (planned,) = (one for one in CELLS if one.name == name)
        for rule in PLANNED_RULES:
            search = Search(planned.fleet, rule, seconds=QUICK_SECONDS, seed=0)
            carried = {devices: search.most_robots(devices, PLANNED_SHARE) for devices in range(1, PLANNED_DEVICES + 1)}
            (robots,) = planned.fleet.robots.values()
            curves[f"chunks of {robots.horizon_steps}, {rule}"] = carried
    pictures.save_plan(curves, [IMAGES / "sim-plan.png"], target=PLANNED_SHARE)


def compare(cells: Sequence[Cell], names: Sequence[str], seeds: Sequence[int], seconds: float) -> dict[str, Any]:
    """Runs rules on cells, prints the tables and returns the rows."""
    began = time.perf_counter()
    jobs = [Job(cell, rule, seed, seconds) for cell, rule, seed in product(cells, names, seeds)]
    console = Console(stderr=True)
    with ProcessPoolExecutor() as pool:
        done = list(track(pool.map(_measured, jobs), "simulating", len(jobs), console=console, transient=True))
    size = len(seeds)
    rows = [_mean(done[first : first + size]) for first in range(0, len(done), size)]
    wall_s = time.perf_counter() - began
    out = Console(width=None if sys.stdout.isatty() else 180, highlight=False)
    for table in tables(cells, names, rows):
        out.print(table)
    for line in verdict(cells, rows):
        out.print(line)
    out.print(f"{len(jobs)} runs of {seconds:g} s in {wall_s:.0f} s")
    return {
        "seconds": seconds,
        "seeds": list(seeds),
        "wall_s": round(wall_s, 1),
        "published": {cell.name: cell.published for cell in cells if cell.published},
        "rows": [asdict(row) for row in rows],
    }


def replace_rows(rows: Sequence[dict[str, Any]]) -> Path:
    """Saves rows in place of those of the same cells and rules, but not how long decisions took; returns the file."""
    saved = json.loads((RESULTS / "fleet_rules.json").read_text())
    known = {(row["cell"], row["rule"]): row for row in saved["rows"]}
    for row in rows:
        former = known.get(key := (row["cell"], row["rule"]), row)
        known[key] = {**row, "decision_us": former["decision_us"]}
    order = [(cell.name, rule) for cell, rule in product(CELLS, RULES)]
    saved["rows"] = [known[key] for key in order if key in known]
    return save("fleet_rules", saved | {"machine": machine()})


def _measured(job: Job) -> Row:
    if job.cell.measure == "robots at 98 %":
        return Row(job.cell.name, job.rule, robots=_most_robots(job))
    return _row(job, _run(job.cell.fleet, job, 1.0))


def _run(fleet: Fleet, job: Job, load: float) -> Run:
    rules.register()  # here, since a pool runs it in another process
    strategy, _, objective = job.rule.partition(":")
    return simulate(
        generate.models(fleet),
        generate.arrivals(fleet, seconds=job.seconds, seed=job.seed, load=load),
        strategy,
        seconds=job.seconds,
        seed=job.seed,
        robots=generate.chunked_robots(fleet, seed=job.seed, load=load),
        options={"objective": objective} if objective else {},
        profiled=True,
    )


def _row(job: Job, done: Run) -> Row:
    play = play_of(done)
    assert play is not None
    return Row(
        job.cell.name,
        job.rule,
        starved=play.starved,
        starved_worst=play.starved_worst,
        longest_gap_s=play.longest_gap_s,
        executed_per_s=play.executed_per_s,
        action_age_p95_ms=play.action_age_ms[1],
        fairness=play.fairness,
        in_slo=play.in_slo,
        qualified_per_s=play.qualified_per_s,
        task_s=play.task_s,
        worst_of_class=_worst_of_class(done),
        answers_per_s=sum(call.rows for call in done.calls) / done.seconds,
        classes={name: one.starved for name, one in play_by_class(done).items()},
        decision_us=done.decision_us[0],
    )


def _worst_of_class(done: Run) -> float:
    means = {name: one.starved for name, one in play_by_class(done).items()}
    ratios = [
        starved_share(one) / means[one.robot.robot_class] for one in done.played if means[one.robot.robot_class] > 0
    ]
    return max(ratios, default=1.0)


def _most_robots(job: Job) -> float:
    """The most robots of which so many requests are answered in time; those that could still be do not count."""
    few, many = 0, _MOST_ROBOTS + 1
    while many - few > 1:
        count = (few + many) // 2
        overall = measure(_run(job.cell.fleet, job, float(count))).overall
        counted = overall.offered - overall.open_yet
        few, many = (count, many) if overall.in_time >= ATTAINMENT * counted else (few, count)
    return float(few)


_WORST = ("starved_worst", "worst_of_class", "longest_gap_s", "decision_us")


def _mean(rows: Sequence[Row]) -> Row:
    first = rows[0]
    values: dict[str, Any] = {}
    for name, value in asdict(first).items():
        found = [getattr(row, name) for row in rows]
        if name == "classes" and value is not None:
            values[name] = {key: round(float(np.mean([one[key] for one in found])), 4) for key in value}
        elif isinstance(value, float):
            known = [one for one in found if one is not None]
            values[name] = round(float(max(known) if name in _WORST else np.mean(known)), 4)
        else:
            values[name] = value
    return Row(**values)
