"""`inferential advise`: what a running server was asked, through every strategy in virtual time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inferential.cli.errors import CliError
from inferential.cli.output import print_json, print_line, print_rows, progress_bar
from inferential.cli.page_reader import Certificate, Page, Token, read_requests, read_status
from inferential.cli.recordings import read_happened
from inferential.cli.strategies import read_strategies
from inferential.sim.virtual.advice import LOADS, Advice, robots_text, simulations
from inferential.sim.virtual.advice import advise as find_advice
from inferential.sim.virtual.asked import waiting_text
from inferential.sim.virtual.happened import Happened

EXAMPLES = (
    "inferential advise localhost:8080",
    "inferential advise localhost:8080 --seconds 120 --json",
    "inferential advise recordings",
)


def advise(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="URL|FILE...", help="The server's page, or recordings (MCAP) and folders of them."),
    ],
    seconds: Annotated[
        float, typer.Option(min=1, max=3600, help="Of a server, how long its requests are watched.")
    ] = 20.0,
    strategies: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Strategies to try; all by default.")
    ] = None,
    token: Token = None,
    certificate: Certificate = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Say which strategy fits a server's robots.

    Watches the requests of a running server for some seconds, or reads
    recordings; then simulates the same requests by every strategy in virtual
    time, for 1, 1.5 and 2 times the robots, with the latencies that were seen.
    """
    tried = read_strategies("--strategies", strategies or "all")
    happened, in_force = _gather(sources, seconds, Page(sources[0], token, certificate), shown=not as_json)
    if in_force is not None and in_force not in tried:
        tried.append(in_force)
    with progress_bar("simulating", simulations(len(tried)), shown=not as_json) as advance:
        try:
            found = find_advice(happened, tried, in_force, advance=advance)
        except ValueError as error:
            where = "in the recordings" if in_force is None else f"in {seconds:g} s; do robots ask?"
            raise CliError(f"{error}: {len(happened)} requests {where}") from error
    if as_json:
        print_json(found.as_dict())
    else:
        _show(found)


def _gather(sources: list[str], seconds: float, page: Page, *, shown: bool) -> tuple[list[Happened], str | None]:
    """Returns the requests, and the strategy in force where a server says it."""
    files = [Path(source) for source in sources]
    if all(path.suffix == ".mcap" or path.is_dir() for path in files):
        return read_happened(files, "inferential advise"), None
    if len(sources) > 1:
        raise CliError(
            f"URL|FILE...: expected one URL, or recordings (.mcap) and folders of them, got {' '.join(sources)}"
        )
    strategy: str = read_status(page)["strategy"]
    with progress_bar("watching", seconds * 4, shown=shown) as advance:
        requests = read_requests(page, seconds, advance)
    return [Happened(**one) for one in requests], strategy


def _show(found: Advice) -> None:
    counts = zip(LOADS, found.robots_at, strict=True)
    columns = ("strategy", *(f"{robots_text(count)} ({load:g} x)" for load, count in counts))
    rows = [
        (f"{name} (in force)" if name == found.in_force else name, *(f"{share:.1%}" for share in shares))
        for name, shares in found.shares.items()
    ]
    print_rows(columns, [("as it was", f"{found.was:.1%}", "", ""), *rows])
    print_line(f"observations answered in time, of {found.requests} in {found.seconds:.0f} s")
    if found.robots_waiting:
        print_line(waiting_text(found.robots_waiting, found.robots))
    print_line(found.sentence())
