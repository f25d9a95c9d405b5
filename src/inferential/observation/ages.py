"""How old an observation and its values are, by what their robot says: durations, so that no clocks are compared."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from inferential.proto.seen import Seen


@dataclass(frozen=True, slots=True)
class Ages:
    """Ages on arrival, in ms; the time on the way is not in them.

    Attributes:
        observation_ms: of the observation, and of each value that has none of its own.
        values_ms: of single values, by key.
    """

    observation_ms: float
    values_ms: Mapping[str, float]

    def spread_ms(self, keys: Collection[str]) -> float:
        """Returns how far apart the values of these keys were seen, in ms."""
        ages = [self.values_ms.get(key, self.observation_ms) for key in {*keys, *self.values_ms}]
        return max(ages) - min(ages) if ages else 0.0

    def seen(self, received_at: float) -> Seen:
        """Returns when they were seen, by the clock of `received_at`, in seconds."""
        times = {key: received_at - age_ms / 1e3 for key, age_ms in self.values_ms.items()}
        return Seen(received_at - self.observation_ms / 1e3, times)
