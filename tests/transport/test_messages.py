"""What passes between the server and its socket."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from inferential.transport import IncomingObservation, OutgoingResponse


@pytest.mark.parametrize(
    "message", [IncomingObservation(b"robot", b"envelope", b"payload", 1.5), OutgoingResponse(b"robot", b"e", b"p")]
)
def test_a_message_cannot_be_changed_and_equals_its_like(message: Any) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        message.identity = b"other"
    assert dataclasses.replace(message) == message


def test_the_fields_are_those_of_the_contract_in_its_order() -> None:
    assert [field.name for field in dataclasses.fields(IncomingObservation)] == [
        "identity",
        "envelope",
        "payload",
        "received_at",
    ]
    assert [field.name for field in dataclasses.fields(OutgoingResponse)] == ["identity", "envelope", "payload"]
