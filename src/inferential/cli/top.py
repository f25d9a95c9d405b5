"""`inferential top`: shows the fleet in the terminal, read over HTTP as the live page is."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, Group, JustifyMethod, RenderResult
from rich.live import Live
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from inferential.cli.errors import CliError
from inferential.cli.output import printable
from inferential.cli.page_reader import DEFAULT_URL, Certificate, Page, Token, Url, read_status, stream_status

EXAMPLES = (
    "inferential top",
    "inferential top http://10.0.0.5:8080 --token TOKEN",
    "inferential top --once --json",
)
_MODEL_COLUMNS = ("model", "state", "waiting", "in flight", "replicas", "answers", "median ms by rows")
_ROBOT_COLUMNS = (
    "robot", "state", "model", "cadence\nms", "age\nms", "met\n%", "answers", "super-\nseded", "refused"
)  # fmt: skip
_VERSION_COLUMNS = ("version", "for", "state", "robots", "requests", "failed", "late", "median\nms", "apart")
_COUNTS = ("robots", "requests", "errors", "deadline_misses")  # None where nothing is counted
_WORDS = {"robot", "state", "model", "version", "for", "median ms by rows"}
_SHRINKING = {"robot", "model", "version", "apart", "median ms by rows"}
"""Columns that are cut with an ellipsis where the terminal is narrow; counts are always whole."""
_LEAST_NAME = 8  # columns of the terminal that a name keeps
_LEAVING = (
    "median ms by rows", "apart", "super-\nseded", "cadence\nms", "replicas", "in flight", "refused", "median\nms",
    "requests", "waiting", "answers", "model", "met\n%"
)  # fmt: skip
"""Columns that are left out where the terminal is narrower than that, the first first."""
_WARNING_LINES = 5  # of a warning, at 80 columns
_STATES = {"ready": "green", "failing": "red", "hung": "red", "stopped": "red"}
_STYLES = {"active": "green", "late": "yellow", "no answer": "red", "overdue": "yellow", "gone": "dim"}
_ORDER = {"no answer": 0, "late": 1, "overdue": 2, "active": 4, "gone": 5}  # what needs a look comes first
_DIGITS = re.compile("([0-9]{1,18})")
_MANY = ("clients", "batches")  # of which few or none are shown
_WHY_LINES = 2  # of a model that is not ready, at 80 columns


def top(
    url: Url = DEFAULT_URL,
    once: Annotated[bool, typer.Option("--once", help="Show it once; so it does without a terminal.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the status as JSON, once.")] = False,
    token: Token = None,
    certificate: Certificate = None,
) -> None:
    """Show the fleet, the models and what waits, live.

    Ends with Ctrl-C.
    """
    page = Page(url, token, certificate)
    if as_json:
        print(json.dumps(read_status(page)))
        return
    console = Console()
    if once or not console.is_terminal:
        console.print(view(read_status(page), console.height * 10))
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:
        for status in stream_status(page):
            live.update(view(status, console.height), refresh=True)
    raise CliError(f"{url} ended the connection: the server has stopped")


def view(status: dict[str, Any], height: int) -> Group:
    """Returns the tables, at most 80 columns wide; robots that need a look first, as many as fit `height` lines."""
    rows = _rows(status["clients"])
    status = _printable({key: value for key, value in status.items() if key not in _MANY})
    head = Text.assemble(
        ("Inferential ", "bold"),
        f"{status['version']}  {status['address']}  {status['strategy']}  ",
        f"waiting {status['waiting']}  in flight {status['in_flight']}",
        ("  draining", "yellow") if status["draining"] else "",
    )
    warnings = [Text(f"warning: {warning}", "yellow") for warning in status.get("warnings", ())]
    late = sorted(status.get("late_by_cause", {}).items(), key=lambda one: -one[1])
    causes = ", ".join(f"{cause} {count}" for cause, count in late)
    lateness = [Text(f"late actions by cause: {causes} (inferential why ROBOT)", "yellow")] if late else []
    whys = [why for model in status["models"] if (why := _why(model)) is not None]
    versions = [cells for model in status["models"] for cells in _versions(model)]
    shown_versions: list[Text | _Table] = [Text(""), _version_table(versions)] if versions else []
    above = len(status["models"]) + (len(versions) + 3 if versions else 0)
    above += _WARNING_LINES * len(warnings) + len(lateness) + _WHY_LINES * len(whys)
    robots = _robots(rows, max(height - 7 - above, 3))
    return Group(head, *warnings, *lateness, Text(""), _models(status), *whys, *shown_versions, Text(""), *robots)


def _models(status: dict[str, Any]) -> _Table:
    table = _Table(_MODEL_COLUMNS)
    for model in status["models"]:
        state = _state_of_model(model)
        replicas = str(len(model["replicas"])) if model["max_inflight"] else "none up"
        counts = (model["waiting"], model["in_flight"], replicas, model.get("answers", model["calls"]))
        sizes = _Sizes(tuple(f"{size['batch_size']}: {size['median_ms']:.1f}" for size in model["latency"]))
        shown = Text(state, _STATES.get(state, "yellow"))
        table.add_row(_name(model["model_id"]), shown, *map(Text, map(str, counts)), sizes)
    return table


def _robots(rows: Sequence[tuple[str, list[str]]], fit: int) -> Sequence[_Table | Text]:
    """Returns the first robots that fit so many lines, and how many are left."""
    table = _Table(_ROBOT_COLUMNS)
    for state, cells in _printable(rows[:fit]):
        table.add_row(_RobotName(cells[0]), Text(state, _STYLES.get(state, "")), _name(cells[1]), *map(Text, cells[2:]))
    return table, Text(f"and {len(rows) - fit} more", "dim") if len(rows) > fit else Text("")


def _state_of_model(model: dict[str, Any]) -> str:
    return str(model.get("state", "ready"))  # servers of before do not say


def _why(model: dict[str, Any]) -> Text | None:
    """Returns since when and why a model is not ready, in about two lines; None of one that is, or does not say."""
    state, why = _state_of_model(model), model.get("why") or model.get("last_error")
    if state == "ready" or not why:
        return None
    since = model.get("since")
    from_then = "" if since is None else f" since {time.strftime('%H:%M:%S', time.localtime(since))}"
    text = f"{model['model_id']} is {state}{from_then}: {why}"
    return Text(text if len(text) <= 158 else f"{text[:157]}…", _STATES.get(state, "yellow"))


def _versions(model: dict[str, Any]) -> list[tuple[str, ...]]:
    """Returns a row for each version that is loaded, where there is more than one or it has a name."""
    loaded = [one for one in model.get("versions", ()) if one["pool"]]
    if len(loaded) < 2 and not any(one["version"] for one in loaded):
        return []
    return [
        (
            one["pool"],
            one["role"] if one.get("share") is None else f"{one['role']} {100 * one['share']:.0f} %",
            one["state"],
            *("-" if one[name] is None else str(one[name]) for name in _COUNTS),
            _number(one["latency_ms"]),
            " ".join(f"{mean:.2g}" for mean in one["difference_mean"]),
        )
        for one in loaded
    ]


def _version_table(rows: Sequence[Sequence[str]]) -> _Table:
    table = _Table(_VERSION_COLUMNS)
    for pool, role, state, *counts, apart in rows:
        table.add_row(
            _name(pool), Text(role), Text(state, _STATES.get(state, "yellow")), *map(Text, counts), _name(apart)
        )
    return table


class _Table:
    """A table that leaves out columns where the terminal is too narrow for all; the first stays.

    Args:
        columns: the headings.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self.rows: list[tuple[_Cell, ...]] = []

    def add_row(self, *cells: _Cell) -> None:
        """Adds a row, a cell for each column."""
        self.rows.append(cells)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = {at: self._width(at, heading) + 1 for at, heading in enumerate(self._columns)}
        for heading in _LEAVING:
            if sum(widths.values()) - 1 <= options.max_width:
                break
            if heading in self._columns[1:]:
                del widths[self._columns.index(heading)]
        table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 1, 0, 0))
        for heading in map(self._columns.__getitem__, widths):
            side: JustifyMethod = "left" if heading in _WORDS else "right"
            table.add_column(heading, justify=side, no_wrap=heading not in _SHRINKING)
        for row in self.rows:
            table.add_row(*(row[at] for at in widths))
        yield table

    def _width(self, at: int, heading: str) -> int:
        """Returns how wide a column is at least."""
        widest = max(map(cell_len, [*heading.split("\n"), *(str(row[at]) for row in self.rows)]))
        return min(widest, _LEAST_NAME) if heading in _SHRINKING else widest


def _name(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


@dataclass(frozen=True, slots=True)
class _RobotName:
    """A robot's name, cut in the middle where there is no room: those of a fleet often differ at their end alone."""

    text: str

    def __str__(self) -> str:
        return self.text

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        width = cell_len(self.text)
        return Measurement(min(width, 1), width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = options.max_width
        if cell_len(self.text) <= room:
            yield Text(self.text, no_wrap=True)
        else:
            end = self.text[-((room - 1) // 2) :] if room > 2 else ""
            yield Text(f"{set_cell_size(self.text, room - 1 - cell_len(end))}…{end}", no_wrap=True, overflow="ellipsis")


@dataclass(frozen=True, slots=True)
class _Sizes:
    """The latencies of a model by its rows: where there is no room for all, the first and the last stay."""

    texts: tuple[str, ...]

    def __str__(self) -> str:
        return "  ".join(self.texts)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        width = cell_len(str(self))
        return Measurement(min(width, 1), width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shorter = ("  ".join((*self.texts[:first], "…", self.texts[-1])) for first in range(len(self.texts) - 2, 0, -1))
        fits = (shown for shown in (str(self), *shorter) if cell_len(shown) <= options.max_width)
        yield Text(next(fits, str(self)), no_wrap=True, overflow="ellipsis")


_Cell = Text | _RobotName | _Sizes


def _printable(value: Any) -> Any:
    """Returns the same value with every string escaped for a terminal: robots choose their names."""
    if isinstance(value, dict):
        return {key: _printable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_printable(one) for one in value]
    return printable(value) if isinstance(value, str) else value


def _rows(clients: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    rows = [
        (_state(client, use), [client["client_id"], *_cells(use)])
        for client in clients
        for use in client["models"] or [None]
    ]
    return sorted(rows, key=lambda row: (_ORDER.get(row[0], 3), _by_number(row[1][0])))


def _by_number(name: str) -> list[str | int]:
    """Returns what sorts "arm-9" before "arm-10"."""
    return [int(part) if at % 2 else part for at, part in enumerate(_DIGITS.split(name))]


def _state(client: dict[str, Any], use: dict[str, Any] | None) -> str:
    """Returns how a robot is with a model: one that asks is as its own figures are."""
    if client["state"] != "active" or use is None:
        return str(client["state"])
    return {"late": "late", "unanswered": "no answer"}.get(use.get("condition", "good"), "active")


def _cells(use: dict[str, Any] | None) -> list[str]:
    if use is None:
        return ["-"] * 7
    due = use["answered"] + use.get("missed", 0)
    met = f"{100 * use['in_time'] / due:.1f}" if due else "-"
    return [
        use["model_id"],
        _number(use["cadence_ms"]),
        _number(use["age_ms"]),
        met,
        str(use["answered"]),
        str(use["superseded"]),
        str(use["refused"]),
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
