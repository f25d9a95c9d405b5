"""`inferential why`: says in a sentence why a robot's actions are late.

The server has found it; here it is read over HTTP, as the live page is, and put into words.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from inferential.cli.errors import CliError
from inferential.cli.output import print_json, print_line
from inferential.cli.page import CERTIFICATE_HELP, TOKEN_HELP, Page, read_robot, read_status
from inferential.tracking.lateness import Lateness, Quantiles, sentence

EXAMPLES = (
    "inferential why arm-03",
    "inferential why arm-03 http://10.0.0.5:8080 --token TOKEN",
    "inferential why arm-03 --json",
)


def why(
    robot: Annotated[str, typer.Argument(help="Its client id.")],
    url: Annotated[str, typer.Argument(help="Where the server's page is (inferential serve --http).")] = (
        "http://127.0.0.1:8080"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    token: Annotated[str | None, typer.Option(envvar="INFERENTIAL_TOKEN", help=TOKEN_HELP)] = None,
    certificate: Annotated[Path | None, typer.Option(metavar="FILE", help=CERTIFICATE_HELP)] = None,
) -> None:
    """Say why a robot's actions are late.

    One line for each model that it asks: the share of late actions of the last
    minute, what made most of them late, and what has not changed.
    """
    page = Page(url, token, certificate)
    found = read_robot(page, robot)
    if found is None:
        clients = read_status(page)["clients"]
        known = ", ".join(sorted(client["client_id"] for client in clients)[:20]) or "none"
        raise CliError(f"no robot {robot!r} at {url}; there is: {known}")
    uses = found["client"]["models"]
    if as_json:
        print_json({use["model_id"]: {**(use["lateness"] or {}), "text": _text(robot, use, len(uses))} for use in uses})
        return
    for use in uses:
        print_line(_text(robot, use, len(uses)))
    if not uses:
        print_line(f"{robot} is {found['client']['state']}, and asks no model")


def _text(robot: str, use: dict[str, Any], models: int) -> str:
    name = robot if models == 1 else f"{robot}, model {use['model_id']}"
    lateness = _lateness_of(use["lateness"])
    since = None
    if lateness is not None and lateness.late_s_ago is not None:
        since = time.strftime("%H:%M", time.localtime(time.time() - lateness.late_s_ago))
    return sentence(name, lateness, since)


def _lateness_of(values: dict[str, Any] | None) -> Lateness | None:
    """Returns the figures as they were before they were JSON."""
    if values is None:
        return None
    parts = {name: Quantiles(**part) for name, part in values["parts"].items()}
    return Lateness(**{**values, "age": Quantiles(**values["age"]), "parts": parts})
