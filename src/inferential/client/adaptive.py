"""How strongly a robot's images are compressed, so that the answers fit the latency budget over the link there is.

An answer's age is the round trip of the link, the time that the link takes for the observation, and a rest: the model's
time, and waiting. Of these the robot decides one, by the size of its images. No I/O, no clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_STEEPEST = 4.0
"""How much the logarithm of an image's size changes at most by a whole step of the level: of camera images, from JPEG
quality 95 down to 85 the most."""
_UP_SHARE, _UP_MOST = 0.2, 0.05
"""Quality rises slowly: a step up that was too large makes actions late, one that was too small does not."""
_DOWN_AT_A_LOSS = 0.25  # where even nothing would come in time
_ROOM = 1.1  # images grow where the link carries so much more than they have
_UNKNOWN_UP = 0.01  # while nothing is known of the link: images that fit in its buffers teach nothing of it
_REST_SHARE = 0.2  # how much the newest age tells of the rest
_SCALE_STEPS = 8  # few: models and batches see few different shapes


@dataclass(frozen=True, slots=True)
class Auto:
    """Sends images as JPEG, as good as the link carries them in time: `encode={"camera/*": Auto(scale=(0.5, 1.0))}`.

    Attributes:
        quality: the lowest and the highest JPEG quality, 1 to 100.
        scale: the smallest and the largest size of the images, as a share of both sides, above 0 to 1. They are made
            smaller once the quality is at its lowest; the model then gets arrays of another shape. By default their
            size stays.

    Raises:
        TypeError, ValueError: naming the attribute, its value and what is expected.
    """

    quality: tuple[int, int] = (40, 95)
    scale: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        _check_pair("quality", self.quality, (int,), 100, "two whole numbers from 1 to 100, the lower first")
        _check_pair("scale", self.scale, (int, float), 1, "two numbers above 0 up to 1, the lower first")

    def at(self, level: float) -> tuple[int, float]:
        """Returns quality and scale of a level: 2 is the best, 1 the lowest quality, 0 that and the smallest size."""
        low, high = self.quality
        smallest, largest = self.scale
        quality = round(low + min(max(level - 1.0, 0.0), 1.0) * (high - low))
        share = math.floor(min(max(level, 0.0), 1.0) * _SCALE_STEPS) / _SCALE_STEPS
        return quality, smallest + share * (largest - smallest)


class QualityControl:
    """Finds the level at which the observations of a handle fit its latency budget.

    Args:
        budget_ms: how old an answer may be, in milliseconds.
        scales: whether the size of images may change.

    Attributes:
        level: from 2, the best, down to 1, the lowest quality, or to 0 where sizes may change.
        rest_ms: what an answer's age has beside the link's share, in milliseconds, smoothed.
    """

    def __init__(self, budget_ms: float, scales: bool) -> None:
        self.level: float = 2.0
        self.rest_ms: float = 0.0
        self._budget_ms = budget_ms
        self._lowest = 0.0 if scales else 1.0
        self._images, self._others = 0, 0  # bytes of the newest observation
        self._on_link_ms = math.nan

    def follow(self, rate_bytes_s: float | None, round_trip_ms: float | None) -> None:
        """Sets the level for the next observation, by the size of the last and what is known of the link."""
        if not self._images:
            return
        if rate_bytes_s is None or round_trip_ms is None:
            self._on_link_ms = math.nan
            self.level = min(self.level + _UNKNOWN_UP, 2.0)
            return
        self._on_link_ms = (self._images + self._others) / rate_bytes_s * 1e3 + round_trip_ms
        room = rate_bytes_s * (self._budget_ms - round_trip_ms - self.rest_ms) / 1e3 - self._others
        if room <= 0:
            self.level -= _DOWN_AT_A_LOSS
        elif room < self._images:
            self.level += math.log(room / self._images) / _STEEPEST
        elif room > _ROOM * self._images:
            self.level += min(math.log(room / self._images) / _STEEPEST * _UP_SHARE, _UP_MOST)
        self.level = min(max(self.level, self._lowest), 2.0)

    def sent(self, images: int, others: int) -> None:
        """Notes the bytes of an observation: of images whose quality is decided here, and of all else."""
        self._images, self._others = images, others

    def answered(self, age_ms: float) -> None:
        """Learns from the age of an answer, in milliseconds, what it has beside the link's share."""
        rest_ms = age_ms - self._on_link_ms
        if math.isfinite(rest_ms):
            rest_ms = min(max(rest_ms, 0.0), 2 * self._budget_ms)  # one after a cut says nothing of the next
            self.rest_ms += _REST_SHARE * (rest_ms - self.rest_ms)


def _check_pair(name: str, pair: object, kinds: tuple[type, ...], most: int, expected: str) -> None:
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(type(one) in kinds for one in pair):
        raise TypeError(f"{name}: expected {expected}, got {pair!r}")
    low, high = pair
    if not 0 < low <= high <= most:
        raise ValueError(f"{name}: expected {expected}, got {pair!r}")
