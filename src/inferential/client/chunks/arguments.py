"""Checks of the arguments of a chunk runtime, when it is made: a robot that moves is to meet none of these errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from inspect import iscoroutinefunction
from numbers import Integral, Real
from typing import Any

import numpy as np

from inferential.client.model import Model
from inferential.proto.actions import holds_numbers, is_finite


def check_number(
    name: str, value: Any, expected: str, holds: Callable[[Any], bool], kind: type[Real] | type[Integral] = Real
) -> None:
    """Checks a number.

    Raises:
        TypeError: it is none, or not a whole one where `kind` is Integral.
        ValueError: it does not hold.
    """
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(f"{name}: expected {expected}, got {value!r}")
    if not holds(value):
        raise ValueError(f"{name}: expected {expected}, got {value!r}")


def check_player(
    control_rate_hz: float, execution_horizon: int | None, quantile: float, refresh_ms: float | None
) -> None:
    """Checks the numbers that a player is made with.

    Raises:
        TypeError, ValueError: naming the one that is wrong.
    """
    check_number("control_rate_hz", control_rate_hz, "a finite number above 0", lambda hz: 0 < hz < math.inf)
    check_number("quantile", quantile, "a number above 0 and at most 1", lambda share: 0 < share <= 1)
    if execution_horizon is not None:
        expected = "a whole number of at least 1, or None"
        check_number("execution_horizon", execution_horizon, expected, lambda steps: steps >= 1, Integral)
    if refresh_ms is not None:
        check_number("refresh_ms", refresh_ms, "a finite number above 0, or None", lambda ms: 0 < ms < math.inf)


def check_ways(merge: Any, index: Any, *, rtc: bool) -> None:
    """Checks how chunks are merged and which action of a late one is played.

    Raises:
        ValueError: naming the one that is wrong.
    """
    if rtc and merge != "replace":
        raise ValueError(f"merge: with rtc the policy itself makes chunks agree; expected 'replace', got {merge!r}")
    if index not in ("executed", "time"):
        raise ValueError(f"index: expected 'executed' or 'time', got {index!r}")


def check_choice(name: str, value: Any, *choices: str) -> None:
    """Checks that a value is one of these texts, or a function.

    Raises:
        ValueError: it is another text.
        TypeError: it is neither, or a coroutine function.
    """
    if isinstance(value, str) and value in choices:
        return
    if callable(value):
        check_function(name, value)
        return
    kind = ValueError if isinstance(value, str) else TypeError
    raise kind(f"{name}: expected {', '.join(map(repr, choices))} or a function, got {value!r}")


def check_stop_action(stop_action: Any) -> None:
    """Checks that a stop action holds finite numbers.

    Raises:
        ValueError: it does not.
    """
    parts = stop_action.values() if isinstance(stop_action, Mapping) else [stop_action]
    for part in map(np.asarray, parts):
        if not holds_numbers(part.dtype) or not is_finite(part):
            raise ValueError(f"stop_action: expected finite numbers, got {stop_action!r}")


def check_key(key: Any) -> None:
    """Checks that `key` names keys of a result.

    Raises:
        TypeError: it is neither text nor a sequence of texts.
    """
    keys = [key] if isinstance(key, str) else key
    if not isinstance(keys, Sequence) or not keys or not all(isinstance(one, str) for one in keys):
        raise TypeError(f"key: expected the key of the chunk in a result, or a sequence of keys, got {key!r}")


def check_seconds(seconds: Any) -> None:
    """Checks for how long a loop is to run.

    Raises:
        TypeError, ValueError: it is no number.
    """
    check_number("seconds", seconds, "a number of seconds (math.inf: until it is stopped)", lambda s: s == s)


def check_model(model: Any, *, awaits: bool) -> None:
    """Checks that a handle is one whose methods are coroutines, or one whose are not.

    Raises:
        TypeError: it is the other, or none.
    """
    if not hasattr(model, "observe") or not hasattr(model, "never_wait"):
        raise TypeError(f"model: expected a handle, as connection.model(...) returns it, got {model!r}")
    if awaits and isinstance(model, Model):  # what others have made may return something to await
        raise TypeError("model: expected one of an AsyncConnection, got one of a Connection: use ChunkRuntime")
    if not awaits and iscoroutinefunction(model.observe):
        raise TypeError(
            "model: expected a handle of a Connection, got one of an AsyncConnection: use AsyncChunkRuntime"
        )


def check_function(name: str, function: Any) -> None:
    """Checks that a value is a function.

    Raises:
        TypeError: it is none, or a coroutine function.
    """
    if iscoroutinefunction(function):
        raise TypeError(f"{name}: expected a function that is no coroutine function, got {function!r}")
    if not callable(function):
        raise TypeError(f"{name}: expected a function, got {function!r}")
