"""The sans-I/O session: matching responses to requests, held observations, and bounded memory."""

from __future__ import annotations

import dataclasses
import gc
import inspect
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from inferential import (
    Connection,
    InferenceError,
    InvalidObservation,
    ModelFailed,
    ObservationOutdated,
    RequestExpired,
    RequestRejected,
    RequestSuperseded,
    Result,
    UnknownModel,
)
from inferential.client.encoding import EncodingRules
from inferential.client.handle import Handle
from inferential.client.mailbox import MAX_UNREAD, Mailbox
from inferential.client.session import MAX_OPEN, MAX_UNSENT, Session, SessionSizes
from inferential.proto import LATE_REFUSE, QUEUE_ALL, QUEUE_LATEST, Cancellation, ModelResponse, Observation, Status
from inferential.proto.fields import DEFAULT_BUDGET_MS
from inferential.proto.messages import MAX_CANCELLED, content_of

NewTalk = Callable[[], Any]


def number(outcome: Any) -> int:
    assert isinstance(outcome, Result)
    return int(outcome["actions"])


def numbers(mailbox: Mailbox) -> list[int]:
    taken = []
    while (outcome := mailbox.take()) is not None:
        taken.append(number(outcome))
    return taken


def observed(
    session: Session, mailbox: Mailbox, values: dict[str, Any] | None = None, *, timestamp_ns: int = 1, **inputs: Any
) -> Observation:
    fields = {"urgency": 0.0, "steps_remaining": None, "priority": None, **inputs}
    _, (_, envelope, _) = session.observe(
        mailbox,
        content_of(values or {}),
        fields,
        now=0.0,
        timestamp_ns=timestamp_ns,
    )
    return Observation.FromString(envelope)


# What is sent


def test_an_observation_carries_all_that_the_user_gave() -> None:
    session = Session("robot", "arm")
    mailbox = session.mailbox(Handle("m", 20.0, 3, "all", EncodingRules(None)))
    values = {"state": np.arange(3.0), "prompt": "pick"}
    message = observed(session, mailbox, values, urgency=0.5, steps_remaining=0, timestamp_ns=77)
    assert (message.client.id, message.client.type, message.model_id) == ("robot", "arm", "m")
    assert (message.timestamp_ns, message.tensors[0].timestamp_ns) == (77, 77)
    assert (message.urgency, message.steps_remaining, message.priority) == (0.5, 0, 3)
    assert (message.protocol_version, message.queue, message.latency_budget_ms) == (2, QUEUE_ALL, 20.0)
    assert message.HasField("steps_remaining")
    assert dict(message.metadata) == {"prompt": "pick"}


def test_what_is_not_given_is_not_sent(talk: Any) -> None:
    message = talk.observe(talk.mailbox()).message
    assert not message.HasField("steps_remaining")
    assert message.queue == QUEUE_LATEST


def test_a_priority_of_one_observation_outranks_that_of_its_handle(talk: Any) -> None:
    assert observed(talk.session, talk.mailbox(), priority=0).priority == 0
    assert observed(talk.session, talk.mailbox()).priority == 1


def test_numbers_of_numpy_are_numbers(talk: Any) -> None:
    inputs = {"urgency": np.float32(0.5), "steps_remaining": np.int64(3), "priority": np.uint8(2)}
    message = observed(talk.session, talk.mailbox(), **inputs)
    assert (message.urgency, message.steps_remaining, message.priority) == (0.5, 3, 2)


def test_request_ids_grow_by_one_and_never_meet_those_of_another_session(new_talk: NewTalk) -> None:
    starts = []
    for talk in (new_talk() for _ in range(20)):
        mailbox = talk.mailbox()
        ids = [talk.observe(mailbox).request_id for _ in range(5)]
        assert ids == list(range(ids[0], ids[0] + 5))
        assert 2**32 <= ids[0] < 2**63
        starts.append(ids[0])
    assert all(abs(a - b) >= 2**32 for a in starts for b in starts if a != b)
    assert len(set(starts)) == 20


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"urgency": "high"}, "urgency: expected a number from 0 to 1, got 'high'"),
        ({"urgency": 10**400}, "urgency: expected a number from 0 to 1, got 1000"),
        ({"steps_remaining": 1.5}, "steps_remaining: expected a whole number from 0 to 2**32 - 1, got 1.5"),
        ({"steps_remaining": -1}, "steps_remaining: expected a whole number from 0 to 2**32 - 1, got -1"),
        ({"priority": 2**32}, "priority: expected a whole number from 0 (the highest) to 2**32 - 1, got 4294967296"),
        ({"priority": -1}, "priority: expected a whole number from 0 (the highest) to 2**32 - 1, got -1"),
    ],
)
def test_a_number_out_of_range_is_named(inputs: dict[str, Any], text: str, talk: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(text)):
        observed(talk.session, talk.mailbox(), **inputs)


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (1.5, TypeError, r"^joints: expected np\.ndarray .* got float; np\.asarray"),
        (None, TypeError, r"^joints: expected np\.ndarray .* got NoneType"),
        (b"x", TypeError, "^joints: .* got bytes"),
        (np.array([None]), ValueError, "^joints: No DType mapping"),
        (np.ones(2, complex), ValueError, "^joints: No DType mapping"),
        ("caf\udce9", ValueError, "^joints: "),
    ],
)
def test_a_value_that_cannot_be_sent_is_named_by_its_key_and_opens_nothing(
    value: Any, kind: type[Exception], text: str, talk: Any
) -> None:
    mailbox = talk.mailbox()
    with pytest.raises(kind, match=text):
        observed(talk.session, mailbox, {"ok": np.zeros(1), "joints": value})
    assert not mailbox.open
    assert talk.session.sizes().open_requests == 0
    assert talk.session.stats.observed == 0


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"model_id": ""}, "model_id: expected the id of a model, got ''"),
        ({"model_id": 5}, "model_id: expected the id of a model, got 5"),
        ({"model_id": "a\nb"}, r"model_id: expected the id of a model, got 'a\\nb'"),
        ({"model_id": "caf\udce9"}, "model_id: expected the id of a model"),
        ({"latency_budget_ms": 0}, "latency_budget_ms: expected a finite number above 0, got 0"),
        ({"latency_budget_ms": -1.0}, "latency_budget_ms: .* got -1.0"),
        ({"latency_budget_ms": math.nan}, "latency_budget_ms: .* got nan"),
        ({"latency_budget_ms": math.inf}, "latency_budget_ms: .* got inf"),
        ({"priority": -1}, r"priority: expected a whole number from 0 \(the highest\) to 2\*\*32 - 1, got -1"),
        ({"priority": 2**32}, "priority: .* got 4294967296"),
        ({"queue": "newest"}, "queue: expected 'latest' or 'all', got 'newest'"),
    ],
)
def test_a_handle_refuses_what_makes_no_sense_by_name(inputs: dict[str, Any], text: str) -> None:
    fields = {"model_id": "m", "latency_budget_ms": 50.0, "priority": 1, "queue": "latest", **inputs}
    with pytest.raises(ValueError, match=text):
        Handle(**fields, rules=EncodingRules(None))


def test_a_client_without_an_id_gets_a_unique_one() -> None:
    names = {Session("", "").client_id for _ in range(100)}
    assert len(names) == 100
    assert all(re.fullmatch(r"client-[0-9a-f]{12}", name) for name in names)


@pytest.mark.parametrize(("inputs", "name"), [(7, "7"), (0, "0"), ("arm-3", "arm-3"), ("ü" * 127, "ü" * 127)])
def test_a_client_id_is_text_or_a_number(inputs: Any, name: str) -> None:
    assert Session(inputs, "").client_id == name


@pytest.mark.parametrize("bad", ["x" * 256, "ü" * 128, "a\nb", "a\0b", "caf\udce9", "\x1b[31m"])
@pytest.mark.parametrize("field", ["client_id", "client_type"])
def test_an_id_that_cannot_be_used_is_refused_by_name(field: str, bad: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: expected at most 255 bytes of printable text, got "):
        Session(**{"client_id": "robot", "client_type": "arm", field: bad})


# Answers


def test_each_answer_goes_to_the_handle_that_asked(talk: Any) -> None:
    first, second, other = talk.mailbox(queue="all"), talk.mailbox(queue="all"), talk.mailbox("other", "all")
    seen = [(mailbox, talk.observe(mailbox, n)) for n, mailbox in enumerate((first, second, other, first, second))]
    for _, one in reversed(seen):
        talk.answer(one)
    assert numbers(first) == [3, 0]
    assert numbers(second) == [4, 1]
    assert numbers(other) == [2]


def test_a_result_carries_what_the_server_sent(talk: Any) -> None:
    mailbox = talk.mailbox()
    seen = talk.observe(mailbox, now=10.0)
    talk.answer(seen, now=10.025, actions=np.ones(2), note="go")
    result = mailbox.take()
    assert isinstance(result, Result)
    assert result.keys() == {"actions", "note", "response_id", "model_id", "inference_latency_ms"}
    assert (result["note"], result["response_id"], result["model_id"]) == ("go", f"r{seen.request_id}", "m")
    assert result["inference_latency_ms"] == 2.0
    assert result.request_id == seen.request_id
    assert result.age_ms == pytest.approx(25.0)
    assert result.timing.batch_size == 3


def test_the_next_observation_alone_tells_when_a_result_was_applied(talk: Any) -> None:
    mailbox = talk.mailbox()
    seen = talk.observe(mailbox, now=10.0)
    assert not seen.message.HasField("applied")
    talk.answer(seen, now=10.025)
    mailbox.applied = seen.request_id, 25.0, 1.0  # as its result does
    applied = talk.observe(mailbox, now=10.1).message.applied
    assert (applied.request_id, applied.age_ms, applied.unread_ms) == (seen.request_id, 25.0, 1.0)
    assert not talk.observe(mailbox, now=10.2).message.HasField("applied")


def test_latest_gives_the_newest_result_and_counts_the_others(talk: Any) -> None:
    mailbox = talk.mailbox()
    seen = [talk.observe(mailbox, n) for n in range(4)]
    for n in (0, 2, 1):
        talk.answer(seen[n])
    assert numbers(mailbox) == [2]
    talk.answer(seen[3])
    assert numbers(mailbox) == [3]
    stats = talk.session.stats
    assert (stats.observed, stats.results, stats.outdated) == (4, 4, 2)


def test_all_gives_every_result_in_the_order_of_arrival(talk: Any) -> None:
    mailbox = talk.mailbox(queue="all")
    seen = [talk.observe(mailbox, n) for n in range(4)]
    for n in (0, 2, 1, 3):
        talk.answer(seen[n])
    assert numbers(mailbox) == [0, 2, 1, 3]
    assert talk.session.stats.outdated == 0


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("REJECTED", RequestRejected),
        ("EXPIRED", RequestExpired),
        ("UNKNOWN_MODEL", UnknownModel),
        ("INVALID_OBSERVATION", InvalidObservation),
        ("MODEL_FAILED", ModelFailed),
    ],
)
@pytest.mark.parametrize("queue", ["latest", "all"])
def test_each_status_is_an_error_of_its_own_type(status: str, kind: type, queue: Any, talk: Any) -> None:
    mailbox = talk.mailbox(queue=queue)
    seen = talk.observe(mailbox)
    talk.refuse(seen, status)
    error = mailbox.take()
    assert isinstance(error, InferenceError)
    assert type(error) is kind
    assert (error.request_id, error.model_id, error.reason) == (seen.request_id, "m", "because")
    assert talk.session.stats.refused == 1


def test_a_status_of_a_later_line_is_an_error_all_the_same(talk: Any) -> None:
    mailbox = talk.mailbox()
    seen = talk.observe(mailbox)
    message = ModelResponse(request_id=seen.request_id, model_id="m", reason="new")
    message.status = 99  # type: ignore[assignment]
    talk.session.receive(message.SerializeToString(), b"", 0.0)
    error = mailbox.take()
    assert type(error) is InferenceError
    assert error.reason == "new"


def test_a_superseded_request_is_skipped_and_counted(talk: Any) -> None:
    mailbox = talk.mailbox()
    first, second = talk.observe(mailbox, 1), talk.observe(mailbox, 2)
    talk.refuse(first, "SUPERSEDED")
    talk.answer(second)
    assert numbers(mailbox) == [2]
    assert (talk.session.stats.superseded, talk.session.stats.refused) == (1, 0)


def test_what_is_kept_for_infer_is_given_to_it_alone(talk: Any) -> None:
    mailbox = talk.mailbox()
    kept, superseded, plain = (talk.observe(mailbox, n, keep=n < 2) for n in range(3))
    talk.refuse(superseded, "SUPERSEDED")
    talk.answer(plain)
    talk.answer(kept)
    assert numbers(mailbox) == [2]
    assert number(mailbox.take_kept(kept.request_id)) == 0
    assert mailbox.take_kept(kept.request_id) is None
    assert isinstance(mailbox.take_kept(superseded.request_id), RequestSuperseded)
    assert mailbox.take_kept(plain.request_id) is None


def test_an_answer_to_nothing_that_is_open_is_counted(talk: Any, new_talk: NewTalk) -> None:
    mailbox = talk.mailbox()
    seen = talk.observe(mailbox)
    talk.answer(seen)
    talk.answer(seen)  # twice
    former = new_talk()
    talk.answer(former.observe(former.mailbox()))  # of a former life
    talk.session.abandon(mailbox, (late := talk.observe(mailbox)).request_id)
    talk.refuse(late, "EXPIRED")
    assert len(numbers(mailbox)) == 1
    assert talk.session.stats.unmatched == 3


@pytest.mark.parametrize("envelope", [b"\xff\xff\xff", b"garbage", bytes(100)])
def test_what_is_no_response_is_counted(envelope: bytes, talk: Any) -> None:
    mailbox = talk.mailbox()
    talk.observe(mailbox)
    talk.session.receive(envelope, b"", 0.0)
    assert talk.session.stats.unmatched == 1
    assert mailbox.take() is None


def test_a_response_whose_tensors_lie_is_counted(talk: Any) -> None:
    mailbox = talk.mailbox()
    seen = talk.observe(mailbox)
    message = ModelResponse(request_id=seen.request_id)
    message.tensors.add(key="x", dtype=2, shape=[2], byte_offset=2**64 - 1, byte_length=8)
    talk.session.receive(message.SerializeToString(), bytes(8), 0.0)
    assert talk.session.stats.unmatched == 1


# The 1.x line


def test_answers_without_an_id_belong_to_the_oldest_request_of_their_model(talk: Any) -> None:
    a, b, other = talk.mailbox(queue="all"), talk.mailbox(queue="all"), talk.mailbox("other", "all")
    seen = [talk.observe(mailbox, n) for n, mailbox in enumerate((a, other, b, a))]
    for one in seen:
        talk.answer_old(one)
    assert numbers(a) == [0, 3]
    assert numbers(b) == [2]
    assert numbers(other) == [1]


def test_an_answer_of_the_1_x_line_carries_what_that_line_sends(talk: Any) -> None:
    mailbox = talk.mailbox()
    seen = talk.observe(mailbox, 5, now=1.0)
    talk.answer_old(seen)
    result = mailbox.take()
    assert number(result) == 5
    assert (result["response_id"], result["model_id"], result["inference_latency_ms"]) == ("old", "m", 2.0)
    assert result.request_id == seen.request_id
    assert result.timing is None


def test_an_answer_without_an_id_never_belongs_to_what_was_not_sent(talk: Any) -> None:
    mailbox = talk.mailbox(queue="all")
    gone = talk.observe(mailbox, 1)
    talk.session.abandon(mailbox, gone.request_id)
    held = talk.hold(mailbox, 2)
    talk.answer_old(gone)
    result = mailbox.take()
    assert (number(result), result.request_id) == (1, 0)
    assert list(mailbox.open) == [held.request_id]


def test_an_unexpected_answer_without_an_id_goes_to_a_handle_of_its_model(talk: Any) -> None:
    mailbox = talk.mailbox()
    seen = talk.observe(mailbox, 5)
    talk.session.abandon(mailbox, seen.request_id)
    talk.answer_old(seen)
    result = mailbox.take()
    assert number(result) == 5
    assert result.request_id == 0
    assert math.isnan(result.age_ms)


def test_an_answer_without_an_id_of_a_model_without_handle_is_counted(talk: Any, new_talk: NewTalk) -> None:
    talk.mailbox("m")
    other = new_talk()
    talk.answer_old(other.observe(other.mailbox("other")))
    assert talk.session.stats.unmatched == 1


def test_an_answer_without_an_id_does_not_let_an_older_result_pass_for_the_newest(talk: Any) -> None:
    mailbox = talk.mailbox()
    old, new, stray = (talk.observe(mailbox, n) for n in range(3))
    talk.session.abandon(mailbox, stray.request_id)
    talk.answer(new)
    talk.session.abandon(mailbox, old.request_id)
    talk.answer_old(stray)
    assert numbers(mailbox) == [2]
    again = talk.observe(mailbox, 3)
    talk.answer(again)
    assert numbers(mailbox) == [3]


# While the server cannot be reached


def unsent(session: Session) -> list[int]:
    taken = []
    while (frames := session.next_unsent(0.0)) is not None:
        taken.append(int(np.frombuffer(frames[1][2], np.int64)[0]))
        session.sent(frames[0])
    return taken


def test_of_a_latest_handle_the_newest_observation_waits(talk: Any) -> None:
    mailbox, other = talk.mailbox(), talk.mailbox()
    for n in range(5):
        talk.hold(mailbox, n)
    talk.hold(other, 9)
    assert talk.session.has_unsent()
    assert unsent(talk.session) == [4, 9]
    assert not talk.session.has_unsent()
    assert talk.session.stats.replaced_unsent == talk.session.stats.superseded == 4
    assert mailbox.take() is None  # that they were superseded is no news to this handle
    assert len(mailbox.open) == 1


def test_an_infer_whose_observation_was_replaced_unsent_gets_an_error(talk: Any) -> None:
    mailbox = talk.mailbox()
    waiting = talk.hold(mailbox, keep=True)
    talk.hold(mailbox)
    error = mailbox.take_kept(waiting.request_id)
    assert isinstance(error, RequestSuperseded)
    assert (error.request_id, error.model_id) == (waiting.request_id, "m")
    assert "before this one could be sent" in str(error)


def test_of_all_handles_the_newest_wait_in_order_and_the_rest_are_refused(talk: Any) -> None:
    first, second = talk.mailbox(queue="all"), talk.mailbox(queue="all")
    held = [talk.hold((first, second)[n % 2], n) for n in range(MAX_UNSENT + 3)]
    errors = [first.take(), first.take(), second.take()]
    assert [error.request_id for error in errors if isinstance(error, RequestRejected)] == [
        held[n].request_id for n in (0, 2, 1)
    ]
    assert "cannot be reached" in str(errors[0])
    assert (first.take(), second.take()) == (None, None)
    assert unsent(talk.session) == list(range(3, MAX_UNSENT + 3))
    assert talk.session.stats.dropped_unsent == 3


def test_both_kinds_wait_side_by_side(talk: Any) -> None:
    latest, every = talk.mailbox(), talk.mailbox(queue="all")
    for n in range(6):
        talk.hold((latest, every)[n % 2], n)
    assert unsent(talk.session) == [4, 1, 3, 5]


def test_a_handle_that_observes_most_often_waits_no_longer_for_that(talk: Any) -> None:
    camera, joints = talk.mailbox(), talk.mailbox()
    sent = []
    for n in range(0, 100, 5):  # a link that carries one observation in the time in which the joints make five
        talk.hold(camera, n)
        for more in range(1, 5):
            talk.hold(joints, n + more)
        request_id, frames = talk.session.next_unsent(0.0)
        sent.append(int(np.frombuffer(frames[2], np.int64)[0]))
        talk.session.sent(request_id)
    assert sent == [0, *(n + (4 if n % 10 else 0) for n in range(5, 100, 5))]


def test_an_abandoned_observation_is_not_sent(talk: Any) -> None:
    latest, every = talk.mailbox(), talk.mailbox(queue="all")
    for mailbox in (latest, every):
        talk.session.abandon(mailbox, talk.hold(mailbox, keep=True).request_id)
    assert not talk.session.has_unsent()
    talk.hold(latest, 1)
    for n in range(MAX_UNSENT):
        talk.hold(every, n)
    assert (latest.take(), every.take()) == (None, None)
    assert talk.session.stats.dropped_unsent == talk.session.stats.replaced_unsent == 0


def test_abandoning_an_older_request_leaves_a_newer_one_waiting(talk: Any) -> None:
    mailbox = talk.mailbox()
    old = talk.hold(mailbox, 1, keep=True)
    talk.hold(mailbox, 2)
    talk.session.abandon(mailbox, old.request_id)
    assert unsent(talk.session) == [2]


# Nothing grows


@pytest.mark.parametrize("queue", ["latest", "all"])
@pytest.mark.parametrize("reachable", [True, False])
def test_observations_without_an_answer_take_bounded_memory(queue: Any, reachable: bool, talk: Any) -> None:
    mailbox = talk.mailbox(queue=queue)
    session = talk.session
    for _ in range(3 * MAX_OPEN):
        request_id, frames = session.observe(mailbox, content_of({}), {}, now=0.0, timestamp_ns=1)
        if not reachable:
            session.hold(mailbox, request_id, frames)
    assert len(mailbox.open) <= MAX_OPEN
    assert session.sizes().open_requests <= MAX_OPEN
    assert session.sizes().unsent <= MAX_UNSENT
    assert len(mailbox.unread) <= MAX_UNREAD
    assert session.stats.observed == 3 * MAX_OPEN


def test_answers_that_are_not_read_take_bounded_memory(talk: Any) -> None:
    mailbox = talk.mailbox(queue="all")
    for n in range(MAX_UNREAD + 10):
        talk.answer(talk.observe(mailbox, n))
    assert talk.session.stats.outdated == 10
    assert numbers(mailbox)[0] == 10


def test_a_forgotten_requests_answer_is_counted(talk: Any) -> None:
    mailbox = talk.mailbox()
    first = talk.observe(mailbox)
    for _ in range(MAX_OPEN):
        talk.observe(mailbox)
    talk.answer(first)
    assert talk.session.stats.unmatched == 1
    assert mailbox.take() is None


@pytest.mark.parametrize("reachable", [True, False])
def test_handles_that_are_dropped_leave_nothing_behind(reachable: bool, talk: Any) -> None:
    # `connection.model("m").observe(...)` in a control loop makes a handle each time.
    for n in range(2000):
        if reachable:
            talk.observe(talk.mailbox(), n)
        else:
            talk.hold(talk.mailbox(), n)
    gc.collect()
    session = talk.session
    assert max(dataclasses.astuple(session.sizes())) <= MAX_UNSENT
    if not reachable:
        assert unsent(session) == list(range(2000 - MAX_UNSENT, 2000))


def test_infer_that_timed_out_leaves_nothing_behind(talk: Any) -> None:
    mailbox = talk.mailbox()
    for _ in range(100):
        seen = talk.observe(mailbox, keep=True)
        talk.session.abandon(mailbox, seen.request_id)
    assert talk.session.sizes() == SessionSizes(open_requests=0, handles=1, unsent=0)
    assert not mailbox.open


def test_the_default_latency_budget_is_not_sent() -> None:
    session = Session("robot", "")
    for budget_ms, on_the_wire in ((DEFAULT_BUDGET_MS, 0.0), (50.0, 50.0)):
        mailbox = session.mailbox(Handle("m", budget_ms, 1, "latest", EncodingRules(None)))
        assert observed(session, mailbox).latency_budget_ms == on_the_wire
    assert inspect.signature(Connection.model).parameters["latency_budget_ms"].default == 50.0


def test_control_rate_and_what_to_do_when_late_go_with_every_observation() -> None:
    session = Session("robot", "")
    mailbox = session.mailbox(Handle("m", 50.0, 1, "latest", EncodingRules(None), control_rate_hz=50.0, late="refuse"))
    message = observed(session, mailbox)
    assert (message.control_period_ms, message.late) == (20.0, LATE_REFUSE)


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        ({"control_rate_hz": 0.0}, "control_rate_hz: expected a finite number above 0, or None, got 0.0"),
        ({"late": "never"}, "late: expected 'serve', 'refuse' or None, got 'never'"),
    ],
)
def test_a_bad_rate_or_choice_is_named(inputs: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Handle("m", 50.0, 1, "latest", EncodingRules(None), **inputs)


def test_that_a_newer_observation_is_asked_for_is_delivered_and_the_request_stays_open(talk: Any) -> None:
    mailbox = talk.mailbox()
    request_id = observed(talk.session, mailbox, renews=True).request_id
    notice = ModelResponse(request_id=request_id, model_id="m", status=Status.OUTDATED, reason="it waits")
    talk.session.receive(notice.SerializeToString(), b"", 1.0)
    outcome = mailbox.take()
    assert isinstance(outcome, ObservationOutdated)
    assert (outcome.request_id, outcome.reason) == (request_id, "it waits")
    assert request_id in mailbox.open
    ended = ModelResponse(request_id=request_id, model_id="m", status=Status.EXPIRED, reason="too late")
    talk.session.receive(ended.SerializeToString(), b"", 1.0)
    assert isinstance(mailbox.take(), RequestExpired)
    talk.session.receive(notice.SerializeToString(), b"", 1.0)
    assert mailbox.take() is None
    assert talk.session.stats.unmatched == 1


@pytest.mark.parametrize(("status", "kind"), [("OUTDATED", ObservationOutdated), ("EXPIRED", RequestExpired)])
def test_an_answer_leaves_unread_what_is_said_of_a_newer_request(status: str, kind: type, talk: Any) -> None:
    mailbox = talk.mailbox()
    first, second = (talk.observe(mailbox, n) for n in range(2))
    said = ModelResponse(request_id=second.request_id, model_id="m", status=Status.Value(status))
    talk.session.receive(said.SerializeToString(), b"", 1.0)
    talk.answer(first)
    assert isinstance(mailbox.take(), kind)
    assert numbers(mailbox) == [0]


def test_of_what_a_server_says_again_and_again_of_one_request_the_last_counts(talk: Any) -> None:
    mailbox = talk.mailbox()
    ids = [observed(talk.session, mailbox, renews=True).request_id for _ in range(3)]
    for request_id in ids[:2] * 2000 + ids[2:] * 2000:
        notice = ModelResponse(request_id=request_id, model_id="m", status=Status.OUTDATED)
        talk.session.receive(notice.SerializeToString(), b"", 1.0)
    assert len(mailbox.unread) == MAX_UNREAD
    assert [request_id for request_id, _ in mailbox.unread].count(ids[2]) == 1


@pytest.mark.parametrize(("awaited", "field"), [(False, "request_ids"), (True, "awaited_ids")])
def test_many_requests_are_taken_back_and_asked_for_in_as_many_messages_as_servers_read(
    awaited: bool, field: str, talk: Any
) -> None:
    ids = list(range(1, 2 * MAX_CANCELLED + 3))
    found = [Cancellation.FromString(frames[1]) for frames in talk.session.cancellations(ids, awaited=awaited)]
    assert [len(getattr(one, field)) for one in found] == [MAX_CANCELLED, MAX_CANCELLED, 2]
    assert [one for message in found for one in getattr(message, field)] == ids
    assert list(talk.session.cancellations([], awaited=awaited)) == []
