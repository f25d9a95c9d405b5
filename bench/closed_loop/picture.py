"""Robots kept up against load, as a picture: a panel for each task, a line for each strategy.

It needs matplotlib and no display.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PATH = Path(__file__).parents[2] / "docs" / "images" / "closed-loop"
_MARKERS = "osv^D<>X"


def save(cells: Sequence[dict[str, Any]], path: Path = PATH) -> list[Path]:
    """Draws cells as `bench.closed_loop.run` gives them; the files that it wrote."""
    tasks = list(dict.fromkeys(cell["task"] for cell in cells))
    figure = Figure(figsize=(5.8 * len(tasks), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    for task, axes in zip(tasks, figure.subplots(1, len(tasks), squeeze=False)[0], strict=True):
        _panel([cell for cell in cells if cell["task"] == task], axes)
        axes.set_title(task)
    figure.axes[0].set_ylabel("robots that never fell, %")
    figure.axes[-1].legend(fontsize=8)
    written = [path.with_suffix(suffix) for suffix in (".png", ".svg")]
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "closed-loop"}):  # the same figures give the same file
        for file in written:
            figure.savefig(file, dpi=110, metadata={"Date": None} if file.suffix == ".svg" else None)
    return written


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
