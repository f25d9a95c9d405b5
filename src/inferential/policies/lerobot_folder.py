"""Reads the folder of a policy that LeRobot saved: its configuration, the policy, and its processors.

Facts of LeRobot 0.6.1 (`policies/factory.py`, `configs/policies.py`, `processor/`).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inferential.policies.files import PolicyFileError, check_fetched, missing_package
from inferential.policies.lerobot_statistics import unnormalized
from inferential.policies.lerobot_weights import load_policy
from inferential.policies.torch_device import torch_device

logger: logging.Logger = logging.getLogger("inferential.policies")

_OF_THE_HUB = re.compile(r"[\w-][\w.-]*/[\w.-]+")
"""A policy's name on the Hub, as lerobot/act_aloha."""
_PLANS = "tdmpc"
"""A policy that begins each plan with its last one, of whichever robot."""


@dataclass(frozen=True, slots=True)
class SavedParts:
    """What LeRobot makes of a folder.

    Attributes:
        policy: on its device, in evaluation mode, without gradients.
        config: the policy's.
        processors: the saved pre- and postprocessor.
    """

    policy: Any
    config: Any
    processors: tuple[Any, Any]


def read_folder(path: str, device: str | None, overrides: Mapping[str, Any]) -> SavedParts:
    """Returns the parts of the policy in a folder.

    Args:
        path: of the folder: config.json, model.safetensors and the processors' files.
        device: as torch names it; "cuda" where there is one, else "cpu", without one.
        overrides: fields of the policy's configuration to change.

    Raises:
        PolicyFileError: there is no such policy, or LeRobot cannot load it.
        ValueError: naming the argument.
    """
    folder = _folder(path)
    try:
        from lerobot.policies.factory import get_policy_class, make_pre_post_processors
    except ModuleNotFoundError as error:
        raise missing_package(error, "lerobot") from error
    chosen = str(torch_device(device))
    config = _config(path, folder, chosen, overrides)
    try:
        policy = load_policy(get_policy_class(config.type), folder, config)
        before, after = make_pre_post_processors(
            config,
            pretrained_path=str(folder),
            preprocessor_overrides={"device_processor": {"device": chosen}},
            postprocessor_overrides={"device_processor": {"device": "cpu"}} if _moves(folder) else {},
        )
    except PolicyFileError:
        raise
    except Exception as error:  # of the policy's own kind
        raise _unreadable(path, error) from error
    if lacking := unnormalized(before, after):
        logger.warning("%s has no statistics of %s, which are not normalized", path, ", ".join(lacking))
    policy.eval().requires_grad_(False)
    return SavedParts(policy, config, (before, after))


def _folder(path: str) -> Path:
    """Returns the folder of a path, `~` resolved, where it has a policy whose files are there."""
    folder = Path(path).expanduser()
    if not (folder / "config.json").is_file():
        what = "is a file" if folder.is_file() else "has no config.json" if folder.exists() else "does not exist"
        raise PolicyFileError(f"{path} {what}: expected a folder of a policy's save_pretrained(){_hint(path, folder)}")
    for file in folder.glob("*.safetensors"):
        check_fetched(file)
    return folder


def _config(path: str, folder: Path, device: str, overrides: Mapping[str, Any]) -> Any:
    """Returns the policy's configuration, for that device and with those fields."""
    from lerobot.configs.policies import PreTrainedConfig

    try:
        config = PreTrainedConfig.from_pretrained(str(folder))
    except Exception as error:  # draccus, huggingface_hub and json have no common base but this
        raise _unreadable(path, error) from error
    if config.type == _PLANS:
        raise PolicyFileError(f"{path}: a {_PLANS} policy keeps its last plan, which all robots would share")
    config.device = device
    if hasattr(config, "pretrained_backbone_weights"):
        config.pretrained_backbone_weights = None  # else LeRobot downloads weights that the file replaces
    for name, value in overrides.items():
        if not hasattr(config, name):
            raise ValueError(f"overrides: {type(config).__name__} has no field {name!r}")
        setattr(config, name, value)
    return config


def _hint(path: str, folder: Path) -> str:
    """Returns what may have been meant by a folder that has no policy."""
    if not folder.exists() and _OF_THE_HUB.fullmatch(path):
        return f", as hf download {path} --local-dir FOLDER makes one of a policy on the Hub"
    for inner in ("pretrained_model", "checkpoints/last/pretrained_model"):  # of what lerobot-train writes
        if (folder / inner / "config.json").is_file():
            return f"; there is one in {path.rstrip('/')}/{inner}"
    return ""


def _unreadable(path: str, error: Exception) -> PolicyFileError:
    return PolicyFileError(f"LeRobot cannot load {path}: {type(error).__name__}: {' '.join(str(error).split())[:500]}")


def _moves(folder: Path) -> bool:
    """Returns whether the saved postprocessor has a step that moves tensors to a device."""
    try:
        saved = json.loads((folder / "policy_postprocessor.json").read_text())
        return any(step.get("registry_name") == "device_processor" for step in saved["steps"])
    except (OSError, ValueError, KeyError):
        return False
