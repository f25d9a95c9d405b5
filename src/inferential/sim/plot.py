"""Draws a run of the demo: ages of actions, time spent up, batches and queue.

It needs matplotlib and no display.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inferential.sim.figures import new_figure, save_figure
from inferential.sim.watch import Watch


def save(watches: Sequence[Watch], path: Path) -> None:
    """Draws runs, a row of three panels for each, and writes the picture to `path` (png, svg, pdf)."""
    figure = new_figure(13, 3.4 * len(watches))
    grid = figure.subplots(len(watches), 3, squeeze=False)
    for watch, (ages, up, server) in zip(watches, grid, strict=True):
        _ages(watch, ages)
        _up(watch, up)
        _server(watch, server)
    plan = watches[0].plan
    figure.suptitle(f"{plan.robots} robots, load {plan.load:g}x, {plan.seconds:g} s")
    save_figure(figure, [path])


def _ages(watch: Watch, axes: Any) -> None:
    deadlines = {robot.kind: robot.deadline_ms for robot in watch.robots.values()}
    for number, (kind, deadline_ms) in enumerate(sorted(deadlines.items())):
        ages = [age for name, robot in watch.robots.items() if robot.kind == kind for age in watch.ages_ms[name]]
        if ages:
            most = max(np.percentile(ages, 99.5), deadline_ms) * 1.1
            axes.hist(np.clip(ages, 0, most), bins=60, alpha=0.6, color=f"C{number}", label=kind)
        axes.axvline(deadline_ms, color=f"C{number}", linestyle="--", linewidth=1)
    _label(axes, f"{watch.plan.strategy}: age of the action in force", "ms (dashed: deadline)", "control periods")
    if any(watch.ages_ms.values()):
        axes.legend()


def _up(watch: Watch, axes: Any) -> None:
    names = sorted(watch.robots)
    shares = [watch.robots[name].up_share * 100 for name in names]
    axes.barh(names, shares, color=["C2" if share > 99 else "C3" for share in shares])
    axes.set_xlim(0, 100)
    axes.tick_params(axis="y", labelsize=6)
    _label(axes, "time spent up", "%", "")


def _server(watch: Watch, axes: Any) -> None:
    sizes = np.bincount(watch.batch_sizes, minlength=9)[1:] if watch.batch_sizes else np.zeros(8)
    axes.bar(np.arange(1, len(sizes) + 1), sizes, color="C4")
    depth = float(np.mean(watch.queue_depths)) if watch.queue_depths else 0.0
    _label(axes, f"batches (mean queue {depth:.1f})", "observations in a batch", "batches")


def _label(axes: Any, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
