"""A deadline comes from the best sign there is."""

from __future__ import annotations

from typing import Any

import pytest

from inferential.scheduler.time.deadline import deadline_of


@pytest.mark.parametrize(
    ("known", "deadline"),
    [
        ({"explicit_budget_ms": 30.0, "runs_out_at": 101.0, "cadence_s": 0.2}, 100.03),
        ({"runs_out_at": 101.0, "cadence_s": 0.2}, 101.0),
        ({"cadence_s": 0.2}, 100.2),
        ({}, 100.05),
    ],
)
def test_the_first_of_budget_end_of_actions_cadence_and_default_holds(known: dict[str, Any], deadline: float) -> None:
    arguments = {"explicit_budget_ms": None, "runs_out_at": None, "cadence_s": None, **known}
    assert deadline_of(100.0, default_budget_ms=50.0, **arguments) == pytest.approx(deadline)
