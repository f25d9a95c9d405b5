"""The budget by stages, which marks functions by their names."""

from __future__ import annotations

import pytest
from bench import stages


def test_the_stages_of_a_round_trip_add_up_to_it() -> None:
    found = stages.run(0.3)
    assert list(found["stages"]) == [title for title, _, _ in stages.STAGES]
    assert all(us > 0 for us in found["stages"].values())
    assert sum(found["stages"].values()) == pytest.approx(found["round_trip"], abs=1.0)
