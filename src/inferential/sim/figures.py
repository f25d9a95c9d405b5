"""What pictures share: their colours, and figures that need no display and come out the same each time.

It needs matplotlib.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""Okabe and Ito's, which colour-blind readers can distinguish."""


def new_figure(width: float, height: float) -> Figure:
    """Returns a figure of so many inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, paths: Sequence[Path]) -> None:
    """Writes a figure to files; the extension gives the format.

    Raises:
        OSError: one cannot be written.
    """
    for path in paths:
        # Without the date, so that the same runs give the same file.
        figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
