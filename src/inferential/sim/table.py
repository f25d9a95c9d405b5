"""Prints a run of the demo: live, and its summary.

It measures nothing; all figures come from `sim.watch`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from inferential.sim.driver import RobotReport
from inferential.sim.watch import KindSummary, Watch

_BEHIND_WORTH_TELLING = 0.01


def live(watch: Watch) -> RenderableType:
    """Returns the fleet now: a line about the server, then a row for each robot."""
    plan = watch.plan
    batches = watch.server.batches
    head = Text.assemble(
        ("Inferential ", "bold"),
        f"{plan.robots} robots, strategy ",
        (plan.strategy, "bold"),
        f", load {plan.load:g}x   {watch.seconds:4.1f} / {plan.seconds:g} s\n",
        f"queue {watch.server.queue_depth}   batch {np.mean(batches) if batches else 0:.1f}   "
        f"served {watch.count('responses_served')}   superseded {watch.count('requests_superseded')}   "
        f"refused {watch.refused()}",
        "" if watch.server.page is None else f"\npage on {watch.server.page}",
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("robot", "state"):
        table.add_column(title)
    for title in ("rate / asked Hz", "action age ms (p50, p95)", "deadline hits", "up", "falls"):
        table.add_column(title, justify="right")
    for robot in watch.robots.values():
        table.add_row(*_row(robot, watch.recent_ages_ms.get(robot.name, [])))
    return Group(head, table)


def _row(robot: RobotReport, ages_ms: Sequence[float]) -> list[RenderableType]:
    state = Text("up", "green") if robot.up else Text("fallen", "bold red")
    rate = robot.fresh / robot.periods * robot.control_rate_hz if robot.periods else 0.0
    hits = robot.on_time / robot.periods if robot.periods else 1.0
    p50, p95 = np.percentile(ages_ms, [50, 95]) if ages_ms else (float("nan"), float("nan"))
    late = "red" if p95 > robot.deadline_ms else ""
    return [
        robot.name,
        state,
        f"{rate:.0f} / {robot.control_rate_hz:.0f}",
        Text(f"{p50:.0f}, {p95:.0f}" if ages_ms else "-", late),
        Text(f"{hits:.1%}", "" if hits > 0.95 else "yellow"),
        f"{robot.up_share:.0%}",
        str(robot.falls),
    ]


def line(watch: Watch) -> str:
    """Returns the fleet now in one plain line, for logs."""
    up = sum(robot.up for robot in watch.robots.values())
    falls = sum(robot.falls for robot in watch.robots.values())
    return (
        f"{watch.seconds:5.1f} s  {watch.plan.strategy}  up {up}/{watch.plan.robots}  falls {falls}  "
        f"queue {watch.server.queue_depth}  served {watch.count('responses_served')}  "
        f"superseded {watch.count('requests_superseded')}"
    )


def summary(watches: Sequence[Watch]) -> RenderableType:
    """Returns runs below one another in 80 columns: each strategy, and a row for each kind of its robots."""
    plan, last = watches[0].plan, watches[-1]
    early = f", interrupted after {last.seconds:.1f} of {plan.seconds:g} s" if last.interrupted else ""
    title = f"{plan.robots} robots, load {plan.load:g}x{early}"
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column("robots", no_wrap=True)
    for title in ("up at\nend", "up", "falls", "rate /\nasked Hz", "age ms\np50, p95", "deadline\nhits", "batch"):
        table.add_column(title, justify="right", no_wrap=True)
    for watch in watches:
        batch = f"{np.mean(watch.batch_sizes):.1f}" if watch.batch_sizes else "-"
        table.add_row(Text(watch.plan.strategy, "bold"), *[""] * 6, batch)
        for kind in watch.kinds():
            table.add_row(*_summary_row(kind))
        table.add_section()
    return table


def warnings(watches: Sequence[Watch]) -> list[str]:
    """Yields what keeps the figures from being the server's own."""
    return [
        f"{watch.plan.strategy}: {watch.behind():.0%} of all control periods began late: this machine is too busy for "
        f"{watch.plan.robots} robots, and the figures tell of that too"
        for watch in watches
        if watch.behind() > _BEHIND_WORTH_TELLING
    ]


def _summary_row(kind: KindSummary) -> list[str]:
    return [
        f"  {kind.robots} {kind.kind}",
        f"{kind.up_at_end}/{kind.robots}",
        f"{kind.up_share:.1%}",
        str(kind.falls),
        f"{kind.rate_hz:.1f} / {kind.asked_hz:.0f}",
        "-" if kind.age_p50_ms is None else f"{kind.age_p50_ms:.0f}, {kind.age_p95_ms:.0f}",
        f"{kind.deadline_hits:.1%}",
        "",
    ]
