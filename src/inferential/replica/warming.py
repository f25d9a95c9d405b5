"""Warms a model up before robots ask it: first calls are slow, and what they take is what a scheduler begins with.

It knows no process: a worker runs it in its own, and models in threads run it in theirs.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from inferential.proto.tensors import Buffer
from inferential.replica.targets import TargetError, find_target
from inferential.replica.values import Observation

LAST = "last"
"""The `warm_up` that runs the newest observation which a robot has sent for the model."""
_MEASURED = 3  # calls of each size; after the first, which compiles and allocates

Measured = list[tuple[int, float]]
"""Rows of a call, and its latency in seconds."""


def load_observations(source: str) -> list[Observation]:
    """Returns the observations of a warm-up.

    Args:
        source: a file, `NAME.npz` (an array a key) or `NAME.json` (an object, or a list of them; lists of numbers are
            float32 arrays), or `module:function`, which returns an observation or several.

    Raises:
        TargetError: there are none; the text says why.
    """
    try:
        if source.endswith(".npz"):
            with np.load(source, allow_pickle=False) as archive:
                return [{key: _value(archive[key]) for key in archive.files}]
        if source.endswith(".json"):
            found = json.loads(Path(source).read_text())
            found = [_of_json(one) for one in (found if isinstance(found, list) else [found])]
        else:
            found = find_target(source)()
        rows = [found] if isinstance(found, Mapping) else list(found)
    except TargetError as error:
        raise TargetError(f"warm_up {source!r}: {error}") from error
    except Exception as error:
        raise TargetError(f"warm_up {source!r}: {type(error).__name__}: {error}") from error
    if not rows or not all(isinstance(row, Mapping) for row in rows):
        raise TargetError(f"warm_up {source!r}: expected an observation, or a list of some, got {found!r:.200}")
    return [dict(row) for row in rows]


def warm_up_rows(source: str | None, newest: Callable[[], tuple[bytes, Buffer] | None]) -> dict[str, Any]:
    """Returns what the settings of a worker hold of the newest observation, where its warm-up is that."""
    row = newest() if source == LAST else None
    if row is None:
        return {}
    return {"warm_up_rows": [[base64.b64encode(part).decode() for part in row]]}


def _value(array: Any) -> Any:
    return str(array) if array.dtype.kind == "U" and array.ndim == 0 else array


def _of_json(row: Any) -> Observation:
    if not isinstance(row, Mapping):
        raise TypeError(f"expected an object, got {row!r:.100}")
    return {key: value if isinstance(value, str) else np.asarray(value, np.float32) for key, value in row.items()}


def warm(
    rows: Sequence[Observation], run: Callable[[list[Any]], object], largest: int, clock: Callable[[], float]
) -> Measured:
    """Runs calls of one row, two, four and so on up to the largest batch; returns how long each size took.

    Args:
        rows: what is run, in turn; each call gets copies.
        run: runs one call.
        largest: rows that one call takes.
        clock: of seconds.
    """
    measured: Measured = []
    for size in _sizes(largest):
        run(_taken(rows, size))
        times = []
        for _ in range(_MEASURED):
            batch = _taken(rows, size)
            began = clock()
            run(batch)
            times.append(clock() - began)
        measured.append((size, median(times)))
    return measured


def _sizes(largest: int) -> Iterable[int]:
    size = 1
    while size < largest:
        yield size
        size *= 2
    yield largest


def _taken(rows: Sequence[Observation], count: int) -> list[Any]:
    chosen = [rows[at % len(rows)] for at in range(count)]
    return [
        {key: value.copy() if isinstance(value, np.ndarray) else value for key, value in row.items()} for row in chosen
    ]


def warmed(rows: Sequence[Observation], run: Callable[[list[Any]], object], largest: int) -> Measured:
    """Does what `warm` does by the clock of this process.

    Raises:
        TargetError: the model failed.
    """
    try:
        return warm(rows, run, largest, time.perf_counter)
    except Exception as error:
        raise TargetError(f"its warm-up failed: {type(error).__name__}: {error}") from error
