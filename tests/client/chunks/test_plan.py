"""Actions by control step, and how chunks are merged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferential.client.chunks.plan import EnsemblePlan, MergedPlan, MergeRaised, average, new_plan, replace
from inferential.proto.actions import BadActions


def chunk(first: float, steps: int = 4) -> np.ndarray:
    """Two actuators; the first counts up from a number."""
    return np.stack([np.arange(first, first + steps), np.zeros(steps)], axis=1).astype(np.float32)


def played(plan: object, steps: range) -> list[float | None]:
    found = [plan.action(step) for step in steps]  # type: ignore[attr-defined]
    return [None if action is None else float(action[0]) for action in found]


def test_an_action_belongs_to_the_step_of_its_observation_and_the_place_in_its_chunk() -> None:
    plan = MergedPlan(replace)
    assert plan.action(0) is None
    assert plan.add(2, chunk(10))
    assert played(plan, range(1, 7)) == [None, 10, 11, 12, 13, None]
    assert plan.end() == 6


def test_replace_plays_the_newest_chunk() -> None:
    plan = new_plan("replace")
    plan.add(0, chunk(0))
    plan.add(2, chunk(100))
    assert played(plan, range(2, 7)) == [100, 101, 102, 103, None]


def test_average_weighs_the_overlap_alone() -> None:
    plan = new_plan("average")
    plan.add(0, chunk(0))
    plan.add(2, chunk(10))
    assert played(plan, range(2, 6)) == pytest.approx([0.3 * 2 + 0.7 * 10, 0.3 * 3 + 0.7 * 11, 12, 13])


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64])
@pytest.mark.parametrize(("before", "after"), [(0, 1), (1, 0)])
def test_of_whole_numbers_and_booleans_an_average_is_the_nearest(dtype: type, before: int, after: int) -> None:
    """A gripper: 0.7 is closed, and 0.3 is not."""
    plan = new_plan("average")
    for number, value in enumerate((before, after)):
        plan.add(number, np.full((4, 1), value, dtype))
    assert played(plan, range(1, 5)) == [after] * 4
    plan = EnsemblePlan()
    for number, value in enumerate((before, after, after)):
        plan.add(number, np.full((4, 1), value, dtype))
    assert played(plan, range(2, 6)) == [after] * 4


def test_a_users_merge_sees_the_actions_that_both_have() -> None:
    seen = []

    def merge(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        seen.append((old[:, 0].tolist(), new[:, 0].tolist()))
        return new

    plan = new_plan(merge)
    plan.add(0, chunk(0))
    plan.add(1, chunk(10, steps=2))
    assert seen == [([1, 2], [10, 11])]
    assert plan.end() == 3


def test_a_merge_that_gives_no_finite_numbers_changes_nothing() -> None:
    plan = MergedPlan(lambda old, new: old / 0.0 if new[0, 0] else new)
    plan.add(0, chunk(0))
    with pytest.raises(BadActions, match="merge: expected finite numbers"), np.errstate(all="ignore"):
        plan.add(2, chunk(100))
    assert played(plan, range(2, 5)) == [2, 3, None]
    assert plan.add(2, chunk(0))


def test_an_older_chunk_changes_nothing_but_in_an_ensemble() -> None:
    for name, taken in (("replace", False), ("average", False), ("ensemble", True)):
        plan = new_plan(name)
        plan.add(2, chunk(10))
        assert plan.add(1, chunk(0)) is taken
        assert plan.add(2, chunk(50)) is False


def test_an_ensemble_forgets_the_chunks_that_have_passed() -> None:
    plan = EnsemblePlan()
    plan.add(0, chunk(0))
    plan.add(2, chunk(10))
    plan.passed(4)
    assert plan.add(0, chunk(0)) is False
    assert played(plan, range(4, 7)) == [12, 13, None]


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 8)), min_size=1, max_size=8, unique_by=lambda one: one[0]))
def test_an_ensemble_is_the_weighted_mean_of_all_that_have_the_step(chunks: list[tuple[int, int]]) -> None:
    plan = EnsemblePlan(0.1)
    for begin, steps in chunks:
        plan.add(begin, chunk(100 * begin, steps))
    for step in range(25):
        values = [100 * begin + step - begin for begin, steps in sorted(chunks) if begin <= step < begin + steps]
        weights = [np.exp(-0.1 * number) for number in range(len(values))]
        action = plan.action(step)
        if not values:
            assert action is None
        else:
            assert action is not None
            assert action[0] == pytest.approx(np.average(values, weights=weights), rel=1e-4)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 10)), min_size=1, max_size=10))
def test_replace_plays_exactly_the_newest_chunk_that_came(chunks: list[tuple[int, int]]) -> None:
    plan = new_plan("replace")
    newest: tuple[int, int] | None = None
    for begin, steps in chunks:
        plan.add(begin, chunk(100 * begin, steps))
        if newest is None or begin > newest[0]:
            newest = (begin, steps)
    assert newest is not None
    begin, steps = newest
    wanted = [100 * begin + step - begin if begin <= step < begin + steps else None for step in range(35)]
    assert played(plan, range(35)) == wanted


def test_bad_merges_are_named() -> None:
    with pytest.raises(ValueError, match="merge: expected 'replace', 'average', 'ensemble' or a function, got 'mean'"):
        new_plan("mean")
    with pytest.raises(ValueError, match="weight: expected a number from 0 to 1, got 2"):
        average(2)
    plan = new_plan(lambda old, new: new[:1])
    plan.add(0, chunk(0))
    with pytest.raises(BadActions, match=r"merge: expected actions of shape \(3, 2\), got \(1, 2\)"):
        plan.add(1, chunk(0))


@pytest.mark.parametrize(("name", "half"), [("average", 0.35), ("ensemble", 0.25)])
def test_floats_beside_whole_numbers_are_not_rounded(name: str, half: float) -> None:
    whole, floats = np.zeros((4, 2), np.int64), np.full((4, 2), 0.5, np.float32)
    for first, second in ((whole, floats), (floats, whole)):
        plan = new_plan(name)
        plan.add(0, first)
        plan.add(1, second)
        found = plan.action(1)
        assert found is not None
        share = half if first is whole else 0.5 - half
        assert found[0] == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("gives", [None, "x", [["a", "b"]] * 2, [[1j, 0]] * 2, [[None, 0.0]] * 2])
def test_a_merge_that_gives_no_actions_changes_nothing(gives: Any) -> None:
    plan = new_plan(lambda old, new: gives)
    plan.add(0, chunk(0))
    with pytest.raises(BadActions, match=r"^merge: expected"):
        plan.add(1, chunk(10, steps=2))
    assert played(plan, range(4)) == [0, 1, 2, 3]


def test_a_merge_that_raises_or_writes_into_its_arguments_changes_nothing() -> None:
    def merge(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        old += 100
        raise KeyError("arm")

    plan = new_plan(merge)
    plan.add(0, chunk(0))
    with pytest.raises(MergeRaised, match=r"^merge: it raised KeyError: 'arm'") as raised:
        plan.add(1, chunk(10))
    assert isinstance(raised.value.error, KeyError)
    assert played(plan, range(4)) == [0, 1, 2, 3]
