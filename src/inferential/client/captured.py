"""When what an observation holds was seen: from times of the robot's clock to ages, which travel."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np

from inferential.proto import Captured

CAPTURE_ARGUMENTS: frozenset[str] = frozenset({"captured_at", "timestamps"})
"""The arguments of `observe` that say it; `clock` is one beside them, and a value like any other elsewhere."""
TOLERANCE_MS = 50.0
"""How far in the future a time may lie, as a driver may stamp it with another clock; its age is 0 then."""
LONGEST_AGE_MS = 30 * 86_400e3
"""What is older was given in another unit or by another clock."""

_OTHER_UNIT_MS = 1e3
_BEGINNING = 1 / 500
"""Of what the monotonic clock says: what is older than a second and was seen so soon after that clock began, when no
robot observed, are whole seconds, milliseconds or microseconds."""

_CLOCKS: dict[str, str] = {"monotonic": "monotonic_ns", "wall": "time_ns"}  # functions of `time`
_LEAST_MS = 1e-6  # an age of 0 says nothing on the wire


def captured_of(
    arguments: Mapping[str, Any], keys: Collection[str], now_ns: Callable[[str], int] | None = None
) -> Captured | None:
    """Returns how old an observation is now; None where nothing is said.

    Args:
        arguments: `captured_at`, a time: seconds as a float, or nanoseconds as an int; `timestamps`, times by key;
            `clock`, "monotonic" (`time.monotonic()`, where it is not given) or "wall" (`time.time()`).
        keys: of the observation's values.
        now_ns: returns what the clock of a name says; None: the system's.

    Raises:
        TypeError, ValueError: naming the argument, its value and what is expected.
    """
    captured_at, timestamps = arguments.get("captured_at"), arguments.get("timestamps")
    if captured_at is None and timestamps is None:
        return None
    clock = arguments.get("clock", "monotonic")
    if not isinstance(clock, str) or clock not in _CLOCKS:
        raise ValueError(f"clock: expected 'monotonic' (time.monotonic()) or 'wall' (time.time()), got {clock!r}")
    if timestamps is None:
        timestamps = {}
    if not isinstance(timestamps, Mapping):
        raise TypeError(f"timestamps: expected a map of times by key, got {type(timestamps).__name__}")
    for key in timestamps:
        if key not in keys:
            known = ", ".join(sorted(map(repr, keys))) or "none"
            raise ValueError(f"timestamps: the observation has no key {key!r}; it has {known}")
    now = getattr(time, _CLOCKS[clock])() if now_ns is None else now_ns(clock)
    ages = {key: _age_ms(f"timestamps[{key!r}]", at, now, clock) for key, at in timestamps.items()}
    if captured_at is not None:
        age_ms = _age_ms("captured_at", captured_at, now, clock)
    elif ages:
        age_ms = max(ages.values())
    else:
        return None
    return Captured(age_ms=max(age_ms, _LEAST_MS), tensor_ages_ms=ages)


def _age_ms(name: str, at: Any, now_ns: int, clock: str) -> float:
    expected = f"{name}: expected seconds as a float or nanoseconds as an int of the {clock} clock"
    if isinstance(at, (bool, np.bool_)) or not isinstance(at, Real):
        raise TypeError(f"{expected}, got {at!r}")
    if isinstance(at, np.floating) and at.itemsize < 8:
        raise TypeError(f"{expected}, got {at.dtype}, which holds no time exactly; float64 does")
    try:
        age_ms = (now_ns - int(at)) / 1e6 if isinstance(at, Integral) else now_ns / 1e6 - float(at) * 1e3
    except OverflowError:
        age_ms = math.nan
    if not math.isfinite(age_ms):
        raise ValueError(f"{expected}, got {at!r}")
    other = "wall" if clock == "monotonic" else "monotonic"
    hint = f"a time of the {other} clock needs clock={other!r}, and an int is nanoseconds"
    if age_ms < -TOLERANCE_MS:
        raise ValueError(f"{expected}, got {at!r}, which is {-age_ms / 1e3:.3f} s in the future; {hint}")
    if age_ms > LONGEST_AGE_MS:
        raise ValueError(f"{expected}, got {at!r}, which is {age_ms / 86_400e3:.0f} days ago; {hint}")
    if clock == "monotonic" and age_ms > max(now_ns / 1e6 * (1 - _BEGINNING), _OTHER_UNIT_MS):
        raise ValueError(
            f"{expected}, got {at!r}, which is {age_ms / 1e3:.0f} s ago, as long as that clock goes; {hint}"
        )
    return max(age_ms, 0.0)
