"""Checks the actions of models' results by the configuration, `models.known.<id>.actions`, or clips them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from inferential.config.schema import ModelConfig
from inferential.notices import Notices
from inferential.proto.actions import CHUNK_KEYS, ActionSpecs, action_keys, read_chunk

logger: logging.Logger = logging.getLogger("inferential.dispatch")


@dataclass(frozen=True, slots=True)
class _Limits:
    specs: ActionSpecs
    keys: list[str] | None
    clips: bool


class ActionChecks:
    """The limits of the models that have some.

    Args:
        models: the configuration by model id.
    """

    def __init__(self, models: Mapping[str, ModelConfig]) -> None:
        self._notices = Notices(logger)
        self._limits: dict[str, _Limits] = {}
        for model_id, model in models.items():
            specs = model.actions.specs()
            if specs is not None:
                keys = list(model.actions.keys) or None
                self._limits[model_id] = _Limits(specs, keys, model.actions.on_bad == "clip")

    def checked(self, model_id: str, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns a result with actions within the limits of its model.

        Raises:
            BadActions: naming the key, what came and what was expected.
        """
        limits = self._limits.get(model_id)
        if limits is None:
            return values
        chunks = [action_keys(values, limits.keys)]
        if limits.keys is None:  # which of both a robot plays is not known here
            both = (key for key in CHUNK_KEYS if isinstance(values.get(key), np.ndarray))
            chunks += [[key] for key in both if key not in chunks[0]]
        if not limits.clips:
            for keys in chunks:
                limits.specs.read(values, keys)
            return values
        clipped = dict(values)
        for keys in chunks:
            for key, actions in read_chunk(values, keys, limits.specs.axes_of(keys)).items():
                spec = limits.specs.of(key)
                within = actions if spec is None else spec.clip(key, actions)
                if (within != actions).any():
                    text = "model %s: actions at %r are clipped to their limits"
                    self._notices.say((model_id, key), text, model_id, key)
                    clipped[key] = within.reshape(values[key].shape)
        return clipped
