"""How many actions of a chunk a robot had better play before the next one follows: by load, and by trust in the chunk.

A long horizon costs the model few calls; a short one reacts sooner to what the robot sees. No clock and no I/O.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

TRUSTED = 0.5
"""Of confidences by action, the least with which an action is played."""
_ROUNDING = 1e-6


def execution_horizon(
    actions: int,
    confidence: object,
    *,
    interval_steps: float = 0.0,
    played_steps: int = 0,
) -> int:
    """Returns after how many of a chunk's actions the next chunk had better follow; 0: nothing speaks for a number.

    The model's confidence says how far the chunk can be trusted; the load says how soon the next one can be had. The
    larger of both is suggested, and never more than the chunk has.

    Args:
        actions: in the chunk.
        confidence: of the model: one number from 0 to 1, the share of the chunk that it trusts; or one of each action,
            of which those before the first below TRUSTED are trusted. What is none of both is ignored.
        interval_steps: the shortest interval at which the robot can be served, in control steps; 0: no limit.
        played_steps: how many actions of a chunk the robot plays by itself; under load it is not asked for fewer.
    """
    if actions < 1:
        return 0
    limited = math.isfinite(interval_steps) and interval_steps > 0
    least = math.ceil(min(interval_steps, actions) - _ROUNDING) if limited else 0
    trusted = trusted_actions(actions, confidence)
    if trusted is not None:
        return min(max(trusted, least, 1), actions)
    return min(max(least, played_steps, 1), actions) if limited else 0


def trusted_actions(actions: int, confidence: object) -> int | None:
    """Returns how many actions of a chunk the model trusts, at least 1; None where it does not say."""
    if confidence is None or isinstance(confidence, str):
        return None
    try:
        values: npt.NDArray[np.float64] = np.asarray(confidence, dtype=np.float64).ravel()
    except (TypeError, ValueError):
        return None
    if not np.isfinite(values).all():
        return None
    if values.size == 1:
        return max(math.ceil(min(max(float(values[0]), 0.0), 1.0) * actions - _ROUNDING), 1)
    if values.size != actions:
        return None
    doubted = np.flatnonzero(values < TRUSTED)
    return max(int(doubted[0]), 1) if doubted.size else actions
