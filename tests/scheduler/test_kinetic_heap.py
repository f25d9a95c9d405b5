"""The order of taking against an oracle that scores every waiting request anew."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from inferential.config.schema import DeadlineAwareConfig
from inferential.scheduler import InferenceRequest, ModelAwareScheduler
from inferential.scheduler.kinetic_heap import TIE, KineticLane
from inferential.scheduler.score import Weights, score_of

MakeRequest = Callable[..., InferenceRequest]
MakeScheduler = Callable[..., ModelAwareScheduler]
StoppedClock = Callable[..., AbstractContextManager[Any]]


@dataclass(frozen=True)
class Op:
    """One thing that happens, after some time."""

    what: str
    wait_s: float
    fields: dict[str, Any]
    pick: int


def ops(seconds: st.SearchStrategy[float], budgets_ms: st.SearchStrategy[float]) -> st.SearchStrategy[list[Op]]:
    """What happens; the made-up clients are three and the models two."""
    fields = st.fixed_dictionaries(
        {
            "client": st.sampled_from("xyz"),
            "model": st.sampled_from("ab"),
            "urgency": st.sampled_from([0.0, 0.25, 1.0]),
            "steps_remaining": st.sampled_from([None, 0, 2, 4, 9]),
            "time_until_next": st.one_of(seconds, seconds.map(lambda s: -s)),
            "latency_budget_ms": budgets_ms,
            "priority": st.integers(0, 12),
            "since": seconds,
        }
    )
    op = st.builds(Op, st.sampled_from("sssstarx"), seconds, fields, st.integers(0, 99))
    return st.lists(op, max_size=60)


def replay(
    happenings: list[Op],
    options: DeadlineAwareConfig,
    make_request: MakeRequest,
    make_scheduler: MakeScheduler,
    stopped_clock: StoppedClock,
    check: Callable[[InferenceRequest, list[InferenceRequest], Callable[[InferenceRequest], float]], None],
) -> None:
    """Runs what happens; `check` is called with each request taken, those it was taken from and their scores."""
    scheduler = make_scheduler("deadline_aware", deadline_aware=options, request_ttl_ms=3000.0)
    weights = Weights.of(options)
    waiting: list[InferenceRequest] = []
    with stopped_clock() as clock:

        def score(request: InferenceRequest) -> float:
            return score_of(request, clock.now, weights)

        def taken(request: InferenceRequest, among: list[InferenceRequest]) -> None:
            assert request.score == score(request)
            check(request, among, score)
            waiting.remove(request)

        for op in happenings:
            clock.now += op.wait_s
            model = op.fields["model"]
            if op.what == "s":
                fields = dict(op.fields)
                since = fields.pop("since")
                request = make_request(**fields, received_at=clock.now - since)
                scheduler.submit(request)
                assert request.score == score(request)
                waiting.append(request)
            elif op.what == "t":
                for request in scheduler.next_batch_for_model(model, op.pick % 4):
                    taken(request, [other for other in waiting if other.model_id == model])
            elif op.what == "a":
                for request in scheduler.next_batch():
                    taken(request, waiting)
            elif op.what == "r" and waiting:
                assert scheduler.remove(waiting.pop(op.pick % len(waiting)))
            elif op.what == "x":
                scheduler.tick()
                waiting = [request for request in waiting if clock.now - request.received_at <= 3.0]
            assert scheduler.queue_len() == len(waiting)
        while batch := scheduler.next_batch():
            taken(batch[0], waiting)
        assert not waiting


options = st.builds(
    DeadlineAwareConfig,
    cadence_weight=st.floats(0, 100),
    urgency_weight=st.floats(0, 100),
    steps_weight=st.floats(0, 100),
    priority_weight=st.floats(0, 100),
    age_weight=st.floats(0, 100),
)


@settings(max_examples=150, deadline=None)
@given(happenings=ops(st.floats(0, 1), st.floats(0.001, 2000)), options=options)
def test_the_best_is_taken_whatever_the_weights_and_times(
    happenings: list[Op],
    options: DeadlineAwareConfig,
    make_request: MakeRequest,
    make_scheduler: MakeScheduler,
    stopped_clock: StoppedClock,
) -> None:
    def check(
        request: InferenceRequest, among: list[InferenceRequest], score: Callable[[InferenceRequest], float]
    ) -> None:
        # Twice the tie, for what rounding makes of steep lines far from time 0.
        assert score(request) >= max(map(score, among)) - 2 * TIE

    replay(happenings, options, make_request, make_scheduler, stopped_clock, check)


exact_seconds = st.integers(0, 64).map(lambda n: n / 64)
exact_budgets_ms = st.sampled_from([31.25, 62.5, 125.0, 250.0, 500.0])


@settings(max_examples=150, deadline=None)
@given(happenings=ops(exact_seconds, exact_budgets_ms))
def test_the_order_is_the_oracles_where_floats_do_not_round_and_ties_go_to_the_first_to_arrive(
    happenings: list[Op], make_request: MakeRequest, make_scheduler: MakeScheduler, stopped_clock: StoppedClock
) -> None:
    def check(
        request: InferenceRequest, among: list[InferenceRequest], score: Callable[[InferenceRequest], float]
    ) -> None:
        assert request is min(among, key=lambda other: (-score(other), other.arrival))

    options = DeadlineAwareConfig(priority_weight=20.0)  # points for priority are whole numbers then
    replay(happenings, options, make_request, make_scheduler, stopped_clock, check)


def test_a_clock_that_was_set_back_does_not_spoil_the_order(make_request: MakeRequest) -> None:
    lane = KineticLane(Weights.of(DeadlineAwareConfig()))
    urgent = make_request(received_at=0.0, urgency=0.5, time_until_next=100.0, latency_budget_ms=1e6)
    aged = make_request(received_at=0.0, time_until_next=100.0, latency_budget_ms=10.0)
    for request in (urgent, aged):
        lane.push(request, 1.0)
    assert lane.best(1.0) is aged
    assert lane.best(0.001) is urgent
    assert lane.best(1.0) is aged


def test_equal_scores_that_grow_at_different_rates_go_to_the_first_to_arrive(make_request: MakeRequest) -> None:
    lane = KineticLane(Weights.of(DeadlineAwareConfig()))
    budgets_ms = (1000.0, 250.0, 500.0)
    requests = [make_request(received_at=4.0, latency_budget_ms=budget_ms) for budget_ms in budgets_ms]
    for request in reversed(requests):
        lane.push(request, 4.0)
    assert lane.take(3, 4.0) == requests


def test_nothing_is_left_of_requests_that_are_gone(make_request: MakeRequest) -> None:
    weights = Weights.of(DeadlineAwareConfig())
    lane = KineticLane(weights)
    requests = [make_request(received_at=0.0, latency_budget_ms=float(n)) for n in range(1, 50)]
    for request in requests:
        lane.push(request, 0.0)
    best = sorted(requests, key=lambda r: (-score_of(r, 0.02, weights), r.arrival))[:40]
    assert lane.take(40, 0.02) == best
    for request in requests:
        if request not in best:
            lane.discard(request)
    assert (len(lane), lane.entries()) == (0, 0)
