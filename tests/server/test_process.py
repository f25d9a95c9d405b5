"""What the server changes in its process, and puts back."""

from __future__ import annotations

import gc

import pytest

from inferential.server.process import frozen_garbage


@pytest.mark.parametrize(
    ("before", "meanwhile"),
    [((700, 10, 10), (2_000, 25, 10)), ((50_000, 50, 100), (50_000, 50, 100)), ((0, 10, 10), (0, 25, 10))],
)
def test_the_young_are_collected_later_meanwhile_and_as_before_afterwards(
    before: tuple[int, int, int], meanwhile: tuple[int, int, int]
) -> None:
    found = gc.get_threshold()
    gc.set_threshold(*before)
    try:
        with frozen_garbage():
            assert gc.get_threshold() == meanwhile
            assert gc.get_freeze_count() > 0
        assert gc.get_threshold() == before
        assert gc.get_freeze_count() == 0
    finally:
        gc.set_threshold(*found)
