"""`inferential demo`.

The robots and their server are in `inferential.sim`; here they are run, shown and summed up.
"""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

from inferential.cli.errors import CliError, missing
from inferential.cli.interrupts import INTERRUPTED
from inferential.cli.output import make_folder, print_json, wants_rich, writing_to
from inferential.cli.settings import COMMAND_LINE, listener_section
from inferential.cli.strategies import compared_strategies
from inferential.config.loading import load
from inferential.config.problems import ConfigError
from inferential.sim import table
from inferential.sim.fleet import Plan, Report, robot_names, run
from inferential.sim.link import INFERENTIAL, Software, serve
from inferential.sim.secure import make_keys, secure_link, security_section
from inferential.sim.watch import Watch
from inferential.web import HttpServer

EXAMPLES = (
    "inferential demo",
    "inferential demo --strategy round_robin --robots 40 --load 3",
    "inferential demo --compare all --load 2 --seconds 10",
    "inferential demo --task hopper --load 4",
    "inferential demo --http 8080 --seconds 600",
    "inferential demo --record recordings --seconds 10",
    "inferential demo --secure",
)
_PLAIN_LINE_S = 1.0


class TaskName(StrEnum):
    """The tasks of `sim.tasks`, as a command line takes them."""

    BALANCE = "balance"
    HOPPER = "hopper"


def demo(
    task: Annotated[TaskName, typer.Option(help="Which robots.")] = TaskName.BALANCE,
    robots: Annotated[int, typer.Option(min=1, max=200, help="How many robots; the kinds take turns.")] = 12,
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="How long they are driven.")] = 20.0,
    load: Annotated[
        float,
        typer.Option(
            min=0.05, max=20, help="How busy answering every observation would keep the accelerator; above 1 it cannot."
        ),
    ] = 0.7,
    strategy: Annotated[str, typer.Option(help="Scheduling strategy; `inferential schedulers` lists them.")] = (
        "deadline_aware"
    ),
    compare: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Run several strategies one after another; `all` for all.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the pushes that the robots get.")] = 0,
    out: Annotated[Path, typer.Option(file_okay=False, help="Where the plot, table and summary are saved.")] = Path(
        "demo-out"
    ),
    http: Annotated[
        str | None,
        typer.Option(metavar="[HOST:]PORT", help="Serve the live page there meanwhile; the default host is 127.0.0.1."),
    ] = None,
    record: Annotated[
        Path | None, typer.Option(file_okay=False, help="Record what robots send and are answered, as MCAP, there.")
    ] = None,
    secure: Annotated[
        bool, typer.Option("--secure", help="Give the server and every robot keys, made for the run, and encrypt.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON and nothing else.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Print lines instead of a live table.")] = False,
) -> int:
    """Drive a fleet of simulated robots in real time.

    Inverted pendulums (50 Hz) and balls on tilting plates (30 Hz, with camera images), or gymnasium's hoppers (50 Hz),
    are stepped by the MuJoCo physics engine. Each is a client of its own on a real socket; one accelerator, which takes
    one call at a time, is shared by the policies that drive them. A robot whose actions come too late falls.

    The physics engine and what draws the plot come with the package's extra named demo.

    Ctrl-C ends it early, with the summary of what ran so far, of which nothing is saved, and exit code 130.
    """
    plans = [
        Plan(task=task.value, robots=robots, seconds=seconds, load=load, strategy=name, seed=seed)
        for name in compared_strategies(strategy, compare)
    ]
    software = INFERENTIAL if http is None and record is None else _with_services(http, record)
    _check_packages()
    make_folder(out)
    if record is not None:
        make_folder(record, "--record")
    with _encrypted(software, plans[0]) if secure else nullcontext(software) as chosen:
        watches = _run_all(plans, chosen, quiet=as_json, live=wants_rich() and not plain)
    interrupted = watches[-1].interrupted
    # What an earlier run has saved is not replaced by half a run.
    _show(watches, [] if interrupted else _save(watches, out), as_json=as_json, several=compare is not None)
    return INTERRUPTED if interrupted else 0


def _run_all(plans: Sequence[Plan], software: Software, *, quiet: bool, live: bool) -> list[Watch]:
    watches: list[Watch] = []
    for plan in plans:
        watch = Watch(plan)
        try:
            _run(watch, software, quiet=quiet, live=live)
        except RuntimeError as error:
            raise CliError(str(error)) from error
        except KeyboardInterrupt:
            watch.interrupted = True
            if not (watch.robots or watches):
                raise  # no robot has moved yet
        watches.append(watch)
        if watch.interrupted:
            break
    return watches


@contextmanager
def _encrypted(software: Software, plan: Plan) -> Iterator[Software]:
    """The same software with keys for the server and each robot, for as long as this is entered."""
    with TemporaryDirectory(prefix="inferential-keys-") as folder:
        try:
            make_keys(Path(folder), robot_names(plan))
        except ModuleNotFoundError as error:
            raise missing("the demo with keys", error, "demo") from error
        serve_ours: Callable[..., Any] = software.serve  # `sim.link.serve`, with its page where there is one
        yield Software(partial(serve_ours, security=security_section(folder)), partial(secure_link, folder=folder))


def _show(watches: Sequence[Watch], saved: Sequence[Path], *, as_json: bool, several: bool) -> None:
    if as_json:
        runs = [watch.summary() for watch in watches]
        print_json(runs if several else runs[0])
        return
    console = Console(width=None if wants_rich() else 120, highlight=False, markup=False)
    console.print()
    console.print(table.summary(watches))
    for warning in table.warnings(watches):
        console.print(f"warning: {warning}", soft_wrap=True)
    for path in saved:
        console.print(f"saved {path}")


def _with_services(http: str | None, record: Path | None) -> Software:
    """Runs the demo's server with its live page, and recorded."""
    sections: dict[str, Any] = {}
    if http is not None:
        sections["http"] = listener_section("--http", http)
    if record is not None:
        sections["recording"] = {"path": str(record)}
    try:
        config = load(overrides=sections, overrides_name=COMMAND_LINE).config
    except ConfigError as error:
        raise CliError(str(error)) from error
    services: dict[str, Any] = {}
    if config.http is not None:
        services["page"] = partial(HttpServer, config=config.http)
    if config.recording is not None:
        try:
            import mcap  # noqa: F401

            from inferential.recording.recorder import Recorder
        except ModuleNotFoundError as error:
            raise missing("--record", error, "record") from error
        services["recorder"] = partial(Recorder, config=config.recording)
    return replace(INFERENTIAL, serve=partial(serve, **services))


def _check_packages() -> None:
    try:
        import gymnasium  # noqa: F401
        import matplotlib  # noqa: F401
        import mujoco  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing("the demo", error, "demo") from error


def _run(watch: Watch, software: Software, *, quiet: bool, live: bool) -> None:
    """Runs the watch's plan, and shows it meanwhile; however it ends, no process of it is left."""
    with closing(run(watch.plan, software)) as reports:
        if live:
            _run_live(watch, reports)
        else:
            _run_plain(watch, reports, quiet=quiet)


def _run_live(watch: Watch, reports: Iterator[list[Report]]) -> None:
    console = Console()
    try:
        with Live(console=console, auto_refresh=False, transient=True) as shown:
            for report in reports:
                watch.take(report)
                shown.update(table.live(watch), refresh=True)
    finally:
        if watch.robots:
            console.print(table.live(watch))


def _run_plain(watch: Watch, reports: Iterator[list[Report]], *, quiet: bool) -> None:
    next_line = time.monotonic() + _PLAIN_LINE_S
    page_printed = quiet
    for report in reports:
        watch.take(report)
        if watch.server.page is not None and not page_printed:
            page_printed = True
            print(f"page on {watch.server.page}", flush=True)
        if not quiet and watch.seconds and time.monotonic() >= next_line:
            next_line = time.monotonic() + _PLAIN_LINE_S
            print(table.line(watch), flush=True)


def _save(watches: Sequence[Watch], out: Path) -> list[Path]:
    from inferential.sim import plot

    with writing_to(out):
        picture, screen, summary = out / "demo.png", out / "demo.svg", out / "summary.json"
        plot.save(watches, picture)
        recorder = Console(record=True, width=96, file=io.StringIO(), force_terminal=True)
        recorder.print(table.live(watches[-1]))
        # Without rich's links to web fonts: a picture that is looked at anywhere loads nothing from elsewhere.
        drawn = re.sub(r"@font-face \{.*?\}", "", recorder.export_svg(title="inferential demo"), flags=re.DOTALL)
        screen.write_text(drawn, encoding="utf-8")
        summary.write_text(json.dumps([watch.summary() for watch in watches], indent=2) + "\n")
    return [picture, screen, summary]
