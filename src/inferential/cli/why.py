"""`inferential why`: says in a sentence why a robot's actions are late.

The server has found it; here it is read over HTTP, as the live page is, and put into words.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from inferential.cli.arguments import in_order
from inferential.cli.errors import CliError
from inferential.cli.output import print_json, print_line
from inferential.cli.page_reader import DEFAULT_URL, Certificate, Page, Token, Url, read_robot, read_status
from inferential.tracking.lateness import WINDOW_S, Lateness, Quantiles, sentence
from inferential.tracking.outcome_counts import NOTHING_S

EXAMPLES = (
    "inferential why arm-03",
    "inferential why arm-03 http://10.0.0.5:8080 --token TOKEN",
    "inferential why arm-03 --json",
)


def why(
    robot: Annotated[str, typer.Argument(help="Its client id.")],
    url: Url = DEFAULT_URL,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    token: Token = None,
    certificate: Certificate = None,
) -> None:
    """Say why a robot's actions are late.

    One line for each model that it asks: the share of late actions of the last
    minute, what made most of them late, and what has not changed; then why
    requests got no answer.
    """
    robot, url = in_order(robot, url)
    if "://" in robot:
        there = _known(Page(robot, token, certificate))
        raise CliError(f"a robot's id is missing: inferential why ROBOT {robot}; there is: {there}")
    page = Page(url, token, certificate)
    found = read_robot(page, robot)
    if found is None:
        raise CliError(f"no robot {robot!r} at {url}; there is: {_known(page)}")
    uses = found["client"]["models"]
    models = {one["model_id"]: one for one in found["models"]}
    if as_json:
        print_json(
            {
                use["model_id"]: {
                    **(use["lateness"] or {}),
                    "text": _text(robot, use, len(uses)),
                    "nothing_for_s": models[use["model_id"]]["nothing_for_s"],
                    "errors": models[use["model_id"]]["errors"],
                }
                for use in uses
            }
        )
        return
    for use in uses:
        name, model = _name(robot, use, len(uses)), models[use["model_id"]]
        nothing_for_s = model["nothing_for_s"]
        gets_nothing = nothing_for_s is not None and nothing_for_s > NOTHING_S
        if gets_nothing:
            print_line(f"{name}: gets no answer, for {nothing_for_s:.0f} s")  # of actions alone, all may look well
        if use["lateness"] is not None or not gets_nothing:
            print_line(_text(robot, use, len(uses)))
        for line in _without_answer(name, model):
            print_line(line)
    if not uses:
        state = found["client"]["state"]
        what = "its figures went with it: ask while it is connected" if state == "gone" else "it asks no model"
        print_line(f"{robot} is {state}; {what}")


def _known(page: Page) -> str:
    return ", ".join(sorted(client["client_id"] for client in read_status(page)["clients"])[:20]) or "none"


def _name(robot: str, use: dict[str, Any], models: int) -> str:
    return robot if models == 1 else f"{robot}, model {use['model_id']}"


def _text(robot: str, use: dict[str, Any], models: int) -> str:
    lateness = _lateness_of(use["lateness"])
    if lateness is None and (unreported := use.get("unreported", 0)):  # each handle has its own next observation
        how = "once" if unreported == 1 else f"{unreported} times"
        return f"{_name(robot, use, models)}: answered {how}; how late that was it says with its next observation"
    since = None
    if lateness is not None and lateness.late_s_ago is not None:
        since = time.strftime("%H:%M", time.localtime(time.time() - lateness.late_s_ago))
    return sentence(_name(robot, use, models), lateness, since)


def _without_answer(name: str, model: dict[str, Any]) -> Iterator[str]:
    """Yields a line for each cause of requests of the last minute that got none, with the reason of the last."""
    counts: Counter[tuple[str, str]] = Counter()
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for error in model["errors"]:  # newest first
        if error["last_s_ago"] <= WINDOW_S:
            cause = error["kind"], error["cause"]
            counts[cause] += error["count"]
            newest.setdefault(cause, error)
    for cause, error in newest.items():
        requests = "1 request" if counts[cause] == 1 else f"{counts[cause]} requests"
        when, kind = f"the last {error['last_s_ago']:.0f} s ago", error["kind"].replace("_", " ")
        yield f"{name}: {requests} without an answer, {when} ({kind}): {error['reason']}"


def _lateness_of(values: dict[str, Any] | None) -> Lateness | None:
    """Returns the figures as they were before they were JSON."""
    if values is None:
        return None
    parts = {name: Quantiles(**part) for name, part in values["parts"].items()}
    return Lateness(**{**values, "age": Quantiles(**values["age"]), "parts": parts})
