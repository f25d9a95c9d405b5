"""When an observation was seen: from times of the robot's clocks, made up here, to the ages that travel."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferential.client.captured import LONGEST_AGE_MS, TOLERANCE_MS, captured_of
from inferential.client.encoding import EncodingRules
from inferential.client.handle import Handle
from inferential.client.session import Session
from inferential.proto import Captured, Observation

STATE = np.zeros(2, np.float32)
NOW_NS = {"monotonic": 5_000_000_000_000, "wall": 1_700_000_000_000_000_000}
S, NS = NOW_NS["monotonic"] / 1e9, NOW_NS["monotonic"]
WALL_S, WALL_NS = NOW_NS["wall"] / 1e9, NOW_NS["wall"]


def ages(keys: tuple[str, ...] = ("left", "right"), **arguments: Any) -> Captured:
    found = captured_of(arguments, keys, NOW_NS.__getitem__)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("at", "clock"),
    [
        (S - 0.25, {}),
        (NS - 250_000_000, {}),
        (np.float64(S - 0.25), {"clock": "monotonic"}),
        (np.int64(NS - 250_000_000), {"clock": "monotonic"}),
        (Fraction(NS, 10**9) - Fraction(1, 4), {}),
        (WALL_S - 0.25, {"clock": "wall"}),
        (WALL_NS - 250_000_000, {"clock": "wall"}),
    ],
)
def test_seconds_and_nanoseconds_of_either_clock_are_the_same_age(at: Any, clock: dict[str, str]) -> None:
    assert ages(captured_at=at, **clock).age_ms == pytest.approx(250, abs=1e-3)
    assert ages(timestamps={"left": at}, **clock).tensor_ages_ms == pytest.approx({"left": 250}, abs=1e-3)


def test_an_observation_without_a_time_of_its_own_is_as_old_as_its_oldest_value() -> None:
    found = ages(timestamps={"left": S - 0.1, "right": S - 0.3})
    assert found.age_ms == pytest.approx(300)
    assert found.tensor_ages_ms == pytest.approx({"left": 100, "right": 300})


def test_an_age_of_nothing_is_an_age_too() -> None:
    assert 0 < ages(captured_at=NS).age_ms < 1e-3
    assert 0 < ages(captured_at=NS + int((TOLERANCE_MS - 1) * 1e6)).age_ms < 1e-3


@pytest.mark.parametrize("arguments", [{}, {"captured_at": None}, {"timestamps": None}, {"timestamps": {}}])
def test_nothing_is_said_where_nothing_is_given(arguments: dict[str, Any]) -> None:
    assert captured_of(arguments, ["left"], NOW_NS.__getitem__) is None


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"captured_at": math.nan}, ValueError, "captured_at: expected seconds .* got nan"),
        ({"captured_at": math.inf}, ValueError, "captured_at: .* got inf"),
        ({"captured_at": 10**400}, ValueError, "captured_at: "),
        ({"captured_at": "now"}, TypeError, "captured_at: .* got 'now'"),
        ({"captured_at": True}, TypeError, "captured_at: .* got True"),
        ({"captured_at": STATE}, TypeError, "captured_at: "),
        ({"captured_at": np.float32(1)}, TypeError, "captured_at: .* float64"),
        ({"captured_at": S + 1.5}, ValueError, "captured_at: .* 1.500 s in the future"),
        ({"captured_at": WALL_S}, ValueError, "captured_at: .* in the future; .* clock='wall'"),
        ({"captured_at": S, "clock": "wall"}, ValueError, "captured_at: .* days ago; .* clock='monotonic'"),
        ({"captured_at": int(WALL_S), "clock": "wall"}, ValueError, "captured_at: .* days ago; .*nanoseconds"),
        ({"captured_at": S, "clock": "utc"}, ValueError, "clock: .* got 'utc'"),
        ({"captured_at": S, "clock": STATE}, ValueError, "clock: "),
        ({"captured_at": int(S)}, ValueError, "captured_at: .* got .*, as long as that clock goes; .*nanoseconds"),
        ({"captured_at": int(S * 1e3)}, ValueError, "captured_at: .* as long as that clock goes; .*nanoseconds"),
        ({"captured_at": int(S * 1e6)}, ValueError, "captured_at: .* as long as that clock goes; .*nanoseconds"),
        ({"timestamps": {"left": -1.0}}, ValueError, "left.*: .* got -1.0, which is .* as long as that clock goes"),
        ({"timestamps": 3.0}, TypeError, "timestamps: expected a map of times by key, got float"),
        ({"timestamps": {"up": S}}, ValueError, "timestamps: the observation has no key 'up'; it has 'left', 'right'"),
        ({"timestamps": {"left": math.nan}}, ValueError, r"timestamps\['left'\]: .* got nan"),
        ({"timestamps": {"left": None}}, TypeError, r"timestamps\['left'\]: .* got None"),
        ({"timestamps": {"left": S + 1}}, ValueError, r"timestamps\['left'\]: .* in the future"),
    ],
)
def test_a_wrong_time_is_an_error_that_names_its_argument(
    arguments: dict[str, Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        ages(**arguments)


@given(st.integers(-(10**30), 10**30) | st.floats() | st.booleans() | st.text(max_size=3) | st.none())
def test_any_value_is_an_age_or_an_error_that_names_it(at: Any) -> None:
    said = ""
    found = None
    try:
        found = captured_of({"captured_at": at}, [], NOW_NS.__getitem__)
    except (TypeError, ValueError) as error:
        said = str(error)
    if found is not None:
        assert 0 < found.age_ms <= LONGEST_AGE_MS
    else:
        assert at is None or said.startswith("captured_at: ")


@pytest.fixture
def session() -> Session:
    return Session("arm", "")


def handle(**changes: Any) -> Handle:
    return Handle("m", 50.0, 1, "latest", EncodingRules(None), **changes)


def test_a_clock_is_a_value_like_any_other_where_no_time_is_given() -> None:
    hints: dict[str, Any] = {}
    content = handle().content({"clock": STATE, "captured_at": None}, hints)
    assert list(content[0]) == ["clock"]
    assert not hints


def test_times_are_taken_out_of_the_values_and_not_out_of_those_of_observation() -> None:
    hints: dict[str, Any] = {}
    values = {"captured_at": time.monotonic(), "observation": {"timestamps": STATE, "clock": STATE}}
    content = handle().content(values, hints)
    assert sorted(content[0]) == ["clock", "timestamps"]
    assert hints["captured"].age_ms > 0


def test_the_keys_of_nested_maps_may_have_times() -> None:
    hints: dict[str, Any] = {}
    now = time.monotonic_ns()
    values = {"observation": {"camera": {"left": STATE}, "gripper": 0.5}}
    handle().content({**values, "timestamps": {"camera/left": now}}, hints)
    assert list(hints["captured"].tensor_ages_ms) == ["camera/left"]
    handle().content({**values, "timestamps": {"gripper": now, "camera": now}}, hints)


def held(session: Session, hints: dict[str, Any], at: float) -> Callable[[float], bytes]:
    mailbox = session.mailbox(handle())
    request_id, frames = session.observe(mailbox, handle().content({"state": STATE}, {}), hints, at, 2**60)
    session.hold(mailbox, request_id, frames)

    def envelope(now: float) -> bytes:
        assert mailbox is not None  # it must live
        unsent = session.next_unsent(now)
        assert unsent is not None
        return unsent[1][1]

    return envelope


def test_the_time_for_which_the_robot_holds_an_observation_back_is_sent_with_it(session: Session) -> None:
    envelope = held(session, {"captured": Captured(age_ms=20)}, 10.0)
    for later, held_ms in ((10.0, 0), (10.5, 500), (12.0, 2000)):
        message = Observation.FromString(envelope(later))
        assert (message.captured.age_ms, message.captured.held_ms) == (20, held_ms)


def test_an_observation_without_times_is_sent_as_it_was_held(session: Session) -> None:
    envelope = held(session, {}, 10.0)
    assert envelope(10.0) is envelope(12.0)
