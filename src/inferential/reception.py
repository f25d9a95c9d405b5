"""The door of the server: from a message to a request, or to the reason why it is none.

It judges who speaks and what for; when a request runs, and what is sent back, is not its business.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from inferential.config.rights import ClientBook
from inferential.observation.assembler import ObservationAssembler
from inferential.observation.decoded import DecodedObservation
from inferential.observation.slots import ObservationError
from inferential.proto import LATE_REFUSE, LATE_SERVE, PROTOCOL_VERSION, QUEUE_LATEST
from inferential.scheduler.request import InferenceRequest, Refusal, RefusalKind
from inferential.transport.messages import IncomingObservation

if TYPE_CHECKING:
    from inferential.config.schema import InferentialConfig

_LATE: dict[int, Literal["serve", "refuse"]] = {LATE_SERVE: "serve", LATE_REFUSE: "refuse"}


@dataclass(slots=True)
class Arrival:
    """A believable observation, as a request.

    Attributes:
        request: what goes on.
        client_type: what the client says it is.
        control_period_s: how long one action of a chunk holds; None where the client did not tell.
        staleness_ms: how old the observation was on arrival by the client's clock.
        told_budget_ms: how old an action may be when it arrives, where client or configuration said; else None.
        refusal: why it goes no further; None where it does.
    """

    request: InferenceRequest
    client_type: str
    control_period_s: float | None
    staleness_ms: float
    told_budget_ms: float | None
    refusal: Refusal | None


class Reception:
    """Reads messages by the rules of one configuration; another configuration makes a new one.

    Args:
        config: limits, clients and their rights.
        owner: the identity that a client which is there speaks from, None for one that is not there.
        model_ids: the models that are served; None where any id may be one.
    """

    def __init__(
        self,
        config: InferentialConfig,
        owner: Callable[[str], bytes | None],
        model_ids: Callable[[], Collection[str] | None],
    ) -> None:
        self._assembler = ObservationAssembler(config.observations)
        self._clients = ClientBook(config.clients)
        self._default_budget_ms = self._clients.default_budget_ms
        self._supersede = config.scheduling.supersede
        self._models = config.models.known
        self._owner = owner
        self._model_ids = model_ids
        # A random name and a count: as unique as a UUID, at a tenth of its price.
        self._response_ids = map(f"{secrets.token_hex(8)}-%x".__mod__, itertools.count(1))

    def receive(self, incoming: IncomingObservation) -> Arrival:
        """Judges one message.

        Raises:
            ObservationError: it breaks a rule of the wire or a limit, or speaks for somebody else.
        """
        observation = self._assembler.decode(incoming.envelope, incoming.payload, incoming.received_at)
        self._check_sender(observation, incoming.identity)
        told_budget_ms = self._clients.told_budget_ms(
            observation.client_id, observation.model_id, observation.latency_budget_ms
        )
        request = self._request(observation, incoming.identity, told_budget_ms)
        period_ms = observation.control_period_ms
        return Arrival(
            request,
            observation.client_type,
            None if period_ms is None else period_ms / 1e3,
            observation.staleness_ms,
            told_budget_ms,
            self._refusal(request),
        )

    def _check_sender(self, observation: DecodedObservation, identity: bytes) -> None:
        """Nobody speaks for another: the connection's identity is the client's id.

        Identities that ZeroMQ made up begin with a zero byte; such a connection may use any id that is not in use.
        """
        client_id = observation.client_id
        if identity == client_id.encode():
            return
        if not identity.startswith(b"\0"):
            reason = f"client.id: {client_id!r} is not the identity of the connection it came by"
        elif self._owner(client_id) not in (None, identity):
            reason = f"client.id: {client_id!r} is in use by another connection"
        else:
            return
        raise ObservationError(
            reason,
            client_id=client_id,
            model_id=observation.model_id,
            request_id=observation.request_id,
            protocol_version=observation.protocol_version,
        )

    def _request(
        self, observation: DecodedObservation, identity: bytes, told_budget_ms: float | None
    ) -> InferenceRequest:
        client_id, model_id = observation.client_id, observation.model_id
        asked_for_latest = observation.queue == QUEUE_LATEST
        return InferenceRequest(
            client_id=client_id,
            model_id=model_id,
            identity=identity,
            envelope=observation.envelope,
            payload=observation.payload,
            received_at=observation.received_at,
            urgency=observation.urgency,
            steps_remaining=observation.steps_remaining,
            time_until_next=0.0,  # the fleet knows, once this is in the books
            latency_budget_ms=self._default_budget_ms if told_budget_ms is None else told_budget_ms,
            priority=self._clients.priority(client_id, model_id, _priority_told(observation)),
            request_id=observation.request_id,
            response_id=next(self._response_ids),
            protocol_version=observation.protocol_version,
            takes_latest=self._supersede == "all" or (self._supersede == "aware" and asked_for_latest),
            slots=observation.slots,
            metadata=observation.metadata,
            late=self._late(observation),
        )

    def _late(self, observation: DecodedObservation) -> Literal["serve", "refuse"]:
        """The client's own choice, or that of the model."""
        if observation.late in _LATE:
            return _LATE[observation.late]
        model = self._models.get(observation.model_id)
        return "serve" if model is None else model.late

    def _refusal(self, request: InferenceRequest) -> Refusal | None:
        if not self._clients.accepts(request.client_id):
            return Refusal(RefusalKind.REJECTED, f"client {request.client_id!r} is not accepted", "not_accepted")
        known = self._model_ids()
        if known is not None and request.model_id not in known:
            reason = f"no model {request.model_id!r}; there is: {', '.join(sorted(known)) or 'none'}"
            return Refusal(RefusalKind.UNKNOWN_MODEL, reason, "unknown_model")
        return None


def _priority_told(observation: DecodedObservation) -> int | None:
    """What the client said; of the 1.x line, 0 on the wire is also what a client sends that says nothing."""
    if observation.priority == 0 and observation.protocol_version < PROTOCOL_VERSION:
        return None
    return observation.priority
