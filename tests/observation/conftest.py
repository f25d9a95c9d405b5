"""Serialized observations, valid and invalid ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from inferential.config import ObservationConfig
from inferential.observation import DecodedObservation, ObservationAssembler
from inferential.proto import FLOAT32, RAW, Client, Observation, Tensor

NOW_NS = 1_700_000_000_000_000_000


def make_tensor(**fields: Any) -> Tensor:
    """Eight bytes of float32, but for what `fields` say."""
    return Tensor(**{"key": "x", "dtype": FLOAT32, "shape": [2], "byte_length": 8, "encoding": RAW, **fields})


def make_observation(*tensors: Tensor, client: str = "robot", client_type: str = "arm", **fields: Any) -> Observation:
    """A good observation of this line, but for what `fields` say."""
    inputs = {"model_id": "policy", "request_id": 7, "protocol_version": 2, "priority": 1, **fields}
    return Observation(client=Client(id=client, type=client_type), tensors=tensors, **inputs)


@pytest.fixture
def tensor() -> Callable[..., Tensor]:
    return make_tensor


@pytest.fixture
def observation() -> Callable[..., Observation]:
    return make_observation


@pytest.fixture
def now_ns(monkeypatch: pytest.MonkeyPatch) -> int:
    """The wall clock stands still here."""
    monkeypatch.setattr("time.time_ns", lambda: NOW_NS)
    return NOW_NS


@pytest.fixture
def decode() -> Callable[..., DecodedObservation]:
    """`decode(observation or bytes, payload, max_tensors=3)`: with the default limits but for those given."""

    def decoded(message: Observation | bytes, payload: Any = bytes(8), **limits: Any) -> DecodedObservation:
        envelope = message if isinstance(message, bytes) else message.SerializeToString()
        return ObservationAssembler(ObservationConfig(**limits)).decode(envelope, payload, 12.5)

    return decoded
