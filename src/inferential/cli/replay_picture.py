"""Draws how far apart answers are: by dimension, and over the recording robot by robot.

It needs matplotlib and no display.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inferential.cli.answer_differences import Compared, Difference, Row
from inferential.sim.figures import COLOURS, new_figure, save_figure

_ARRAYS = 8  # those that differ most
_NAMED = 6  # robots with a colour of their own: those that differ most
_MARKED = 40  # dimensions, up to which each has its number


def save_differences(compared: Compared, paths: Sequence[Path], *, allowed: float | None) -> None:
    """Draws a row for each array: its dimensions, and its answers over time.

    Args:
        compared: the answers.
        paths: files to write; the extension gives the format.
        allowed: `--max-difference`, as a dashed line; None: none.
    """
    rows: dict[tuple[str, str], list[Row]] = {}
    for row in compared.rows():
        rows.setdefault((row.model, row.key), []).append(row)
    arrays = sorted(rows, key=lambda array: -max(row.largest for row in rows[array]))[:_ARRAYS]
    figure = new_figure(11.0, 3.2 * max(len(arrays), 1))
    grid: Any = figure.subplots(max(len(arrays), 1), 2, squeeze=False)
    models = {model for model, _ in rows}
    for array, (by_dimension, over_time) in zip(arrays, grid, strict=False):
        name = array[1] if len(models) == 1 else " ".join(array)
        _draw_dimensions(by_dimension, rows[array], name)
        _draw_answers(over_time, compared.differences[array])
        for axes in (by_dimension, over_time):
            if allowed is not None:
                axes.axhline(allowed, color="#444444", linestyle="--", linewidth=1, label="allowed")
            axes.set_ylim(0, None)
            axes.grid(alpha=0.25)
            axes.legend(fontsize=8, loc="upper right")
    if not arrays:
        for axes in grid.flat:
            axes.set_axis_off()
        figure.suptitle("no answers to compare")
    save_figure(figure, paths)


def _draw_dimensions(axes: Any, rows: Sequence[Row], name: str) -> None:
    at = np.arange(len(rows))
    mean, largest = (np.array([getattr(row, field) for row in rows]) for field in ("mean", "largest"))
    axes.bar(at, _drawn(largest), color=COLOURS[5], label="largest")
    axes.bar(at, _drawn(mean), color=COLOURS[0], width=0.4, label="mean")
    _mark_infinite(axes, at, largest)
    axes.set(title=name, xlabel="dimension", ylabel="difference from the recorded answer")
    if len(rows) <= _MARKED:
        axes.set_xticks(at)


def _draw_answers(axes: Any, found: Sequence[Difference]) -> None:
    robots: dict[str, list[tuple[float, float]]] = {}
    for one in found:
        worst = float(np.max(one.largest)) if len(one.largest) else 0.0
        robots.setdefault(one.client_id, []).append((one.at_s, worst))
    by_worst = sorted(robots, key=lambda robot: (-max(worst for _, worst in robots[robot]), robot))
    for number, robot in enumerate(by_worst):
        at, largest = (np.array(values) for values in zip(*sorted(robots[robot]), strict=True))
        colour = COLOURS[number] if number < _NAMED else COLOURS[-1]
        label = robot if number < _NAMED else "others" if number == _NAMED else None
        axes.plot(at, _drawn(largest), color=colour, marker=".", markersize=4, linewidth=0.8, label=label)
        _mark_infinite(axes, at, largest)
    axes.set(title="each answer, by robot", xlabel="seconds of the recording")


def _drawn(values: Any) -> Any:
    return np.where(np.isfinite(values), values, np.nan)


def _mark_infinite(axes: Any, at: Any, values: Any) -> None:
    for place in at[~np.isfinite(values)]:
        axes.axvline(place, color="#D55E00", linewidth=2, alpha=0.5)
