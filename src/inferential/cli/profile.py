"""`inferential profile`.

It calls a model as a server would, and tells how long that took; what the figures mean is in `scheduler.profile`.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from inferential.cli.errors import CliError
from inferential.cli.output import print_json, print_rows, writing_to
from inferential.cli.settings import COMMAND_LINE, targets
from inferential.cli.targets import load_model
from inferential.config.loading import load
from inferential.config.problems import ConfigError
from inferential.config.profiles import save_profiles
from inferential.dispatch.local import LocalDispatcher
from inferential.proto import dtype_from_numpy
from inferential.replica.outcomes import ModelLoadError
from inferential.scheduler.time.profile import LatencyProfile, Profiles

EXAMPLES = (
    "inferential profile policies:ArmPolicy --input state=float32:7",
    "inferential profile arm --config fleet.yaml -i camera=uint8:224x224x3",
    "inferential profile arm --config fleet.yaml --out profiles.json",
)


def profile(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A model id of the configuration, or module:object.", show_default=False),
    ],
    config: Annotated[Path | None, typer.Option(help="Configuration that has the model's target.")] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", metavar="KEY=DTYPE:SHAPE", help="A tensor of the observation, filled at random."),
    ] = None,
    text: Annotated[list[str] | None, typer.Option(metavar="KEY=STRING", help="A string of the observation.")] = None,
    batch_sizes: Annotated[
        str | None, typer.Option(metavar="1,2,4", help="Batch sizes; the default is powers of two up to the model's.")
    ] = None,
    calls: Annotated[
        int, typer.Option(min=4, max=10_000, help="Calls of each size, after a first that is not counted.")
    ] = 30,
    model_id: Annotated[
        str | None, typer.Option("--as", metavar="ID", help="Model id in the file; the default is MODEL.")
    ] = None,
    out: Annotated[Path | None, typer.Option(dir_okay=False, help="File to write, for models.profiles.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON and nothing else.")] = False,
) -> None:
    """Measure how long a model's calls take.

    Median and high quantile of the latency of each batch size, as the strategy slo_aware learns them from a running
    server; with a file of them (models.profiles) it knows them from the first request on.
    """
    model_id = model_id or model
    observation = _observation(inputs or [], text or [])
    dispatcher = _dispatcher(model, config)
    profiles = Profiles()
    asyncio.run(_measure(dispatcher, model, observation, batch_sizes, calls, profiles, model_id))
    figures = profiles.as_dict()
    if out is not None:
        with writing_to(out):
            save_profiles(figures, out)
    if as_json:
        print_json(figures)
        return
    rows = [
        (str(size["batch_size"]), f"{size['median_ms']:.2f}", f"{size['high_ms']:.2f}", _rate(size))
        for size in figures[model_id]
    ]
    print_rows(("batch size", "median ms", "p95 ms", "rows/s"), rows)
    if out is not None:
        print(f"saved {out}")


def _had(observation: dict[str, Any]) -> str:
    keys = ", ".join(observation) or "nothing"
    return f"the observation had {keys}; --input KEY=DTYPE:SHAPE and --text KEY=STRING say what it has"


def _rate(size: dict[str, float]) -> str:
    return f"{size['batch_size'] / size['median_ms'] * 1e3:.0f}"


def _dispatcher(model: str, config: Path | None) -> LocalDispatcher:
    target, settings = model, None
    if ":" not in model:
        try:
            loaded = load(config, overrides={}, overrides_name=COMMAND_LINE).config
        except ConfigError as error:
            raise CliError(str(error)) from error
        known = targets(loaded)
        if model not in known:
            there = f"; there is: {', '.join(sorted(known))}" if known else ""
            raise CliError(f"MODEL: no models.known.{model}.target in the configuration, and no module:object{there}")
        target, settings = known[model], loaded.models.known[model]
    try:
        return LocalDispatcher({model: load_model(model, target, settings)})
    except (TypeError, ValueError) as error:
        raise CliError(str(error)) from error


def _sizes(option: str | None, largest: int) -> list[int]:
    if option is None:
        return sorted({size for power in range(largest.bit_length()) if (size := 2**power) <= largest} | {largest})
    try:
        sizes = sorted({int(size) for size in option.split(",")})
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 1 or sizes[-1] > largest:
        raise CliError(f"--batch-sizes: expected whole numbers from 1 to {largest} separated by commas, got {option!r}")
    return sizes


def _observation(inputs: Iterable[str], texts: Iterable[str]) -> dict[str, Any]:
    chance = np.random.default_rng(0)
    observation: dict[str, Any] = {}
    for option in inputs:
        match = re.fullmatch(r"([^=]+)=(\w+)(?::(\d+(?:x\d+)*))?", option)
        if match is None:
            raise CliError(f"--input: expected KEY=DTYPE:SHAPE, such as camera=uint8:224x224x3, got {option!r}")
        key, name, shape = match[1], match[2], tuple(map(int, match[3].split("x"))) if match[3] else ()
        try:
            dtype = np.dtype(name)
            dtype_from_numpy(dtype)
        except (TypeError, ValueError) as error:
            raise CliError(f"--input {option}: {name!r} is not a dtype of the wire, as float32 is") from error
        whole = np.issubdtype(dtype, np.integer)
        values = chance.integers(0, 127, shape) if whole else chance.standard_normal(shape)
        observation[key] = np.asarray(values).astype(dtype)
    for option in texts:
        key, equals, value = option.partition("=")
        if not (key and equals):
            raise CliError(f"--text: expected KEY=STRING, got {option!r}")
        observation[key] = value
    return observation


async def _measure(
    dispatcher: LocalDispatcher,
    model: str,
    observation: dict[str, Any],
    batch_sizes: str | None,
    calls: int,
    profiles: Profiles,
    model_id: str,
) -> None:
    from rich.console import Console
    from rich.progress import Progress

    try:
        await dispatcher.start()
    except ModelLoadError as error:
        raise CliError(str(error)) from error
    learned = profiles.of(model_id)
    try:
        sizes = _sizes(batch_sizes, dispatcher.max_batch_size(model))
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(f"calling {model}", total=len(sizes) * (calls + 1))
            for size in sizes:
                measured = LatencyProfile()  # by itself: a busy moment makes other sizes no less true
                for number in range(calls + 1):
                    started = time.perf_counter()
                    try:
                        results = await dispatcher.infer(model, [observation] * size)
                    except Exception as error:
                        what = f"model {model!r} failed on {size} rows: {type(error).__name__}: {error}"
                        raise CliError(f"{what} ({_had(observation)})") from error
                    failed = next((result for result in results if isinstance(result, Exception)), None)
                    if failed is not None:
                        what = f"model {model!r} failed: {type(failed).__name__}: {failed}"
                        raise CliError(f"{what} ({_had(observation)})") from failed
                    if number:  # the first may compile
                        measured.note(size, time.perf_counter() - started)
                    progress.advance(task)
                learned.load(size, measured.typical(size), measured.high(size))
    finally:
        await dispatcher.close()
