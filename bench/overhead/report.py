"""The results as a table for the terminal and as the chart of the README."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from bench.overhead.environment import PEERS

IMAGES = Path(__file__).parents[2] / "docs" / "images"
_COLOURS = ("#8a8f98", "#1f6feb", "#9ec5fe", "#e08f2c", "#6f9e4f", "#b07aa1")


def show(result: dict[str, Any], console: Console) -> None:
    """A row for each job and peer."""
    table = Table(
        box=box.SIMPLE, title=f"medians of {result['rounds']} rounds; in brackets as a multiple of raw ZeroMQ"
    )
    for heading in ("", "peer", "p50 us", "p99 us", "answers/s", "server CPU us"):
        table.add_column(heading, justify="left" if heading in ("", "peer") else "right")
    for job, by_name in result["jobs"].items():
        for number, (name, figures) in enumerate(by_name.items()):
            cells = [_cell(figures, key) for key in ("p50_us", "p99_us", "per_second", "server_cpu_us")]
            table.add_row("" if number else job, PEERS[name].title, *cells)
        table.add_section()
    console.print(table)
    peaks = ", ".join(f"{PEERS[name].title} {peak:.0f}" for name, peak in result["server_peak_mb"].items())
    console.print(f"server's peak memory, MB: {peaks}")


def _cell(figures: dict[str, float], key: str) -> str:
    ratio = figures.get(f"{key}_ratio")
    return f"{figures[key]:,.0f}" + ("" if ratio is None else f" ({ratio:.2f})")


def draw(result: dict[str, Any]) -> None:
    """docs/images/overhead.png: median round trips of one client."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    jobs = [job for job in result["jobs"] if job.startswith("1 client")]
    names = list(result["jobs"][jobs[0]])
    figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        heights = [result["jobs"][job][name]["p50_us"] for job in jobs]
        places = [place + (number - (len(names) - 1) / 2) * width for place in range(len(jobs))]
        bars = axes.bar(places, heights, width * 0.92, color=_COLOURS[number], label=PEERS[name].title)
        axes.bar_label(bars, [f"{height:,.0f}" for height in heights], fontsize=6.5, padding=1)
    axes.set_yscale("log")
    axes.set_ylabel("round trip, p50, µs")
    axes.set_xticks(range(len(jobs)), [job.removeprefix("1 client, ") for job in jobs])
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper left")
    axes.margins(y=0.25)
    figure.savefig(IMAGES / "overhead.png", dpi=130)
    plt.close(figure)
