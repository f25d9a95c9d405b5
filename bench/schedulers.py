"""Goodput of every strategy in virtual time, as a share of what is possible: fleets, loads and seeds in one run.

`python -m bench schedulers` runs all and saves bench/results/schedulers.json and the pictures of docs/images;
`python -m bench.schedulers --check` also fails where a wanted figure is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.harness import save
from inferential.config.schema import SchedulingConfig
from inferential.scheduler import InferenceRequest, Scheduler, register_scheduler, scheduler_names
from inferential.sim.virtual import generate
from inferential.sim.virtual.bound import upper_bound, work_bound, work_in_time
from inferential.sim.virtual.fleet_file import example
from inferential.sim.virtual.measures import measure
from inferential.sim.virtual.simulation import simulate

FLEETS = ("mixed", "mixed-all", "shared")
LOADS = (0.5, 0.8, 1.0, 1.5, 2.0, 3.0)
SEEDS = (0, 1, 2)
SECONDS = 30.0
BASELINES = ("deadline_aware", "fifo", "round_robin")
IMAGES = Path(__file__).parents[1] / "docs" / "images"


@register_scheduler("fifo")
class FifoScheduler(Scheduler):
    """First come, first served, one request a call."""

    def __init__(self, config: SchedulingConfig) -> None:
        self._waiting: deque[InferenceRequest] = deque()

    def submit(self, request: InferenceRequest) -> None:
        self._waiting.append(request)

    def next_batch(self) -> list[InferenceRequest]:
        return [self._waiting.popleft()] if self._waiting else []

    def tick(self) -> int | None:
        return None

    def status(self) -> dict[str, Any]:
        return {"strategy": "fifo", "queue_size": len(self._waiting)}

    def queue_len(self) -> int:
        return len(self._waiting)


@dataclass(frozen=True, slots=True)
class Cell:
    """One strategy on one fleet at one load, one seed."""

    fleet: str
    load: float
    strategy: str
    seed: int


@dataclass(frozen=True, slots=True)
class Row:
    """What came of it; over seeds, the mean, and of waits the worst.

    Attributes:
        of_bound: answers in time as a share of what any schedule could give.
        of_work: the same, an answer counted by the work that it is: where models share a device, the most answers
            are those of the cheaper model alone.
        classes: of each class, its answers in time as a share of its observations.
        fairness: the least of the classes' Jain indices.
        wait_s: of any periodic robot, the longest time from an observation to an answer in time.
        decision_us: mean wall time of a decision.
    """

    fleet: str
    load: float
    strategy: str
    goodput_per_s: float
    bound_per_s: float
    of_bound: float
    of_work: float
    classes: dict[str, float]
    fairness: float
    wait_s: dict[str, float]
    decision_us: float


def run(seconds: float = 5.0) -> dict[str, Any]:
    """All cells; `seconds` is not asked: virtual time costs as little as it does."""
    return {"seconds": SECONDS, "seeds": SEEDS, "rows": [asdict(row) for row in _rows(LOADS, SEEDS, pictures=True)]}


def run_quick(seconds: float = 5.0) -> dict[str, Any]:
    """One seed, two loads, no pictures."""
    return {"rows": [asdict(row) for row in _rows((1.0, 2.0), (0,), pictures=False)]}


def _rows(loads: Sequence[float], seeds: Sequence[int], *, pictures: bool) -> list[Row]:
    strategies = ["fifo", *(name for name in scheduler_names() if name != "fifo")]
    cells = [Cell(*values) for values in product(FLEETS, loads, strategies, seeds)]
    console = Console(stderr=True)
    with ProcessPoolExecutor() as pool:
        results = list(
            track(pool.map(_measured, cells, chunksize=2), "simulating", len(cells), console=console, transient=True)
        )
    rows = [
        _mean([result for cell, result in zip(cells, results, strict=True) if _same(cell, fleet, load, strategy)])
        for fleet, load, strategy in product(FLEETS, loads, strategies)
    ]
    Console(width=None if sys.stdout.isatty() else 140).print(_table(rows))
    if pictures:
        _draw(rows)
    return rows


def _same(cell: Cell, fleet: str, load: float, strategy: str) -> bool:
    return (cell.fleet, cell.load, cell.strategy) == (fleet, load, strategy)


def _measured(cell: Cell) -> Row:
    fleet = example(cell.fleet)
    models = generate.models(fleet)
    arrivals = generate.arrivals(fleet, seconds=SECONDS, seed=cell.seed, load=cell.load)
    bound = upper_bound(models, arrivals, SECONDS)
    done = simulate(models, arrivals, cell.strategy, seconds=SECONDS, seed=cell.seed)
    summed = measure(done)
    return Row(
        fleet=cell.fleet,
        load=cell.load,
        strategy=cell.strategy,
        goodput_per_s=summed.overall.in_time / SECONDS,
        bound_per_s=bound / SECONDS,
        of_bound=summed.overall.in_time / bound,
        of_work=work_in_time(models, done) / work_bound(models, arrivals, SECONDS),
        classes={name: group.in_time / group.offered for name, group in summed.classes.items()},
        fairness=min(group.fairness for name, group in summed.classes.items() if _is_periodic(cell.fleet, name)),
        wait_s={name: group.longest_wait_s for name, group in summed.classes.items()},
        decision_us=summed.decision_us[0],
    )


def _is_periodic(fleet: str, name: str) -> bool:
    return example(fleet).robots[name].kind != "irregular"  # of whom few ask, and by chance


def _mean(rows: Sequence[Row]) -> Row:
    first = rows[0]
    return Row(
        first.fleet,
        first.load,
        first.strategy,
        *(
            round(float(np.mean([getattr(row, name) for row in rows])), 4)
            for name in ("goodput_per_s", "bound_per_s", "of_bound", "of_work")
        ),
        classes={name: round(float(np.mean([row.classes[name] for row in rows])), 4) for name in first.classes},
        fairness=round(min(row.fairness for row in rows), 4),
        wait_s={name: round(max(row.wait_s[name] for row in rows), 3) for name in first.wait_s},
        decision_us=round(float(np.mean([row.decision_us for row in rows])), 1),
    )


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("fleet", "load", "strategy"):
        table.add_column(title)
    for title in ("in time /s", "of bound", "of work", "fair", "classes in time", "longest wait s"):
        table.add_column(title, justify="right")
    before: tuple[str, float] | None = None
    for row in rows:
        place = (row.fleet, row.load)
        if before is not None and place != before:
            table.add_section()
        where = (row.fleet, f"{row.load:g}x") if place != before else ("", "")
        before = place
        style = "bold" if row.strategy == "slo_aware" else ""
        classes = "  ".join(f"{name} {share:.0%}" for name, share in row.classes.items())
        waits = "  ".join(f"{wait:.2f}" for wait in row.wait_s.values())
        shares = (f"{row.of_bound:.1%}", f"{row.of_work:.1%}")
        cells = (f"{row.goodput_per_s:.0f}", *shares, f"{row.fairness:.3f}", classes, waits)
        table.add_row(*where, row.strategy, *cells, style=style)
    return table


def _draw(rows: Sequence[Row]) -> None:
    from inferential.sim.virtual import pictures

    IMAGES.mkdir(parents=True, exist_ok=True)
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        fleet = curves.setdefault(row.fleet, {})
        fleet.setdefault(row.strategy, []).append((row.load, row.goodput_per_s))
        if row.strategy == "slo_aware":
            fleet.setdefault("bound", []).append((row.load, row.bound_per_s))
    pictures.save_goodput(curves, [IMAGES / "sim-goodput.png"])
    fleet_of = {name: example(name) for name in ("mixed-all", "shared")}
    runs = {
        (name, strategy): simulate(
            generate.models(fleet_of[name]),
            generate.arrivals(fleet_of[name], seconds=SECONDS, seed=0, load=1.5),
            strategy,
            seconds=SECONDS,
            seed=0,
        )
        for name, strategy in product(fleet_of, ("slo_aware", *BASELINES))
    }
    pictures.save_ages([runs["mixed-all", name] for name in ("slo_aware", *BASELINES)], [IMAGES / "sim-ages.png"])
    for strategy in ("slo_aware", "deadline_aware"):
        drawn = [IMAGES / f"sim-timeline-{strategy}.png"]
        pictures.save_timeline(runs["shared", strategy], drawn, begin_s=10.0, models=("control", "chunks"))


def missed(rows: Sequence[Row]) -> Iterator[str]:
    """The wanted figures that are missed, in words."""
    found = {(row.fleet, row.load, row.strategy): row for row in rows}
    for row in rows:
        if row.strategy != "slo_aware":
            continue
        place = f"{row.fleet} at {row.load:g}x"
        wanted = 0.95 if row.load <= 1 else 0.90
        shared = any(model.device is not None for model in example(row.fleet).models.values())
        share = row.of_work if shared else row.of_bound
        if share < wanted:
            yield f"{place}: {share:.1%} of the bound, wanted {wanted:.0%}"
        if row.load <= 1:
            for name, robots in example(row.fleet).robots.items():
                patience_s = 5 * (robots.period_s + robots.time_s)
                if row.wait_s[name] > patience_s:
                    yield f"{place}: a robot of {name} waited {row.wait_s[name]:.2f} s, more than {patience_s:.2f} s"
        if row.fleet == "mixed-all" and row.load == 2:
            for baseline in BASELINES:
                ratio = row.goodput_per_s / max(found[row.fleet, row.load, baseline].goodput_per_s, 1e-9)
                if ratio < 2:
                    yield f"{place}: {ratio:.2f}x the goodput of {baseline}, wanted 2x"


def main() -> None:
    """As a program of its own: with a check."""
    parser = argparse.ArgumentParser(prog="python -m bench.schedulers", description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a wanted figure is missed")
    parser.add_argument("--quick", action="store_true", help="one seed, two loads; nothing is saved")
    args = parser.parse_args()
    result = run_quick() if args.quick else run()
    if not args.quick:
        print(save("schedulers", result))
    problems = list(missed([Row(**row) for row in result["rows"]]))
    for problem in problems:
        print(f"missed: {problem}")
    if problems and args.check:
        sys.exit(1)


if __name__ == "__main__":
    main()
