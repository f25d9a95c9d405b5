"""`inferential plan`: which model runs on which device, in what batches, and how often each robot is answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from inferential.cli.errors import CliError, missing
from inferential.cli.output import make_folder, print_json, printable, progress_bar, wants_rich, writing_to
from inferential.cli.strategies import check_strategy
from inferential.config.problems import ConfigError
from inferential.sim.virtual.fleet_file import Fleet, example, example_names, load_fleet
from inferential.sim.virtual.planning.search import TRIED, Plan, Search

EXAMPLES = (
    "inferential plan fleet.yaml --devices 4",
    "inferential plan --example chunks --devices 2 --load 0.5 --json",
    "inferential plan fleet.yaml --devices 8 --target 0.98 --out plan",
)
_POINTS = 6  # of the curve
_PER_POINT = 9  # simulations, about


def plan(
    fleet: Annotated[
        Path | None,
        typer.Argument(help="YAML, TOML or JSON file of models' times and classes of robots, as for `simulate`."),
    ] = None,
    shipped: Annotated[
        str | None,
        typer.Option("--example", metavar="NAME", help=f"A fleet that is shipped: {', '.join(example_names())}."),
    ] = None,
    devices: Annotated[int, typer.Option(min=1, max=256, help="Accelerators, all alike.")] = 1,
    load: Annotated[
        float, typer.Option(min=0.01, max=100, help="How many times as many robots of each class as the file says.")
    ] = 1.0,
    target: Annotated[
        float,
        typer.Option(
            min=0.01, max=1, help="Share of its steps with an action that each class must have to be carried."
        ),
    ] = 0.95,
    strategy: Annotated[str, typer.Option(help="Scheduling strategy; `inferential schedulers` lists them.")] = (
        "slo_aware"
    ),
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="Virtual time of each simulation.")] = 6.0,
    seed: Annotated[int, typer.Option(min=0, help="Of phases, gaps and latencies.")] = 0,
    out: Annotated[Path | None, typer.Option(file_okay=False, help="Where plan.json and pictures are saved.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON and nothing else.")] = False,
) -> None:
    """Plan a fleet on so many devices: placement, batches and rates.

    Places each model on devices of its own or lets models share one, chooses batch sizes, and beyond capacity the rates
    of the classes: minimum rates first, then value. The best placements by the models' latencies are simulated, with
    the server's own scheduling, and the best of these is printed; then how many robots fewer devices carry.
    """
    described = _fleet(fleet, shipped)
    check_strategy(strategy)
    if out is not None:
        make_folder(out)
    counts = _counts(devices)
    total = 2 * TRIED + 2 * len(described.models) + _PER_POINT * len(counts)
    with progress_bar("simulating", total, shown=not as_json) as advance:
        search = Search(described, strategy, seconds=seconds, seed=seed, progress=advance)
        try:
            found = search.best(devices, load)
            carried = {count: search.most_robots(count, target) for count in counts}
        except ValueError as error:
            raise CliError(str(error)) from error
    summary = {"strategy": strategy, "load": load, "seed": seed, **found.as_dict(), "target": target}
    summary["robots_carried"] = [
        {"devices": count, "robots": robots, "or_more": search.is_limit(robots)} for count, robots in carried.items()
    ]
    saved = [] if out is None else _save(summary, carried, found, target, out)
    if as_json:
        print_json(summary)
    else:
        _print(found, summary, saved)


def _print(found: Plan, summary: dict[str, Any], saved: list[Path]) -> None:
    screen = Console(width=None if wants_rich() else 120, highlight=False, markup=False)
    screen.print(_models(found))
    screen.print(_robots(found))
    for one in summary["robots_carried"]:
        what = "device carries" if one["devices"] == 1 else "devices carry"
        robots = f"at least {one['robots']}" if one["or_more"] else one["robots"]
        screen.print(
            f"{one['devices']} {what} {robots} robots of this mix, "
            f"each class with an action in {summary['target']:.0%} of its steps"
        )
    for path in saved:
        screen.print(f"saved {path}", soft_wrap=True)


def _fleet(path: Path | None, shipped: str | None) -> Fleet:
    if (path is None) == (shipped is None):
        names = ", ".join(example_names())
        raise CliError(f"FLEET: expected a file, or --example with one of {names}")
    try:
        return load_fleet(path) if path is not None else example(str(shipped))
    except ConfigError as error:
        raise CliError(str(error)) from error


def _counts(devices: int) -> list[int]:
    """Returns numbers of devices, at most _POINTS of them, about evenly spaced, the last one the given one."""
    points = min(devices, _POINTS)
    return sorted({max(1, round(devices * number / points)) for number in range(1, points + 1)})


def _models(found: Plan) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in ("model", "devices", "replicas", "rows of a call", "shares with"):
        table.add_column(title, justify="left" if title in ("model", "devices", "shares with") else "right")
    for model_id, one in found.models.items():
        table.add_row(
            printable(model_id),
            ", ".join(map(str, one.devices)),
            str(one.replicas),
            str(one.max_batch_size),
            ", ".join(map(printable, one.shares_with)) or "-",
        )
    return table


def _robots(found: Plan) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for title in ("robots", "model"):
        table.add_column(title)
    for title in (
        "answers\n/s each",
        "at least\nevery ms",
        "actions of\na chunk",
        "with an\naction",
        "worst",
        "minimum\nrate",
    ):
        table.add_column(title, justify="right")
    for name, one in found.robots.items():
        table.add_row(
            f"{one.robots} {printable(name)}",
            printable(one.model),
            f"{one.rate_hz:.2f}",
            f"{one.serve_interval_ms:.0f}" if one.serve_interval_ms else "-",
            "-" if one.execution_horizon is None else str(one.execution_horizon),
            f"{one.with_action:.1%}",
            f"{one.worst:.1%}",
            "kept" if one.keeps_min_rate else "missed",
        )
    return table


def _save(summary: dict[str, Any], carried: dict[int, int], found: Plan, target: float, out: Path) -> list[Path]:
    try:
        from inferential.sim.virtual import pictures
    except ModuleNotFoundError as error:
        raise missing("--out", error, "demo") from error
    saved = [out / "plan.json", out / "plan.png", out / "plan.svg"]
    with writing_to(out):
        saved[0].write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        needed = sum(one.robots for one in found.robots.values())
        pictures.save_plan({"": carried}, saved[1:], target=target, wanted=needed)
    return saved
