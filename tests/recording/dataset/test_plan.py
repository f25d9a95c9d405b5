"""What of recorded requests becomes a dataset: episodes, steps, features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("mcap")

from hypothesis import given
from hypothesis import strategies as st

from inferential.recording.dataset.plan import DatasetError, Plan, make_plan
from inferential.recording.reading import EncodedImage, Recorded

SECOND = 10**9
IMAGE = EncodedImage((48, 64, 3), "uint8", b"")


def asked(at_s: float, number: int = 0, robot: str = "arm-01", **fields: Any) -> Recorded:
    fields = {
        "observation": {"state": np.zeros(7, np.float32)},
        "answer": {"actions": np.zeros((8, 6), np.float32)},
        **fields,
    }
    return Recorded(robot, "arm", "pi0", "1-0", number, int(at_s * SECOND), end="answered", **fields)


def plan(*requests: Recorded, **options: Any) -> Plan:
    return make_plan(requests, **options)


def features(one: Recorded, **options: Any) -> dict[str, tuple[tuple[str, ...], str, tuple[int, ...]]]:
    return {feature.name: (feature.keys, feature.dtype, feature.shape) for feature in plan(one, **options).features}


def test_robots_that_ask_evenly_have_a_step_for_each_request() -> None:
    found = plan(*(asked(step / 20, step) for step in range(10)))
    assert found.fps == 20
    assert [number for _, number in found.episodes[0].steps] == list(range(10))


def test_a_step_shows_the_request_nearest_in_time() -> None:
    found = plan(asked(0.0, 0), asked(0.12, 1), asked(0.19, 2), asked(0.5, 3), fps=10)
    assert [number for _, number in found.episodes[0].steps] == [0, 1, 2, 2, 3, 3]


@given(st.lists(st.integers(1, 900), min_size=1, max_size=40), st.integers(1, 60))
def test_steps_follow_time_and_none_is_off_by_more_than_the_nearest_request(gaps_ms: list[int], fps: int) -> None:
    times_ms = [sum(gaps_ms[:end]) for end in range(len(gaps_ms) + 1)]
    (episode,) = plan(*(asked(at / 1000, number) for number, at in enumerate(times_ms)), fps=fps).episodes
    assert episode.steps == sorted(episode.steps)
    assert episode.steps[0] == episode.asked[0]
    for step, (shown_ns, _) in enumerate(episode.steps):
        at = episode.asked[0][0] + step * SECOND / fps
        assert abs(shown_ns - at) == min(abs(received_ns - at) for received_ns, _ in episode.asked)


def test_a_pause_and_a_session_end_an_episode() -> None:
    later = asked(9.1, 3)
    later.session = "2-0"
    found = plan(asked(0, 0), asked(0.5, 1), asked(9, 2), later, pause_s=1.0)
    assert [[number for _, number in episode.asked] for episode in found.episodes] == [[0, 1], [2], [3]]


def test_episodes_stand_in_the_order_in_which_they_began_and_requests_in_that_of_their_coming() -> None:
    found = plan(asked(5, 0, "b"), asked(0.5, 1, "a"), asked(0.1, 0, "a"))
    assert [episode.client_id for episode in found.episodes] == ["a", "b"]
    assert [number for _, number in found.episodes[0].asked] == [0, 1]


def test_values_get_the_names_that_policies_are_trained_with() -> None:
    one = asked(0, observation={"camera/front": IMAGE, "state": np.zeros(7, np.float32), "prompt": "fold", "note": "x"})
    assert features(one) == {
        "observation.images.front": (("camera/front",), "uint8", (48, 64, 3)),
        "observation.state": (("state",), "float32", (7,)),
        "action": (("actions",), "float32", (6,)),
    }
    assert plan(one).left_out == {"note": "a text that is no task"}


def test_several_arrays_keep_their_names_and_may_get_others() -> None:
    observation = {"joints/left": np.zeros(2), "observation.state": np.zeros(3), "force": np.array(1, np.int32)}
    assert set(features(asked(0, observation=observation))) == {
        "observation.joints.left",
        "observation.state",
        "observation.force",
        "action",
    }
    named = features(asked(0, observation=observation), names={"force": "observation.grip"})
    assert named["observation.grip"] == (("force",), "int32", (1,))


def test_a_picture_that_cannot_be_decoded_is_named_and_may_be_left_out() -> None:
    broken = EncodedImage((5,), "uint8", b"\xff\xd8\xffxx")
    one = asked(0, observation={"state": np.zeros(7), "camera": broken})
    problem = (
        r"^camera of arm-01, request 0: broken picture: it does not begin as one \(leave it out with --without camera"
    )
    with pytest.raises(DatasetError, match=problem):
        plan(one)
    assert "observation.state" in features(one, without=frozenset({"camera"}))


def test_arrays_of_more_axes_than_a_column_may_have_are_flat() -> None:
    one = asked(0, observation={"history": np.zeros((1, 2, 1, 2, 1, 3)), "window": np.zeros((1, 2, 1, 2, 1))})
    found = features(one)
    assert found["observation.history"][2] == (12,)
    assert found["observation.window"][2] == (1, 2, 1, 2, 1)


@pytest.mark.parametrize(
    ("answer", "keys", "shape"),
    [
        ({"action": np.zeros(4)}, ("action",), (4,)),
        ({"torques": np.zeros((1, 8, 3)), "note": "ok"}, ("torques",), (3,)),
        ({"action.left": np.zeros((8, 2)), "action.right": np.zeros((8, 3))}, ("action.left", "action.right"), (5,)),
        ({"actions": np.array(1.0)}, ("actions",), (1,)),
    ],
)
def test_an_action_is_the_first_of_a_chunk(answer: dict[str, Any], keys: tuple[str, ...], shape: tuple[int]) -> None:
    assert features(asked(0, answer=answer))["action"] == (
        keys,
        str(plan(asked(0, answer=answer)).features[-1].dtype),
        shape,
    )


def test_what_was_not_answered_or_not_chosen_takes_no_part() -> None:
    refused = asked(0.1, 1, answer=None)
    unseen = asked(0.2, 2, observation=None)
    found = plan(asked(0, 0), refused, unseen, asked(0, 3, "arm-02"), robots=frozenset({"arm-01"}))
    assert [(episode.client_id, episode.asked) for episode in found.episodes] == [("arm-01", [(0, 0)])]


def test_values_and_answers_without_elements_are_left_out() -> None:
    observation = {"state": np.zeros(7), "boxes": np.zeros((0, 4))}
    nothing = asked(0.1, 1, answer={"actions": np.zeros((0, 6))})
    found = plan(asked(0, 0, observation=observation), nothing)
    assert {feature.name for feature in found.features} == {"observation.state", "action"}
    assert [number for _, number in found.episodes[0].asked] == [0]
    assert found.left_out == {
        "boxes": "an array without elements",
        "requests": "1 whose answer has no element",
    }


def test_a_value_that_is_not_always_alike_may_be_left_out() -> None:
    requests = [asked(0, 0), asked(0.1, 1, observation={"state": np.zeros(7, np.float32), "boxes": np.zeros((2, 4))})]
    with pytest.raises(DatasetError, match=r"boxes .* or leave it out with --without boxes"):
        plan(*requests)
    found = plan(*requests, without=frozenset({"boxes"}))
    assert [feature.name for feature in found.features] == ["observation.state", "action"]
    with pytest.raises(DatasetError, match="--without boxen: no observation has it"):
        plan(*requests, without=frozenset({"boxes", "boxen"}))


@pytest.mark.parametrize(
    ("requests", "options", "problem"),
    [
        ((), {}, "no answered observation is in the recordings"),
        ((asked(0),), {"models": frozenset({"other"})}, "no answered observation is in the recordings for these"),
        ((asked(0, answer={"actions": np.zeros((0, 3))}),), {}, "which array of the answer is the action.*none"),
        ((asked(0, answer={"a": np.zeros(1), "b": np.zeros(1)}),), {}, "which array of the answer is the action.*a, b"),
        (
            (asked(0), asked(1, 1, "leg-01", observation={"state": np.zeros(3, np.float32)})),
            {},
            r"arm-01 at pi0 has float32 \(7,\) and leg-01 at pi0 has float32 \(3,\).*--robot",
        ),
        (
            (asked(0, observation={"a": np.zeros(2), "b": np.zeros(2)}),),
            {"names": {"a": "observation.b"}},
            "two values would be called 'observation.b'",
        ),
    ],
)
def test_what_is_no_dataset_is_said(requests: tuple[Recorded, ...], options: dict[str, Any], problem: str) -> None:
    with pytest.raises(DatasetError, match=problem):
        plan(*requests, **options)
