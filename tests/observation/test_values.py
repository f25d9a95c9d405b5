"""From slots to the values that a model sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from inferential.observation import ObservationError
from inferential.observation.values import is_encoded, read_slots, to_values
from inferential.proto import JPEG, PNG, Observation
from inferential.proto.images import encode
from inferential.proto.messages import put_metadata
from inferential.proto.tensors import pack

MakeObservation = Callable[..., Observation]


def read(payload: Any, message: Observation) -> dict[str, Any]:
    return to_values(*read_slots(message.SerializeToString(), len(payload)), payload)


def test_a_model_sees_arrays_images_and_strings_by_key(observation: MakeObservation) -> None:
    image = np.random.default_rng(0).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    state = np.arange(7, dtype=np.float32)
    message = observation()
    payload = pack(message.tensors, {"state": state, "camera": encode(image, PNG)})
    put_metadata(message.metadata, {"prompt": "pick"})
    values = read(bytes(payload), message)
    assert values.keys() == {"state", "camera", "prompt"}
    np.testing.assert_array_equal(values["state"], state)
    np.testing.assert_array_equal(values["camera"], image)
    assert values["prompt"] == "pick"


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_raw_tensors_are_views_writable_where_the_payload_is(kind: Any, observation: MakeObservation) -> None:
    message = observation()
    payload = kind(pack(message.tensors, {"a": np.arange(4.0), "b": np.arange(3)}))
    for array in read(payload, message).values():
        assert np.shares_memory(array, np.frombuffer(payload, np.uint8))
        assert array.flags.writeable == (kind is bytearray)


@pytest.mark.parametrize("encoding", [JPEG, PNG])
@pytest.mark.parametrize("harm", ["truncated", "garbage", "of another size"])
def test_a_broken_image_is_named_by_its_key(encoding: Any, harm: str, observation: MakeObservation) -> None:
    good = encode(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8), encoding)
    message = observation()
    payload = bytearray(pack(message.tensors, {"camera": good}))
    if harm == "truncated":
        payload[len(payload) // 2 :] = bytes(len(payload) - len(payload) // 2)
        payload = payload[: len(payload) // 2]
        message.tensors[0].byte_length = len(payload)
    elif harm == "garbage":
        payload[:] = b"\xab" * len(payload)
    else:
        message.tensors[0].shape[:] = [16, 17, 3]
    with pytest.raises(ObservationError, match=r"^tensor 'camera': "):
        read(payload, message)


def test_only_images_have_to_be_decoded(observation: MakeObservation) -> None:
    message = observation()
    payload = pack(message.tensors, {"state": np.zeros(2)})
    slots, _ = read_slots(message.SerializeToString(), len(payload))
    assert not is_encoded(slots)
    assert not is_encoded([])
    assert not is_encoded(None)
    payload = pack(message.tensors, {"camera": encode(np.zeros((2, 2), np.uint8), PNG)})
    slots, _ = read_slots(message.SerializeToString(), len(payload))
    assert is_encoded(slots)


@pytest.mark.parametrize(("envelope", "text"), [(b"\xff\xff", "Failed to decode"), (None, "exceeds payload size")])
def test_slots_of_this_process_are_checked_too(envelope: Any, text: str, observation: Any, tensor: Any) -> None:
    with pytest.raises(ObservationError, match=text):
        read_slots(envelope or observation(tensor(byte_offset=1)).SerializeToString(), 8)
