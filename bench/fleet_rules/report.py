"""Prints the comparison: a table for our workloads, one for the others', and what is published beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

from bench.fleet_rules.cells import EXECUTED, Cell

if TYPE_CHECKING:
    from bench.fleet_rules import Row

OURS = "slo_aware"


def tables(cells: Sequence[Cell], names: Sequence[str], rows: Sequence[Row]) -> Iterator[Table]:
    """Yields a table for each source of workloads, a row for each rule; the best of a column is bold."""
    found = {(row.cell, row.rule): row for row in rows}
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(_title(cell), []).append(cell)
    for title, group in groups.items():
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("rule")
        for cell in group:
            table.add_column(
                cell.name if cell.measure == "starved" else f"{cell.name}\n{cell.measure}", justify="right"
            )
        for name in names:
            table.add_row(name, *(_cell_text(found[cell.name, name], cell, _best(cell, rows)) for cell in group))
        for cell in group:
            for name, figure in cell.published.items():
                table.caption = (table.caption or "published:") + f"  {cell.name}, {name}: {_figure(figure, cell)};"
        yield table


def _title(cell: Cell) -> str:
    if cell.source != "ours":
        return "others'"
    return f"ours, chunks played {'as executed' if cell.name.endswith(EXECUTED) else 'by time'}: starved, worst robot"


def _cell_text(row: Row, cell: Cell, best: float) -> str:
    value = figure_of(row, cell)
    if value is None:
        return "-"
    text = _figure(value, cell) if cell.measure != "starved" else f"{value:.1%} {row.starved_worst:.0%}"
    return f"[bold]{text}[/bold]" if value == best else text


def _figure(value: float, cell: Cell) -> str:
    return f"{value:.1%}" if cell.measure == "starved" else f"{value:.1f}"


def figure_of(row: Row, cell: Cell) -> float | None:
    """Returns the figure of a row that the cell is judged by."""
    if cell.measure == "starved":
        return row.starved
    if cell.measure == "robots at 98 %":
        return row.robots
    return row.qualified_per_s if cell.measure == "qualified/s" else row.answers_per_s


def _best(cell: Cell, rows: Sequence[Row]) -> float:
    values = [value for row in rows if row.cell == cell.name and (value := figure_of(row, cell)) is not None]
    if not values:
        return float("nan")
    return min(values) if cell.measure == "starved" else max(values)


def verdict(cells: Sequence[Cell], rows: Sequence[Row]) -> Iterator[str]:
    """Yields, for each cell, `slo_aware` beside the best other rule, and the sums of `starved` and `starved_worst`."""
    sums = [0.0, 0.0, 0.0, 0.0]
    counted = 0
    for cell in cells:
        own = next((row for row in rows if row.cell == cell.name and row.rule == OURS), None)
        others = [
            row
            for row in rows
            if row.cell == cell.name and row.rule.partition(":")[0] != OURS and figure_of(row, cell) is not None
        ]
        if own is None or figure_of(own, cell) is None or not others:
            continue
        low = cell.measure == "starved"
        best = sorted(others, key=lambda row: (figure_of(row, cell) or 0.0) * (1 if low else -1))[0]
        value, bar = figure_of(own, cell), figure_of(best, cell)
        assert value is not None
        assert bar is not None
        is_behind = value > bar + 1e-9 if low else value < bar - 1e-9
        sign = "behind" if is_behind else "ahead of"
        line = f"{cell.name}: {OURS} {_figure(value, cell)}, {sign} {best.rule} {_figure(bar, cell)}"
        if low:
            worst = min(others, key=lambda row: row.starved_worst or 0.0)
            line += f"; worst robot {own.starved_worst:.1%}, least of others {worst.starved_worst:.1%} ({worst.rule})"
            if own.worst_of_class is not None and own.decision_us is not None:
                line += f"; {own.worst_of_class:.1f} x its class's mean; a decision {own.decision_us:.0f} us"
            counted += 1
            figures = (own.starved, bar, own.starved_worst, worst.starved_worst)
            sums = [total + (figure or 0.0) for total, figure in zip(sums, figures, strict=True)]
        yield line
    if counted:
        yield (
            f"sum of {counted} cells: starved {sums[0]:.2f}, best others {sums[1]:.2f}; worst robot {sums[2]:.2f}, "
            f"best others {sums[3]:.2f}"
        )
