"""The closed loop's figures as a table, and what they must not be taken for.

It measures nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

BEHIND_WORTH_TELLING = 0.01


def table(cells: Sequence[dict[str, Any]]) -> Table:
    """A row for each cell, by task and load."""
    shown = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for title in ("task", "load", "strategy"):
        shown.add_column(title, no_wrap=True)
    for title in ("kept up", "up", "falls", "age ms\np50, p95", "on time", "actions/s", "batch", "behind"):
        shown.add_column(title, justify="right", no_wrap=True)
    group = None
    for cell in sorted(cells, key=lambda cell: (cell["task"], cell["load"], cell["seed"])):
        first = group != (group := (cell["task"], cell["load"], cell["seed"]))
        if first:
            shown.add_section()
        shown.add_row(
            cell["task"] if first else "",
            f"{cell['load']:g}x" if first else "",
            cell["strategy"],
            f"{cell['kept_up']}/{cell['robots']}",
            f"{cell['up_share']:.1%}",
            str(cell["falls"]),
            "-" if cell["age_p50_ms"] is None else f"{cell['age_p50_ms']:.0f}, {cell['age_p95_ms']:.0f}",
            f"{cell['on_time']:.1%}",
            f"{cell['actions_per_s']:.0f}",
            f"{cell['mean_batch_size']:.1f}" if cell["mean_batch_size"] else "-",
            f"{cell['behind']:.1%}",
        )
    return shown


def warnings(cells: Sequence[dict[str, Any]]) -> list[str]:
    """Cells in which the machine itself was the limit."""
    return [
        f"{cell['task']}, load {cell['load']:g}x, {cell['strategy']}: {cell['behind']:.0%} of all control periods "
        "began late: this machine was too busy, and the figures tell of that too"
        for cell in cells
        if cell["behind"] > BEHIND_WORTH_TELLING
    ]
