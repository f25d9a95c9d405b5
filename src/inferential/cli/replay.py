"""`inferential replay`: recorded observations to another model or server, and how its answers differ.

The observations are read from recordings (`recording`), and the model runs as a server would run it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from inferential import AsyncConnection, InferenceError, LocalDispatcher, Server
from inferential.cli.errors import CliError
from inferential.cli.output import print_json, print_line, print_rows
from inferential.cli.recorded import read_recordings
from inferential.cli.robot_keys import SecretKey, ServerKey
from inferential.cli.targets import load_models
from inferential.config.schema import InferentialConfig

EXAMPLES = (
    "inferential replay recordings/2026-11-29T12-00-00-001.mcap --model policies:NewPolicy",
    "inferential replay run.mcap --model policies:NewPolicy --max-difference 0.01",
    "inferential replay run.mcap --server localhost:5555 --speed 1",
)
_TIMEOUT_MS = 60_000.0
_DIMENSIONS = 32  # in the table


@dataclass(slots=True)
class Compared:
    """Answers beside those that were recorded.

    Attributes:
        compared: observations whose answers have the same arrays.
        unlike: those whose answers have not, by what is unlike.
        failed: those without an answer, by the error.
        differences: absolute differences by array, one row for each observation and one column for each dimension.
    """

    compared: int = 0
    unlike: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    differences: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        """Compares an answer with the recorded one."""
        arrays = {key: value for key, value in before.items() if isinstance(value, np.ndarray)}
        for key, value in arrays.items():
            new = after.get(key)
            if new is None or np.shape(new) != value.shape:
                what = f"{key}: {'nothing' if new is None else np.shape(new)} in place of {value.shape}"
                self.unlike[what] = self.unlike.get(what, 0) + 1
                return
        self.compared += 1
        for key, value in arrays.items():
            if value.dtype.kind not in "biuf":
                continue
            difference = _difference(np.asarray(after[key], np.float64), value.astype(np.float64))
            columns = difference.reshape(-1, difference.shape[-1]) if difference.ndim else difference.reshape(1, 1)
            self.differences.setdefault(key, []).append(columns.max(axis=0) if columns.size else columns.ravel())

    def rows(self) -> Iterator[tuple[str, int, float, float]]:
        """Yields the name of each array, its dimension, and the mean and the largest difference there."""
        for key, found in self.differences.items():
            width = min(map(len, found))
            columns = np.array([row[:width] for row in found])
            for dimension in range(width):
                yield key, dimension, float(columns[:, dimension].mean()), float(columns[:, dimension].max())


def _difference(new: Any, old: Any) -> Any:
    """Returns the absolute differences of two arrays; infinite where one alone is NaN or infinite."""
    with np.errstate(invalid="ignore"):
        found = np.abs(new - old)
    same = (new == old) | (np.isnan(new) & np.isnan(old))
    return np.where(same, 0.0, np.where(np.isnan(found), np.inf, found))


def replay(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Recordings (MCAP).")],
    model: Annotated[
        str | None, typer.Option(metavar="MODULE:OBJECT", help="Ask this model, and compare its answers.")
    ] = None,
    server: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Ask this server, each robot as it did, and compare.")
    ] = None,
    speed: Annotated[
        float, typer.Option(min=0, help="With --server: how many times as fast; 0: without pauses.")
    ] = 1.0,
    only: Annotated[
        str | None, typer.Option("--only", metavar="MODEL", help="Observations of this model alone.")
    ] = None,
    max_difference: Annotated[
        float | None, typer.Option(min=0, help="Exit code 1 where any value differs by more.")
    ] = None,
    server_key: ServerKey = None,
    secret_key: SecretKey = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> int:
    """Ask anew what robots asked, and compare the answers.

    Each recorded observation is sent as it was; the answers are compared with
    those recorded, dimension by dimension: a regression test for policies.

    Exit code 1: an answer differs by more than --max-difference, has other
    arrays, or did not come.
    """
    if (model is None) == (server is None):
        raise CliError("give one of --model MODULE:OBJECT and --server ADDRESS: what is to be asked")
    recorded = _read(files, only)
    if model is not None:
        compared = asyncio.run(_ask_model(recorded, model))
    else:
        assert server is not None
        compared = asyncio.run(_ask_server(recorded, server, speed, server_key, secret_key))
    worst = max((largest for *_, largest in compared.rows()), default=0.0)
    is_good = not compared.failed and not compared.unlike and (max_difference is None or worst <= max_difference)
    if as_json:
        rows = [dict(zip(("key", "dimension", "mean", "max"), row, strict=True)) for row in compared.rows()]
        print_json(
            {
                "compared": compared.compared,
                "unlike": compared.unlike,
                "failed": compared.failed,
                "max_difference": worst,
                "passed": is_good,
                "differences": rows,
            }
        )
    else:
        _show(compared, worst, max_difference)
    return 0 if is_good else 1


def _read(files: list[Path], only: str | None) -> list[Any]:
    everything = list(read_recordings(files, "inferential replay"))
    found = [
        one
        for one in everything
        if one.observation is not None and one.answer is not None and only in (None, one.model_id)
    ]
    if not found:
        models = ", ".join(sorted({one.model_id for one in everything})) or "none"
        raise CliError(f"no observation with an answer{f' of model {only!r}' if only else ''}; models: {models}")
    return sorted(found, key=lambda one: one.received_ns)


async def _ask_model(recorded: list[Any], target: str) -> Compared:
    """Asks as a gateway does, within the process: one observation after another, each session a client of its own."""
    compared = Compared()
    config = InferentialConfig.model_validate({"server": {"drain_timeout_s": 0.0}})
    dispatcher = LocalDispatcher(load_models({"replayed": target}))
    try:
        async with Server("ipc://*", config=config, dispatcher=dispatcher) as running, AsyncExitStack() as open_ones:
            robots: dict[tuple[str, str], Any] = {}  # a session each, as policies with memory keep state of it
            for one in recorded:
                session = one.client_id, one.session
                connection = robots.get(session)
                if connection is None:
                    connection = robots[session] = await open_ones.enter_async_context(
                        running.connect(f"{one.client_id} {one.session}", one.client_type)
                    )
                handle = connection.model("replayed", queue="all", late="serve")
                await _compare(compared, one, connection.infer(handle, one.observation, _TIMEOUT_MS))
    except ValueError as error:
        raise CliError(str(error)) from error
    return compared


async def _ask_server(
    recorded: list[Any], address: str, speed: float, server_key: str | None, secret_key: str | None
) -> Compared:
    """Asks as the fleet did: each robot by a connection of its own, at its times."""
    compared = Compared()
    began, first_ns = time.monotonic(), recorded[0].received_ns
    robots = list(dict.fromkeys(one.client_id for one in recorded))
    if secret_key and len(robots) > 1:
        raise CliError(f"--secret-key is one robot's, and the recording has {len(robots)}: {', '.join(robots[:5])}")

    async def drive(client_id: str) -> None:
        name = "" if secret_key else client_id  # else that of the key
        async with (
            AsyncConnection(address, name, "replay", server_key=server_key, secret_key=secret_key) as connection,
            asyncio.TaskGroup() as answers,
        ):
            for one in (own for own in recorded if own.client_id == client_id):
                handle = connection.model(one.model_id, queue="all", late="serve")
                comparing = _compare(compared, one, handle.infer(_TIMEOUT_MS, observation=one.observation))
                if not speed:
                    await comparing
                    continue
                # The next is sent at its time, whether or not this one is answered by then.
                answers.create_task(comparing)
                await asyncio.sleep(began + (one.received_ns - first_ns) / 1e9 / speed - time.monotonic())

    async with asyncio.TaskGroup() as asking:
        for client_id in robots:
            asking.create_task(drive(client_id))
    return compared


async def _compare(compared: Compared, one: Any, answering: Any) -> None:
    try:
        answer = await answering
    except InferenceError as error:
        what = f"{type(error).__name__}: {error.reason}"
        compared.failed[what] = compared.failed.get(what, 0) + 1
        return
    if answer is None:
        compared.failed["no answer in time"] = compared.failed.get("no answer in time", 0) + 1
        return
    compared.add(one.answer, answer)


def _show(compared: Compared, worst: float, limit: float | None) -> None:
    rows = [(key, str(dimension), f"{mean:.6g}", f"{largest:.6g}") for key, dimension, mean, largest in compared.rows()]
    print_rows(("array", "dimension", "mean difference", "largest"), rows[:_DIMENSIONS])
    if len(rows) > _DIMENSIONS:
        print_line(f"and {len(rows) - _DIMENSIONS} more dimensions")
    for what, count in {**compared.unlike, **compared.failed}.items():
        print_line(f"{count} x {what}", "red")
    bound = "" if limit is None else f", {limit:g} allowed"
    print_line(f"{compared.compared} answers compared; largest difference {worst:.6g}{bound}")
