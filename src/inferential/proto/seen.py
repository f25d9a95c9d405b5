"""When what a model is given was seen, on its way from the server's ingress to the model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SEEN_KEY = "inferential.seen"
"""Key of the string that carries it to a worker process, among those of the observation."""


@dataclass(frozen=True, slots=True)
class Seen:
    """When an observation and its values were seen, in seconds of `time.monotonic()` on the server's machine.

    Attributes:
        captured_at: of the observation.
        timestamps: of single values, by key.
    """

    captured_at: float
    timestamps: Mapping[str, float]

    def values(self) -> dict[str, Any]:
        """Returns what a model with `sees_timestamps` finds in its observation."""
        return {"captured_at": self.captured_at, "timestamps": dict(self.timestamps)}

    def to_text(self) -> str:
        """Returns it as a string."""
        return json.dumps([self.captured_at, dict(self.timestamps)])

    @classmethod
    def from_text(cls, text: str) -> Seen:
        """Reads what `to_text` wrote; ValueError for any other text."""
        try:
            captured_at, timestamps = json.loads(text)
            found = cls(float(captured_at), {str(key): float(at) for key, at in timestamps.items()})
        except (AttributeError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{SEEN_KEY}: not a time and times by key: {error}") from error
        if not all(map(math.isfinite, (found.captured_at, *found.timestamps.values()))):
            raise ValueError(f"{SEEN_KEY}: a time is not finite")
        return found
