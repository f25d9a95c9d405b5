"""Reads recordings, for the commands that play them back, simulate them or make datasets of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from inferential.cli.errors import CliError, missing
from inferential.sim.virtual.happened import Happened

if TYPE_CHECKING:
    from inferential.recording.reading import Recorded


def read_recordings(
    files: Iterable[Path], what: str, images: Literal["pixels", "encoded"] = "pixels"
) -> Iterator[Recorded]:
    """Yields the requests of recordings.

    Args:
        files: recordings (MCAP), and folders with such.
        what: the command that needs them, for errors.
        images: as `read_recording` takes it.

    Raises:
        CliError: one cannot be read, or the package for it is not installed.
    """
    for path in files:
        for one in recordings_in(path):
            yield from _read(one, what, images)


def _read(path: Path, what: str, images: Literal["pixels", "encoded"]) -> Iterator[Recorded]:
    try:
        from inferential.recording.reading import RecordingError, read_recording
    except ModuleNotFoundError as error:
        raise missing(what, error, "record") from error
    try:
        yield from read_recording(path, images)
    except RecordingError as error:
        raise CliError(str(error)) from error
    except OSError as error:  # what a disk that fails raises names no file
        raise CliError(f"{error.filename or path}: {error.strerror or error}") from error


def recordings_in(path: Path) -> list[Path]:
    """Returns a recording itself, or those of a folder in the order of their names, which is that of their times.

    Raises:
        CliError: a folder has none.
    """
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("*.mcap"))
    if not found:
        raise CliError(f"{path}: no recording (*.mcap) is in this folder")
    return found


def read_happened(files: Iterable[Path], what: str) -> list[Happened]:
    """Returns the requests of recordings as what happened on a server; arguments and errors as `read_recordings`."""
    return [_happened(one) for one in read_recordings(files, what, "encoded")]


def _happened(one: Recorded) -> Happened:
    fields = one.fields
    steps = int(fields.get("steps_remaining", -1))
    return Happened(
        one.received_ns / 1e9,
        one.client_id,
        one.client_type,
        one.model_id,
        one.end,
        fields["server_ms"],
        fields["queue_ms"],
        fields["inference_ms"],
        fields["batch_size"],
        fields["budget_ms"],
        fields.get("priority", 1),
        fields.get("urgency", 0.0),
        None if steps < 0 else steps,
    )
