"""What a model in another process says of itself, in a form that a message can carry."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from inferential.replica.structured import refuse_shared_keys


def metadata_of(model: Any) -> dict[str, Any]:
    """Returns a model's `metadata`, a map or a function, sync or async, that returns one; {} without it.

    Arrays become lists, and numpy's numbers Python's.

    Raises:
        TypeError: naming a key whose value JSON cannot hold, or two that are the same text.
    """
    found = getattr(model, "metadata", None)
    if callable(found):
        found = found()
    if inspect.isawaitable(found):
        import asyncio  # not for all workers: it takes as much memory as the rest of one

        found = asyncio.run(_awaited(found))
    if not isinstance(found, Mapping):
        return {}
    refuse_shared_keys(found, "metadata")
    return {str(key): _plain(str(key), value) for key, value in found.items()}


def _plain(key: str, value: Any) -> Any:
    try:
        return json.loads(json.dumps(value, default=_as_list))
    except (TypeError, ValueError) as error:
        raise TypeError(f"metadata: {key!r}: expected a value that JSON can hold: {error}") from error


def _as_list(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"got {type(value).__name__}")


async def _awaited(awaitable: Any) -> Any:
    return await awaitable
