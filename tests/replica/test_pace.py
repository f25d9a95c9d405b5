"""A model counts as quick by what its latest calls took."""

from __future__ import annotations

from inferential.replica.pace import HEAVY_S, SHORT_S, Pace


def test_a_model_is_not_quick_before_it_has_shown_so() -> None:
    assert not Pace().quick


def test_short_calls_in_a_row_make_a_model_quick_and_long_ones_slow_again() -> None:
    pace = Pace()
    assert [pace.note(SHORT_S / 2) for _ in range(5)] == [False, False, False, True, False]
    assert pace.quick
    assert [pace.note(SHORT_S * 3) for _ in range(4)] == [False, False, False, True]
    assert not pace.quick


def test_one_long_call_among_short_ones_changes_nothing() -> None:
    pace = Pace()
    for _ in range(4):
        pace.note(SHORT_S / 2)
    for _ in range(20):
        assert not pace.note(1.0)
        assert not pace.note(SHORT_S / 2)
    assert pace.quick


def test_long_calls_in_a_row_make_a_model_heavy() -> None:
    pace = Pace()
    for _ in range(4):
        assert not pace.heavy
        pace.note(2 * HEAVY_S)
    assert pace.heavy


def test_durations_are_taken_from_what_ran_in_all() -> None:
    pace, changed = Pace(), []
    for call in range(1, 6):
        changed.append(pace.note_total(call * 8 * 50_000, call * 8))
        assert not pace.note_total(call * 8 * 50_000, call * 8)  # no row more
    assert changed == [False, False, False, True, False]
    assert pace.quick


def test_large_observations_are_handed_over_alone_until_none_has_come_for_long() -> None:
    pace = Pace()
    for _ in range(4):
        pace.note(SHORT_S / 2)
    assert pace.shares
    pace.note_large()
    assert pace.note(SHORT_S / 2)
    assert pace.quick
    assert not pace.shares
    assert not pace.note(SHORT_S / 2)
    changed = [pace.note(SHORT_S / 2) for _ in range(5000)]
    assert changed.count(True) == 1
    assert pace.shares


def test_a_model_that_is_slow_as_its_large_observations_end_shares_nothing() -> None:
    pace = Pace()
    pace.note_large()
    assert not any(pace.note(SHORT_S * 3) for _ in range(5000))
    assert not pace.shares
