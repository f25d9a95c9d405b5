"""Rules for which images a robot sends compressed."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from inferential import Jpeg, Png
from inferential.client.encoding import EncodingRules
from inferential.proto import JPEG, PNG
from inferential.proto.images import ImageError
from inferential.proto.tensors import EncodedImage

IMAGE = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)


def encodings(rules: dict[str, str] | None, values: dict[str, Any]) -> dict[str, int | None]:
    tensors, metadata, _ = EncodingRules(rules).apply(values)
    found = {key: value.encoding if isinstance(value, EncodedImage) else None for key, value in tensors.items()}
    return {**found, **dict.fromkeys(metadata)}


def size_of(how: str | None, value: Any) -> int:
    """Of an image as it is sent."""
    tensors, _, _ = EncodingRules(None if how is None else {"a": how}).apply({"a": value})
    image = tensors["a"]
    assert isinstance(image, EncodedImage)
    return len(image.data)


def test_without_rules_and_wrappers_the_values_stay_what_they_are() -> None:
    values = {"image": IMAGE, "text": "go"}
    for rules in (None, {"other": "jpeg"}):
        tensors, metadata, signature = EncodingRules(rules).apply(values)
        assert (list(tensors), metadata) == (["image"], {"text": "go"})
        assert tensors["image"] is IMAGE
        assert signature == (("image", IMAGE.dtype, IMAGE.shape),)


def test_a_rule_holds_for_the_keys_that_its_pattern_matches() -> None:
    values = {"camera/left": IMAGE, "camera/right": IMAGE, "depth": IMAGE[..., 0], "state": np.zeros(3)}
    assert encodings({"camera/*": "jpeg", "depth": "png"}, values) == {
        "camera/left": JPEG,
        "camera/right": JPEG,
        "depth": PNG,
        "state": None,
    }


def test_the_first_rule_that_matches_holds() -> None:
    values = {"camera/raw": IMAGE, "camera/left": IMAGE}
    rules = {"camera/raw": "raw", "camera/*": "png", "*": "jpeg"}
    assert encodings(rules, values) == {"camera/raw": None, "camera/left": PNG}


def test_patterns_mind_the_case_of_a_key() -> None:
    assert encodings({"Camera": "png"}, {"camera": IMAGE}) == {"camera": None}


def test_strings_are_never_compressed() -> None:
    assert encodings({"*": "jpeg"}, {"prompt": "go"}) == {"prompt": None}


def test_a_wrapper_outranks_the_rules() -> None:
    values = {"a": Png(IMAGE), "b": Jpeg(IMAGE), "c": IMAGE}
    assert encodings({"a": "jpeg", "b": "raw"}, values) == {"a": PNG, "b": JPEG, "c": None}


def test_a_rule_may_tell_the_quality_of_a_jpeg() -> None:
    sizes = [size_of(how, IMAGE) for how in ("jpeg:10", "jpeg:60", "jpeg", "JPEG:100")]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 4


def test_a_wrapper_may_tell_the_quality_of_a_jpeg() -> None:
    assert size_of(None, Jpeg(IMAGE, 10)) < size_of(None, Jpeg(IMAGE, 100))


@pytest.mark.parametrize(
    "how", ["gif", "", "jpeg:0", "jpeg:101", "jpeg:high", "jpeg:-5", "jpeg:50.5", "png:9", "raw:1"]
)
def test_a_rule_that_says_nothing_known_is_refused_by_its_pattern(how: str) -> None:
    with pytest.raises(ValueError, match=r"^encode\['camera/\*'\]: expected 'raw', 'png', 'jpeg' or 'jpeg:QUALITY'"):
        EncodingRules({"camera/*": how})


@pytest.mark.parametrize("quality", [0, 101, -1, 50.5, "high", None])
def test_a_wrapper_refuses_a_quality_that_is_none(quality: Any) -> None:
    with pytest.raises(ValueError, match="quality: expected a whole number from 1 to 100, got "):
        Jpeg(IMAGE, quality)


@pytest.mark.parametrize("value", [Jpeg, Png])
@pytest.mark.parametrize("content", [[1, 2], None, "image.png", b"\xff\xd8"])
def test_a_wrapper_around_no_array_is_a_type_error_that_names_the_key(value: Any, content: Any) -> None:
    with pytest.raises(
        TypeError, match=rf"^camera: expected {value.__name__} of an np\.ndarray, got {type(content).__name__}"
    ):
        EncodingRules(None).apply({"camera": value(content)})


@pytest.mark.parametrize("values", [{"camera": Jpeg(np.zeros((4, 4)))}, {"camera": np.zeros((4, 4))}])
def test_an_array_that_is_no_image_is_an_error_that_names_the_key(values: dict[str, Any]) -> None:
    with pytest.raises(ImageError, match=r"^camera: JPEG cannot hold float64 of shape \(4, 4\)"):
        EncodingRules({"camera": "jpeg"}).apply(values)


@pytest.mark.parametrize("key", [1, None, b"joints", (1, 2)])
def test_a_key_that_is_no_string_is_named(key: Any) -> None:
    with pytest.raises(TypeError, match=re.escape(f"observation: expected keys that are strings, got {key!r}")):
        EncodingRules(None).apply_to_nested({}, {key: np.zeros(1)})


def test_of_a_masked_array_nothing_is_sent_that_the_mask_hides() -> None:
    hidden = np.ma.masked_array([1.0, 2.0], [False, True])
    for apply in (EncodingRules(None).apply, lambda values: EncodingRules(None).apply_to_nested({}, values)):
        with pytest.raises(TypeError, match=r"^depth: a mask cannot be sent"):
            apply({"depth": hidden})
        tensors, _, _ = apply({"depth": np.ma.masked_array([1.0, 2.0], False)})
        assert tensors["depth"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("rules", "wrapper"), [({"depth": "png"}, None), ({"depth": "auto"}, None), ({}, Jpeg), ({}, Png)]
)
def test_of_a_masked_image_nothing_is_sent_either(rules: dict[str, str], wrapper: Any) -> None:
    image = np.ma.masked_array(np.zeros((4, 4), np.uint8), np.eye(4))
    with pytest.raises(TypeError, match=r"^depth: a mask cannot be sent"):
        EncodingRules(rules).apply({"depth": image if wrapper is None else wrapper(image)})
