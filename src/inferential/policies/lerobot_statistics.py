"""Finds what a policy of LeRobot should normalize and cannot, as its folder has no statistics of it.

LeRobot 0.6.1 passes such a value on as it is (`processor/normalize_processor.py`), so that actions come in the units of
the network, not of the robot.
"""

from __future__ import annotations

from typing import Any

_ACTION = "ACTION"


def unnormalized(before: Any, after: Any) -> list[str]:
    """Returns the inputs and outputs that a policy's processors should normalize and pass on as they are.

    Args:
        before, after: the policy's pre- and postprocessor.
    """
    found: dict[str, None] = {}
    for pipeline, is_output in ((before, False), (after, True)):
        for step in pipeline.steps:
            modes, features = getattr(step, "norm_map", None), getattr(step, "features", None)
            if not modes or not features:
                continue
            known = {name.rpartition(".")[0] for name in step.state_dict()}
            chosen = getattr(step, "normalize_observation_keys", None)
            for key, feature in features.items():
                mode = modes.get(feature.type)
                if (feature.type.name == _ACTION) is not is_output or mode is None or mode.name == "IDENTITY":
                    continue
                if key not in known and (is_output or chosen is None or key in chosen):
                    found[key] = None
    return list(found)
