"""Robots kept up against load, as a picture: a panel for each task, a line for each strategy; and peers beside us.

It needs matplotlib and no display.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PATH = Path(__file__).parents[2] / "docs" / "images" / "closed-loop.png"
PEERS_PATH = PATH.with_name("closed-loop-peers.png")
_MARKERS = "osv^D<>X"


def save(cells: Sequence[dict[str, Any]], path: Path = PATH) -> Path:
    """Draws cells as `bench.closed_loop.run` gives them; the file that it wrote."""
    tasks = list(dict.fromkeys(cell["task"] for cell in cells))
    figure = Figure(figsize=(5.8 * len(tasks), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    for task, axes in zip(tasks, figure.subplots(1, len(tasks), squeeze=False)[0], strict=True):
        _panel([cell for cell in cells if cell["task"] == task], axes)
        axes.set_title(task)
    figure.axes[0].set_ylabel("robots that never fell, %")
    figure.axes[-1].legend(fontsize=8)
    return _write(figure, path)


def save_peers(cells: Sequence[dict[str, Any]], path: Path = PEERS_PATH) -> Path:
    """Draws a panel each for robots that never fell, the age of actions and their number, a line for each software."""
    figure = Figure(figsize=(14.4, 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    first, second, third = figure.subplots(1, 3)
    names = dict.fromkeys(cell["software"] for cell in cells)
    panels: tuple[tuple[Any, str, Callable[[dict[str, Any]], float | None]], ...] = (
        (first, "robots that never fell, %", lambda cell: 100 * cell["kept_up"] / cell["robots"]),
        (second, "median age of the action in use, ms", lambda cell: cell["age_p50_ms"]),
        (third, "new actions per second, all robots", lambda cell: cell["actions_per_s"]),
    )
    for axes, title, value in panels:
        for number, name in enumerate(names):
            mine = sorted((cell for cell in cells if cell["software"] == name), key=lambda cell: cell["load"])
            loads, values = [cell["load"] for cell in mine], np.array([value(cell) for cell in mine], float)
            label = "Inferential" if name == "this" else f"Inferential {name}" if name[0].isdigit() else name
            style = "-" if name == "this" else "--"
            axes.plot(loads, values, style, marker=_MARKERS[number], color=f"C{number}", linewidth=1.5, label=label)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("load: 1 is what batches on the accelerator can just do", fontsize=9)
        axes.grid(alpha=0.3)
        axes.set_ylim(bottom=-4 if axes is first else 0)
    second.legend(fontsize=8, loc="upper left")  # where no line is
    return _write(figure, path)


def _write(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def _panel(cells: Sequence[dict[str, Any]], axes: Any) -> None:
    for number, name in enumerate(dict.fromkeys(cell["strategy"] for cell in cells)):
        mine = [cell for cell in cells if cell["strategy"] == name]
        loads = sorted({cell["load"] for cell in mine})
        kept = [
            100 * float(np.mean([cell["kept_up"] / cell["robots"] for cell in mine if cell["load"] == load]))
            for load in loads
        ]
        marker = _MARKERS[number % len(_MARKERS)]
        style = "--" if mine[0]["software"] != "this" else "-"
        # Lines lie on each other where strategies do equally well: later ones are smaller.
        size = 9 - 0.8 * number
        axes.plot(loads, kept, style, marker=marker, markersize=size, linewidth=1.5, color=f"C{number}", label=name)
    axes.set_ylim(-4, 104)
    axes.set_xlabel("load: 1 is what batches on the accelerator can just do")
    axes.grid(alpha=0.3)
