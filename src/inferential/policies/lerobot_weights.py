"""Loads a policy of LeRobot with the weights of its file, and refuses one that has not got them.

LeRobot 0.6.1 goes on with random weights where the file lacks some (`policies/pretrained.py` loads with strict=False),
and its pi0 family after any error of the file ("Returning model without loading pretrained weights"): chance would
drive the robot.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inferential.policies.files import PolicyFileError

_WEIGHTS, _ADAPTER = "model.safetensors", "adapter_config.json"


def load_policy(policy_class: Any, folder: Path, config: Any) -> Any:
    """Returns the policy in a folder.

    Args:
        policy_class: of LeRobot, a subclass of its PreTrainedPolicy.
        folder: of a `save_pretrained`.
        config: the policy's.

    Raises:
        PolicyFileError: there is no file of weights, or it lacks weights of the policy.
        Exception: LeRobot or safetensors cannot read it.
    """
    from lerobot.policies.pretrained import PreTrainedPolicy
    from safetensors import safe_open

    file = folder / _WEIGHTS
    if not file.is_file():
        adapter = " beside its adapter: merge the adapter into the policy" if (folder / _ADAPTER).is_file() else ""
        raise PolicyFileError(f"{folder} has no {_WEIGHTS}{adapter}")
    with safe_open(str(file), "pt"):  # says what is wrong with a file that is cut off
        pass
    given: set[str] = set()

    def load_state_dict(self: Any, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        own = self.state_dict()
        given.update(name for name, one in state_dict.items() if name in own and own[name].shape == one.shape)
        return policy_class.load_state_dict(self, state_dict, *args, **options)

    watched: Any = type(policy_class.__name__, (policy_class,), {"load_state_dict": load_state_dict})
    policy = watched.from_pretrained(str(folder), config=config)
    # A policy with a loader of its own may leave out what it gets elsewhere, as a frozen backbone.
    has_own_loader = policy_class._load_as_safetensor.__func__ is not PreTrainedPolicy._load_as_safetensor.__func__
    weights = policy.state_dict()
    if (lacking := _lacking(weights, given)) and (not has_own_loader or not given):
        raise PolicyFileError(
            f"{file} lacks {len(lacking)} of the policy's {len(weights)} weights, or has them in another shape:"
            f" {', '.join(lacking[:3])}"
        )
    return policy


def _lacking(weights: Mapping[str, Any], given: set[str]) -> list[str]:
    """Returns the weights that were not given, those aside that share their memory with a given one."""
    shared = {weights[name].data_ptr() for name in given if name in weights}
    return [name for name, one in weights.items() if name not in given and one.numel() and one.data_ptr() not in shared]
