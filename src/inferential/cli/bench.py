"""`inferential bench`: load on a server that runs, and how it does.

The robots are in `sim.load`; here they are counted and shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from enum import StrEnum
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from inferential import Connection, InferenceError
from inferential.cli.call import parse
from inferential.cli.errors import CliError
from inferential.cli.output import print_json
from inferential.sim.load import Driver, Load, Tally

EXAMPLES = (
    "inferential bench localhost:5555 arm state=[0,0.5,1]",
    "inferential bench localhost:5555 vla --payload 150kB --robots 50 --rate 10",
    "inferential bench localhost:5555 vla image=@cup.png --closed --json",
)
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "kib": 2**10, "mib": 2**20}
_TICK_S = 0.25
_ANSWER_MS = 5000.0  # for the first request, before any load
_BAR = 40
_LATE_SHARE = 0.2  # of a control period: observations that are sent later than that are no open loop any more


class Queue(StrEnum):
    """What becomes of an observation that waits when a newer one comes."""

    LATEST = "latest"
    ALL = "all"


def bench(
    server: Annotated[str, typer.Argument(help="Where the server listens, as localhost:5555.")],
    model: Annotated[str, typer.Argument(help="The model's id.")],
    values: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="The observation, as of `inferential call`."),
    ] = None,
    robots: Annotated[int, typer.Option(min=1, max=2000, help="How many.")] = 10,
    rate: Annotated[float, typer.Option(min=0.01, max=10_000, help="Observations a second of each robot.")] = 10.0,
    closed: Annotated[
        bool, typer.Option("--closed", help="No rate: each robot sends its next as soon as it is answered.")
    ] = False,
    seconds: Annotated[float, typer.Option(min=0.5, max=86_400, help="How long.")] = 10.0,
    payload: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Adds so many random bytes as the key payload, as 150kB or 1MB.")
    ] = None,
    budget_ms: Annotated[float, typer.Option(min=0.001, help="Latency budget: answers older than that are late.")] = 50,
    queue: Annotated[
        Queue, typer.Option(help="latest: a newer observation takes the place of one that waits.")
    ] = Queue.LATEST,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON and nothing else.")] = False,
) -> int:
    """Put load on a server, and tell how it does.

    Robots observe at their rate, answered or not, so that a server that cannot
    keep up shows it (open loop); their observations are spread over the period.
    Half a second goes before anything is counted. Ctrl-C ends it early.

    Exit code 1: not one observation was answered.
    """
    observation = dict(parse(told) for told in values or [])
    if payload is not None or not observation:
        size = _bytes("150kB" if payload is None else payload)
        observation["payload"] = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    load = Load(server, model, observation, robots, None if closed else rate, seconds, budget_ms, queue.value)
    _first(load)
    driver = Driver(load)
    took_s = asyncio.run(_driven(driver, quiet=as_json))
    told = figures(load, driver.tally, took_s)
    if as_json:
        print_json(told)
    else:
        _show(load, told)
    return 0 if driver.tally.answered else 1


def figures(load: Load, tally: Tally, took_s: float) -> dict[str, Any]:
    """All that is told, as plain values. Times are milliseconds, None where nothing was answered."""
    return {
        "server": load.server,
        "model_id": load.model_id,
        "robots": load.robots,
        "rate_hz": load.rate_hz,
        "seconds": round(took_s, 3),
        "budget_ms": load.budget_ms,
        "payload_bytes": sum(value.nbytes for value in load.observation.values() if isinstance(value, np.ndarray)),
        "sent": tally.sent,
        "answered": tally.answered,
        "in_time": tally.in_time,
        "superseded": tally.superseded,
        "refused": dict(tally.refused),
        "unanswered": tally.unanswered,
        "answers_per_s": tally.answered / took_s if took_s else 0.0,
        "goodput_per_s": tally.in_time / took_s if took_s else 0.0,
        "round_trip_ms": _quantiles(tally.round_trip_ms),
        "queue_ms": _quantiles(tally.queue_ms),
        "inference_ms": _quantiles(tally.inference_ms),
        "slip_ms": _quantiles(tally.slip_ms),
        "mean_batch_size": tally.batch_sizes.total()
        and sum(size * rows for size, rows in tally.batch_sizes.items()) / tally.batch_sizes.total(),
        "histogram": _histogram(tally.round_trip_ms),
    }


def _bytes(told: str) -> int:
    number = told.rstrip("kKmMiIbB")
    factor = _UNITS.get(told[len(number) :].lower())
    try:
        size = int(float(number) * (factor or 0))
    except ValueError:
        size = 0
    if factor is None or not 0 < size <= 2**28:
        raise CliError(f"--payload: expected a size of 1 B to 256 MiB, as 64, 150kB or 1MB, got {told!r}")
    return size


def _first(load: Load) -> None:
    """One request before the load, so that what is wrong is told once and not a thousand times.

    Raises:
        CliError: it was not answered.
    """
    try:
        with Connection(load.server, client_type="inferential bench") as connection:
            result = connection.model(load.model_id, queue="all").infer(_ANSWER_MS, **load.observation)
    except InferenceError as error:
        raise CliError(
            f"{load.server} refused the first observation: {type(error).__name__}: {error.reason}"
        ) from error
    except ValueError as error:
        raise CliError(str(error)) from error
    if result is None:
        raise CliError(f"no answer from {load.server} within {_ANSWER_MS / 1e3:g} s: is a server there?")


async def _driven(driver: Driver, *, quiet: bool) -> float:
    """Drives, with a bar on standard error; gives the seconds that were counted."""
    running = asyncio.create_task(driver.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, running.cancel)
    ticking = None if quiet else asyncio.create_task(_progress(driver))
    ended = time.monotonic()
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await running
    finally:
        ended = time.monotonic()
        if ticking is not None:
            ticking.cancel()
            await asyncio.gather(ticking, return_exceptions=True)
    return min(max(ended - driver.began_at, 0.0), driver.load.seconds)


async def _progress(driver: Driver) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("warming up", total=driver.load.seconds)
        while True:
            await asyncio.sleep(_TICK_S)
            gone = time.monotonic() - driver.began_at
            if gone > 0:
                rate = driver.tally.answered / gone
                progress.update(task, completed=gone, description=f"{rate:,.0f} answers/s")


def _quantiles(values: Any) -> dict[str, float] | None:
    if not values:
        return None
    found = np.percentile(values, [50, 90, 99, 99.9, 100])
    names = ("p50", "p90", "p99", "p99_9", "max")
    return {"mean": float(np.mean(values)), **dict(zip(names, map(float, found), strict=True))}


def _histogram(values: Any) -> list[dict[str, float]]:
    """Counts by round trips up to so many milliseconds: three steps to a doubling, from the first that has any."""
    if not values:
        return []
    steps = np.ceil(3 * np.log2(np.maximum(values, 1e-3))).astype(int)
    counts = np.bincount(steps - steps.min())
    return [{"up_to_ms": float(2 ** ((steps.min() + at) / 3)), "count": int(count)} for at, count in enumerate(counts)]


def _show(load: Load, told: dict[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    each = "in closed loop" if load.rate_hz is None else f"at {load.rate_hz:g} Hz"
    console.print(
        f"{load.robots} robots {each} for {told['seconds']:g} s, {load.model_id} at {load.server}, "
        f"{told['payload_bytes']:,} bytes an observation"
    )
    ends = Table(box=None, show_header=False, pad_edge=False)
    ends.add_column()
    ends.add_column(justify="right")
    ends.add_column(justify="right")
    ends.add_column()
    for name, note in (
        ("sent", ""),
        ("answered", f"{told['answers_per_s']:,.1f}/s"),
        ("in_time", f"{told['goodput_per_s']:,.1f}/s within {load.budget_ms:g} ms"),
        ("superseded", ""),
        ("unanswered", ""),
    ):
        ends.add_row(name.replace("_", " "), f"{told[name]:,}", _share(told[name], told["sent"]), note)
    for name, count in told["refused"].items():
        ends.add_row(name, f"{count:,}", _share(count, told["sent"]), "")
    console.print(ends)
    if told["round_trip_ms"] is not None:
        console.print()
        console.print(_latencies(told))
        console.print()
        for line in _bars(told["histogram"]):
            console.print(line)
    if told["mean_batch_size"]:
        console.print(f"\nrows in a batch: {told['mean_batch_size']:.1f}")
    slip = told["slip_ms"]
    if slip is not None and load.rate_hz is not None and slip["p99"] > _LATE_SHARE * 1e3 / load.rate_hz:
        console.print(
            f"warning: this machine was late itself: 1 % of observations left {slip['p99']:.1f} ms after their time "
            "or later; fewer robots, or several of these commands, are truer",
            style="yellow",
        )


def _share(count: int, sent: int) -> str:
    return f"{100 * count / sent:.2f} %" if sent else "-"


def _latencies(told: dict[str, Any]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("ms")
    for heading in ("mean", "p50", "p90", "p99", "p99.9", "max"):
        table.add_column(heading, justify="right")
    rows = {"round trip": "round_trip_ms", "in the queue": "queue_ms", "in the model": "inference_ms"}
    for heading, name in rows.items():
        if told[name] is not None:
            table.add_row(heading, *(f"{value:.2f}" for value in told[name].values()))
    return table


def _bars(histogram: list[dict[str, float]]) -> list[str]:
    most = max(one["count"] for one in histogram)
    return [
        f"{one['up_to_ms']:>9.2f} ms {'█' * round(_BAR * one['count'] / most) or ('▏' if one['count'] else ''):<{_BAR}} "
        f"{int(one['count']):,}"
        for one in histogram
    ]
