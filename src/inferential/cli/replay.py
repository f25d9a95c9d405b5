"""`inferential replay`: recorded observations to another model or server, and how its answers differ.

The observations are read from recordings (`recording`), and the model runs as a server would run it.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inferential import LocalDispatcher
from inferential.cli.answer_differences import Compared
from inferential.cli.errors import CliError, missing
from inferential.cli.output import make_folder, print_json, print_line, print_rows, progress_bar, writing_to
from inferential.cli.recordings import read_recordings
from inferential.cli.replay_asking import Asked, Asking
from inferential.cli.robot_keys import SecretKey, ServerKey
from inferential.cli.targets import load_models

if TYPE_CHECKING:
    from inferential.recording.spool import Spool

EXAMPLES = (
    "inferential replay recordings/2026-11-29T12-00-00-001.mcap --model policies:NewPolicy",
    "inferential replay run.mcap --model policies:NewPolicy --max-difference 0.01 --out difference",
    "inferential replay run.mcap --server localhost:5555 --speed 1",
)
_DIMENSIONS = 32  # in the table


def replay(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Recordings (MCAP), or folders of them.")],
    model: Annotated[
        str | None, typer.Option(metavar="MODULE:OBJECT", help="Ask this model, and compare its answers.")
    ] = None,
    server: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Ask this server, each robot as it did, and compare.")
    ] = None,
    speed: Annotated[
        float, typer.Option(min=0, help="With --server: how many times as fast; 0: without pauses.")
    ] = 1.0,
    only: Annotated[
        str | None, typer.Option("--only", metavar="MODEL", help="Observations of this model alone.")
    ] = None,
    max_difference: Annotated[
        float | None, typer.Option(min=0, help="Exit code 1 where any value differs by more.")
    ] = None,
    server_key: ServerKey = None,
    secret_key: SecretKey = None,
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="Where the figures and a picture of them are saved.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> int:
    """Ask anew what robots asked, and compare the answers.

    Each recorded observation is sent as it was; the answers are compared with
    those recorded, dimension by dimension: a regression test for policies.

    Exit code 1: an answer differs by more than --max-difference, has other
    arrays, or did not come.
    """
    if (model is None) == (server is None):
        raise CliError("give one of --model MODULE:OBJECT and --server ADDRESS: what is to be asked")
    try:
        from inferential.recording.spool import Spool
    except ModuleNotFoundError as error:
        raise missing("inferential replay", error, "record") from error
    if out is not None:
        make_folder(out)
    with Spool() as spool:
        asked = _kept(files, only, spool)
        compared = Compared(asked[0].received_ns)
        with progress_bar("asking", len(asked), shown=not as_json) as advance:
            asking = Asking(asked, spool, compared, advance)
            if model is not None:
                _ask_model(asking, model)
            else:
                assert server is not None
                asyncio.run(asking.ask_server(server, speed, server_key, secret_key))
    is_good = (
        not compared.failed and not compared.unlike and (max_difference is None or compared.worst <= max_difference)
    )
    summary = {**compared.as_dict(), "passed": is_good}
    saved = [] if out is None else _save(summary, compared, max_difference, out)
    if as_json:
        print_json(summary)
    else:
        _show(compared, max_difference)
        for path in saved:
            print_line(f"saved {path}")
    return 0 if is_good else 1


def _kept(files: list[Path], only: str | None, spool: Spool) -> list[Asked]:
    """Returns what can be asked anew, in order of time, and keeps it."""
    found: list[Asked] = []
    models: set[str] = set()
    try:
        # Images stay as they are in the file until they are asked.
        for one in read_recordings(files, "inferential replay", "encoded"):
            models.add(one.model_id)
            if one.observation is not None and one.answer is not None and only in (None, one.model_id):
                found.append(Asked(one.received_ns, one.client_id, one.session, one.model_id, spool.keep(one)))
    except OSError as error:  # of the spool: what is read names its file
        raise CliError(f"no room for what is to be asked in {gettempdir()} (set TMPDIR): {error.strerror}") from error
    if not found:
        of = f" of model {only!r}" if only else ""
        raise CliError(f"no observation with an answer{of}; models: {', '.join(sorted(models)) or 'none'}")
    return sorted(found)


def _ask_model(asking: Asking, model: str) -> None:
    models = sorted({one.model_id for one in asking.asked})
    if len(models) > 1:
        raise CliError(
            f"what was asked of {len(models)} models is recorded ({', '.join(models)}): choose by --only MODEL"
        )
    # Before there is an event loop, for which the first Ctrl-C would wait until the model is imported and made.
    dispatcher = LocalDispatcher(load_models({"replayed": model}))
    asyncio.run(asking.ask_model(dispatcher))


def _save(summary: dict[str, Any], compared: Compared, allowed: float | None, out: Path) -> list[Path]:
    try:
        from inferential.cli.replay_picture import save_differences
    except ModuleNotFoundError as error:
        raise missing("--out", error, "demo") from error
    saved = [out / "replay.json", out / "differences.png", out / "differences.svg"]
    with writing_to(out):
        saved[0].write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        save_differences(compared, saved[1:], allowed=allowed)
    return saved


def _show(compared: Compared, limit: float | None) -> None:
    found = list(compared.rows())
    with_model = len({row.model for row in found}) > 1
    rows = [
        (
            f"{row.model} {row.key}" if with_model else row.key,
            str(row.dimension),
            f"{row.mean:.6g}",
            f"{row.largest:.6g}",
        )
        for row in found
    ]
    if rows:
        print_rows(("array", "dimension", "mean difference", "largest"), rows[:_DIMENSIONS])
    if len(rows) > _DIMENSIONS:
        print_line(f"and {len(rows) - _DIMENSIONS} more dimensions")
    for what, count in {**compared.unlike, **compared.failed}.items():
        print_line(f"{count} x {what}", "red")
    if not compared.compared:
        print_line("no answer could be compared", "red")
        return
    bound = "" if limit is None else f", {limit:g} allowed"
    print_line(f"{compared.compared} answers compared; largest difference {compared.worst:.6g}{bound}")
