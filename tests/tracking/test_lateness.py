"""Why actions are late, with a made-up clock."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferential.tracking.lateness import CAUSES, WINDOW_S, ActionAges, ServerTimes, cause_of, sentence, split
from inferential.tracking.outcome_counts import OutcomeCounts

_ms = st.floats(0, 500)


def times(
    wait_ms: float = 0.0,
    model_ms: float = 10.0,
    encode_ms: float = 1.0,
    *,
    budget_ms: float = 50.0,
    before_ms: float | None = None,
    alone_ms: float | None = None,
    at: float = 100.0,
) -> ServerTimes:
    """Of an answer whose request came at `at`; of its wait `before_ms` went until its model's next call."""
    dispatched = at + wait_ms / 1e3
    return ServerTimes(
        at,
        dispatched,
        dispatched + (model_ms + encode_ms) / 1e3,
        at + budget_ms / 1e3,
        dispatched if before_ms is None else at + before_ms / 1e3,
        model_ms,
        model_ms if alone_ms is None else alone_ms,
    )


@given(st.lists(st.tuples(_ms, _ms, _ms, st.floats(0, 500), _ms, _ms), min_size=1, max_size=300))
def test_a_summary_has_the_quantiles_and_the_causes_of_its_actions(
    actions: list[tuple[float, float, float, float, float, float]],
) -> None:
    ages, late = ActionAges(), []
    for wait, model, encode, budget, extra, unread in actions[-256:]:
        answer = times(wait, model, encode, budget_ms=budget)
        age = (answer.sent_at - answer.received_at) * 1e3 + extra
        ages.note(100.0, answer, age, unread)
        late.append(cause_of(split(answer, age, unread), (answer.deadline - answer.received_at) * 1e3))
    summary = ages.summary(100.0)
    assert summary is not None
    shown = ages.actions(100.0)
    assert summary.late == sum(action.cause is not None for action in shown) == sum(cause is not None for cause in late)
    for cause, share in summary.causes.items():
        assert share == pytest.approx(sum(action.cause == cause for action in shown) / summary.late)
    for name, values in [("", [sum(one.parts) for one in shown])] + [
        (cause, [one.parts[at] for one in shown]) for at, cause in enumerate(CAUSES)
    ]:
        wanted = np.quantile(values, (0.5, 0.95, 0.99), method="higher")
        found = summary.parts[name] if name else summary.age
        assert (found.p50, found.p95, found.p99) == pytest.approx(tuple(wanted))


@given(_ms, _ms, _ms, _ms, _ms, _ms, st.floats(0, 2000) | st.just(math.nan), _ms)
def test_the_parts_add_up_to_the_age_and_none_is_negative(
    wait: float, model: float, encode: float, before: float, alone: float, budget: float, age: float, unread: float
) -> None:
    answer = times(wait, model, encode, before_ms=before, alone_ms=alone, budget_ms=budget)
    parts = split(answer, age, unread)
    server_ms = (answer.sent_at - answer.received_at) * 1e3
    assert all(part >= -1e-6 for part in parts)
    assert sum(parts) == pytest.approx(server_ms if math.isnan(age) else max(age, server_ms), abs=1e-3)
    ages = ActionAges()
    cause = ages.note(200.0, answer, age, unread)
    summary = ages.summary(200.0)
    assert summary is not None
    assert [summary.parts[name].p50 for name in CAUSES] == pytest.approx(list(parts), abs=1e-6)
    if abs(sum(parts) - budget) > 1e-3:
        assert (summary.late, summary.causes) == ((0, {}) if cause is None else (1, {cause: 1.0}))


@given(st.lists(_ms, min_size=6, max_size=6), _ms)
def test_taking_the_cause_away_saves_the_action_if_any_single_part_does(parts: list[float], budget: float) -> None:
    cause = cause_of(parts, budget)
    assert (cause is None) == (sum(parts) <= budget)
    if cause is not None:
        rest = sum(parts) - parts[CAUSES.index(cause)]
        assert rest <= budget or all(sum(parts) - part > budget for part in parts)


@pytest.mark.parametrize(
    ("answer", "age_ms", "unread_ms", "cause"),
    [
        (times(), 211.0, 0.0, "network"),
        (times(model_ms=180.0), 195.0, 1.0, "model"),
        (times(wait_ms=200.0, before_ms=8.0), 215.0, 0.0, "queue"),
        (times(wait_ms=60.0, before_ms=60.0), 75.0, 0.0, "batch"),
        (times(model_ms=90.0, alone_ms=10.0), 95.0, 0.0, "batch"),
        (times(encode_ms=80.0), 95.0, 0.0, "encode"),
        (times(), 120.0, 105.0, "unread"),
        (times(), 20.0, 5.0, None),
        (times(model_ms=180.0), math.nan, 0.0, "model"),
    ],
)
def test_each_cause_is_named(answer: ServerTimes, age_ms: float, unread_ms: float, cause: str | None) -> None:
    assert ActionAges().note(100.5, answer, age_ms, unread_ms) == cause


def test_a_summary_tells_since_when_and_what_has_not_changed() -> None:
    ages = ActionAges()
    for step in range(40):
        network_ms = 5.0 if step < 20 else 180.0
        ages.note(100.0 + step / 10, times(), 11.0 + network_ms, 0.0)
    summary = ages.summary(104.0)
    assert summary is not None
    assert (summary.actions, summary.late, summary.causes) == (40, 20, {"network": 1.0})
    assert summary.late_s_ago == pytest.approx(2.0)
    assert {"queue", "model"} <= set(summary.unchanged)
    assert "network" not in summary.unchanged
    text = sentence("arm-03", summary, "12:03")
    assert text == (
        "arm-03: 50 % late since 12:03, all network (p95 180 of 191 ms, 50 ms allowed); queue and model unchanged"
    )


@pytest.mark.parametrize(
    ("unchanged", "end"),
    [
        (["model"], "; model unchanged"),
        (["network", "queue", "model", "batch"], "; network, queue and model unchanged"),
        ([], "allowed)"),
    ],
)
def test_what_has_not_changed_is_enumerated(unchanged: list[str], end: str) -> None:
    ages = ActionAges()
    ages.note(100.0, times(), 120.0, 105.0)
    summary = ages.summary(101.0)
    assert summary is not None
    assert sentence("arm", replace(summary, unchanged=unchanged)).endswith(end)


def test_what_is_older_than_the_window_is_left_out_and_memory_is_bounded() -> None:
    ages = ActionAges()
    for step in range(5000):
        ages.note(step / 10, times(), 300.0, 0.0)
    summary = ages.summary(500.0)
    assert summary is not None
    assert summary.actions <= 256
    assert ages.late_by_cause == {"network": 5000}
    assert ages.summary(500.0 + WINDOW_S + 2) is None
    assert sentence("arm", None) == "arm: no action in the last 60 s"


def test_in_time_is_said_in_a_sentence_too() -> None:
    ages = ActionAges()
    ages.note(1.0, times(), 20.0, 0.0)
    assert sentence("arm", ages.summary(1.0)) == "arm: all 1 actions in time (p95 20 ms, 50 ms allowed)"


def test_a_robot_that_says_nothing_is_judged_by_when_its_answers_were_sent() -> None:
    counts = OutcomeCounts()
    assert counts.on_answer(0, times(model_ms=180.0)) == "model"
    assert (counts.answered, counts.in_time) == (1, 0)


def test_a_robot_that_may_say_is_judged_once_it_does_or_has_let_many_pass() -> None:
    counts = OutcomeCounts()
    assert counts.on_answer(1, times(model_ms=180.0)) is None
    found = counts.on_applied(1, 300.0, 0.0, 101.0)
    assert (found.cause, found.is_late) == ("model", False)  # it was sent too late already
    silent = OutcomeCounts()
    causes = [silent.on_answer(number, times(model_ms=180.0)) for number in range(1, 12)]
    assert [cause for cause in causes if cause] == ["model"] * 3


def test_answers_that_a_robot_did_not_use_are_no_actions() -> None:
    counts = OutcomeCounts()
    for number in (1, 2, 3):
        counts.on_answer(number, times())
    counts.on_applied(3, 20.0, 0.0, 101.0)
    for number in range(4, 20):
        counts.on_answer(number, times(model_ms=180.0))
    summary = counts.ages.summary(101.0)
    assert summary is not None
    assert (summary.actions, summary.late) == (1, 0)


def test_actions_of_a_slow_handle_count_beside_those_of_a_fast_one() -> None:
    counts = OutcomeCounts()
    counts.on_answer(1, times())
    for number in range(2, 30):
        counts.on_answer(number, times())
        counts.on_applied(number, 20.0, 0.0, 101.0)
    assert counts.on_applied(1, 300.0, 0.0, 101.0).is_late
    summary = counts.ages.summary(101.0)
    assert summary is not None
    assert (summary.actions, summary.late) == (29, 1)


def test_a_robot_is_late_while_a_tenth_of_its_newest_actions_are_and_ten_seconds_longer_at_most() -> None:
    ages = ActionAges()
    for number in range(60):
        ages.note(100 + number / 20, times(at=100 + number / 20), 20.0, 0.0)
    assert not ages.is_late(103.0)
    for number in range(6):
        ages.note(103 + number / 20, times(at=103 + number / 20), 80.0, 0.0)
    assert not ages.is_late(103.4)  # 6 of 64
    ages.note(103.4, times(at=103.4), 80.0, 0.0)
    assert ages.is_late(103.5)
    assert ages.last_cause == "network"
    assert ages.is_late(113.0)
    assert not ages.is_late(113.5)


def test_one_late_action_of_a_robot_that_has_few_makes_it_not_late() -> None:
    ages = ActionAges()
    for _ in range(2):
        ages.note(100.0, times(), 80.0, 0.0)
    assert not ages.is_late(100.0)
    ages.note(100.0, times(), math.nan, 0.0)
    assert not ages.is_late(100.0)


def test_the_last_actions_have_their_parts_budgets_and_causes() -> None:
    ages = ActionAges()
    ages.note(100.0, times(budget_ms=math.inf), 500.0, 0.0)
    ages.note(101.0, times(20.0), 80.0, 5.0)
    free, late = ages.actions(102.0)
    assert (free.ago_s, free.budget_ms, free.cause) == (2.0, None, None)
    assert late.cause == "network"
    assert dict(zip(CAUSES, late.parts, strict=True))["unread"] == 5.0
    assert ages.actions(100.0 + 2 * WINDOW_S) == []


def test_who_gets_nothing_for_a_second_and_its_budget_misses_and_an_answer_ends_that() -> None:
    counts = OutcomeCounts()
    assert not counts.on_no_answer(100.0, 0.05, 100.05)  # a newer one takes its place
    assert not counts.on_no_answer(100.9, 0.05, 101.0)
    assert counts.on_no_answer(101.0, 0.05, 101.05)
    assert counts.nothing_since() == 100.0
    counts.on_answer(0, times())
    assert counts.nothing_since() is None
    assert not counts.on_no_answer(101.1, 0.05, 101.2)
    assert not counts.on_no_answer(101.1, 5.0, 103.0)  # it may take five
    assert counts.missed == 1


def test_refusals_in_a_row_for_one_cause_are_one_error_with_its_newest_reason() -> None:
    counts = OutcomeCounts()
    for number in range(3):
        counts.on_refused("model_failed", "ValueError", f"row {number}", 100.0 + number)
    for number in range(20):
        counts.on_refused("rejected", f"cause-{number}", "", 200.0)
    counts.on_refused("rejected", "cause-19", "again", 201.0)
    assert len(counts.refusals) == 8
    newest = counts.refusals[-1]
    assert (newest.count, newest.reason, newest.first_at, newest.last_at) == (2, "again", 200.0, 201.0)
