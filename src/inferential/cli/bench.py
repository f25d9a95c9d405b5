"""`inferential bench`: load on a server that runs, and how it does.

The robots are in `sim.load`; here they are started, watched and reported.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from inferential import Connection, InferenceError
from inferential.cli.arguments import in_order
from inferential.cli.errors import CliError, no_answer
from inferential.cli.observation import observation
from inferential.cli.output import print_json
from inferential.cli.robot_keys import ServerKey, secret_keys
from inferential.sim.load import CLIENT_TYPE, Driver, Load, Tally

EXAMPLES = (
    "inferential bench localhost:5555 arm state=[0,0.5,1]",
    "inferential bench localhost:5555 vla --payload 150kB --robots 50 --rate 10",
    "inferential bench localhost:5555 vla image=@cup.png --closed --json",
)
_PAYLOAD = "payload"
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(b|kb|mb|kib|mib)?", re.IGNORECASE)
_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "kib": 2**10, "mib": 2**20}
_MAX_BYTES = 2**28
_RATE_HZ = 10.0
_REFRESH_S = 0.25
FIRST_ANSWER_MS = 5000.0
"""How long the first observation, before the load, may take."""
_STEPS = 3  # of the histogram, to a doubling
_BAR = 40  # characters
_LATE_SHARE = 0.2  # of a period: observations that leave later than that are no open loop any more


class Queue(StrEnum):
    """What becomes of an observation that waits when a newer one comes."""

    LATEST = "latest"
    ALL = "all"


def bench(
    server: Annotated[str, typer.Argument(help="Where the server listens, as localhost:5555.")],
    model: Annotated[str, typer.Argument(help="The model's id.")],
    values: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="The observation, as for `inferential call`."),
    ] = None,
    robots: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 10,
    rate: Annotated[
        float | None,
        typer.Option(min=0.01, max=10_000, help=f"Observations a second of each robot; {_RATE_HZ:g} if not given."),
    ] = None,
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
    server_key: ServerKey = None,
    secret_key: Annotated[
        str | None,
        typer.Option(
            "--secret-key",
            metavar="PATH",
            envvar="INFERENTIAL_SECRET_KEY",
            help="The NAME.key_secret file to connect with, or a folder with one for each robot.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON and nothing else.")] = False,
) -> int:
    """Put load on a server, and report how it does.

    Robots observe at their rate, answered or not, so that a server that cannot
    keep up shows it (open loop); their observations are spread over the period.
    Each robot is answered once, and half a second goes, before anything is
    counted. Ctrl-C ends it early, with the figures so far.

    Exit code 1: not one observation was answered.
    """
    if closed and rate is not None:
        raise CliError("--closed has no rate: leave out --rate, or --closed")
    model, server = in_order(model, server)
    given = _observation(values, payload)
    rate_hz = None if closed else _RATE_HZ if rate is None else rate
    keys = secret_keys(secret_key, robots)
    load = Load(server, model, given, robots, rate_hz, seconds, budget_ms, queue.value, server_key, keys)
    _first(load)
    driver = Driver(load)
    console = Console(stderr=True)
    took_s = asyncio.run(driven(driver, None if as_json or not console.is_interactive else console))
    found = figures(load, driver.tally, took_s)
    if as_json:
        print_json(found)
    else:
        show(load, found)
    return 0 if driver.tally.answered else 1


def _observation(values: list[str] | None, payload: str | None) -> dict[str, Any]:
    given = observation(values)
    if payload is not None:
        if _PAYLOAD in given:
            raise CliError(f"--payload is the key {_PAYLOAD}, which is given: leave out one of them")
        given[_PAYLOAD] = np.random.default_rng(0).integers(0, 256, parse_size(payload), np.uint8)
    if not given:
        raise CliError("nothing to send: give what the model reads as KEY=VALUE, or --payload SIZE")
    return given


def figures(load: Load, tally: Tally, took_s: float) -> dict[str, Any]:
    """Returns the report as plain values.

    Args:
        load: what was asked.
        tally: what became of it.
        took_s: seconds that were counted.

    Returns:
        Counts, rates and times in milliseconds; None for times where nothing was answered.
    """
    calls = sum(count / size for size, count in tally.batch_sizes.items())
    return {
        "server": load.server,
        "model_id": load.model_id,
        "robots": load.robots,
        "rate_hz": load.rate_hz,
        "queue": load.queue,
        "budget_ms": load.budget_ms,
        "payload_bytes": sum(value.nbytes for value in load.observation.values() if isinstance(value, np.ndarray)),
        "seconds": round(took_s, 3),
        "sent": tally.sent,
        "answered": tally.answered,
        "in_time": tally.in_time,
        "superseded": tally.superseded,
        "refused": dict(tally.refused),
        "unanswered": tally.unanswered,
        "answers_per_s": tally.arrived / took_s if took_s else 0.0,
        "in_time_per_s": tally.arrived_in_time / took_s if took_s else 0.0,
        "round_trip_ms": _quantiles(tally.round_trip_ms),
        "queue_ms": _quantiles(tally.queue_ms),
        "inference_ms": _quantiles(tally.inference_ms),
        "slip_ms": _quantiles(tally.slip_ms),
        "mean_batch_size": tally.batch_sizes.total() / calls if calls else None,
        "histogram": _histogram(tally.round_trip_ms),
    }


def parse_size(size: str) -> int:
    """Returns the bytes of a size, as 64, 150kB or 1MB.

    Raises:
        CliError: it is none, or above 256 MiB.
    """
    found = _SIZE.fullmatch(size.strip())
    count = 0 if found is None else int(float(found[1]) * _UNITS[(found[2] or "b").lower()])
    if not 0 < count <= _MAX_BYTES:
        raise CliError(f"--payload: expected a size of 1 B to 256 MiB, as 64, 150kB or 1MB, got {size!r}")
    return count


def _first(load: Load) -> None:
    """Sends one request before the load, so that a mistake is reported once, not a thousand times.

    Raises:
        CliError: it was not answered.
    """
    try:
        with Connection(
            load.server,
            client_type=CLIENT_TYPE,
            server_key=load.server_key,
            secret_key=load.secret_keys[0] if load.secret_keys else None,
        ) as connection:
            result = connection.model(load.model_id, queue="all").infer(FIRST_ANSWER_MS, **load.observation)
            if result is None:
                raise CliError(no_answer(load.server, f"{FIRST_ANSWER_MS / 1e3:g} s", connection))
    except InferenceError as error:
        kind = type(error).__name__
        raise CliError(f"the first observation got no answer: {kind}: {error.reason}") from error
    except (ImportError, TypeError, ValueError) as error:
        raise CliError(str(error)) from error


async def driven(driver: Driver, console: Console | None) -> float:
    """Drives until the end or Ctrl-C, with a bar on the console; returns the seconds that were counted."""
    running = asyncio.create_task(driver.run())
    with contextlib.suppress(NotImplementedError):  # on Windows, where Ctrl-C ends it without figures
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, running.cancel)
    showing = None if console is None else asyncio.create_task(_progress(driver, console))
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await running
        return driver.counted_s
    finally:
        if showing is not None:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)


async def _progress(driver: Driver, console: Console) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    # Without its own thread, which would take the load's time.
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as progress:
        task = progress.add_task("warming up", total=driver.load.seconds)
        while True:
            counted_s = driver.counted_s
            if counted_s:
                rate = driver.tally.arrived / counted_s
                progress.update(task, completed=counted_s, description=f"{rate:,.0f} answers/s")
            progress.refresh()
            await asyncio.sleep(_REFRESH_S)


def _quantiles(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    found = np.percentile(values, [50, 90, 99, 99.9, 100])
    names = ("p50", "p90", "p99", "p99_9", "max")
    return {"mean": float(np.mean(values)), **dict(zip(names, map(float, found), strict=True))}


def _histogram(values: Sequence[float]) -> list[dict[str, float]]:
    """Returns the number of round trips by time: each entry counts those of at most so many milliseconds that the entry
    before does not count; from the first entry that has any to the last."""
    if not values:
        return []
    steps = np.ceil(_STEPS * np.log2(np.maximum(values, 1e-3))).astype(int)
    first = int(steps.min())
    counts = np.bincount(steps - first)
    return [{"up_to_ms": 2 ** ((first + at) / _STEPS), "count": int(count)} for at, count in enumerate(counts)]


def show(load: Load, found: dict[str, Any]) -> None:
    """Prints what `figures` returned for a load, for people to read."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    each = "in closed loop" if load.rate_hz is None else f"at {load.rate_hz:g} Hz"
    console.print(
        f"{load.robots} robots {each} for {found['seconds']:g} s, {load.model_id} at {load.server}, "
        f"{found['payload_bytes']:,} bytes an observation\n"
    )
    console.print(_ends(load, found))
    if found["answered"]:
        console.print()
        console.print(_times(found))
        console.print()
        console.print("\n".join(_bars(found["histogram"])))
    if found["mean_batch_size"]:
        console.print(f"\nrows in a batch: {found['mean_batch_size']:.1f}")
    slip = found["slip_ms"]
    if load.rate_hz is not None and slip is not None and slip["p99"] > _LATE_SHARE * 1e3 / load.rate_hz:
        console.print(
            f"\nwarning: this machine was late itself: one observation in a hundred left {slip['p99']:.1f} ms or more "
            "after its time. Fewer robots, or this command on several machines, tell more of the server.",
            style="yellow",
        )


def _ends(load: Load, found: dict[str, Any]) -> Table:
    """Returns how observations ended, with the share of each."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for justify in ("left", "right", "right", "left"):
        table.add_column(justify=justify)
    notes = {
        "answered": f"{found['answers_per_s']:,.1f}/s",
        "in_time": f"{found['in_time_per_s']:,.1f}/s within {load.budget_ms:g} ms",
    }
    counts = {name: found[name] for name in ("sent", "answered", "in_time", "superseded", "unanswered")}
    for name, count in {**counts, **found["refused"]}.items():
        share = f"{100 * count / found['sent']:.2f} %" if found["sent"] else "-"
        table.add_row(name.replace("_", " "), f"{count:,}", share, notes.get(name, ""))
    return table


def _times(found: dict[str, Any]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("ms")
    for heading in ("mean", "p50", "p90", "p99", "p99.9", "max"):
        table.add_column(heading, justify="right")
    for heading, name in {
        "round trip": "round_trip_ms",
        "in the queue": "queue_ms",
        "in the model": "inference_ms",
    }.items():
        if found[name] is not None:
            table.add_row(heading, *(f"{value:.2f}" for value in found[name].values()))
    return table


def _bars(histogram: list[dict[str, float]]) -> list[str]:
    most = max(one["count"] for one in histogram)
    lines = []
    for one in histogram:
        bar = "█" * round(_BAR * one["count"] / most) or ("▏" if one["count"] else "")
        lines.append(f"{one['up_to_ms']:>9.2f} ms {bar:<{_BAR}} {int(one['count']):,}")
    return lines
