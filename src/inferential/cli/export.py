"""`inferential export`: recordings as a dataset to train policies on."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from inferential.cli.errors import CliError, missing
from inferential.cli.output import print_json, print_line, print_rows
from inferential.cli.recordings import read_recordings, recordings_in

EXAMPLES = (
    "inferential export recordings --lerobot datasets/kitchen",
    "inferential export run.mcap --lerobot kitchen --model pi0 --fps 10 --task 'fold the towel'",
    "inferential export run.mcap --lerobot kitchen --name joints=observation.state --without debug --images png",
)


def export(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Recordings (MCAP), or folders of them.")],
    lerobot: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Write a LeRobotDataset v3.0 there; it must not be there yet.")
    ],
    model: Annotated[list[str] | None, typer.Option(help="Requests to this model alone; may be repeated.")] = None,
    robot: Annotated[list[str] | None, typer.Option(help="Requests of this robot alone; may be repeated.")] = None,
    fps: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Frames per second; by default the usual rate of the robots.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="What the robots did, where no prompt says it; by default the model's id.")
    ] = None,
    images: Annotated[
        Literal["auto", "video", "png"], typer.Option(help="Images as video, where it can be encoded, or as PNG.")
    ] = "auto",
    name: Annotated[
        list[str] | None, typer.Option(metavar="KEY=NAME", help="Call a value otherwise; may be repeated.")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="Leave a value of the observations out; may be repeated.")
    ] = None,
    pause_s: Annotated[float, typer.Option(min=0.001, help="A pause that ends an episode, in seconds.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> int:
    """Make a dataset to train policies on from recordings.

    An episode is what one robot did in one session without a pause. Each step
    of 1/fps has the observation nearest in time and the first action of its
    answer. The task is the prompt of the observation.
    """
    chosen = {
        "models": frozenset(model or ()),
        "robots": frozenset(robot or ()),
        "fps": fps,
        "pause_s": pause_s,
        "names": _names(name or []),
        "without": frozenset(without or ()),
    }
    recordings = [one for path in files for one in recordings_in(path)]
    with _as_cli_errors(lerobot), _new_folder(lerobot) as part, _Progress(recordings, shown=not as_json) as progress:
        plan = _make(part, progress.requests(), chosen, images, task, progress)
    _show(plan, lerobot, as_json)
    return 0


@contextmanager
def _as_cli_errors(folder: Path) -> Iterator[None]:
    """Raises what goes wrong as CliError."""
    try:
        from inferential.recording.dataset.plan import DatasetError
    except ModuleNotFoundError as error:
        raise missing("inferential export", error, "export") from error
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing("inferential export", error, "export") from error
    except DatasetError as error:
        raise CliError(str(error)) from error
    except OSError as error:
        raise CliError(f"{error.filename or folder}: {error.strerror or error}") from error


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yields a folder beside the dataset's, which then takes its name, so that no half dataset is ever there."""
    part = _make_part(folder)
    try:
        yield part
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _make_part(folder: Path) -> Path:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CliError(f"--lerobot: {folder} is there already; name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))


def _names(given: list[str]) -> dict[str, str]:
    names: dict[str, str] = {}
    for one in given:
        key, equals, name = one.rpartition("=")
        if not equals or not key or not name or "/" in name:
            raise CliError(f"--name: expected KEY=NAME with a name without slashes, got {one!r}")
        names[key] = name
    return names


def _make(
    part: Path, requests: Iterable[Any], chosen: dict[str, Any], images: str, task: str | None, progress: _Progress
) -> Any:
    """Makes the dataset in a folder, and returns its plan."""
    from inferential.recording.dataset.episodes import Episodes
    from inferential.recording.dataset.lerobot import DatasetWriter, frame_of
    from inferential.recording.dataset.plan import make_plan
    from inferential.recording.spool import Spool

    with Spool(part.parent) as spool:
        episodes = Episodes(spool)
        plan = make_plan(episodes.keep(requests), **chosen)
        writer = DatasetWriter(part, plan, _codec(plan, images))
        progress.begin("frames", plan.frames)
        for episode in plan.episodes:
            frames = (frame_of(one, plan.features, task) for one in episodes.steps(episode))
            writer.add(episode, frames, progress.advance)
        writer.finish()
    part.chmod(0o755)
    return plan


def _codec(plan: Any, images: str) -> str | None:
    """Returns what images are encoded with; None: they become PNG."""
    from inferential.recording.dataset import pictures

    shapes = [feature.shape for feature in plan.features if feature.kind == "image"]
    codec = None if images == "png" else pictures.find_codec(plan.fps, shapes)
    if images == "video" and codec is None:
        raise CliError(
            f"--images video: no encoder takes them; tried PyAV (pip install av) with {', '.join(pictures.CODECS)}"
        )
    return codec


class _Progress:
    """A bar on standard error, where a person sees it."""

    def __init__(self, files: list[Path], *, shown: bool) -> None:
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        self._bar = Progress(console=console, transient=True, disable=not (shown and console.is_terminal))
        self._task = self._bar.add_task("reading", total=len(files))
        self._files = files

    def requests(self) -> Iterator[Any]:
        """Yields the requests of all files, and shows which is read."""
        for path in self._files:
            self._bar.update(self._task, description=f"reading {path.name}")
            yield from read_recordings([path], "inferential export", "encoded")
            self._bar.advance(self._task)

    def begin(self, what: str, total: int) -> None:
        self._bar.reset(self._task, description=what, total=total)

    def advance(self) -> None:
        self._bar.advance(self._task)

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()


def _show(plan: Any, folder: Path, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "folder": str(folder),
                "episodes": len(plan.episodes),
                "frames": plan.frames,
                "fps": plan.fps,
                "features": {
                    feature.name: {"from": list(feature.keys), "dtype": feature.dtype, "shape": list(feature.shape)}
                    for feature in plan.features
                },
                "left_out": plan.left_out,
            }
        )
        return
    rows = [(one.name, ", ".join(one.keys), one.dtype, str(one.shape)) for one in plan.features]
    print_rows(("feature", "from", "dtype", "shape"), rows)
    for key, why in plan.left_out.items():
        print_line(f"left out: {key} ({why})")
    episodes = "1 episode" if len(plan.episodes) == 1 else f"{len(plan.episodes)} episodes"
    print_line(f"{folder}: {episodes}, {plan.frames} frames at {plan.fps} Hz")
