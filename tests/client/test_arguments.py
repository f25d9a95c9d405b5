"""Wrong arguments: errors at the call that name the argument, after which the connection works on."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import timedelta
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from inferential import AsyncConnection, Connection

pytestmark = pytest.mark.usefixtures("patient")
WAIT_MS = 60_000
STATE = np.ones(3, np.float32)
Connect = Callable[..., Any]


@pytest.mark.parametrize("kind", [Connection, AsyncConnection])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("server", None),
        ("server", 5555),
        ("server", b"localhost:5555"),
        ("server", ("localhost", 5555)),
        ("client_id", b"x"),
        ("client_id", None),
        ("client_id", 1.5),
        ("client_id", True),
        ("client_type", None),
        ("client_type", 7),
        ("reconnect_ivl_ms", "100"),
    ],
)
def test_a_connection_names_the_argument_that_is_wrong(kind: Any, name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^{name}: expected ") as raised:
        kind(**{name: value})
    assert str(raised.value).endswith(f"got {value!r}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model_id", None),
        ("latency_budget_ms", "50"),
        ("latency_budget_ms", None),
        ("latency_budget_ms", True),
        ("priority", 1.5),
        ("priority", "1"),
        ("priority", None),
        ("queue", "newest"),
        ("queue", ["latest"]),
        ("encode", "jpeg"),
        ("encode", ["jpeg"]),
        ("control_rate_hz", 0),
        ("control_rate_hz", "50"),
        ("late", []),
    ],
)
async def test_a_handle_names_the_argument_that_is_wrong(connect: Connect, name: str, value: Any) -> None:
    connection = connect()
    with pytest.raises((TypeError, ValueError), match=rf"^{name}: expected ") as raised:
        connection.model(**{"model_id": "m", name: value})
    assert str(raised.value).endswith(f"got {value!r}")


async def test_a_wrong_encoding_is_named_by_its_pattern(connect: Connect) -> None:
    with pytest.raises(TypeError, match=r"^encode\['wrist'\]: expected 'raw', 'png', 'jpeg' or .*, got 70$"):
        connect().model("m", encode={"wrist": 70})
    with pytest.raises(TypeError, match=r"^encode: expected patterns on keys, as 'camera/\*', got 7$"):
        connect().model("m", encode={7: "jpeg"})


async def test_numbers_of_numpy_are_numbers(connect: Connect, peer: Any) -> None:
    numbers = {"latency_budget_ms": np.float32(20), "priority": np.int64(2), "control_rate_hz": np.float64(50)}
    await connect(np.int64(7)).model("m", **numbers).observe(state=STATE)
    message = (await peer.next()).message
    assert (message.client.id, message.latency_budget_ms, message.priority) == ("7", 20.0, 2)


BAD_OBSERVATIONS: list[dict[str, Any]] = [
    *({"state": value} for value in (object(), {1}, 1j, np.array([None]), {"a": object()})),
    *({"steps_remaining": value, "state": STATE} for value in (-1, 1.5, "3", 2**40)),
    *({"priority": value, "state": STATE} for value in (-1, 1.5)),
    {"urgency": "high", "state": STATE},
]


async def test_after_observations_that_are_none_the_connection_works_on(
    connect: Connect, peer: Any, result_for: Any
) -> None:
    connection = connect()
    model = connection.model("m")
    for inputs in BAD_OBSERVATIONS:
        for call in (model.observe, model.infer):
            with pytest.raises((TypeError, ValueError), match=next(iter(inputs))):
                await call(**inputs)
    assert connection.stats.observed == 0
    await model.observe(n=STATE)
    seen = await peer.next()
    peer.send(seen, result_for(seen))
    assert await model.get_result(WAIT_MS) is not None
    assert peer.is_quiet()


@pytest.mark.parametrize("timeout_ms", [None, "5", math.nan, 1j, 10**400, timedelta(milliseconds=5)])
async def test_a_wrong_timeout_is_an_error_and_the_connection_works_on(
    connect: Connect, peer: Any, result_for: Any, timeout_ms: Any
) -> None:
    connection = connect()
    model = connection.model("m")
    await model.observe(n=STATE)  # so that it is connected
    peer.send(first := await peer.next(), result_for(first))
    assert await model.get_result(WAIT_MS) is not None
    for call in (model.get_result, lambda inputs: model.infer(inputs, n=STATE)):
        with pytest.raises(
            (TypeError, ValueError), match=rf"^timeout_ms: expected .* got {re.escape(repr(timeout_ms))}$"
        ):
            await call(timeout_ms)
    await model.observe(n=STATE)
    seen = await peer.next()
    peer.send(seen, result_for(seen))
    assert (await model.get_result(WAIT_MS)).request_id == seen.request_id


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.int8, Fraction])
async def test_a_timeout_may_be_a_number_of_another_kind(connect: Connect, kind: Callable[[int], Any]) -> None:
    model = connect().model("m")
    assert await model.infer(kind(1), n=STATE) is None
    assert await model.get_result(kind(1)) is None


async def test_a_time_to_wait_that_is_over_already_is_no_wait(connect: Connect) -> None:
    assert await connect().model("m").get_result(-5.0) is None
