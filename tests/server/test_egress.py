"""How requests end: in a result, in a refusal that is sent to their client, or in a metric."""

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
from bench.overload.wire import connect
from tests.server.fakes import make_accounting

from inferential.config import ResponseTrackingConfig, TransportConfig
from inferential.dispatch.base import DispatchResult
from inferential.metrics import MetricsCollector, names
from inferential.metrics.recorder import Recorder
from inferential.observation import ObservationError
from inferential.proto import PROTOCOL_VERSION, Observation, Status
from inferential.proto.messages import Response, ResponseTiming, read_response, write_response
from inferential.scheduler.request import CLIENT_GONE, InferenceRequest, Refusal, RefusalKind, RequestState
from inferential.scheduler.time.availability import ALWAYS_AVAILABLE
from inferential.scheduler.time.fair_share import FairShares
from inferential.server.callbacks import Callbacks
from inferential.server.egress import Egress, label_of
from inferential.server.ingress import IncomingRequest
from inferential.server.inprocess import InProcessClients, identity_of
from inferential.tracking.fleet import Fleet
from inferential.transport import ZmqTransport

ACTIONS = np.arange(3, dtype=np.float32)
FAILURES = (
    *(names.SEND_ERRORS, names.REQUESTS_REJECTED, names.REQUESTS_EXPIRED, names.REQUESTS_SUPERSEDED),
    *(names.DISPATCH_ERRORS, names.OBSERVATION_ERRORS),
)
Labels = dict[str, str]
NO_CONNECTION = 999_999


class EgressBench:
    """An egress with its collaborators, on a free port."""

    def __init__(self, send_hwm: int = 1000) -> None:
        self.transport = ZmqTransport(TransportConfig(bind="tcp://127.0.0.1:0", send_hwm=send_hwm))
        self.inprocess = InProcessClients()
        self.fleet = Fleet(ResponseTrackingConfig())
        self.metrics = MetricsCollector()
        recorder = Recorder(self.metrics)
        self.accounting = make_accounting(self.fleet, recorder, FairShares(ALWAYS_AVAILABLE))
        self.callbacks = Callbacks[InferenceRequest]("request")
        self.ended: list[InferenceRequest] = []
        self.callbacks.register(self.ended.append)
        self.egress = Egress(self.transport, self.inprocess, recorder, self.accounting, self.callbacks)
        self._numbers = itertools.count(1)

    def running(self, connection: int | None = None, version: int = PROTOCOL_VERSION) -> InferenceRequest:
        """A request that its model has, which came by a connection: by default that of the robot, if it has one."""
        number, now = next(self._numbers), time.monotonic()
        if connection is None:
            connection = self.robot_connection()
        identity = b"arm" if connection > 0 else identity_of(connection)
        request = InferenceRequest("arm", "policy", identity, b"", b"", now, 0.0, None, 0.0, 50.0, 1)
        request.connection = connection
        request.request_id, request.response_id, request.protocol_version = number, f"answer-{number}", version
        self.accounting.arrived(IncomingRequest(request, 0.0, None, None))
        request.move(RequestState.QUEUED)
        request.move(RequestState.DISPATCHED)
        return request

    def robot_connection(self) -> int:
        """The number of the robot's connection; one that no connection has, while it is not there."""
        return self.transport.connection_of(b"arm") if self.transport.has_client(b"arm") else NO_CONNECTION

    def enter(self) -> tuple[int, list[Response]]:
        """An in-process client: the number of its connection, and the responses that it gets."""
        heard: list[Response] = []
        number = self.inprocess.add(lambda envelope, payload: heard.append(read_response(envelope, payload)))
        return number, heard

    def points(self, name: str) -> list[Labels]:
        """The labels of a metric's points."""
        return [point["labels"] for point in self.metrics.snapshot().metrics.get(name, ())]

    async def meet(self, robot: zmq.Socket[bytes]) -> None:
        """Connects a robot to the transport."""
        robot.connect(self.transport.address)
        robot.send_multipart([b"", b"", b""])
        async with asyncio.timeout(60):
            await self.transport.recv()


@pytest.fixture
async def bench() -> AsyncIterator[EgressBench]:
    opened = EgressBench()
    yield opened
    await opened.transport.close()


@pytest.fixture
def robot() -> Iterator[zmq.Socket[bytes]]:
    """A client named arm, which buffers as little as it may."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    for option, value in ((zmq.IDENTITY, b"arm"), (zmq.RCVHWM, 1), (zmq.RCVTIMEO, 60_000), (zmq.LINGER, 0)):
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


def end(bench: EgressBench, request: InferenceRequest, how: RefusalKind | str) -> None:
    """Ends a request: by an answer, by a refusal of a kind, or because its client was missed."""
    if how == "answer":
        bench.egress.answer([result(request)])
    elif how == "gone":
        bench.egress.refuse(request, Refusal(RefusalKind.REJECTED, "the client is gone", CLIENT_GONE))
    else:
        assert isinstance(how, RefusalKind)
        bench.egress.refuse(request, Refusal(how, "because", "cause"))


# Every request ends, in exactly one way


@pytest.mark.parametrize("how", ["answer", "gone", *RefusalKind])
@pytest.mark.parametrize("receiver", ["in-process", "in-process, disconnected", "unknown"])
@pytest.mark.parametrize("version", [0, PROTOCOL_VERSION])
async def test_a_request_ends_in_a_result_or_in_a_reason_or_in_a_count(
    version: int, receiver: str, how: RefusalKind | str, bench: EgressBench
) -> None:
    identity, heard = (NO_CONNECTION, []) if receiver == "unknown" else bench.enter()
    request = bench.running(identity, version)
    if receiver == "in-process, disconnected":
        bench.inprocess.remove(identity)
    end(bench, request, how)
    counts = sum(len(bench.points(name)) for name in FAILURES)
    if receiver == "in-process" and how == "answer":
        assert (request.state, [outcome.message.status for outcome in heard], counts) == (
            RequestState.ANSWERED,
            [Status.OK],
            0,
        )
        return
    assert request.state is RequestState.REFUSED
    assert counts > 0
    status = Status.Value(how.name) if isinstance(how, RefusalKind) else None
    expected = [status] if receiver == "in-process" and version and status is not None else []
    assert [outcome.message.status for outcome in heard] == expected


@pytest.mark.parametrize("how", ["answer", "gone", *RefusalKind])
@pytest.mark.parametrize("receiver", ["in-process", "unknown"])
async def test_request_callbacks_are_called_once_after_a_request_has_ended(
    receiver: str, how: RefusalKind | str, bench: EgressBench
) -> None:
    states: list[RequestState] = []
    bench.callbacks.register(lambda request: states.append(request.state))
    request = bench.running(bench.enter()[0] if receiver == "in-process" else NO_CONNECTION)
    end(bench, request, how)
    assert bench.ended == [request]
    assert states == [request.state]
    assert request.over


async def test_all_answers_of_a_call_are_sent_before_the_first_is_accounted_for(bench: EgressBench) -> None:
    clients = [bench.enter() for _ in range(3)]
    requests = [bench.running(identity) for identity, _ in clients]
    heard_by_then: list[int] = []
    bench.callbacks.register(lambda _request: heard_by_then.append(sum(len(heard) for _, heard in clients)))
    bench.inprocess.remove(clients[1][0])  # one that cannot be reached holds up no other
    bench.egress.answer(map(result, requests))
    assert heard_by_then == [2, 2, 2]
    assert bench.ended == requests
    assert [request.state for request in requests] == [
        RequestState.ANSWERED,
        RequestState.REFUSED,
        RequestState.ANSWERED,
    ]
    assert len(bench.points(names.RESPONSES_SERVED)) == 2


async def test_a_second_result_for_a_request_is_not_sent_and_hurts_no_other(bench: EgressBench) -> None:
    (first, heard), (second, also_heard) = bench.enter(), bench.enter()
    requests = [bench.running(first), bench.running(second)]
    bench.egress.answer([result(requests[0]), result(requests[0]), result(requests[1])])
    assert (len(heard), len(also_heard)) == (1, 1)
    assert bench.ended == requests
    assert len(bench.points(names.RESPONSES_SERVED)) == 2


async def test_answers_that_were_sent_are_accounted_for_even_if_a_later_one_fails(
    bench: EgressBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [bench.running(bench.enter()[0]) for _ in range(2)]

    def results() -> Iterator[DispatchResult]:
        yield result(requests[0])
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        bench.egress.answer(results())
    assert bench.ended == requests[:1]
    assert len(bench.points(names.RESPONSES_SERVED)) == 1


async def test_an_answer_goes_to_the_robot_that_asked(bench: EgressBench, robot: zmq.Socket[bytes]) -> None:
    await bench.meet(robot)
    request = bench.running()
    bench.egress.answer([result(request)])
    _, envelope, payload = robot.recv_multipart()
    response = read_response(envelope, payload)
    assert (response.message.request_id, response.message.response_id) == (request.request_id, request.response_id)
    assert response.values["actions"].tolist() == ACTIONS.tolist()
    assert request.inference_ms == 8.0
    assert bench.points(names.RESPONSES_SERVED) == [{"client": "arm", "model": "policy"}]


async def test_a_robot_of_the_old_line_is_sent_results_alone(bench: EgressBench, robot: zmq.Socket[bytes]) -> None:
    await bench.meet(robot)
    for kind in RefusalKind:
        bench.egress.refuse(bench.running(version=0), Refusal(kind, "because", "cause"))
    bench.egress.reject_malformed(b"arm", bench.robot_connection(), malformed(version=0))
    request = bench.running(version=0)
    bench.egress.answer([result(request)])
    assert read_response(*robot.recv_multipart()[1:]).message.response_id == request.response_id
    assert sum(len(bench.points(name)) for name in FAILURES) == len(RefusalKind) + 1


async def test_a_refusal_tells_the_robot_which_request_and_why_and_how_often_it_may_ask(
    bench: EgressBench, robot: zmq.Socket[bytes]
) -> None:
    await bench.meet(robot)
    request = bench.running()
    request.serve_interval_ms = 40.0
    bench.egress.refuse(request, Refusal(RefusalKind.EXPIRED, "too late", "expired"))
    await asyncio.sleep(0)  # refusals leave with the next turn
    _, envelope, payload = robot.recv_multipart()
    outcome = read_response(envelope, payload)
    assert (outcome.message.status, outcome.message.request_id, outcome.model_id) == (
        Status.EXPIRED,
        request.request_id,
        "policy",
    )
    assert (outcome.message.reason, outcome.message.serve_interval_ms, outcome.values) == ("too late", 40.0, {})


async def test_a_robot_is_asked_for_a_newer_observation_and_its_request_goes_on(
    bench: EgressBench, robot: zmq.Socket[bytes]
) -> None:
    await bench.meet(robot)
    request = bench.running()
    bench.egress.ask_anew(request)
    await asyncio.sleep(0)  # as refusals do, it leaves with the next turn
    notice = read_response(*robot.recv_multipart()[1:]).message
    assert (notice.status, notice.request_id) == (Status.OUTDATED, request.request_id)
    assert not request.over
    assert bench.points(names.REQUESTS_OUTDATED) == [{"client": "arm", "model": "policy"}]


async def test_an_answer_to_a_robot_that_is_not_there_is_void_and_counted(bench: EgressBench) -> None:
    request = bench.running()
    bench.egress.answer([result(request)])
    assert request.refusal is not None
    assert request.refusal.cause == CLIENT_GONE
    assert bench.points(names.SEND_ERRORS) == [
        {"client": "arm", "kind": "result", "error": "the client is not connected"}
    ]
    assert bench.points(names.INVALIDATION_COUNT) == [{"client": "arm"}]
    assert not bench.points(names.RESPONSES_SERVED)


async def test_an_answer_to_a_robot_that_has_hung_up_is_counted(bench: EgressBench, robot: zmq.Socket[bytes]) -> None:
    await bench.meet(robot)
    request = bench.running()
    readable = asyncio.Event()
    bench.transport.watch(readable.set)
    robot.close()
    async with asyncio.timeout(60):
        while bench.transport.sizes()["connections"]:
            readable.clear()
            await readable.wait()
            bench.transport.receive()
    bench.egress.answer([result(request)])
    assert request.state is RequestState.REFUSED
    assert len(bench.points(names.SEND_ERRORS)) == 1


async def test_what_a_robot_does_not_read_is_counted_and_all_else_is_answered(robot: zmq.Socket[bytes]) -> None:
    bench = EgressBench(send_hwm=1)
    try:
        await bench.meet(robot)
        large = np.zeros(1_000_000, np.uint8)
        requests = []
        for _ in range(1000):  # what the system's own buffers take goes first
            requests.append(bench.running())
            bench.egress.answer([result(requests[-1], large)])
            if requests[-1].state is RequestState.REFUSED:
                break
        assert {request.state for request in requests[:-1]} == {RequestState.ANSWERED}
        assert len(bench.points(names.RESPONSES_SERVED)) == len(requests) - 1
        (labels,) = bench.points(names.SEND_ERRORS)
        reason = "the client does not read: 1 messages are buffered for it"
        assert labels == {"client": "arm", "kind": "result", "error": reason}
    finally:
        await bench.transport.close()


async def test_a_newer_answer_replaces_one_that_is_not_sent_yet(bench: EgressBench, robot: zmq.Socket[bytes]) -> None:
    await bench.meet(robot)
    bench.transport.watch(lambda: None)
    large = np.zeros(1_000_000, np.uint8)
    requests: list[InferenceRequest] = []

    def answer() -> None:
        request = bench.running()
        request.takes_latest = True
        requests.append(request)
        bench.egress.answer([result(request, large)])

    while not bench.transport.backlogged:  # what the system's own buffers take goes first
        answer()
    sent = len(requests)
    for _ in range(5):
        answer()
    assert {request.state for request in requests} == {RequestState.ANSWERED}
    assert len(bench.points(names.RESULTS_REPLACED)) == 4
    heard: dict[int, str] = {}

    def read_all() -> None:
        while len(heard) < len(requests):
            _, envelope, payload = robot.recv_multipart()
            response = read_response(envelope, payload)
            heard[response.message.request_id] = Status.Name(response.message.status)

    reading = asyncio.create_task(asyncio.to_thread(read_all))
    while not reading.done():
        bench.transport.receive()
        await asyncio.sleep(0.001)
    await reading
    ids = [request.request_id for request in requests]
    assert [heard[one] for one in ids[:sent]] == ["OK"] * sent
    assert [heard[one] for one in ids[sent:]] == ["SUPERSEDED"] * 4 + ["OK"]
    assert not bench.transport.backlogged
    assert bench.transport.sizes()["bytes_held"] == 0


async def test_an_answer_to_a_client_that_disconnected_is_counted_although_it_is_forgotten(
    bench: EgressBench,
) -> None:
    identity, _ = bench.enter()
    request = bench.running(identity)
    bench.inprocess.remove(identity)
    assert bench.fleet.sweep(time.monotonic() + 3600).gone == ["arm"]
    bench.egress.answer([result(request)])
    assert request.state is RequestState.REFUSED
    assert bench.points(names.SEND_ERRORS) == [
        {"client": "arm", "kind": "result", "error": "the client has disconnected"}
    ]


async def test_a_client_that_disconnected_gets_nothing_that_is_for_the_next_one(bench: EgressBench) -> None:
    former, _ = bench.enter()
    request = bench.running(former)
    bench.inprocess.remove(former)
    _, heard = bench.enter()
    bench.egress.answer([result(request)])
    assert (heard, request.state) == ([], RequestState.REFUSED)


async def test_a_request_that_was_refused_elsewhere_is_sent_its_refusal_once(bench: EgressBench) -> None:
    identity, heard = bench.enter()
    request = bench.running(identity)
    request.refuse(Refusal(RefusalKind.SUPERSEDED, "a newer one came", "superseded"))
    bench.egress.send_refusal(request)
    assert [outcome.message.status for outcome in heard] == [Status.SUPERSEDED]
    assert bench.ended == [request]


# Callbacks


class Failing:
    """A callback that counts how often it was called, and fails each time."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, outcome: int) -> None:
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
    for outcome in range(3):
        callbacks.fire(outcome)
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
    for outcome in range(2):
        callbacks.fire(outcome)
    assert len(caplog.records) == 2


def test_callbacks_are_true_where_there_is_any() -> None:
    callbacks = Callbacks[int]("request")
    assert not callbacks
    callbacks.register(lambda outcome: None)
    assert callbacks


# What became no request


def malformed(version: int = PROTOCOL_VERSION, request_id: int = 7) -> ObservationError:
    return ObservationError(
        "urgency: no", client_id="arm", model_id="policy", request_id=request_id, protocol_version=version
    )


@pytest.mark.parametrize(
    ("version", "request_id", "is_sent"),
    [(PROTOCOL_VERSION, 7, True), (PROTOCOL_VERSION, 0, False), (0, 7, False), (0, 0, False)],
)
async def test_a_malformed_message_is_counted_and_answered_if_its_sender_can_read_the_error(
    version: int, request_id: int, is_sent: bool, bench: EgressBench
) -> None:
    identity, heard = bench.enter()
    bench.egress.reject_malformed(identity_of(identity), identity, malformed(version, request_id))
    sent = [(one.message.status, one.message.request_id, one.model_id, one.message.reason) for one in heard]
    assert sent == ([(Status.INVALID_OBSERVATION, 7, "policy", "urgency: no")] if is_sent else [])
    assert bench.points(names.OBSERVATION_ERRORS) == [{"client": "?", "error": "invalid"}]
    assert not bench.ended  # it never was a request


async def test_the_error_for_a_foreign_client_id_goes_to_its_sender_only(
    bench: EgressBench, robot: zmq.Socket[bytes]
) -> None:
    await bench.meet(robot)
    impostor, heard = bench.enter()
    bench.egress.reject_malformed(identity_of(impostor), impostor, malformed())
    bench.egress.refuse(bench.running(), Refusal(RefusalKind.EXPIRED, "the first that it hears", "expired"))
    await asyncio.sleep(0)  # refusals leave with the next turn
    assert len(heard) == 1
    assert read_response(*robot.recv_multipart()[1:]).message.reason == "the first that it hears"


async def test_a_malformed_message_of_a_disconnected_client_is_counted_under_its_identity(bench: EgressBench) -> None:
    bench.egress.reject_malformed(b"leg", NO_CONNECTION, malformed())
    assert bench.points(names.OBSERVATION_ERRORS) == [{"client": "leg", "error": "invalid"}]
    assert bench.points(names.SEND_ERRORS) == [
        {"client": "leg", "kind": "refusal", "error": "the client is not connected"}
    ]


async def test_a_message_with_wrong_frames_is_counted_and_not_answered(bench: EgressBench) -> None:
    identity, heard = bench.enter()
    for sender in (identity_of(identity), b"arm"):
        bench.egress.count_wrong_frames(sender, "two of them")
    assert bench.points(names.OBSERVATION_ERRORS) == [{"client": name, "error": "frames"} for name in ("?", "arm")]
    assert (heard, bench.points(names.SEND_ERRORS)) == ([], [])


@pytest.mark.parametrize(
    ("identity", "name"),
    [
        (b"arm", "arm"),
        ("рука 2".encode(), "рука 2"),
        (b"", "?"),
        (b"\0\0\0\0\1", "?"),
        (identity_of(-1), "?"),
        (b"\xff\xfe", "?"),
        (b"arm\n", "?"),
        ("\u202egnp.arm".encode(), "?"),  # which turns the text around it
        (b"\xed\xa0\x80", "?"),  # half a surrogate pair
    ],
)
def test_nameless_and_strange_identities_share_one_label(identity: bytes, name: str) -> None:
    assert label_of(identity) == name


def test_a_callback_that_would_have_to_be_awaited_is_refused() -> None:
    callbacks: Callbacks[int] = Callbacks("request")

    async def wait(outcome: int) -> None: ...

    with pytest.raises(TypeError, match=r"request callback .*: it is called, not awaited"):
        callbacks.register(wait)  # type: ignore[arg-type]
    assert not callbacks


async def test_what_a_client_does_wrong_is_logged_once_a_minute_for_each_kind(bench: EgressBench, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "inferential")
    for _ in range(3):
        bench.egress.reject_malformed(b"arm", NO_CONNECTION, malformed())
        bench.egress.count_wrong_frames(b"arm", "expected frames [empty, envelope, payload], got 2 of them")
        bench.egress.refuse(bench.running(), Refusal(RefusalKind.UNKNOWN_MODEL, "no model 'policy'", "unknown_model"))
        bench.egress.refuse(bench.running(), Refusal(RefusalKind.SUPERSEDED, "a newer one came", "newer"))
    assert caplog.messages == [
        "client arm: an observation is invalid: urgency: no",
        "client arm: a message is no observation: expected frames [empty, envelope, payload], got 2 of them",
        "client arm: a request for model policy was refused (unknown_model): no model 'policy'",
    ]


async def test_a_reason_of_megabytes_reaches_the_robot_cut(bench: EgressBench) -> None:
    number, heard = bench.enter()
    bench.egress.refuse(bench.running(number), Refusal(RefusalKind.MODEL_FAILED, "x" * 5_000_000, "ValueError"))
    assert len(heard[0].message.reason) < 3000


async def test_what_came_by_a_robots_former_connection_is_not_said_to_be_lost(bench: EgressBench, robot: Any) -> None:
    await bench.meet(robot)
    connection = bench.robot_connection()
    bench.transport.spoken_for[connection] = set()  # as where it took another's place
    for envelope in (Observation(request_id=7).SerializeToString(), b"\xff"):
        message = (b"arm", envelope, b"", 0.0, connection)
        assert bench.egress.note_inherited(message) is message
    for awaited in ([7], [7, 8]):
        bench.egress.tell_rest(connection, "arm", awaited)
    frames = await asyncio.to_thread(robot.recv_multipart)
    response = read_response(frames[1], frames[2])
    assert (response.message.request_id, response.message.status) == (8, Status.REJECTED)


async def test_a_robot_that_is_back_is_reached_by_what_came_by_its_former_connection(bench: EgressBench) -> None:
    bench.transport.on_inherited = lambda: None
    reading = asyncio.create_task(bench.transport.recv())
    async with asyncio.timeout(60):
        opened, _ = await asyncio.to_thread(connect, bench.transport.address, b"arm", 60.0, b"l" * 16)
        request = bench.running()
        former = request.connection
        assert bench.egress.reaches(former)
        opened.close()
        while not bench.transport.is_away(former):  # noqa: ASYNC110 (no event is set at its end)
            await asyncio.sleep(0.01)
        assert not bench.egress.follow(request)
        opened, _ = await asyncio.to_thread(connect, bench.transport.address, b"arm", 60.0, b"l" * 16)
    assert bench.egress.reaches(former)
    assert bench.egress.follow(request)
    assert request.connection == bench.robot_connection() != former
    reading.cancel()
    opened.close()
