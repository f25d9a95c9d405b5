"""`inferential models`: what each model and each of its versions is at, read over HTTP as the live page is."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer
from rich.console import Console

from inferential.cli.output import TENSOR_COLUMNS, print_line, print_rows, printable, tensors_text
from inferential.cli.page_reader import DEFAULT_URL, Certificate, Page, Token, Url, read_status, read_tensors

EXAMPLES = (
    "inferential models",
    "inferential models http://10.0.0.5:8080 --diff",
    "inferential models --json",
)
_ABSENT = "-"


def models(
    url: Url = DEFAULT_URL,
    diff: Annotated[
        bool, typer.Option("--diff", help="Compare versions with the active one: errors, lateness, latency, actions.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the models as JSON.")] = False,
    token: Token = None,
    certificate: Certificate = None,
) -> None:
    """Show the models, their versions and how these compare.

    State, since when, and why; and what each takes and gives, where it says it.

    With --diff also what became of each version's requests, and how far the
    actions of the one in the shadow are from those that robots got.
    """
    page = Page(url, token, certificate)
    found = read_status(page)["models"]
    said = read_tensors(page)
    for model in found:
        model.update(said.get(model["model_id"], {"inputs": [], "outputs": []}))
    if as_json:
        print(json.dumps(found))
        return
    if not found:
        Console().print("no models")
        return
    if diff:
        found = [model for model in found if len(model["versions"]) > 1]
        if not found:
            print_line("no model has two versions to compare")
            return
        print_rows(_DIFF, [row for model in found for row in _compared(model)])
        for model in found:
            for version in model["versions"]:
                if version["difference_mean"]:
                    print_rows(("dimension", "mean difference", "largest"), _dimensions(version))
        return
    print_rows(_STATES, [row for model in found for row in _states(model)])
    if typed := [one for one in found if one["inputs"] or one["outputs"]]:
        rows = [
            (
                printable(one["model_id"]),
                str(one["max_batch_size"]),
                *(printable(tensors_text(one[key])) for key in ("inputs", "outputs")),
            )
            for one in typed
        ]
        print_rows(TENSOR_COLUMNS, rows)


_STATES = ("model", "version", "role", "state", "for", "robots", "why")
_DIFF = ("model", "version", "role", "requests", "errors", "late", "median ms", "compared")


def _states(model: dict[str, Any]) -> list[tuple[str, ...]]:
    """Returns a row for the model, or for each of its versions."""
    versions = model["versions"] or [{"version": "", "role": "active", "robots": None, **model}]
    return [
        (
            printable(model["model_id"]),
            printable(one["version"]) or _ABSENT,
            one["role"] if one.get("share") is None else f"{one['role']} {100 * one['share']:.0f} %",
            one["state"],
            _age(one["since"]),
            _number(one["robots"]),
            printable(one["why"]),
        )
        for one in versions
    ]


def _compared(model: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            printable(model["model_id"]),
            printable(one["version"]) or _ABSENT,
            one["role"],
            _number(one["requests"]),
            _share(one["errors"], one["requests"]),
            _share(one["deadline_misses"], one["requests"]),
            _ABSENT if one["latency_ms"] is None else f"{one['latency_ms']:.1f}",
            str(one["compared"]) if one["role"] == "shadow" or one["difference_mean"] else _ABSENT,
        )
        for one in model["versions"]
    ]


def _dimensions(version: dict[str, Any]) -> list[tuple[str, ...]]:
    pairs = zip(version["difference_mean"], version["difference_max"], strict=True)
    return [(str(number), f"{mean:.4g}", f"{largest:.4g}") for number, (mean, largest) in enumerate(pairs)]


def _share(count: int | None, of: int | None) -> str:
    return f"{count} ({100 * count / of:.1f} %)" if of and count is not None else _ABSENT


def _number(value: int | None) -> str:
    return _ABSENT if value is None else str(value)


def _age(since: float | None) -> str:
    if since is None:
        return _ABSENT
    seconds = max(time.time() - since, 0.0)
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
