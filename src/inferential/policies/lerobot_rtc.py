"""Real-time chunking of LeRobot's policies: the actions that a robot has left guide its next chunk.

A robot's chunk runtime (`rtc=True`) sends the actions that it has left, in its units, and how many of them it will have
played when the answer comes. LeRobot takes them in the coordinates of the policy: the saved preprocessor brings them
there, as it does with the actions of a data set, so that neither the wire nor the server keeps chunks.

Facts of LeRobot 0.6.1 (`policies/rtc/`, `rollout/inference/rtc.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from inferential.errors import InvalidObservation
from inferential.policies.tensors import Array, TensorSpec, pick

LEFT_OVER, DELAY = "prev_chunk_left_over", "inference_delay"
"""Keys of an observation, as the chunk runtime and LeRobot name them."""


@dataclasses.dataclass(frozen=True, slots=True)
class LeftOver:
    """What a robot has left of its chunk.

    Attributes:
        actions: (steps, dimensions) in its units, from the observation's step on, no more than guide the next chunk.
        delay: how many of them will have been played when the answer comes.
    """

    actions: Array
    delay: int


class Rtc:
    """Reads what robots have left, and makes of it what `predict_action_chunk` takes.

    Args:
        horizon: how many steps guide the next chunk at most (`RTCConfig.execution_horizon`).
        dimensions: of an action.
    """

    def __init__(self, horizon: int, dimensions: int | None) -> None:
        self._horizon = horizon
        self.inputs: Sequence[TensorSpec] = (
            TensorSpec(LEFT_OVER, "float32", (None, dimensions), optional=True),
            TensorSpec(DELAY, "int64", (), optional=True),
        )
        """What an observation may have."""

    def left_over(self, observation: Mapping[str, Any]) -> LeftOver | None:
        """Returns what the robot has left; None where it says nothing, as with its first observation.

        Raises:
            InvalidObservation: naming the key, what came and what was expected.
        """
        given = pick(self.inputs, observation)
        if LEFT_OVER not in given or not len(given[LEFT_OVER]):
            return None
        actions, delay = given[LEFT_OVER][: self._horizon], int(given.get(DELAY, 0))
        if not np.isfinite(actions).all():
            raise InvalidObservation(f"{LEFT_OVER!r}: expected finite numbers")
        if delay < 0:
            raise InvalidObservation(f"{DELAY!r}: expected a number of steps, got {delay}")
        return LeftOver(actions, delay)

    @staticmethod
    def arguments(ready: dict[str, Any], left_overs: Sequence[LeftOver]) -> dict[str, Any]:
        """Returns what `predict_action_chunk` takes beside the batch.

        Args:
            ready: the batch after the preprocessor; what is left is taken out of it.
            left_overs: of the robots, of one number of steps. A call has one delay: the largest, so that no robot
                plays an action that the new chunk does not have.
        """
        return {LEFT_OVER: ready.pop("action"), DELAY: max(one.delay for one in left_overs)}


def rtc_of(policy: Any, options: Mapping[str, Any] | None, dimensions: int | None) -> Rtc | None:
    """Turns real-time chunking on in a policy that has it; returns None for any other.

    Args:
        policy: of LeRobot; its own configuration of it is kept.
        options: fields of LeRobot's RTCConfig to change, as `{execution_horizon: 10}`.
        dimensions: of an action.

    Raises:
        ValueError: there are options and the policy has no real-time chunking, or not these.
    """
    has_rtc = getattr(policy, "supports_rtc", None)
    if not callable(has_rtc) or not has_rtc():
        if options:
            raise ValueError(f"rtc: policies of type {policy.config.type} have no real-time chunking")
        return None
    from lerobot.configs.types import RTCAttentionSchedule
    from lerobot.policies.rtc.configuration_rtc import RTCConfig

    changes = dict(options or {})
    known = [field.name for field in dataclasses.fields(RTCConfig)]
    if unknown := [name for name in changes if name not in known]:
        raise ValueError(f"rtc: expected of {', '.join(known)}, got {unknown[0]!r}")
    if "prefix_attention_schedule" in changes:
        changes["prefix_attention_schedule"] = RTCAttentionSchedule(str(changes["prefix_attention_schedule"]).upper())
    config = dataclasses.replace(policy.config.rtc_config or RTCConfig(), **{"enabled": True, **changes})
    if type(config.execution_horizon) is not int or config.execution_horizon < 1:
        raise ValueError(f"rtc: execution_horizon: expected a whole number above 0, got {config.execution_horizon!r}")
    policy.config.rtc_config = config
    if hasattr(policy, "init_rtc_processor"):
        policy.init_rtc_processor()
    return Rtc(config.execution_horizon, dimensions) if config.enabled else None
