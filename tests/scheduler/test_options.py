"""`use_scheduler(strategy, **options)`: which option belongs where."""

from __future__ import annotations

from typing import Any

import pytest

from inferential.config import SchedulingConfig
from inferential.scheduler.options import with_options


def test_the_strategy_is_changed_and_nothing_else() -> None:
    old = SchedulingConfig(max_queue_size=5)
    new = with_options(old, "round_robin", {})
    assert new == SchedulingConfig(strategy="round_robin", max_queue_size=5)
    assert old.strategy == "deadline_aware"


def test_an_option_of_scheduling_goes_to_scheduling() -> None:
    new = with_options(SchedulingConfig(), "round_robin", {"max_queue_size": 7, "request_ttl_ms": 100})
    assert (new.max_queue_size, new.request_ttl_ms) == (7, 100.0)


@pytest.mark.parametrize(
    ("strategy", "option", "value"),
    [
        ("deadline_aware", "cadence_weight", 1.5),
        ("model_deadline", "urgency_weight", 2.5),
        ("batch_optimized", "max_batch_size", 3),
        ("priority_tiered", "num_tiers", 5),
    ],
)
def test_an_option_of_the_strategy_goes_to_its_own_section_alone(strategy: str, option: str, value: Any) -> None:
    new = with_options(SchedulingConfig(), strategy, {option: value})
    assert getattr(getattr(new, strategy), option) == value
    expected = SchedulingConfig(strategy=strategy)
    setattr(getattr(expected, strategy), option, value)
    assert new == expected


def test_what_was_set_before_stays() -> None:
    first = with_options(SchedulingConfig(), "batch_optimized", {"max_batch_size": 3, "max_retries": 2})
    second = with_options(first, "batch_optimized", {"max_wait_ms": 4})
    assert (second.batch_optimized.max_batch_size, second.batch_optimized.max_wait_ms, second.max_retries) == (3, 4, 2)
    assert first.batch_optimized.max_wait_ms == 10


def test_a_whole_section_may_be_given_and_an_option_beside_it_outranks_it() -> None:
    for options in (
        {"batch_optimized": {"max_batch_size": 3, "max_wait_ms": 1}, "max_wait_ms": 5},
        {"max_wait_ms": 5, "batch_optimized": {"max_batch_size": 3, "max_wait_ms": 1}},
    ):
        new = with_options(SchedulingConfig(), "batch_optimized", options)
        assert (new.batch_optimized.max_batch_size, new.batch_optimized.max_wait_ms) == (3, 5.0)


@pytest.mark.parametrize(
    ("strategy", "option", "known"),
    [
        ("round_robin", "max_batch_size", "max_queue_size"),
        ("deadline_aware", "num_tiers", "cadence_weight"),
        ("batch_optimized", "max_batch", "max_batch_size"),
        ("a_users_own", "whatever", "request_ttl_ms"),
    ],
)
def test_an_unknown_option_is_named_with_those_there_are(strategy: str, option: str, known: str) -> None:
    with pytest.raises(ValueError, match=rf"^unknown option '{option}' of strategy '{strategy}'; known: .*{known}"):
        with_options(SchedulingConfig(), strategy, {option: 1})


def test_the_strategy_itself_is_no_option() -> None:
    with pytest.raises(ValueError, match="unknown option 'strategy' of strategy 'round_robin'"):
        with_options(SchedulingConfig(), "round_robin", {"strategy": "deadline_aware"})


@pytest.mark.parametrize(
    ("strategy", "options", "place"),
    [
        ("batch_optimized", {"max_batch_size": 0}, "max_batch_size"),
        ("round_robin", {"overflow_policy": "drop_some"}, "overflow_policy"),
        ("deadline_aware", {"age_weight": -1}, "age_weight"),
    ],
)
def test_a_bad_value_is_named_and_changes_nothing(strategy: str, options: dict[str, Any], place: str) -> None:
    config = SchedulingConfig()
    with pytest.raises(ValueError, match=place):
        with_options(config, strategy, options)
    assert config == SchedulingConfig()


def test_a_strategy_of_a_users_own_takes_the_options_of_scheduling() -> None:
    new = with_options(SchedulingConfig(), "a_users_own", {"max_queue_size": 9})
    assert (new.strategy, new.max_queue_size) == ("a_users_own", 9)
