"""Which tensors leave a robot compressed, and how that is said.

The compressing itself is `inferential.proto.images`.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from inferential.proto import JPEG, PNG, RAW, Encoding, encoding_from_string
from inferential.proto.images import DEFAULT_JPEG_QUALITY, encode


@dataclass(frozen=True, slots=True)
class Jpeg:
    """Sends one image as JPEG: `model.observe(camera=Jpeg(image))`.

    Attributes:
        array: uint8 of shape (H, W) or (H, W, 3), RGB.
        quality: 1 to 100.
    """

    array: npt.NDArray[Any]
    quality: int = DEFAULT_JPEG_QUALITY


@dataclass(frozen=True, slots=True)
class Png:
    """Sends one image as PNG, without loss: `model.observe(depth=Png(image))`.

    Attributes:
        array: uint8 of shape (H, W) or (H, W, 1 to 4), or uint16 of shape (H, W).
    """

    array: npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: str
    encoding: Encoding
    quality: int


class EncodingRules:
    """`encode={"camera/*": "jpeg", "depth": "png", "wrist": "jpeg:70"}` of a model handle; the first match holds."""

    def __init__(self, rules: Mapping[str, str] | None) -> None:
        self._rules = [_parse(pattern, how) for pattern, how in (rules or {}).items()]
        self._by_key: dict[str, _Rule | None] = {}

    def apply(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values as they are sent: images compressed where a rule or a wrapper says so.

        Raises:
            inferential.proto.images.ImageError: where the array is no image of that format.
        """
        changed: dict[str, Any] = {}
        for key, value in values.items():
            if isinstance(value, Jpeg):
                changed[key] = encode(value.array, JPEG, value.quality)
            elif isinstance(value, Png):
                changed[key] = encode(value.array, PNG)
            elif self._rules and isinstance(value, np.ndarray):
                rule = self._rule(key)
                if rule is not None and rule.encoding != RAW:
                    changed[key] = encode(value, rule.encoding, rule.quality)
        return {**values, **changed} if changed else values

    def _rule(self, key: str) -> _Rule | None:
        try:
            return self._by_key[key]
        except KeyError:
            found = next((rule for rule in self._rules if fnmatch.fnmatchcase(key, rule.pattern)), None)
            return self._by_key.setdefault(key, found)


def _parse(pattern: str, how: str) -> _Rule:
    name, _, quality = how.partition(":")
    encoding = encoding_from_string(name)
    if not quality:
        return _Rule(pattern, encoding, DEFAULT_JPEG_QUALITY)
    if encoding != JPEG or not quality.isdecimal() or not 1 <= int(quality) <= 100:
        raise ValueError(
            f"encode[{pattern!r}]: expected 'raw', 'png', 'jpeg' or 'jpeg:QUALITY' of 1 to 100, got {how!r}"
        )
    return _Rule(pattern, encoding, int(quality))
