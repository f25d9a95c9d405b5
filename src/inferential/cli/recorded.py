"""Reads recordings as what happened on a server, for what simulates it again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from inferential.cli.errors import CliError, missing
from inferential.sim.virtual.happened import Happened


def read_happened(files: Iterable[Path], what: str) -> list[Happened]:
    """Returns the requests of recordings.

    Args:
        files: recordings (MCAP).
        what: the command that needs them, for errors.

    Raises:
        CliError: one cannot be read, or the package for it is not installed.
    """
    try:
        from inferential.recording.reading import RecordingError, read_recording
    except ModuleNotFoundError as error:
        raise missing(what, error, "record") from error
    found = []
    try:
        for path in files:
            for one in read_recording(path, "encoded"):
                fields = one.fields
                steps = int(fields.get("steps_remaining", -1))
                found.append(
                    Happened(
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
                )
    except RecordingError as error:
        raise CliError(str(error)) from error
    except OSError as error:
        raise CliError(f"{error.filename}: {error.strerror}") from error
    return found
