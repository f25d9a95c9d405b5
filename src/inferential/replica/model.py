"""The methods of a model, whichever of the accepted forms it has."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from inferential.replica.sessions import SessionStore, keeps_state, with_sessions

DEFAULT_MAX_BATCH_SIZE = 8
"""Of a model that has `infer_batch` and no `max_batch_size`."""

Method = Callable[[Any], Any]


@dataclass(frozen=True)
class ModelMethods:
    """What can be called of a model.

    Attributes:
        single: runs one observation; None where there is `batch` alone.
        batch: runs a list of observations; None where the model has no `infer_batch`.
        max_batch_size: rows that `batch` takes; 1 without it.
        aclose: coroutine function that releases the model; None where it has none.
        sessions: those of its robots; `single` and `batch` take `SessionRow`s then. None: it keeps no state.
    """

    single: Method | None
    batch: Method | None
    max_batch_size: int
    aclose: Callable[[], Awaitable[None]] | None
    sessions: SessionStore | None = None


def methods_of(model_id: str, model: Any) -> ModelMethods:
    """Returns the methods of a model.

    Args:
        model_id: for messages.
        model: a callable of one observation, or an object with `infer` or `infer_batch`.

    Raises:
        TypeError: it is none of these, the class of one, or needs other arguments.
        ValueError: its `max_batch_size` is not a whole number above 0.
    """
    if isinstance(model, type) and any(map(inspect.isfunction, _static_methods(model))):
        name = model.__name__
        raise TypeError(f"model {model_id!r}: expected a model, got the class {name}; {name}(...) makes one")
    batch = getattr(model, "infer_batch", None)
    single = getattr(model, "infer", None) or (model if callable(model) else None)
    if single is None and batch is None:
        raise TypeError(
            f"model {model_id!r}: expected a callable, or an object with infer(observation) or "
            f"infer_batch(observations), got {type(model).__name__}"
        )
    max_batch_size = 1 if batch is None else _max_batch_size(model_id, model)
    aclose = getattr(model, "aclose", None)
    if not keeps_state(single, batch):
        _check_takes_one(model_id, single, "observation")
        _check_takes_one(model_id, batch, "observations")
        return ModelMethods(single, batch, max_batch_size, aclose)
    sessions = SessionStore(model)
    return ModelMethods(*with_sessions(single, batch, sessions), max_batch_size, aclose, sessions)


def is_async(function: Any) -> bool:
    """Returns whether calling a function gives a coroutine."""
    if inspect.iscoroutinefunction(function):
        return True
    return inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004 (its kind, not its presence)


def _check_takes_one(model_id: str, method: Method | None, what: str) -> None:
    try:
        # Not of what it wraps: that may take more, which a decorator adds.
        signature = inspect.signature(method, follow_wrapped=False)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # some built-in functions have none
        return
    try:
        signature.bind(None)
    except TypeError as error:
        name = getattr(method, "__name__", type(method).__name__)
        text = f"expected a function of the {what} alone, as {name}({what}), got {name}{signature}: {error}"
        raise TypeError(f"model {model_id!r}: {text}") from error


def _static_methods(model: type) -> list[Any]:
    """Returns a class's model methods as functions; those that a class itself can run are no functions."""
    return [inspect.getattr_static(model, name, None) for name in ("infer", "infer_batch")]


def _max_batch_size(model_id: str, model: Any) -> int:
    given = getattr(model, "max_batch_size", None)
    if given is None:
        return DEFAULT_MAX_BATCH_SIZE
    try:
        size = operator.index(given)
    except TypeError:
        size = 0
    if size < 1:
        raise ValueError(f"model {model_id!r}: max_batch_size: expected a whole number above 0, got {given!r}")
    return size
