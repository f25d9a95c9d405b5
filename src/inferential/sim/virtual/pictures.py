"""Draws runs: goodput against load, ages of answers, steps without an action, and which call ran when.

It needs matplotlib and no display.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inferential.sim.figures import COLOURS, new_figure, save_figure
from inferential.sim.virtual.starvation import starved_share
from inferential.sim.virtual.world import Run

_MARKS = "osD^vP*X"
_TIMELINE_S = 1.0


def save_goodput(curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], paths: Sequence[Path]) -> None:
    """Draws goodput against load.

    Args:
        curves: by fleet, by strategy (or "bound"), pairs of load and answers in time per second.
        paths: files to write; the extension gives the format.
    """
    figure = new_figure(5.2 * len(curves), 4.8)
    for number, (fleet, strategies) in enumerate(curves.items()):
        axes = figure.add_subplot(1, len(curves), number + 1)
        for strategy, points in strategies.items():
            loads, goodputs = zip(*sorted(points), strict=True)
            if strategy == "bound":
                axes.plot(
                    loads, goodputs, color="#444444", linestyle="--", linewidth=1.5, label="bound: the best possible"
                )
            else:
                axes.plot(loads, goodputs, **_style(strategy, list(strategies)), label=strategy)
        axes.set(title=fleet, xlabel="offered load (1: what the models carry)", ylim=(0, None))
        axes.set_ylabel("answers in time per second" if number == 0 else "")
        axes.grid(alpha=0.25)
    # In one row below: strategies that do equally well hide behind each other, wherever a legend inside would be.
    lines, names = figure.axes[-1].get_legend_handles_labels()
    figure.legend(lines, names, fontsize=8, loc="outside lower center", ncols=len(names))
    save_figure(figure, paths)


def save_ages(runs: Sequence[Run], paths: Sequence[Path]) -> None:
    """Draws how old answers were, a panel for each class of robots, a line for each run."""
    classes = sorted({outcome.arrival.robot_class for run in runs for outcome in run.outcomes})
    figure = new_figure(4.4 * len(classes), 3.8)
    for number, name in enumerate(classes):
        axes = figure.add_subplot(1, len(classes), number + 1)
        times_ms = [
            (one.arrival.deadline - one.arrival.at) * 1e3 for one in runs[0].outcomes if one.arrival.robot_class == name
        ]
        budget_ms = float(np.median(times_ms)) if times_ms else 1.0
        for run in runs:
            own = [one for one in run.outcomes if one.arrival.robot_class == name and one.end != "superseded"]
            ages_ms = np.sort([(one.ended_at - one.arrival.at) * 1e3 for one in own if one.end == "answered"])
            shares = np.arange(1, len(ages_ms) + 1) / max(len(own), 1)
            style = _style(run.strategy, [run.strategy for run in runs])
            axes.plot(ages_ms, shares, color=style["color"], linewidth=style["linewidth"], label=run.strategy)
        axes.axvline(budget_ms, color="#444444", linestyle="--", linewidth=1)
        axes.set(
            title=name,
            xlabel="age of the answer in ms (dashed: its deadline)",
            xlim=(0, 2.5 * budget_ms),
            ylim=(0, 1.02),
        )
        axes.set_ylabel("share of what was not superseded" if number == 0 else "")
        axes.grid(alpha=0.25)
    figure.axes[0].legend(fontsize=8, loc="lower right")
    save_figure(figure, paths)


def save_starved(runs: Sequence[Run], paths: Sequence[Path]) -> None:
    """Draws each robot's share of control steps without an action, robots in order of it, a line for each run."""
    classes = sorted({played.robot.robot_class for run in runs for played in run.played})
    figure = new_figure(4.4 * len(classes), 3.8)
    for number, name in enumerate(classes):
        axes = figure.add_subplot(1, len(classes), number + 1)
        for run in runs:
            shares = np.sort([starved_share(one) for one in run.played if one.robot.robot_class == name])
            style = _style(run.strategy, [run.strategy for run in runs])
            ranks = np.arange(1, len(shares) + 1) / max(len(shares), 1)
            axes.plot(ranks, shares, color=style["color"], linewidth=style["linewidth"], label=run.strategy)
        axes.set(title=name, xlabel="share of the robots, least starved first", xlim=(0, 1), ylim=(0, 1.02))
        axes.set_ylabel("control steps without an action" if number == 0 else "")
        axes.grid(alpha=0.25)
    figure.axes[0].legend(fontsize=8, loc="upper left")
    save_figure(figure, paths)


def save_plan(
    curves: Mapping[str, Mapping[int, int]], paths: Sequence[Path], *, target: float, wanted: int | None = None
) -> None:
    """Draws how many robots so many devices carry.

    Args:
        curves: by name ("": no legend), robots by number of devices.
        paths: files to write; the extension gives the format.
        target: the share of its control steps with an action that each class of robots has.
        wanted: robots that are to be carried, as a dashed line; None: none.
    """
    figure = new_figure(6.4, 4.2)
    axes = figure.add_subplot()
    for number, (name, robots) in enumerate(curves.items()):
        colour, mark = COLOURS[number % len(COLOURS)], _MARKS[number % len(_MARKS)]
        axes.plot(list(robots), list(robots.values()), color=colour, marker=mark, linewidth=2, label=name)
    if wanted is not None:
        axes.axhline(wanted, color="#444444", linestyle="--", linewidth=1)
    most = max((count for robots in curves.values() for count in robots), default=1)
    axes.set(xlabel="devices", ylabel=f"robots with an action in {target:.0%} of their steps")
    axes.set(xlim=(0, most * 1.05), ylim=(0, None))
    axes.set_xticks(sorted({count for robots in curves.values() for count in robots}))
    axes.grid(alpha=0.25)
    if any(curves):
        axes.legend(fontsize=8, loc="upper left")
    save_figure(figure, paths)


def save_timeline(run: Run, paths: Sequence[Path], *, begin_s: float, models: Sequence[str]) -> None:
    """Draws a second of calls: a row for each replica, the darker the more rows, red where an answer came too late."""
    calls = [call for call in run.calls if call.model_id in models and call.ended_at > begin_s]
    calls = [call for call in calls if call.started_at < begin_s + _TIMELINE_S]
    places = sorted({(call.model_id, call.replica) for call in calls}, reverse=True)
    most = max((call.rows for call in calls), default=1)
    figure = new_figure(11.0, 0.9 + 0.55 * max(len(places), 1))
    axes = figure.add_subplot()
    for call in calls:
        row = places.index((call.model_id, call.replica))
        missed = call.in_time < call.rows
        width = call.ended_at - call.started_at
        axes.barh(
            row,
            width,
            left=call.started_at - begin_s,
            height=0.7,
            color="#D55E00" if missed else "#0072B2",
            alpha=0.25 + 0.75 * call.rows / most,
            edgecolor="white",
        )
        if width > 0.012:
            axes.text(
                call.started_at - begin_s + width / 2,
                row,
                str(call.rows),
                ha="center",
                va="center",
                fontsize=7,
                clip_on=True,
            )
    axes.set(
        xlim=(0, _TIMELINE_S),
        xlabel=f"seconds, from {begin_s:g} s on",
        title=f"calls of {run.strategy}, with their rows",
    )
    axes.set_yticks(range(len(places)), [f"{model_id} {replica}" for model_id, replica in places])
    save_figure(figure, paths)


def _style(strategy: str, strategies: Sequence[str]) -> dict[str, Any]:
    others = [name for name in strategies if name not in ("slo_aware", "bound")]
    number = 0 if strategy == "slo_aware" else 1 + others.index(strategy) % (len(COLOURS) - 1)
    return {
        "color": COLOURS[number],
        "marker": _MARKS[number],
        "markersize": 5,
        "linewidth": 2.4 if number == 0 else 1.3,
        "zorder": 3 if number == 0 else 2,
    }
