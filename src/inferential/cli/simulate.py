"""`inferential simulate`: runs `inferential.sim.virtual`, prints its measures, saves them with pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from inferential.cli.errors import CliError, missing
from inferential.cli.output import make_folder, print_json, printable, progress_bars, wants_rich, writing_to
from inferential.cli.recordings import read_happened
from inferential.cli.strategies import compared_strategies
from inferential.config.problems import ConfigError
from inferential.sim.virtual import generate
from inferential.sim.virtual.asked import Asked, asked_in, waiting_text
from inferential.sim.virtual.bound import upper_bound
from inferential.sim.virtual.fleet_file import Fleet, example, example_names, load_fleet
from inferential.sim.virtual.happened import busy_before, models_of, run_of
from inferential.sim.virtual.measures import Group, Measures, measure
from inferential.sim.virtual.simulation import simulate as run_strategy
from inferential.sim.virtual.starvation import Play, play_by_class, play_of
from inferential.sim.virtual.trace import load_trace, save_trace
from inferential.sim.virtual.world import Arrival, ChunkedRobot, ModelSpec, Run

EXAMPLES = (
    "inferential simulate fleet.yaml",
    "inferential simulate --example mixed --compare all --load 2",
    "inferential simulate fleet.yaml --trace-in recorded.jsonl --json",
    "inferential simulate --trace-in run.mcap --compare all",
)
_EXAMPLE = "mixed"


def simulate(
    fleet: Annotated[
        Path | None,
        typer.Argument(
            help="YAML, TOML or JSON file of models' times and classes of robots; no server's configuration."
        ),
    ] = None,
    shipped: Annotated[
        str | None,
        typer.Option("--example", metavar="NAME", help=f"A fleet that is shipped: {', '.join(example_names())}."),
    ] = None,
    strategy: Annotated[str, typer.Option(help="Scheduling strategy; `inferential schedulers` lists them.")] = (
        "slo_aware"
    ),
    compare: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Several strategies on the same arrivals; `all` for all.")
    ] = None,
    load: Annotated[
        float, typer.Option(min=0.01, max=100, help="How many times as many robots of each class as the file says.")
    ] = 1.0,
    seconds: Annotated[float, typer.Option(min=0.1, max=86400, help="Virtual time.")] = 60.0,
    seed: Annotated[int, typer.Option(min=0, help="Of phases, gaps and latencies.")] = 0,
    trace_in: Annotated[
        Path | None,
        typer.Option(
            help="Recorded arrivals in place of the file's robots: JSON lines, or a recording (MCAP) or folder of them."
        ),
    ] = None,
    trace_out: Annotated[Path | None, typer.Option(dir_okay=False, help="Where the arrivals are kept.")] = None,
    out: Annotated[Path | None, typer.Option(file_okay=False, help="Where summary and pictures are saved.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON and nothing else.")] = False,
) -> None:
    """Simulate a fleet and its server in virtual time.

    The server's own scheduling decides, without sockets and without waiting: 1,000 robots for a minute take seconds.
    Robots that play chunks are in closed loop: what they ask depends on what they are answered, and what counts is the
    share of their control steps without an action. Open streams of requests are compared with a bound that no schedule
    can exceed, even one that knows the future.
    """
    names = compared_strategies(strategy, compare)
    if trace_in is not None and (trace_in.suffix == ".mcap" or trace_in.is_dir()):
        demand = _recorded(trace_in, None if fleet is None and shipped is None else _fleet(fleet, shipped), load)
    else:
        demand = _described(_fleet(fleet, shipped), trace_in, seconds, seed, load)
    if trace_out is not None and not demand.is_closed:
        _keep(demand.asked.arrivals, trace_out)
    if out is not None:
        make_folder(out)
    simulated = _run(demand, names, seed)
    if trace_out is not None and demand.is_closed:
        _keep([outcome.arrival for outcome in simulated[0].outcomes], trace_out)
    compared = _Compared(demand, simulated, with_happened=load == 1)
    shared = {"bound": compared.bound, "load": load, "seed": seed, "robots_waiting": demand.asked.robots_waiting()}
    summary = [{**shared, **one} for one in compared.figures()]
    saved = [] if out is None else _save(summary, compared.runs, out)
    if as_json:
        print_json(summary if len(summary) > 1 else summary[0])
    else:
        _print(compared, saved)


@dataclass(frozen=True, slots=True)
class _Demand:
    """What every strategy is given.

    Attributes:
        models: with the times of their calls.
        asked: of them, for so many seconds of virtual time.
        robots: robots that play chunks in closed loop, whose requests depend on their answers.
        happened: what a recording says that became of the arrivals; None where there is none.
        busy: from when to when models were busy with what had come before, by model id.
    """

    models: Sequence[ModelSpec]
    asked: Asked
    robots: Sequence[ChunkedRobot] = ()
    happened: Run | None = None
    busy: Mapping[str, tuple[float, float]] | None = None

    @property
    def is_closed(self) -> bool:
        """Whether runs differ in what is asked, as that depends on the answers."""
        return bool(self.robots or self.asked.waiting)

    def bound(self) -> int | None:
        """Returns how many requests can be answered in time at best; None where `is_closed`."""
        if self.is_closed:
            return None
        seconds = self.asked.seconds
        return upper_bound(self.models, [one for one in self.asked.arrivals if one.at < seconds], seconds)


class _Compared:
    """Runs side by side, with the bound of what can be answered in time.

    Args:
        demand: what every strategy was given.
        simulated: what came of it.
        with_happened: whether to show what a recording says beside it, first.
    """

    def __init__(self, demand: _Demand, simulated: list[Run], *, with_happened: bool) -> None:
        first = [demand.happened] if with_happened and demand.happened is not None else []
        replicas = {model.model_id: len(model.speeds) for model in demand.models}
        self.runs: list[Run] = first + simulated
        self.measured = [measure(run, replicas) for run in self.runs]
        self.simulated = self.measured[len(first) :]
        self.bound = demand.bound()
        self.robots = len(demand.robots)
        self.waiting = waiting_text(demand.asked.robots_waiting(), demand.asked.robots())

    def figures(self) -> list[dict[str, Any]]:
        """Returns the figures of each run."""
        return [{**one.as_dict(), **_closed_loop(run)} for one, run in zip(self.measured, self.runs, strict=True)]


def _print(compared: _Compared, saved: Sequence[Path]) -> None:
    console = Console(width=None if wants_rich() else 140, highlight=False, markup=False)
    console.print(_table(compared.measured, compared.bound))
    if compared.bound is not None:
        console.print(f"\n{_bound_text(compared.bound, compared.measured[0].overall.offered)}", soft_wrap=True)
    for one in compared.simulated:  # what happened took no decision here
        console.print(_calls(one), soft_wrap=True)
    if compared.waiting:
        console.print(f"\n{compared.waiting}")
    if compared.robots:
        console.print(f"\n{compared.robots} robots in closed loop:")
        console.print(_play_table(compared.runs))
    for path in saved:
        console.print(f"saved {path}", soft_wrap=True)


def _recorded(path: Path, fleet: Fleet | None, load: float) -> _Demand:
    """Returns a recording's arrivals, for the models of a fleet, or for those of the recording where it is None."""
    happened = read_happened([path], "inferential simulate --trace-in")
    models = models_of(happened) if fleet is None else generate.models(fleet)
    if fleet is None:
        if not models:
            raise CliError(f"--trace-in: nothing was answered in {path}, so no model's times are known")
        # Of what was asked by mistake, as by a misspelt id, nothing is known.
        served = {model.model_id for model in models}
        happened = [one for one in happened if one.model_id in served]
    run = run_of(happened)
    _check_models([outcome.arrival for outcome in run.outcomes], models)
    return _Demand(models, asked_in(run).times(load), happened=run, busy=busy_before(run))


def _described(fleet: Fleet, trace: Path | None, seconds: float, seed: int, load: float) -> _Demand:
    """Returns what a fleet's robots ask, or a trace's arrivals in place of them."""
    models = generate.models(fleet)
    robots = [] if trace is not None else generate.chunked_robots(fleet, seed=seed, load=load)
    return _Demand(models, Asked(_arrivals(fleet, models, trace, seconds, seed, load), (), seconds), robots)


def _fleet(path: Path | None, shipped: str | None) -> Fleet:
    if path is not None and shipped is not None:
        raise CliError("FLEET: a file and --example were given; expected one of them")
    try:
        return load_fleet(path) if path is not None else example(shipped or _EXAMPLE)
    except ConfigError as error:
        raise CliError(str(error)) from error


def _arrivals(
    fleet: Fleet, models: Sequence[ModelSpec], trace: Path | None, seconds: float, seed: int, load: float
) -> list[Arrival]:
    if trace is None:
        try:
            return generate.arrivals(fleet, seconds=seconds, seed=seed, load=load)
        except ValueError as error:
            raise CliError(str(error)) from error
    try:
        arrivals = load_trace(trace)
    except ConfigError as error:
        raise CliError(str(error)) from error
    _check_models(arrivals, models)
    return arrivals


def _check_models(arrivals: Sequence[Arrival], models: Sequence[ModelSpec]) -> None:
    known = [model.model_id for model in models]
    unknown = sorted({arrival.model_id for arrival in arrivals}.difference(known))
    if unknown:
        raise CliError(f"--trace-in: model {unknown[0]!r} is not among those of the simulation: {', '.join(known)}")


def _keep(arrivals: Sequence[Arrival], path: Path) -> None:
    with writing_to(path, "--trace-out"):
        save_trace(arrivals, path)


def _closed_loop(run: Run) -> dict[str, Any]:
    play = play_of(run)
    if play is None:
        return {}
    classes = {name: one.as_dict() for name, one in play_by_class(run).items()}
    return {"closed_loop": {"overall": play.as_dict(), "classes": classes}}


def _run(demand: _Demand, names: Sequence[str], seed: int) -> list[Run]:
    with progress_bars(demand.asked.seconds) as begin_bar:
        return [
            run_strategy(
                demand.models,
                demand.asked.arrivals,
                name,
                seconds=demand.asked.seconds,
                seed=seed,
                robots=demand.robots,
                waiting=demand.asked.waiting,
                profiled=demand.happened is not None,
                busy=demand.busy,
                progress=begin_bar(name),
            )
            for name in names
        ]


def _table(measured: Sequence[Measures], bound: int | None) -> Table:
    """Returns the requests of each strategy's robots, in 80 columns; its classes below each strategy."""
    table = _narrow("offered", "in\ntime", "of\nbound", "missed", "age ms\np50 p95 p99", "fair", "wait s\np95 worst")
    for one in measured:
        share = f"{one.overall.in_time / bound:.1%}" if bound else "-"
        table.add_row(one.strategy, *_cells(one.overall, share))
        for name, group in one.classes.items():
            table.add_row(f"  {group.robots} {printable(name)}", *_cells(group, ""))
    return table


def _narrow(*titles: str) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0, collapse_padding=True)
    table.add_column("robots", overflow="fold")
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _bound_text(bound: int, offered: int) -> str:
    if bound >= offered:
        return f"bound: all {offered} can be answered in time, as far as it tells"
    return f"bound: no schedule answers more than {bound} of {offered} in time"


def _calls(one: Measures) -> str:
    """Returns what a strategy's decisions took, and how full its calls were."""
    rows = ", ".join(f"{printable(model_id)} {size:.1f}" for model_id, size in one.batch_size.items())
    return f"{one.strategy}: {one.decision_us[0]:.0f} us a decision; mean rows of a call: {rows or '-'}"


def _cells(group: Group, share: str) -> Sequence[str]:
    return (
        str(group.offered),
        str(group.in_time),
        share,
        f"{group.miss_rate:.1%}",
        " ".join(f"{age:.0f}" for age in group.age_ms),
        f"{group.fairness:.3f}",
        f"{group.wait_p95_s:.2f} {group.longest_wait_s:.2f}",
    )


def _play_table(runs: Sequence[Run]) -> Table:
    """Returns what robots in closed loop did, in 80 columns."""
    table = _narrow(
        *("starved", "worst", "gap\ns", "actions\n/s", "age ms\np50 p95", "fair"),
        *("in\nSLO", "quali-\nfied/s", "task\ns"),
    )
    for run in runs:
        play, classes = play_of(run), play_by_class(run)
        if play is None:
            continue
        table.add_row(run.strategy, *_play_cells(play))
        for name, one in classes.items() if len(classes) > 1 else ():
            table.add_row(f"  {one.robots} {printable(name)}", *_play_cells(one))
    return table


def _play_cells(play: Play) -> Sequence[str]:
    return (
        f"{play.starved:.1%}",
        f"{play.starved_worst:.1%}",
        f"{play.longest_gap_s:.2f}",
        f"{play.executed_per_s:.0f}",
        " ".join(f"{age:.0f}" for age in play.action_age_ms),
        f"{play.fairness:.3f}",
        f"{play.in_slo:.1%}",
        f"{play.qualified_per_s:.0f}",
        "-" if play.task_s is None else f"{play.task_s:.2f}",
    )


def _save(summary: list[dict[str, Any]], runs: Sequence[Run], out: Path) -> list[Path]:
    try:
        from inferential.sim.virtual import pictures
    except ModuleNotFoundError as error:
        raise missing("--out", error, "demo") from error
    with writing_to(out):
        path = out / "summary.json"
        path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        saved = [path, out / "ages.png", out / "ages.svg"]
        pictures.save_ages(runs, saved[1:])
        if runs[0].played:
            saved += (drawn := [out / "starved.png", out / "starved.svg"])
            pictures.save_starved(runs, drawn)
        begin_s = max(0.0, runs[0].seconds / 2 - 0.5)
        for run in runs:
            drawn = [out / f"timeline-{run.strategy}.{kind}" for kind in ("png", "svg")]
            models = sorted({call.model_id for call in run.calls})
            pictures.save_timeline(run, drawn, begin_s=begin_s, models=models)
            saved += drawn
    return saved
