"""When a version in the shadow is asked: where no robot is to meet its call, by a made-up clock."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from tests.models.floor import Floor

from inferential.models.probes import PATIENCE_S, ROOM, SHADOW_SHARE
from inferential.models.report import versions_of
from inferential.models.shadow import Comparison

SHADOWED = {"versions": {"a": {"target": "p:A"}, "b": {"target": "p:B"}}, "active": "a", "shadow": "b"}
TAKES_S = 0.002


class Shadowed(Floor):
    """A floor with a version in the shadow."""

    async def runs(self) -> bool:
        """Serves a robot; returns whether the shadow was asked by it."""
        before = len(self.backend.ran)
        with self.clock():
            self.serve("arm", TAKES_S)
            for _ in range(5):
                await asyncio.sleep(0)
        return len(self.backend.ran) > before


async def test_the_shadow_is_asked_only_while_no_robot_is_expected() -> None:
    floor = Shadowed(SHADOWED)
    floor.expected_in_s = 0.9 * ROOM * TAKES_S
    assert not await floor.runs()
    floor.expected_in_s = 1.1 * ROOM * TAKES_S
    assert await floor.runs()
    comparison = floor.models.trials.comparison("m")
    assert comparison is not None
    assert comparison.compared == 1


async def test_an_answer_is_compared_as_the_robot_got_it_though_its_model_goes_on_in_the_same_memory() -> None:
    floor = Shadowed(SHADOWED)
    with floor.clock():
        floor.serve("arm", TAKES_S)
        floor.output[:] = 100.0
        for _ in range(5):
            await asyncio.sleep(0)
    comparison = floor.models.trials.comparison("m")
    assert comparison is not None
    assert comparison.max() == [0.0, 0.0]


async def test_answers_that_cannot_be_compared_say_why() -> None:
    floor = Shadowed(SHADOWED)
    floor.backend.answer = {"actions": np.ones(3)}
    assert await floor.runs()
    (shadow,) = [one for one in versions_of(floor.models, "m") if one.role == "shadow"]
    assert (shadow.compared, shadow.why) == (0, "not comparable: 'actions': shape (2,) and shape (3,)")


async def test_the_shadow_is_not_asked_while_another_call_runs() -> None:
    floor = Shadowed(SHADOWED)
    floor.ask("arm")
    batch = floor.work()["m@a"]
    floor.ask("other")
    with floor.clock():
        floor.now += TAKES_S
        floor.end(batch)
        await asyncio.sleep(0)
    assert floor.backend.ran == []


async def test_the_shadow_waits_after_each_call_for_its_share_of_the_time() -> None:
    floor = Shadowed(SHADOWED)
    assert await floor.runs()
    asked_at = floor.now
    while not await floor.runs():
        floor.now += 0.01
        assert floor.now < asked_at + 60.0
    assert floor.now - asked_at >= TAKES_S / SHADOW_SHARE


async def test_where_a_robot_is_always_expected_the_shadow_is_asked_at_last() -> None:
    floor = Shadowed(SHADOWED)
    floor.expected_in_s = 0.0
    assert not await floor.runs()
    floor.now += PATIENCE_S
    assert await floor.runs()
    assert not await floor.runs()


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_answers_that_are_no_numbers_are_not_comparable_and_hide_no_others(broken: float) -> None:
    comparison, actions = Comparison(), np.zeros((2, 3))
    comparison.add({"actions": actions}, {"actions": actions + 0.5})
    assert comparison.add({"actions": actions}, {"actions": np.full((2, 3), broken)}) is None
    assert (comparison.compared, comparison.mean(), comparison.max()) == (1, [0.5] * 3, [0.5] * 3)
    assert comparison.last_problem == "'actions': a number is not finite"
