"""The door of the server: from a message to a request, or to the reason why it is none.

It judges who speaks and what for; when a request runs, and what is sent back, is not its business.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from inferential.config.rights import ClientBook
from inferential.observation.assembler import ObservationAssembler
from inferential.observation.slots import ObservationError, SlotInfo
from inferential.proto import LATE_REFUSE, LATE_SERVE, PROTOCOL_VERSION, QUEUE_LATEST
from inferential.proto.cache import CacheCounts
from inferential.proto.fields import ConstantFields, VaryingFields
from inferential.proto.tensors import Buffer
from inferential.scheduler.request import InferenceRequest, Refusal, RefusalKind

if TYPE_CHECKING:
    from inferential.config.schema import InferentialConfig

_LATE: dict[int, Literal["serve", "refuse"]] = {LATE_SERVE: "serve", LATE_REFUSE: "refuse"}


@dataclass(slots=True)  # not frozen, which would double the time that it takes to make one
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


@dataclass(frozen=True, slots=True)
class _Standing:
    """What follows from who asks for what, whatever the observation is."""

    identity: bytes
    refusal: Refusal | None
    told_budget_ms: float | None
    latency_budget_ms: float
    takes_latest: bool
    late: Literal["serve", "refuse"]
    control_period_s: float | None
    priority: int | None
    """The operator's word, whatever the client says."""
    untold_priority: int
    """Of a client that says 0, which from the 1.x line may mean that it says nothing."""


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
        self._name, self._numbers = f"{secrets.token_hex(8)}-", itertools.count(1)

    def receive(self, identity: bytes, envelope: Buffer, payload: Buffer, received_at: float) -> Arrival:
        """Judges one message, of what an `IncomingObservation` is made of.

        Raises:
            ObservationError: it breaks a rule of the wire or a limit, or speaks for somebody else.
        """
        found = self._assembler.lookup(envelope, payload)
        standing: _Standing
        if found is not None:
            cached, varying, staleness_ms = found
            constant, slots = cached.constant, cached.slots
            standing = cached.policy
            if standing is None:
                standing = cached.policy = self._standing(constant)
        else:
            decoded = self._assembler.decode_whole(envelope, payload, received_at)
            constant, varying, slots, staleness_ms = (
                decoded.constant,
                decoded.varying,
                decoded.slots,
                decoded.staleness_ms,
            )
            standing = self._standing(constant)
        if identity != standing.identity:
            self._check_sender(constant, varying, identity)
        return self._arrival(constant, varying, staleness_ms, slots, standing, identity, envelope, payload, received_at)

    @property
    def cache_counts(self) -> CacheCounts:
        """The observations of which only the new part was read, and those that were read whole."""
        return self._assembler.cache_counts

    def _check_sender(self, constant: ConstantFields, varying: VaryingFields, identity: bytes) -> None:
        """Nobody speaks for another: the connection's identity is the client's id.

        Identities that ZeroMQ made up begin with a zero byte; such a connection may use any id that is not in use.
        """
        client_id = constant.client_id
        if not identity.startswith(b"\0"):
            reason = f"client.id: {client_id!r} is not the identity of the connection it came by"
        elif self._owner(client_id) not in (None, identity):
            reason = f"client.id: {client_id!r} is in use by another connection"
        else:
            return
        raise ObservationError(
            reason,
            client_id=client_id,
            model_id=constant.model_id,
            request_id=varying.request_id,
            protocol_version=constant.protocol_version,
        )

    def _standing(self, who: ConstantFields) -> _Standing:
        client_id, model_id = who.client_id, who.model_id
        told_budget_ms = self._clients.told_budget_ms(client_id, model_id, who.latency_budget_ms)
        accepted = self._clients.accepts(client_id)
        return _Standing(
            client_id.encode(),
            None
            if accepted
            else Refusal(RefusalKind.REJECTED, f"client {client_id!r} is not accepted", "not_accepted"),
            told_budget_ms,
            self._default_budget_ms if told_budget_ms is None else told_budget_ms,
            self._supersede == "all" or (self._supersede == "aware" and who.queue == QUEUE_LATEST),
            self._late(who),
            None if who.control_period_ms is None else who.control_period_ms / 1e3,
            self._clients.fixed_priority(client_id, model_id),
            0 if who.protocol_version >= PROTOCOL_VERSION else self._clients.default_priority,
        )

    def _arrival(
        self,
        who: ConstantFields,
        varying: VaryingFields,
        staleness_ms: float,
        slots: Sequence[SlotInfo],
        standing: _Standing,
        identity: bytes,
        envelope: Buffer,
        payload: Buffer,
        received_at: float,
    ) -> Arrival:
        model_id, priority = who.model_id, standing.priority
        if priority is None:
            priority = varying.priority or standing.untold_priority
        request = InferenceRequest(
            who.client_id,
            model_id,
            identity,
            envelope,
            payload,
            received_at,
            varying.urgency,
            varying.steps_remaining,
            0.0,  # time_until_next: the fleet knows, once this is in the books
            standing.latency_budget_ms,
            priority,
            request_id=varying.request_id,
            response_id=self._name + str(next(self._numbers)),
            protocol_version=who.protocol_version,
            takes_latest=standing.takes_latest,
            slots=slots,
            metadata=varying.metadata,
            late=standing.late,
        )
        return Arrival(
            request,
            who.client_type,
            standing.control_period_s,
            staleness_ms,
            standing.told_budget_ms,
            standing.refusal or self._unknown_model(model_id),
        )

    def _late(self, who: ConstantFields) -> Literal["serve", "refuse"]:
        """The client's own choice, or that of the model."""
        if who.late in _LATE:
            return _LATE[who.late]
        model = self._models.get(who.model_id)
        return "serve" if model is None else model.late

    def _unknown_model(self, model_id: str) -> Refusal | None:
        known = self._model_ids()
        if known is None or model_id in known:
            return None
        reason = f"no model {model_id!r}; there is: {', '.join(sorted(known)) or 'none'}"
        return Refusal(RefusalKind.UNKNOWN_MODEL, reason, "unknown_model")
