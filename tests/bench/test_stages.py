"""The budget by stages, which marks functions by their names."""

from __future__ import annotations

from typing import Any

import pytest
from bench import stages


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return stages.run(0.3)


@pytest.mark.parametrize("place", ["coroutine", "process"])
def test_the_stages_of_a_round_trip_add_up_to_it(found: dict[str, Any], place: str) -> None:
    budget = found if place == "coroutine" else found[place]
    expected = stages.STAGES if place == "coroutine" else stages.PROCESS_STAGES
    assert list(budget["stages"]) == [title for title, _ in expected]
    assert all(us > 0 for us in budget["stages"].values())
    assert sum(budget["stages"].values()) == pytest.approx(budget["round_trip"], abs=1.0)
