"""What the server records is declared, and is dropped when its client disconnects."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferential.metrics import MetricsCollector, names
from inferential.metrics.recorder import Recorder
from inferential.scheduler.request import CLIENT_GONE, QUEUE_FULL, InferenceRequest, Refusal, RefusalKind


@pytest.fixture
def collector() -> MetricsCollector:
    return MetricsCollector()


@pytest.fixture
def recorder(collector: MetricsCollector) -> Recorder:
    return Recorder(collector)


def request(client_id: str = "robot") -> InferenceRequest:
    return InferenceRequest(client_id, "m", b"", b"", b"12345", 1.0, 0.0, None, 0.02, 50.0, 1)


def answered(sent_at: float) -> InferenceRequest:
    subject = request()
    subject.sent_at, subject.inference_ms = sent_at, 8.0
    return subject


def refused(kind: RefusalKind, cause: str, client_id: str = "robot") -> InferenceRequest:
    subject = request(client_id)
    subject.refuse(Refusal(kind, "because", cause))
    return subject


def everything_happens(recorder: Recorder) -> None:
    recorder.observed(request(), 1.0, 0.02, 0.001)
    recorder.dispatched("m", [request()], 3, 1.01)
    recorder.answered([answered(1.02)])
    recorder.answered([answered(1.2)])
    for kind in RefusalKind:
        recorder.refused(refused(kind, "cause"), is_miss=True)
    recorder.refused(refused(RefusalKind.REJECTED, QUEUE_FULL), is_miss=False)
    recorder.refused(refused(RefusalKind.REJECTED, CLIENT_GONE), is_miss=False)
    recorder.retried(request())
    recorder.observation_error("robot", "invalid")
    recorder.send_error("robot", "result", "no route")
    recorder.invalidated("robot")
    recorder.active_clients(1)
    recorder.overdue("robot", "m")


def test_every_recorded_metric_is_declared_with_its_labels(recorder: Recorder, collector: MetricsCollector) -> None:
    everything_happens(recorder)
    recorder.disconnected(["another"])
    for name, points in collector.snapshot().metrics.items():
        found = {label for point in points for label in point["labels"]}
        assert found == set(names.METRICS[name].labels), name


def test_every_declared_metric_is_recorded_somewhere() -> None:
    package = Path(names.__file__).parents[1]
    recording = "".join(
        path.read_text(encoding="utf-8") for path in package.rglob("*.py") if path != Path(names.__file__)
    )
    declared = {constant for constant, value in vars(names).items() if isinstance(value, names.Metric)}
    assert {constant for constant in declared if f"names.{constant}" not in recording} == set()
    assert len(declared) == len(names.METRICS)


def test_a_late_result_and_an_expired_request_miss_their_deadline(
    recorder: Recorder, collector: MetricsCollector
) -> None:
    recorder.answered([answered(1.04)])
    assert collector.get_latest(names.DEADLINE_MISSES) is None
    recorder.answered([answered(1.06)])
    recorder.refused(refused(RefusalKind.EXPIRED, "ttl"), is_miss=True)
    assert len(collector.snapshot().metrics[names.DEADLINE_MISSES]) == 2


def test_of_disconnected_clients_only_the_disconnection_keeps_the_label(
    recorder: Recorder, collector: MetricsCollector
) -> None:
    everything_happens(recorder)
    recorder.disconnected(["robot"])
    left = {
        name
        for name, points in collector.snapshot().metrics.items()
        if any(names.CLIENT in point["labels"] for point in points)
    }
    assert left == {names.CLIENT_DISCONNECTED}


def test_a_request_that_ends_after_its_client_is_counted_under_its_model(
    recorder: Recorder, collector: MetricsCollector
) -> None:
    recorder.disconnected(["robot"])
    recorder.refused(refused(RefusalKind.REJECTED, CLIENT_GONE), is_miss=False)
    (point,) = collector.snapshot().metrics[names.REQUESTS_REJECTED]
    assert point["labels"] == {"model": "m", "error": CLIENT_GONE}


_MOMENTS = st.floats(0.0, 10.0)
_EVENTS = st.lists(
    st.tuples(
        st.sampled_from(("observed", "in rhythm", "dispatched", "answered", "read", "flush")),
        st.sampled_from(("arm-1", "arm-2")),
        st.tuples(_MOMENTS, _MOMENTS, _MOMENTS),
    ),
    max_size=300,
)


@given(_EVENTS)
def test_what_is_recorded_together_is_what_is_recorded_one_by_one_whenever_it_is_read(
    events: list[tuple[str, str, tuple[float, float, float]]],
) -> None:
    together, one_by_one = MetricsCollector(), MetricsCollector()
    called: list[str] = []
    one_by_one.on_metric(lambda name, value, labels: called.append(name))  # from then on nothing is buffered
    recorders = Recorder(together), Recorder(one_by_one)
    for kind, client_id, (first, second, third) in events:
        if kind == "read":
            together.get_stats(names.E2E_LATENCY_MS)
        elif kind == "flush":
            together.flush()
        subject = request(client_id)
        subject.time_until_next, subject.inference_ms, subject.sent_at = second, third, first
        for recorder in recorders:
            if kind == "observed":
                recorder.observed(subject, first, None, None)
            elif kind == "in rhythm":
                recorder.observed(subject, first, second, third)
            elif kind == "dispatched":
                recorder.dispatched("m", [subject, request("arm-3")], 3, first)
            elif kind == "answered":
                recorder.answered([subject, answered(second)])
    found, expected = together.snapshot().metrics, one_by_one.snapshot().metrics
    assert found.keys() == expected.keys()
    for name, points in expected.items():
        assert sorted(map(repr, found[name])) == sorted(map(repr, points))
    assert Counter(called) == {name: len(points) for name, points in expected.items()}
