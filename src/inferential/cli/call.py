"""`inferential call`: one request by hand.

It is a robot like any other: the client SDK, and nothing of a server.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, fields
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from inferential import Connection, InferenceError, Model, Result
from inferential.cli.arguments import in_order
from inferential.cli.errors import CliError, no_answer
from inferential.cli.observation import observation
from inferential.cli.output import printable, printable_lines
from inferential.cli.robot_keys import SecretKey, ServerKey
from inferential.proto.decimal import decimal_list
from inferential.proto.messages import ResponseTiming
from inferential.replica.structured import RESULT_FIELDS
from inferential.tracking.robots import COMMANDS

EXAMPLES = (
    "inferential call localhost:5555 arm state=[0,0.5,1]",
    'inferential call localhost:5555 vla image=@cup.png prompt="pick it up"',
    "inferential call localhost:5555 arm state:float64=@state.npy --json",
    "inferential call localhost:5555 arm state=[0] --server-key keys/server.key --secret-key arm-01.key_secret",
)
_SHOWN = 6  # values of an array


def call(
    server: Annotated[str, typer.Argument(help="Where the server listens, as localhost:5555.")],
    model: Annotated[str, typer.Argument(help="The model's id.")],
    values: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Numbers or lists in JSON, text, or @FILE: an image or .npy."),
    ] = None,
    timeout_ms: Annotated[float, typer.Option(min=1, help="How long to wait for each answer.")] = 5000,
    budget_ms: Annotated[float | None, typer.Option(min=0.001, help="Latency budget to send to the server.")] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Requests, one after another.")] = 1,
    client_id: Annotated[str, typer.Option(help="Name to call by; that of --secret-key, else one is made up.")] = "",
    server_key: ServerKey = None,
    secret_key: SecretKey = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the last answer, with all values, as JSON.")] = False,
) -> int:
    """Send one observation to a model and show the answer.

    KEY=VALUE: JSON numbers and lists become float32 arrays (KEY:DTYPE=VALUE for
    another dtype), @FILE.npy an array as it is, @FILE.png or .jpg an image of
    uint8, and all else is text.

    Exit code 1: the server refused it, or gave no answer in time.
    """
    model, server = in_order(model, server)
    sent = observation(values)
    try:
        with Connection(
            server, client_id, f"{COMMANDS}call", server_key=server_key, secret_key=secret_key
        ) as connection:
            budget: dict[str, Any] = {} if budget_ms is None else {"latency_budget_ms": budget_ms}
            result, taken = _ask(connection.model(model, queue="all", **budget), sent, timeout_ms, repeat)
            if result is None:
                _fail(as_json, "Timeout", no_answer(server, f"{timeout_ms:g} ms", connection))
                return 1
    except InferenceError as error:
        had = "" if error.cause != "KeyError" else f" (the observation had {', '.join(sent) or 'nothing'})"
        _fail(as_json, type(error).__name__, error.reason + had)
        return 1
    except (ImportError, TypeError, ValueError) as error:
        raise CliError(str(error)) from error
    report = {"model_id": model, "model_version": result.model_version, "round_trip_ms": taken[-1], **_timing(result)}
    answer = {key: value for key, value in result.items() if key not in RESULT_FIELDS}
    if as_json:
        print(json.dumps({**report, "values": {key: _plain(value) for key, value in answer.items()}}))
        return 0
    console = Console()
    console.print(_table(answer))
    console.print(printable(_summary(report, taken)), highlight=False, markup=False, soft_wrap=True)
    return 0


def _ask(handle: Model, values: dict[str, Any], timeout_ms: float, repeat: int) -> tuple[Result | None, list[float]]:
    """Returns the last answer, None where one did not come in time, and the round trips in ms."""
    result, taken = None, []
    for _ in range(repeat):
        began = time.perf_counter()
        result = handle.infer(timeout_ms, observation=values)
        if result is None:
            break
        taken.append((time.perf_counter() - began) * 1e3)
    return result, taken


def _timing(result: Result) -> dict[str, Any]:
    """Returns the parts of a result's time, None each from a server that does not say them."""
    names = [field.name for field in fields(ResponseTiming)]
    return dict.fromkeys(names) if result.timing is None else asdict(result.timing)


def _fail(as_json: bool, kind: str, reason: str) -> None:
    if as_json:
        print(json.dumps({"error": kind, "reason": reason}))
    else:
        Console(stderr=True).print(
            f"{kind}: {printable_lines(reason)}", style="red", highlight=False, markup=False, soft_wrap=True
        )


def _table(answer: dict[str, Any]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for heading in ("key", "dtype", "shape", "values"):
        table.add_column(heading)
    for key, value in answer.items():
        if isinstance(value, str):
            table.add_row(Text(printable(key)), "text", "", Text(printable_lines(value)))
        else:
            first = " ".join(f"{one:.4g}" if value.dtype.kind == "f" else str(one) for one in value.flat[:_SHOWN])
            more = " ..." if value.size > _SHOWN else ""
            table.add_row(Text(printable(key)), value.dtype.name, str(value.shape), Text(first + more))
    return table


def _summary(report: dict[str, Any], taken: list[float]) -> str:
    parts = [f"round trip {taken[-1]:.2f} ms"]
    if report["server_ms"] is not None:
        parts.append(
            f"server {report['server_ms']:.2f} (queue {report['queue_ms']:.2f}, model {report['inference_ms']:.2f}), "
            f"batch of {report['batch_size']}"
        )
    if report["model_version"]:
        parts.append(f"version {report['model_version']}")
    if len(taken) > 1:
        p50, p99 = np.percentile(taken, [50, 99])
        parts.append(f"{len(taken)} requests: p50 {p50:.2f}, p99 {p99:.2f} ms")
    return ", ".join(parts)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value
    return _finite(decimal_list(value if value.dtype.kind in "biuf" else value.astype(np.float64)))


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)
