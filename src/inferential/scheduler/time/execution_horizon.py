"""How many actions of a chunk a robot had better play before the next one follows: by load, and by trust in the chunk.

A long horizon costs the model few calls; a short one reacts sooner to what the robot sees. A robot asks so early that
its next chunk comes in time, by what its own answers took; one that was answered in small calls, or hardly yet, does
not know how long one may take in a full call that it has to wait for. The server knows, and suggests a horizon so much
shorter. No clock and no I/O.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from inferential.scheduler.request import InferenceRequest

TRUSTED = 0.5
"""Of confidences by action, the least with which an action is played."""
_ROUNDING = 1e-6


def horizon_of_answer(request: InferenceRequest, actions: int, confidence: object, now: float) -> int:
    """Returns after how many actions of an answer's chunk the next one had better follow; 0: it does not matter.

    Args:
        request: which is answered.
        actions: in the chunk.
        confidence: of the model, as `execution_horizon` takes it.
        now: seconds of `time.monotonic()`.
    """
    period_s = request.control_period_s
    if period_s is None:
        return execution_horizon(actions, confidence)
    taken_steps = max(now - request.received_at, 0.0) / period_s
    if not request.serve_interval_ms:
        reserve_s = 0.0 if request.chunk is None else request.chunk.reserve_s
        # What is played until an answer is there is lost of it: half of a chunk at most is not to be.
        reserve_steps = max(min(reserve_s / period_s, actions / 2 - taken_steps), 0.0)
        return execution_horizon(actions, confidence, reserve_steps=reserve_steps)
    played = actions - (request.steps_remaining or 0) + math.ceil(min(taken_steps, actions))
    # The horizon counts from a chunk's observation, and the next one arrives so much after it was asked for.
    interval_steps = request.serve_interval_ms / 1e3 / period_s + taken_steps
    return execution_horizon(actions, confidence, interval_steps=interval_steps, played_steps=played)


def execution_horizon(
    actions: int,
    confidence: object,
    *,
    interval_steps: float = 0.0,
    played_steps: int = 0,
    reserve_steps: float = 0.0,
) -> int:
    """Returns after how many of a chunk's actions the next chunk had better follow; 0: nothing speaks for a number.

    The model's confidence says how far the chunk can be trusted; the load says how soon the next one can be had. The
    larger of both is suggested, and never more than the chunk has, less what is reserved.

    Args:
        actions: in the chunk.
        confidence: of the model: one number from 0 to 1, the share of the chunk that it trusts; or one of each action,
            of which those before the first below TRUSTED are trusted. What is none of both is ignored.
        interval_steps: the shortest interval at which the robot can be served, in control steps; 0: no limit.
        played_steps: how many actions of a chunk the robot plays by itself; under load it is not asked for fewer.
        reserve_steps: the last actions, to be played only where the next chunk takes longer than the robot knows of.
    """
    if actions < 1:
        return 0
    limited = math.isfinite(interval_steps) and interval_steps > 0
    least = math.ceil(min(interval_steps, actions) - _ROUNDING) if limited else 0
    kept = max(actions - math.ceil(reserve_steps - _ROUNDING), 1)
    trusted = trusted_actions(actions, confidence)
    if trusted is not None:
        return min(max(trusted, least, 1), kept)
    if limited:
        return min(max(least, played_steps, 1), kept)
    return kept if kept < actions else 0


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
