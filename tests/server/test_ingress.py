"""Which messages become requests, of which clients, under which policies."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferential.config import InferentialConfig, ResponseTrackingConfig
from inferential.observation import ObservationError
from inferential.proto import (
    LATE_REFUSE,
    LATE_SERVE,
    LATE_UNSPECIFIED,
    PROTOCOL_VERSION,
    QUEUE_ALL,
    QUEUE_LATEST,
    QUEUE_UNSPECIFIED,
    Client,
    Observation,
)
from inferential.proto.cache.templates import ObservationTemplate
from inferential.proto.tensors import describe
from inferential.scheduler.request import RefusalKind, RequestState
from inferential.server.ingress import IncomingRequest, Ingress
from inferential.server.inprocess import InProcessClients, identity_of
from inferential.tracking.fleet import Fleet

NOW_NS = 1_700_000_000_000_000_000
RECEIVED_AT = 100.0
STATE = ("state", np.dtype(np.float32), (7,))
PAYLOAD = bytes(28)
NAMELESS, OTHER_NAMELESS = b"\0\0\0\0\1", b"\0\0\0\0\2"
_NEWS = ("timestamp_ns", "urgency", "steps_remaining", "metadata", "priority", "request_id")


@pytest.fixture(autouse=True, scope="module")
def _clock() -> Iterator[None]:
    """The wall clock stands still here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.time_ns", lambda: NOW_NS)
        yield


def envelope(client_id: str = "arm", **changed: Any) -> bytes:
    """An observation in the order of this line, which is known when it comes again; valid but for what is changed."""
    fields = {
        "model_id": "policy",
        "protocol_version": PROTOCOL_VERSION,
        "timestamp_ns": NOW_NS - 5_000_000,
        "priority": 1,
        "request_id": 7,
        **changed,
    }
    news = Observation(**{name: fields.pop(name) for name in _NEWS if name in fields})
    constant = Observation(client=Client(id=client_id, type="franka"), **fields)
    describe(constant.tensors, (STATE,), news.timestamp_ns)
    whole = ObservationTemplate(constant, news.timestamp_ns).envelope(news.timestamp_ns, news.SerializeToString())
    assert whole is not None
    return whole


class IngressBench:
    """An ingress with the fleet and the in-process clients that it reads."""

    def __init__(self, there_is: Collection[str] | None = None, **config: Any) -> None:
        self.there_is = there_is
        self.fleet = Fleet(ResponseTrackingConfig())
        self.inprocess = InProcessClients()
        self.ingress = Ingress(InferentialConfig.model_validate(config), self.fleet.owner, lambda: self.there_is)

    def receive(
        self, message: bytes | memoryview, identity: bytes = b"arm", payload: bytes = PAYLOAD
    ) -> IncomingRequest:
        return self.ingress.receive(identity, message, payload, RECEIVED_AT, 1)

    def owned(self, identity: bytes, client_id: str = "arm") -> None:
        """A connection claims to be a client."""
        self.fleet.on_observation(client_id, "policy", "franka", identity, RECEIVED_AT)

    def knows(self, message: bytes) -> bool:
        """Whether a message will be read by its news alone."""
        return self.ingress.assembler.lookup(message, PAYLOAD) is not None


# Who may speak for whom


@pytest.mark.parametrize("client_id", ["arm", "рука", "an arm", "a" * 255])
def test_a_connection_may_use_its_identity_as_client_id(client_id: str) -> None:
    arrival = IngressBench().receive(envelope(client_id), client_id.encode())
    assert (arrival.request.client_id, arrival.request.identity) == (client_id, client_id.encode())
    assert (arrival.refusal, arrival.request.state) == (None, RequestState.NEW)


@pytest.mark.parametrize("identity", [b"leg", b"ARM", b"arm ", b"arm\0", b"", b"\xff"])
def test_a_connection_with_an_identity_may_use_no_other_client_id(identity: bytes) -> None:
    with pytest.raises(ObservationError, match="'arm' is not the identity of the connection"):
        IngressBench().receive(envelope(), identity)


def test_a_connection_without_an_identity_may_use_a_free_client_id() -> None:
    bench = IngressBench()
    bench.owned(b"leg", "leg")
    for identity in (NAMELESS, identity_of(-1)):
        assert bench.receive(envelope(), identity).request.identity == identity


@pytest.mark.parametrize("owner", [b"arm", OTHER_NAMELESS])
def test_a_connection_without_an_identity_may_not_use_a_client_id_in_use(owner: bytes) -> None:
    bench = IngressBench()
    bench.owned(owner)
    with pytest.raises(ObservationError, match="'arm' is in use by another connection"):
        bench.receive(envelope(), NAMELESS)


def test_a_connection_without_an_identity_keeps_its_client_id() -> None:
    bench = IngressBench()
    bench.owned(NAMELESS)
    assert bench.receive(envelope(), NAMELESS).refusal is None


def test_a_client_id_returns_to_the_connection_with_that_identity() -> None:
    bench = IngressBench()
    bench.owned(NAMELESS)
    assert bench.receive(envelope(), b"arm").request.identity == b"arm"


def test_a_client_id_is_free_again_once_its_client_has_disconnected() -> None:
    bench = IngressBench()
    bench.owned(b"arm")
    assert bench.fleet.sweep(RECEIVED_AT + 3600).gone == ["arm"]
    assert bench.receive(envelope(), NAMELESS).refusal is None


@pytest.mark.parametrize(("identity", "why"), [(b"leg", "not the identity"), (NAMELESS, "in use by another")])
@pytest.mark.parametrize("owner", [b"arm", OTHER_NAMELESS])
def test_a_cached_envelope_may_not_be_sent_by_another_client(owner: bytes, identity: bytes, why: str) -> None:
    bench = IngressBench()
    for _ in range(2):
        bench.receive(envelope(), owner)
    bench.owned(owner)
    assert bench.knows(envelope())
    with pytest.raises(ObservationError, match=why):
        bench.receive(envelope(), identity)


def test_an_envelope_rejected_from_one_sender_is_accepted_from_its_owner() -> None:
    bench = IngressBench()
    with pytest.raises(ObservationError):
        bench.receive(envelope(), b"leg")
    assert bench.knows(envelope())
    assert bench.receive(envelope(), b"arm").refusal is None


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("version", [0, PROTOCOL_VERSION])
@pytest.mark.parametrize(("identity", "payload"), [(b"leg", PAYLOAD), (b"arm", bytes(4))], ids=["sender", "payload"])
def test_an_error_has_what_an_answer_to_its_sender_needs(
    identity: bytes, payload: bytes, version: int, known: bool
) -> None:
    bench = IngressBench()
    if known:
        bench.receive(envelope(protocol_version=version))
    with pytest.raises(ObservationError) as raised:
        bench.receive(envelope(protocol_version=version, request_id=99), identity, payload)
    error = raised.value
    assert (error.client_id, error.model_id, error.request_id, error.protocol_version) == ("arm", "policy", 99, version)


def test_an_unreadable_envelope_is_not_answered() -> None:
    with pytest.raises(ObservationError, match="Failed to decode") as raised:
        IngressBench().receive(b"\xff\xff\xff")
    assert (raised.value.client_id, raised.value.request_id, raised.value.protocol_version) == ("", 0, 0)


# What it is worth

ENTRY = {"id": "arm", "model": "policy"}


@pytest.mark.parametrize(
    ("sent", "clients", "said", "holds"),
    [
        (0.0, {}, None, 50.0),
        (0.0, {"defaults": {"latency_budget_ms": 80.0}}, None, 80.0),
        (20.0, {}, 20.0, 20.0),
        (20.0, {"known": [{**ENTRY, "latency_budget_ms": 30.0}]}, 30.0, 30.0),
        (0.0, {"known": [{**ENTRY, "latency_budget_ms": 30.0}]}, 30.0, 30.0),
        (20.0, {"known": [{**ENTRY, "model": "other", "latency_budget_ms": 30.0}]}, 20.0, 20.0),
        (20.0, {"classes": {"franka": {"latency_budget_ms": 30.0}}}, 30.0, 30.0),
        (20.0, {"classes": {"other": {"latency_budget_ms": 30.0}}}, 20.0, 20.0),
    ],
    ids=[
        *("unknown", "default", "client", "operator", "operator alone", "operator, of another model"),
        *("operator, of its class", "operator, of another class"),
    ],
)
def test_a_budget_is_the_operators_or_the_clients_or_the_default(
    sent: float, clients: dict[str, Any], said: float | None, holds: float
) -> None:
    arrival = IngressBench(clients=clients).receive(envelope(latency_budget_ms=sent))
    assert (arrival.explicit_budget_ms, arrival.request.latency_budget_ms) == (said, holds)
    assert arrival.request.deadline == pytest.approx(RECEIVED_AT + holds / 1e3)


@pytest.mark.parametrize(
    ("sent", "version", "known", "priority"),
    [
        (3, PROTOCOL_VERSION, [], 3),
        (0, PROTOCOL_VERSION, [], 0),
        (3, 0, [], 3),
        (0, 0, [], 5),  # which is also what a client of the 1.x line sends that says nothing
        (0, PROTOCOL_VERSION, [{**ENTRY, "priority": 2}], 2),
        (0, 0, [{**ENTRY, "priority": 2}], 2),
        (3, PROTOCOL_VERSION, [ENTRY], 3),
    ],
)
def test_priority_zero_is_the_highest_except_from_a_1_x_client(
    sent: int, version: int, known: list[dict[str, Any]], priority: int
) -> None:
    bench = IngressBench(clients={"defaults": {"priority": 5}, "known": known})
    for _ in range(2):  # read whole, and by its news
        arrival = bench.receive(envelope(priority=sent, protocol_version=version))
        assert arrival.request.priority == priority


@pytest.mark.parametrize(
    ("sent", "of_model", "late"),
    [
        (LATE_UNSPECIFIED, None, "serve"),
        (LATE_UNSPECIFIED, "refuse", "refuse"),
        (LATE_UNSPECIFIED, "serve", "serve"),
        (LATE_REFUSE, None, "refuse"),
        (LATE_REFUSE, "serve", "refuse"),
        (LATE_SERVE, "refuse", "serve"),
        (9, "refuse", "refuse"),  # of a line to come
    ],
)
def test_what_becomes_of_the_late_is_the_clients_choice_or_else_the_models(
    sent: Any, of_model: str | None, late: str
) -> None:
    bench = IngressBench(models={"known": {} if of_model is None else {"policy": {"late": of_model}}})
    assert bench.receive(envelope(late=sent)).request.late == late


@pytest.mark.parametrize(
    ("supersede", "takes_latest"),
    [("aware", [False, True, False]), ("all", [True, True, True]), ("off", [False, False, False])],
)
def test_whether_newer_observations_supersede_follows_configuration_and_client(
    supersede: str, takes_latest: list[bool]
) -> None:
    bench = IngressBench(scheduling={"supersede": supersede})
    queues = (QUEUE_UNSPECIFIED, QUEUE_LATEST, QUEUE_ALL)
    assert [bench.receive(envelope(queue=queue)).request.takes_latest for queue in queues] == takes_latest


@pytest.mark.parametrize(("sent_ms", "period_s"), [(0.0, None), (20.0, 0.02)])
def test_the_control_period_is_in_seconds_or_none(sent_ms: float, period_s: float | None) -> None:
    arrival = IngressBench().receive(envelope(control_period_ms=sent_ms))
    assert arrival.request.control_period_s == (None if period_s is None else pytest.approx(period_s))


def test_staleness_is_measured_by_the_clients_clock() -> None:
    bench = IngressBench()
    assert [bench.receive(envelope()).staleness_ms for _ in range(2)] == [5.0, 5.0]


def test_no_two_answers_have_one_name_not_even_under_another_configuration() -> None:
    doors = IngressBench(), IngressBench()
    names = [bench.receive(envelope()).request.response_id for bench in doors for _ in range(100)]
    assert len(set(names)) == 200
    assert all(names)


# Who goes no further

CLOSED = {"accept_unknown": False, "known": [{"id": "friend", "model": "other"}]}


def test_a_client_that_is_not_accepted_does_not_learn_the_model_ids() -> None:
    refusal = IngressBench(["secret"], clients=CLOSED).receive(envelope()).refusal
    assert refusal is not None
    assert (refusal.kind, refusal.cause) == (RefusalKind.REJECTED, "not_accepted")
    assert "'arm'" in refusal.reason
    assert "secret" not in refusal.reason


def test_an_accepted_client_is_accepted_for_every_model() -> None:
    assert IngressBench(clients=CLOSED).receive(envelope("friend"), b"friend").refusal is None


@pytest.mark.parametrize(("models", "there_is"), [(["b", "a"], "a, b"), ([], "none")])
def test_the_refusal_for_an_unknown_model_lists_the_known_ones(models: list[str], there_is: str) -> None:
    refusal = IngressBench(models).receive(envelope()).refusal
    assert refusal is not None
    assert (refusal.kind, refusal.cause) == (RefusalKind.UNKNOWN_MODEL, "unknown_model")
    assert refusal.reason == f"no model 'policy'; there is: {there_is}"


def test_where_any_id_may_be_a_model_none_is_unknown() -> None:
    assert IngressBench(None).receive(envelope()).refusal is None


def test_models_come_and_go_for_those_too_whose_observations_are_known() -> None:
    bench = IngressBench([])
    refused = []
    for models in ([], ["policy"], ["other"]):
        bench.there_is = models
        refused.append(bench.receive(envelope()).refusal is not None)
    assert refused == [True, False, True]


# One message, read in either way

CONSTANT = st.fixed_dictionaries(
    {
        "model_id": st.sampled_from(["policy", "other", "unknown"]),
        "protocol_version": st.integers(0, 3),
        "queue": st.sampled_from([QUEUE_UNSPECIFIED, QUEUE_LATEST, QUEUE_ALL, 9]),
        "late": st.sampled_from([LATE_UNSPECIFIED, LATE_SERVE, LATE_REFUSE, 9]),
        "latency_budget_ms": st.sampled_from([0.0, 20.0]),
        "control_period_ms": st.sampled_from([0.0, 20.0]),
    }
)
NEWS = st.fixed_dictionaries(
    {
        "timestamp_ns": st.integers(NOW_NS - 10**9, NOW_NS),
        "urgency": st.floats(0, 1, width=32),
        "priority": st.integers(0, 9) | st.integers(0, 2**32 - 1),
        "request_id": st.integers(0, 2**64 - 1),
        "metadata": st.dictionaries(st.text(max_size=4), st.text(max_size=20), max_size=2),
    },
    optional={"steps_remaining": st.integers(0, 2**32 - 1)},
)
SENDERS = st.sampled_from([b"arm", b"leg", NAMELESS, OTHER_NAMELESS])
RULES: dict[str, Any] = {
    "clients": {"known": [{"id": "arm", "model": "other", "latency_budget_ms": 30.0, "priority": 4}]},
    "models": {"known": {"other": {"late": "refuse"}}},
}


def outcome(bench: IngressBench, message: bytes, sender: bytes) -> Any:
    """All that came of a message, but for its own name and number, and when its tensors were measured, which no test
    asks for."""
    try:
        arrival = bench.receive(message, sender)
    except ObservationError as error:
        return vars(error)
    result = {field.name: getattr(arrival, field.name) for field in dataclasses.fields(arrival)}
    request = result.pop("request")
    result |= {field.name: getattr(request, field.name) for field in dataclasses.fields(request)}
    result["slots"] = [slot._replace(timestamp_ns=0) for slot in request.slots]
    del result["response_id"], result["arrival"]
    return result


@given(
    constant=CONSTANT,
    news=NEWS,
    senders=st.tuples(SENDERS, SENDERS),
    owner=st.none() | SENDERS,
    supersede=st.sampled_from(["aware", "all", "off"]),
)
def test_what_comes_of_a_message_does_not_depend_on_whether_it_is_known(
    constant: dict[str, Any],
    news: dict[str, Any],
    senders: tuple[bytes, bytes],
    owner: bytes | None,
    supersede: str,
) -> None:
    used, fresh = (IngressBench(["policy", "other"], scheduling={"supersede": supersede}, **RULES) for _ in range(2))
    for bench in (used, fresh):
        if owner is not None:
            bench.owned(owner)
    outcome(used, envelope(**constant), senders[0])
    message = envelope(**constant, **news)
    assert used.knows(message)
    assert not fresh.knows(message)
    assert outcome(used, message, senders[1]) == outcome(fresh, message, senders[1])
