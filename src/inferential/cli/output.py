"""Prints what commands show: rich on a terminal, plain lines elsewhere, JSON on request.

Errors are raised as CliError and printed by `main`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from inferential.cli.errors import CliError

logger: logging.Logger = logging.getLogger("inferential")
announced: logging.Logger = logging.getLogger("inferential.announced")
"""Of what is printed for people; in the log too where that is read by programs."""


def printable(text: str) -> str:
    """Returns the text with escapes in place of what a terminal would act on or what cannot be seen. Robots, servers
    and models send any text."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def printable_lines(text: str) -> str:
    """Does the same for text that may have several lines, and tabs in them."""
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


TENSOR_COLUMNS = ("model", "batch", "takes", "gives")
"""Of a table of models: the rows of a call at most, and their tensors."""


def tensors_text(said: list[Any]) -> str:
    """Returns inputs or outputs of a model's metadata as "state: float32 [3]", whatever form a model gives them."""
    from inferential.policies.tensors import read_specs  # it brings numpy, which most commands do without

    return ", ".join(map(str, read_specs(said))) or (str(said) if said else "")


def wants_rich() -> bool:
    """Returns whether standard output is a terminal that a person looks at, colours and all."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def make_folder(out: Path, option: str = "--out") -> None:
    """Makes the folder of an option, before anything runs.

    Raises:
        CliError: it cannot be made.
    """
    with writing_to(out, option):
        out.mkdir(parents=True, exist_ok=True)


@contextmanager
def writing_to(place: Path, option: str = "--out") -> Iterator[None]:
    """Says of what cannot be written in its block which option named the place.

    Raises:
        CliError: it cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise CliError(f"{option}: cannot write to {place}: {error.strerror or error}") from error


def announce(line: str) -> None:
    """Prints a line that a service does not depend on: without a reader, or on a full disk, it is logged instead."""
    announced.info("%s", line)
    try:
        # In one piece: where output is not buffered, a line of the log could come before the end of this one.
        print(f"{line}\n", end="", flush=True)
    except (OSError, ValueError) as error:
        logger.warning("cannot write to standard output (%s); it was: %s", error, printable(line))
        _drop_output()


def end_output() -> OSError | None:
    """Writes what is buffered of the standard output, before the process ends; returns why that cannot be done."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _drop_output()
        return error
    except ValueError:  # it is closed
        pass
    return None


def _drop_output() -> None:
    """Makes nothing of the standard output: the interpreter's end must not fail by what is still buffered."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for as long as the process runs)
    # The former one, which is written to when it is deleted.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(sys.stdout.fileno(), 1)


def fill_standard_streams() -> None:
    """Opens the null device for standard streams that were closed, so that no robot's connection gets their number.

    Whatever a model or a library prints would go to that robot otherwise.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the least number that is free
            os.set_inheritable(opened, True)  # nor may anything else get it in the processes that this one starts
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for as long as the process runs)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def print_json(value: Any) -> None:
    """Prints a value for another program to read."""
    print(json.dumps(value, indent=2, default=str))


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table with headings: ruled on a terminal, elsewhere one line a row with aligned columns."""
    rows = [[printable(cell) for cell in row] for row in rows]
    if wants_rich():
        _print_table(columns, rows)
        return
    rows = [list(columns), *rows]
    widths = [max(len(row[at]) for row in rows) for at in range(len(columns))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_described(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints rows that end with a sentence or more: on a terminal that stands, wrapped, beneath the others.

    Args:
        columns: the headings, which a terminal does not show.
        rows: a name, its value, where it comes from, what it means.
    """
    if not wants_rich():
        print_rows(columns, rows)
        return
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = Console(highlight=False)
    for row in rows:
        name, value, source, meaning = map(printable, row)
        console.print(Text.assemble((name, "bold"), f" = {value}  ", (f"({source})", "dim")), soft_wrap=True)
        console.print(Padding(Text(meaning), (0, 0, 0, 4)))


def print_line(text: str, style: str = "") -> None:
    """Prints a line, in a rich style where that can be seen."""
    text = printable(text)
    if style and wants_rich():
        from rich.console import Console
        from rich.text import Text

        Console().print(Text(text, style), soft_wrap=True)
    else:
        print(text)


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for at, column in enumerate(columns):
        table.add_column(column, style="bold" if at == 0 else "", no_wrap=at == 0)
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


@contextmanager
def progress_bar(what: str, total: float, *, shown: bool) -> Iterator[Callable[[], None]]:
    """Shows a bar on standard error where that is a terminal and `shown` says so; yields what moves it on by one."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not (shown and console.is_terminal):
        yield lambda: None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)
        bar.update(task, completed=total)  # a search may need fewer steps than it was given room for
        bar.refresh()


@contextmanager
def progress_bars(total: float) -> Iterator[Callable[[str], Callable[[float], None] | None]]:
    """Shows bars on standard error, one after the other, where that is a terminal.

    Args:
        total: how far each goes.

    Yields:
        What begins a bar by its name, and returns what sets how far it is; None where none is shown.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda what: None
        return
    with Progress(console=console, transient=True) as bars:

        def fill() -> None:  # what sets them is called now and then, not at the end
            for task in bars.task_ids:
                bars.update(task, completed=total)

        def begin(what: str) -> Callable[[float], None]:
            fill()
            task = bars.add_task(what, total=total)
            return lambda at: bars.update(task, completed=at)

        yield begin
        fill()
        bars.refresh()
