"""How requests end: in a result, in a reason that their client is told, or in a count."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import zmq

from inferential.books import Books
from inferential.config import ResponseTrackingConfig, TransportConfig
from inferential.delivery import Callbacks, Delivery, name_of
from inferential.dispatch.base import DispatchResult
from inferential.metrics import MetricsCollector, names
from inferential.metrics.recorder import Recorder
from inferential.observation import ObservationError
from inferential.proto import PROTOCOL_VERSION, Status
from inferential.proto.messages import Response, ResponseTiming, read_response, write_response
from inferential.reception import Arrival
from inferential.scheduler.admission import CLIENT_GONE
from inferential.scheduler.outlook import ALONE
from inferential.scheduler.request import InferenceRequest, Refusal, RefusalKind, RequestState
from inferential.scheduler.shares import FairShares
from inferential.tracking.fleet import Fleet
from inferential.transport import ZmqTransport
from inferential.visits import Visits

ACTIONS = np.arange(3, dtype=np.float32)
FAILURES = (
    *(names.SEND_ERRORS, names.REQUESTS_REJECTED, names.REQUESTS_EXPIRED, names.REQUESTS_SUPERSEDED),
    *(names.DISPATCH_ERRORS, names.OBSERVATION_ERRORS),
)
Labels = dict[str, str]


class Hatch:
    """A delivery with all that it speaks to, on a free port."""

    def __init__(self, send_hwm: int = 1000) -> None:
        self.transport = ZmqTransport(TransportConfig(bind="tcp://127.0.0.1:0", send_hwm=send_hwm))
        self.visits = Visits()
        self.fleet = Fleet(ResponseTrackingConfig())
        self.metrics = MetricsCollector()
        recorder = Recorder(self.metrics)
        self.books = Books(self.fleet, recorder, FairShares(ALONE), lambda _request: 1.0, lambda _client: None)
        self.callbacks = Callbacks[InferenceRequest]("request")
        self.ended: list[InferenceRequest] = []
        self.callbacks.register(self.ended.append)
        self.delivery = Delivery(self.transport, self.visits, recorder, self.books, self.callbacks)
        self._numbers = itertools.count(1)

    def running(self, identity: bytes = b"arm", version: int = PROTOCOL_VERSION) -> InferenceRequest:
        """A request that its model has."""
        number, now = next(self._numbers), time.monotonic()
        request = InferenceRequest("arm", "policy", identity, b"", b"", now, 0.0, None, 0.0, 50.0, 1)
        request.request_id, request.response_id, request.protocol_version = number, f"answer-{number}", version
        self.books.arrived(Arrival(request, "franka", None, 0.0, None, None))
        request.move(RequestState.QUEUED)
        request.move(RequestState.DISPATCHED)
        return request

    def enter(self) -> tuple[bytes, list[Response]]:
        """A visitor: its identity, and what it hears."""
        heard: list[Response] = []
        identity = self.visits.enter(lambda envelope, payload: heard.append(read_response(envelope, payload)))
        return identity, heard

    def points(self, name: str) -> list[Labels]:
        """The labels of a metric's points."""
        return [point["labels"] for point in self.metrics.snapshot().metrics.get(name, ())]

    async def meet(self, robot: zmq.Socket[bytes]) -> None:
        """Robot and transport know each other from here on."""
        robot.connect(self.transport.address)
        robot.send_multipart([b"", b"", b""])
        async with asyncio.timeout(10):
            await self.transport.recv()


@pytest.fixture
async def hatch() -> AsyncIterator[Hatch]:
    opened = Hatch()
    yield opened
    await opened.transport.close()


@pytest.fixture
def robot() -> Iterator[zmq.Socket[bytes]]:
    """A client named arm, which buffers as little as it may."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    for option, value in ((zmq.IDENTITY, b"arm"), (zmq.RCVHWM, 1), (zmq.RCVTIMEO, 10_000), (zmq.LINGER, 0)):
        socket.setsockopt(option, value)
    yield socket
    socket.close()
    context.term()


def result(request: InferenceRequest, actions: np.ndarray[Any, Any] = ACTIONS) -> DispatchResult:
    envelope, payload = write_response(
        client_id=request.client_id,
        model_id=request.model_id,
        response_id=request.response_id,
        timestamp_ns=time.time_ns(),
        request_id=request.request_id,
        values={"actions": actions},
        timing=ResponseTiming(0.0, 8.0, 9.0, 1),
    )
    return DispatchResult(request, 8.0, request.response_id, envelope, payload, {"actions": actions})


def end(hatch: Hatch, request: InferenceRequest, how: RefusalKind | str) -> None:
    """Ends a request: by an answer, by a refusal of a kind, or because its client was missed."""
    if how == "answer":
        hatch.delivery.answer([result(request)])
    elif how == "gone":
        hatch.delivery.refuse(request, Refusal(RefusalKind.REJECTED, "the client is gone", CLIENT_GONE))
    else:
        assert isinstance(how, RefusalKind)
        hatch.delivery.refuse(request, Refusal(how, "because", "cause"))


# Every request ends, in exactly one way


@pytest.mark.parametrize("how", ["answer", "gone", *RefusalKind])
@pytest.mark.parametrize("receiver", ["visitor", "visitor who left", "nobody"])
@pytest.mark.parametrize("version", [0, PROTOCOL_VERSION])
async def test_a_request_ends_in_a_result_or_in_a_reason_or_in_a_count(
    version: int, receiver: str, how: RefusalKind | str, hatch: Hatch
) -> None:
    identity, heard = (b"arm", []) if receiver == "nobody" else hatch.enter()
    request = hatch.running(identity, version)
    if receiver == "visitor who left":
        hatch.visits.leave(identity)
    end(hatch, request, how)
    counts = sum(len(hatch.points(name)) for name in FAILURES)
    if receiver == "visitor" and how == "answer":
        assert (request.state, [told.message.status for told in heard], counts) == (
            RequestState.ANSWERED,
            [Status.OK],
            0,
        )
        return
    assert request.state is RequestState.REFUSED
    assert counts > 0
    kind = how if isinstance(how, RefusalKind) else RefusalKind.REJECTED  # one that was silent for long still waits
    is_told = how != "answer" and receiver == "visitor" and version
    expected = [Status.Value(kind.name)] if is_told else []
    assert [told.message.status for told in heard] == expected


@pytest.mark.parametrize("how", ["answer", "gone", *RefusalKind])
@pytest.mark.parametrize("receiver", ["visitor", "nobody"])
async def test_whoever_wants_to_know_is_told_of_an_end_once_and_after_it(
    receiver: str, how: RefusalKind | str, hatch: Hatch
) -> None:
    states: list[RequestState] = []
    hatch.callbacks.register(lambda request: states.append(request.state))
    request = hatch.running(hatch.enter()[0] if receiver == "visitor" else b"arm")
    end(hatch, request, how)
    assert hatch.ended == [request]
    assert states == [request.state]
    assert request.over


async def test_all_answers_of_a_call_have_left_before_any_is_written_down_or_told_of(hatch: Hatch) -> None:
    visitors = [hatch.enter() for _ in range(3)]
    requests = [hatch.running(identity) for identity, _ in visitors]
    heard_by_then: list[int] = []
    hatch.callbacks.register(lambda _request: heard_by_then.append(sum(len(heard) for _, heard in visitors)))
    hatch.visits.leave(visitors[1][0])  # one who cannot be reached keeps nobody waiting
    hatch.delivery.answer(map(result, requests))
    assert heard_by_then == [2, 2, 2]
    assert hatch.ended == requests
    assert [request.state for request in requests] == [
        RequestState.ANSWERED,
        RequestState.REFUSED,
        RequestState.ANSWERED,
    ]
    assert len(hatch.points(names.RESPONSES_SERVED)) == 2


async def test_a_second_result_for_a_request_is_not_sent_and_hurts_no_other(hatch: Hatch) -> None:
    (first, heard), (second, also_heard) = hatch.enter(), hatch.enter()
    requests = [hatch.running(first), hatch.running(second)]
    hatch.delivery.answer([result(requests[0]), result(requests[0]), result(requests[1])])
    assert (len(heard), len(also_heard)) == (1, 1)
    assert hatch.ended == requests
    assert len(hatch.points(names.RESPONSES_SERVED)) == 2


async def test_what_has_left_is_written_down_though_what_follows_breaks(
    hatch: Hatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [hatch.running(hatch.enter()[0]) for _ in range(2)]

    def results() -> Iterator[DispatchResult]:
        yield result(requests[0])
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        hatch.delivery.answer(results())
    assert hatch.ended == requests[:1]
    assert len(hatch.points(names.RESPONSES_SERVED)) == 1


async def test_an_answer_goes_to_the_robot_that_asked(hatch: Hatch, robot: zmq.Socket[bytes]) -> None:
    await hatch.meet(robot)
    request = hatch.running()
    hatch.delivery.answer([result(request)])
    _, envelope, payload = robot.recv_multipart()
    response = read_response(envelope, payload)
    assert (response.message.request_id, response.message.response_id) == (request.request_id, request.response_id)
    assert response.values["actions"].tolist() == ACTIONS.tolist()
    assert request.inference_ms == 8.0
    assert hatch.points(names.RESPONSES_SERVED) == [{"client": "arm", "model": "policy"}]


async def test_a_robot_of_the_old_line_is_sent_results_alone(hatch: Hatch, robot: zmq.Socket[bytes]) -> None:
    await hatch.meet(robot)
    for kind in RefusalKind:
        hatch.delivery.refuse(hatch.running(version=0), Refusal(kind, "because", "cause"))
    hatch.delivery.not_believed(b"arm", disbelief(version=0))
    request = hatch.running(version=0)
    hatch.delivery.answer([result(request)])
    assert read_response(*robot.recv_multipart()[1:]).message.response_id == request.response_id
    assert sum(len(hatch.points(name)) for name in FAILURES) == len(RefusalKind) + 1


async def test_a_refusal_tells_the_robot_which_request_and_why_and_how_often_it_may_ask(
    hatch: Hatch, robot: zmq.Socket[bytes]
) -> None:
    await hatch.meet(robot)
    request = hatch.running()
    request.serve_interval_ms = 40.0
    hatch.delivery.refuse(request, Refusal(RefusalKind.EXPIRED, "too late", "expired"))
    _, envelope, payload = robot.recv_multipart()
    told = read_response(envelope, payload)
    assert (told.message.status, told.message.request_id, told.model_id) == (
        Status.EXPIRED,
        request.request_id,
        "policy",
    )
    assert (told.message.reason, told.message.serve_interval_ms, told.values) == ("too late", 40.0, {})


async def test_an_answer_to_a_robot_that_is_not_there_is_void_and_counted(hatch: Hatch) -> None:
    request = hatch.running()
    hatch.delivery.answer([result(request)])
    assert request.refusal is not None
    assert request.refusal.cause == CLIENT_GONE
    assert hatch.points(names.SEND_ERRORS) == [{"client": "arm", "error": "the client is not there"}]
    assert hatch.points(names.INVALIDATION_COUNT) == [{"client": "arm"}]
    assert not hatch.points(names.RESPONSES_SERVED)


async def test_an_answer_to_a_robot_that_has_hung_up_is_counted(hatch: Hatch, robot: zmq.Socket[bytes]) -> None:
    await hatch.meet(robot)
    request = hatch.running()
    readable = asyncio.Event()
    hatch.transport.watch(readable.set)
    robot.close()
    async with asyncio.timeout(10):
        while hatch.transport._clients:
            readable.clear()
            await readable.wait()
            hatch.transport.receive()
    hatch.delivery.answer([result(request)])
    assert request.state is RequestState.REFUSED
    assert len(hatch.points(names.SEND_ERRORS)) == 1


async def test_what_a_robot_does_not_read_is_counted_and_all_else_is_answered(robot: zmq.Socket[bytes]) -> None:
    hatch = Hatch(send_hwm=1)
    try:
        await hatch.meet(robot)
        large = np.zeros(1_000_000, np.uint8)
        requests = []
        for _ in range(1000):  # what the system's own buffers take goes first
            requests.append(hatch.running())
            hatch.delivery.answer([result(requests[-1], large)])
            if requests[-1].state is RequestState.REFUSED:
                break
        assert {request.state for request in requests[:-1]} == {RequestState.ANSWERED}
        assert len(hatch.points(names.RESPONSES_SERVED)) == len(requests) - 1
        (labels,) = hatch.points(names.SEND_ERRORS)
        assert labels == {"client": "arm", "error": "the client does not read, and 1 messages wait for it"}
    finally:
        await hatch.transport.close()


async def test_an_answer_to_a_visitor_that_left_is_counted_also_when_nothing_is_known_of_it_any_more(
    hatch: Hatch,
) -> None:
    identity, _ = hatch.enter()
    request = hatch.running(identity)
    hatch.visits.leave(identity)
    assert hatch.fleet.sweep(time.monotonic() + 3600).gone == ["arm"]
    hatch.delivery.answer([result(request)])
    assert request.state is RequestState.REFUSED
    assert hatch.points(names.SEND_ERRORS) == [{"client": "arm", "error": "the client has left"}]


async def test_a_visitor_that_left_gets_nothing_that_is_for_the_one_after_it(hatch: Hatch) -> None:
    former, _ = hatch.enter()
    request = hatch.running(former)
    hatch.visits.leave(former)
    _, heard = hatch.enter()
    hatch.delivery.answer([result(request)])
    assert (heard, request.state) == ([], RequestState.REFUSED)


async def test_what_was_refused_elsewhere_is_told_and_not_refused_again(hatch: Hatch) -> None:
    identity, heard = hatch.enter()
    request = hatch.running(identity)
    request.refuse(Refusal(RefusalKind.SUPERSEDED, "a newer one came", "superseded"))
    hatch.delivery.refused(request)
    assert [told.message.status for told in heard] == [Status.SUPERSEDED]
    assert hatch.ended == [request]


# Callbacks


class Failing:
    """A callback that counts how often it was called, and fails each time."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, told: int) -> None:
        self.calls += 1
        raise RuntimeError("no")


@dataclass
class FailingRecord(Failing):
    """One that can be compared, and so not be hashed."""

    calls: int = 0


@pytest.mark.parametrize("make", [Failing, FailingRecord])
def test_a_callback_that_fails_is_logged_once_and_called_on_and_others_are_too(
    make: type[Failing], caplog: pytest.LogCaptureFixture
) -> None:
    callbacks, failing, heard = Callbacks[int]("batch"), make(), list[int]()
    callbacks.register(failing)
    callbacks.register(heard.append)
    for told in range(3):
        callbacks.fire(told)
    assert (failing.calls, heard) == (3, [0, 1, 2])
    (logged,) = caplog.records
    assert logged.levelno == logging.ERROR
    assert logged.message.startswith("batch callback ")
    assert logged.exc_info is not None


@pytest.mark.parametrize("make", [Failing, FailingRecord])
def test_of_two_callbacks_that_fail_each_is_logged(make: type[Failing], caplog: pytest.LogCaptureFixture) -> None:
    callbacks = Callbacks[int]("request")
    callbacks.register(make())
    callbacks.register(make())
    for told in range(2):
        callbacks.fire(told)
    assert len(caplog.records) == 2


def test_callbacks_are_true_where_there_is_any() -> None:
    callbacks = Callbacks[int]("request")
    assert not callbacks
    callbacks.register(lambda told: None)
    assert callbacks


# What became no request


def disbelief(version: int = PROTOCOL_VERSION, request_id: int = 7) -> ObservationError:
    return ObservationError(
        "urgency: no", client_id="arm", model_id="policy", request_id=request_id, protocol_version=version
    )


@pytest.mark.parametrize(
    ("version", "request_id", "is_told"),
    [(PROTOCOL_VERSION, 7, True), (PROTOCOL_VERSION, 0, False), (0, 7, False), (0, 0, False)],
)
async def test_who_is_not_believed_is_told_where_it_can_tell_of_what_and_counted_always(
    version: int, request_id: int, is_told: bool, hatch: Hatch
) -> None:
    identity, heard = hatch.enter()
    hatch.delivery.not_believed(identity, disbelief(version, request_id))
    told = [(told.message.status, told.message.request_id, told.model_id, told.message.reason) for told in heard]
    assert told == ([(Status.INVALID_OBSERVATION, 7, "policy", "urgency: no")] if is_told else [])
    assert hatch.points(names.OBSERVATION_ERRORS) == [{"client": "?", "error": "invalid"}]
    assert not hatch.ended  # it never was a request


async def test_who_speaks_for_another_is_told_so_and_the_other_hears_nothing(
    hatch: Hatch, robot: zmq.Socket[bytes]
) -> None:
    await hatch.meet(robot)
    impostor, heard = hatch.enter()
    hatch.delivery.not_believed(impostor, disbelief())
    hatch.delivery.refuse(hatch.running(), Refusal(RefusalKind.EXPIRED, "the first that it hears", "expired"))
    assert len(heard) == 1
    assert read_response(*robot.recv_multipart()[1:]).message.reason == "the first that it hears"


async def test_who_is_not_believed_and_cannot_be_told_is_counted_under_its_own_name(hatch: Hatch) -> None:
    hatch.delivery.not_believed(b"leg", disbelief())
    assert hatch.points(names.OBSERVATION_ERRORS) == [{"client": "leg", "error": "invalid"}]
    assert hatch.points(names.SEND_ERRORS) == [{"client": "leg", "error": "the client is not there"}]


async def test_a_message_without_the_frames_of_one_is_counted_and_nobody_is_told(hatch: Hatch) -> None:
    identity, heard = hatch.enter()
    for sender in (identity, b"arm"):
        hatch.delivery.malformed(sender)
    assert hatch.points(names.OBSERVATION_ERRORS) == [{"client": name, "error": "frames"} for name in ("?", "arm")]
    assert (heard, hatch.points(names.SEND_ERRORS)) == ([], [])


@pytest.mark.parametrize(
    ("identity", "name"),
    [
        (b"arm", "arm"),
        ("рука 2".encode(), "рука 2"),
        (b"", "?"),
        (b"\0\0\0\0\1", "?"),
        (Visits().enter(lambda envelope, payload: None), "?"),
        (b"\xff\xfe", "?"),
        (b"arm\n", "?"),
        ("\u202egnp.arm".encode(), "?"),  # which turns the text around it
        (b"\xed\xa0\x80", "?"),  # half a surrogate pair
    ],
)
def test_nameless_and_strange_identities_share_one_label(identity: bytes, name: str) -> None:
    assert name_of(identity) == name


def test_a_callback_that_would_have_to_be_awaited_is_refused() -> None:
    callbacks: Callbacks[int] = Callbacks("request")

    async def wait(told: int) -> None: ...

    with pytest.raises(TypeError, match=r"request callback .*: it is called, not awaited"):
        callbacks.register(wait)  # type: ignore[arg-type]
    assert not callbacks
