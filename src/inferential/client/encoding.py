"""Which images a robot sends compressed. `inferential.proto.images` compresses them."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from inferential.client.adaptive import Auto, QualityControl
from inferential.client.arguments import check_encode
from inferential.client.result import ClientStats
from inferential.proto import JPEG, PNG, RAW, Encoding
from inferential.proto.fields import DEFAULT_BUDGET_MS
from inferential.proto.images import DEFAULT_JPEG_QUALITY, ImageError, encode
from inferential.proto.messages import Content, arrays_alone, masked, mixed_content
from inferential.proto.structure import STRUCTURE_KEY, flatten
from inferential.proto.tensors import EncodedImage

_ON_THE_WIRE = (np.ndarray, str, EncodedImage)
_NAMES = {"raw": RAW, "jpeg": JPEG, "png": PNG}


@dataclass(frozen=True, slots=True)
class Jpeg:
    """Sends one image as JPEG: `model.observe(camera=Jpeg(image))`.

    Attributes:
        array: uint8 of shape (H, W) or (H, W, 3), RGB.
        quality: 1 to 100.
    """

    array: npt.NDArray[Any]
    quality: int = DEFAULT_JPEG_QUALITY

    def __post_init__(self) -> None:
        if not isinstance(self.quality, int) or not 1 <= self.quality <= 100:
            raise ValueError(f"quality: expected a whole number from 1 to 100, got {self.quality!r}")


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
    auto: Auto | None = None


class EncodingRules:
    """`encode={"camera/*": "jpeg", "depth": "png", "wrist": "auto"}` of a model handle; the first match applies.

    Args:
        rules: how images are sent, by patterns on their keys.
        budget_ms: the latency budget of the handle, in milliseconds, which the quality of "auto" follows.
        stats: returns the connection's, which tell what its link carries; None: there is none.

    Attributes:
        control: of the images whose quality follows the link; None: there are none.
    """

    def __init__(
        self,
        rules: Mapping[str, str | Auto] | None,
        budget_ms: float = DEFAULT_BUDGET_MS,
        stats: Callable[[], ClientStats | None] = lambda: None,
    ) -> None:
        check_encode(rules)
        self._rules = [_parse(pattern, how) for pattern, how in (rules or {}).items()]
        self._by_key: dict[str, _Rule | None] = {}
        self._stats = stats
        autos = [rule.auto for rule in self._rules if rule.auto is not None]
        scales = any(auto.scale[0] < auto.scale[1] for auto in autos)
        self.control: QualityControl | None = QualityControl(budget_ms, scales) if autos else None

    def apply(self, values: Mapping[str, Any]) -> Content:
        """Returns what is sent of arrays and strings, with images compressed where a rule or a wrapper asks for it.

        Raises:
            TypeError: naming the key of a value that is none, or of a wrapper around what is no array.
            ImageError: (a ValueError) naming the key of an array that is no image of that format.
        """
        content = None if self._rules else arrays_alone(values)
        if content is not None:
            return content
        encoded = self._encoded(values)
        try:
            return mixed_content(encoded)
        except TypeError as error:
            raise TypeError(f"{error}; numbers, lists and maps go by observation={{...}}") from None

    def apply_to_nested(self, values: Mapping[str, Any], nested: Mapping[str, Any]) -> Content:
        """Returns what is sent of values as for `apply`, and of others, which may be numbers, lists and maps too.

        Raises:
            TypeError, ImageError: as `apply`.
        """
        for key in nested:
            if not isinstance(key, str):
                raise TypeError(f"observation: expected keys that are strings, got {key!r}")
        for key, value in values.items():
            if not isinstance(value, (*_ON_THE_WIRE, Jpeg, Png)):
                self.apply({key: value})
        both = self._encoded({**nested, **values})
        if not all(isinstance(value, _ON_THE_WIRE) for value in both.values()):
            both = _flattened(both)
        return mixed_content(both)

    def _encoded(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._compressed(values) if self.control is None else self._adapted(values, self.control)

    def _compressed(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        changed: dict[str, Any] = {}
        for key, value in values.items():
            if isinstance(value, np.ndarray):
                rule = self._rule(key) if self._rules else None
                if rule is not None and rule.encoding != RAW and rule.auto is None:
                    changed[key] = _encoded(key, value, rule.encoding, rule.quality)
            elif isinstance(value, Jpeg):
                changed[key] = _encoded(key, value.array, JPEG, value.quality)
            elif isinstance(value, Png):
                changed[key] = _encoded(key, value.array, PNG, DEFAULT_JPEG_QUALITY)
        return {**values, **changed} if changed else values

    def _adapted(self, values: Mapping[str, Any], control: QualityControl) -> Mapping[str, Any]:
        """Compresses as `_compressed`, and images of "auto" so that they fit what the link carries."""
        stats = self._stats()
        if stats is not None:
            control.follow(stats.link_bytes_s, stats.link_round_trip_ms)
        adapted: dict[str, EncodedImage] = {}
        for key, value in values.items():
            rule = self._rule(key) if isinstance(value, np.ndarray) else None
            if rule is None or rule.auto is None:
                continue
            quality, scale = rule.auto.at(control.level)
            adapted[key] = _encoded(key, value, JPEG, quality, scale)
            if stats is not None:
                stats.image_quality[key], stats.image_scale[key] = quality, scale
        values = {**self._compressed(values), **adapted}
        if adapted:
            images = sum(len(image.data) for image in adapted.values())
            control.sent(images, sum(map(_size, values.values())) - images)
        return values

    def _rule(self, key: str) -> _Rule | None:
        try:
            return self._by_key[key]
        except KeyError:
            found = next((rule for rule in self._rules if fnmatch.fnmatchcase(key, rule.pattern)), None)
            return self._by_key.setdefault(key, found)


def _flattened(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns numbers, lists and maps as arrays and strings, with a text by which the server restores them.

    Raises:
        TypeError: naming the key of a value that cannot be sent.
    """
    images = {key: value for key, value in values.items() if isinstance(value, EncodedImage)}
    placeholders = {key: np.zeros((), np.uint8) for key in images}
    try:
        flat, structure = flatten({**values, **placeholders})
    except ValueError as error:
        raise TypeError(str(error)) from error
    by_placeholder = {id(placeholders[key]): image for key, image in images.items()}
    found = {key: by_placeholder.get(id(value), value) for key, value in flat.items()}
    return {**found, STRUCTURE_KEY: structure} if structure else found


def _size(value: Any) -> int:
    """Returns about how many bytes a value takes on the wire."""
    if isinstance(value, EncodedImage):
        return len(value.data)
    return value.nbytes if isinstance(value, np.ndarray) else 0


def _encoded(key: str, array: Any, encoding: Encoding, quality: int, scale: float = 1.0) -> EncodedImage:
    if not isinstance(array, np.ndarray):
        wrapper = "Jpeg" if encoding == JPEG else "Png"
        raise TypeError(f"{key}: expected {wrapper} of an np.ndarray, got {type(array).__name__}")
    if np.ma.is_masked(array):
        raise masked(key)
    try:
        return encode(array, encoding, quality, scale)
    except ImageError as error:
        raise ImageError(f"{key}: {error}") from error


def _parse(pattern: str, how: str | Auto) -> _Rule:
    if how == "auto":
        how = Auto()
    if isinstance(how, Auto):
        return _Rule(pattern, JPEG, how.quality[1], how)
    name, colon, quality = how.partition(":")
    encoding = _NAMES.get(name.lower())
    if encoding is not None and not colon:
        return _Rule(pattern, encoding, DEFAULT_JPEG_QUALITY)
    if encoding != JPEG or not quality.isdecimal() or not 1 <= int(quality) <= 100:
        raise ValueError(
            f"encode[{pattern!r}]: expected 'raw', 'png', 'jpeg' or 'jpeg:QUALITY' of 1 to 100, or 'auto', got {how!r}"
        )
    return _Rule(pattern, encoding, int(quality))
