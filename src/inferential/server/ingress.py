"""Turns a received message into a request, or raises why it cannot be one.

Checks the observation, who sent it, and what the configuration allows its client. It schedules and sends nothing.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from google.protobuf.message import DecodeError

from inferential.config.client_policy import ClientPolicies, ClientRights
from inferential.observation.assembler import CachedObservation, ObservationAssembler
from inferential.observation.slots import ObservationError, SlotInfo
from inferential.proto import LATE_REFUSE, LATE_SERVE, PROTOCOL_VERSION, QUEUE_LATEST, Applied, Cancellation
from inferential.proto.cache import CacheCounts
from inferential.proto.fields import ConstantFields, VaryingFields
from inferential.proto.messages import MAX_CANCELLED
from inferential.proto.tensors import Buffer
from inferential.scheduler.request import NOT_ACCEPTED, InferenceRequest, Refusal, RefusalKind
from inferential.server.age_limits import AgeLimits
from inferential.server.rate_limits import RateLimits
from inferential.server.rights import Claim, hold_to
from inferential.transport.messages import Received, Skimmed

if TYPE_CHECKING:
    from inferential.config.schema import InferentialConfig
    from inferential.models.manager import ModelManager

_MAX_CANCELLATION_BYTES = 64 * 1024
_LATE: dict[int, Literal["serve", "refuse"]] = {LATE_SERVE: "serve", LATE_REFUSE: "refuse"}


@dataclass(slots=True)  # not frozen, which would double the time it takes to create one
class IncomingRequest:
    """A valid observation as a request, with what is needed to account for it.

    Attributes:
        request: the request that is scheduled.
        staleness_ms: age of the observation at arrival, as its robot says, else by the client's wall clock.
        renews, played_id, played_from, applied, plays_by_time: as the client states them, see `proto.fields`.
        explicit_budget_ms: maximum age of an action at its arrival, as client or configuration state it; None if
            neither does.
        refusal: why it must not be scheduled; None if it may be.
        is_stale: whether its robot says that it is older than the limit.
        misalignment_ms: how far apart its values were seen; 0: within the limit.
    """

    request: InferenceRequest
    staleness_ms: float
    explicit_budget_ms: float | None
    refusal: Refusal | None
    renews: bool | None = None
    played_id: int | None = None
    played_from: int | None = None
    applied: Applied | None = None
    plays_by_time: bool = False
    is_stale: bool = False
    misalignment_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class ResolvedPolicy:
    """What client, model and configuration decide together, the same for every observation with one envelope.

    Attributes:
        identity: the identity that the client's connection must have.
        refusal: why the client is not served; None if it is.
        explicit_budget_ms, latency_budget_ms: the stated budget or None; the same with the default filled in.
        takes_latest: whether a newer observation supersedes an older one that waits.
        late: whether a request past its deadline is served or refused.
        control_period_s: how long one action of a chunk is played, in seconds; None if not stated.
        fixed_priority: the priority that the configuration sets; None if the client chooses it.
        default_priority: priority of an observation that carries 0, which from a 1.x client may mean "not set".
        rights: limits on what the client may ask; None if there are none.
    """

    identity: bytes
    refusal: Refusal | None
    explicit_budget_ms: float | None
    latency_budget_ms: float
    takes_latest: bool
    late: Literal["serve", "refuse"]
    control_period_s: float | None
    fixed_priority: int | None
    default_priority: int
    rights: ClientRights | None


@dataclass(slots=True)
class Overtaken:
    """Observations of one client and model that a newer one superseded before they were read whole.

    Attributes:
        request_ids: their fields `request_id`, as they were sent.
        payload_bytes: the size of each payload.
    """

    client_id: str
    model_id: str
    protocol_version: int
    request_ids: list[bytes] = field(default_factory=list)
    payload_bytes: list[int] = field(default_factory=list)


class Ingress:
    """Reads messages by the rules of the configuration.

    Args:
        config: limits, clients and models.
        owner: returns the identity that a connected client sends from; None for a client that is not connected.
        model_ids: returns the models that are served; None if every id may be one.
    """

    def __init__(
        self,
        config: InferentialConfig,
        owner: Callable[[str], bytes | None],
        model_ids: Callable[[], Collection[str] | None],
    ) -> None:
        self._owner = owner
        self._model_ids = model_ids
        # A random prefix and a counter: as unique as a UUID, at a tenth of its cost.
        self._prefix, self._numbers = f"{secrets.token_hex(8)}-", itertools.count(1)
        self._rates = RateLimits()
        self.has_key: Callable[[str], bool] = lambda client_id: False
        """Returns whether a client id belongs to a key, so that only the connection with that key may use it."""
        self.ask_owner: Callable[[bytes], None] = lambda identity: None
        """Has the connection with an identity end if it does not answer: another one uses its client id."""
        self.models: ModelManager | None = None
        """Which pool answers a request; None: that of its model's name."""
        self._looked_up: tuple[Buffer, CachedObservation | None] | None = (
            None  # the newest of a connection, for `receive`
        )
        self._clocks_off = 0  # before the configuration changed
        self.assembler: ObservationAssembler = ObservationAssembler(config.observations)
        self.configure(config)

    def configure(self, config: InferentialConfig) -> None:
        """Applies a changed configuration to the messages that follow; cached envelopes are dropped."""
        self._clocks_off = self.clocks_off
        self.assembler = ObservationAssembler(config.observations)
        self._age_limits = AgeLimits(config.observations, self.assembler.validator)
        self._clients = ClientPolicies(config.clients)
        self._default_budget_ms = self._clients.default_budget_ms
        self._supersede = config.scheduling.supersede
        self._models = config.models.known

    def receive(
        self, identity: bytes, envelope: Buffer, payload: Buffer, received_at: float, connection: int
    ) -> IncomingRequest:
        """Returns the request that a message makes; the arguments are those of `transport.messages.Received`.

        Raises:
            ObservationError: it breaks a rule of the wire format or a limit, or its sender may not use its client id.
        """
        looked_up, self._looked_up = self._looked_up, None
        if looked_up is not None and looked_up[0] is envelope:
            found = looked_up[1]
        else:
            found = self.assembler.lookup(envelope, payload)
        policy: ResolvedPolicy
        misalignment_ms = 0.0
        if found is not None:
            cached, varying, staleness_ms = found
            constant, slots = cached.constant, cached.slots
            policy = cached.policy
            if policy is None:
                policy = cached.policy = self._resolve(constant)
        else:
            decoded = self.assembler.decode_whole(envelope, payload, received_at)
            constant, varying, slots = decoded.constant, decoded.varying, decoded.slots
            staleness_ms, misalignment_ms = decoded.staleness_ms, decoded.misalignment_ms
            policy = self._resolve(constant)
        if identity != policy.identity:
            self._check_sender(constant, varying, identity)
        incoming = self._incoming(
            constant, varying, staleness_ms, slots, policy, identity, envelope, payload, received_at, connection
        )
        if varying.captured.age_ms or misalignment_ms:
            self._age_limits.apply(incoming, varying.captured, slots, misalignment_ms)
        return incoming

    def overtaken(self, older: Sequence[Skimmed], newest: Received) -> tuple[Overtaken | None, Sequence[Skimmed]]:
        """Returns what becomes of messages that came together with a newer one of the same connection.

        Observations of the same form as the newest, whose place that takes, are read as far as needed to refuse them: a
        twentieth of the cost of `receive`. The others are returned as they are, to be received.
        """
        identity, envelope, payload, _, _ = newest
        found = self.assembler.lookup(envelope, payload)
        self._looked_up = envelope, found
        policy: ResolvedPolicy | None = None if found is None else found[0].policy
        if found is None or policy is None or not policy.takes_latest or policy.refusal is not None:
            return None, older
        cached, request_id = found[0], found[1].request_id
        assert isinstance(envelope, bytes)  # else it is not found
        constant = cached.constant
        if identity != policy.identity and identity != self._owner(constant.client_id):
            return None, older
        overtaken, others = Overtaken(constant.client_id, constant.model_id, constant.protocol_version), []
        ids, sizes = overtaken.request_ids, overtaken.payload_bytes
        fields = cached.request_ids_of([message[0] for message in older], envelope, request_id)
        for message, id_field in zip(older, fields, strict=True):
            if id_field is None:
                others.append(message)
            else:
                ids.append(id_field)
                sizes.append(message[3] - message[2])
        return overtaken if ids else None, others

    def cancellation(self, envelope: Buffer, error: ObservationError) -> Cancellation | ObservationError:
        """Returns the message that takes requests back, or asks for those of a former connection, or what is wrong.

        Args:
            envelope: of a message that is no observation.
            error: why it is none.
        """
        if len(envelope) > _MAX_CANCELLATION_BYTES:
            return error
        try:
            found = Cancellation.FromString(bytes(envelope))
        except DecodeError:
            return error
        if (count := len(found.request_ids) + len(found.awaited_ids)) > MAX_CANCELLED:
            return ObservationError(f"it takes back or asks for {count} requests; at most {MAX_CANCELLED} in a message")
        return found if count else error

    @property
    def cache_counts(self) -> CacheCounts:
        """Counts the observations of which only the varying fields were read, and those that were read whole."""
        return self.assembler.cache_counts

    @property
    def clocks_off(self) -> int:
        """Observations so far with a timestamp far in the future, which was ignored."""
        return self._clocks_off + self.assembler.clocks_off

    def sizes(self) -> dict[str, int]:
        """Returns the bytes in the envelope cache."""
        return {"envelope_cache_bytes": self.assembler.cache_bytes()}

    def _check_sender(self, constant: ConstantFields, varying: VaryingFields, identity: bytes) -> None:
        """Requires that the connection's identity is the client id.

        Generated identities begin with a zero byte; such a connection may use any client id that is not in use.
        """
        client_id = constant.client_id
        if not identity.startswith(b"\0"):
            name = identity.decode("utf-8", "replace")
            reason = f"client.id: {client_id!r} is not the identity of the connection it came by, which is {name!r}"
        elif self.has_key(client_id):
            reason = f"client.id: {client_id!r} belongs to a key, and this observation came without it"
        elif (owner := self._owner(client_id)) is not None and owner != identity:
            self.ask_owner(owner)
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

    def _resolve(self, sender: ConstantFields) -> ResolvedPolicy:
        client_id, client_type, model_id = sender.client_id, sender.client_type, sender.model_id
        explicit_budget_ms = self._clients.explicit_budget_ms(
            client_id, client_type, model_id, sender.latency_budget_ms
        )
        accepted = self._clients.accepts(client_id)
        model = self._models.get(model_id)
        return ResolvedPolicy(
            client_id.encode(),
            None if accepted else Refusal(RefusalKind.REJECTED, f"client {client_id!r} is not accepted", NOT_ACCEPTED),
            explicit_budget_ms,
            self._default_budget_ms if explicit_budget_ms is None else explicit_budget_ms,
            (self._supersede == "all" or (self._supersede == "aware" and sender.queue == QUEUE_LATEST))
            and not (model is not None and model.every_observation),
            self._late(sender),
            None if sender.control_period_ms is None else sender.control_period_ms / 1e3,
            self._clients.fixed_priority(client_id, client_type, model_id),
            0 if sender.protocol_version >= PROTOCOL_VERSION else self._clients.default_priority,
            self._clients.rights(client_id, model_id),
        )

    def _incoming(
        self,
        sender: ConstantFields,
        varying: VaryingFields,
        staleness_ms: float,
        slots: Sequence[SlotInfo],
        policy: ResolvedPolicy,
        identity: bytes,
        envelope: Buffer,
        payload: Buffer,
        received_at: float,
        connection: int,
    ) -> IncomingRequest:
        model_id, priority = sender.model_id, policy.fixed_priority
        pool = self._pool_of(sender, varying, received_at) if self.models is not None and self.models.routes else ""
        if priority is None:
            priority = varying.priority or policy.default_priority
        urgency, refusal = varying.urgency, policy.refusal
        if policy.rights is not None:
            urgency, priority, held = self._held_to(policy.rights, sender, urgency, priority, len(payload), received_at)
            refusal = refusal or held
        request = InferenceRequest(
            sender.client_id,
            model_id,
            identity,
            envelope,
            payload,
            received_at,
            urgency,
            varying.steps_remaining,
            0.0,  # time_until_next: set by accounting, which knows the client's cadence
            policy.latency_budget_ms,
            priority,
            request_id=varying.request_id,
            response_id=self._prefix + str(next(self._numbers)),
            protocol_version=sender.protocol_version,
            takes_latest=policy.takes_latest,
            slots=slots,
            metadata=varying.metadata,
            late=policy.late,
            connection=connection,
            control_period_s=policy.control_period_s,
            episode=sender.episode,
            pool=pool,
            client_type=sender.client_type,
        )
        if pool and self.models is not None:
            self.models.keep_order(request)
        return IncomingRequest(
            request,
            staleness_ms,
            policy.explicit_budget_ms,
            refusal or self._unknown_model(model_id),
            varying.renews,
            varying.played_id,
            varying.played_from,
            varying.applied,
            varying.plays_by_time,
        )

    def _held_to(
        self, rights: ClientRights, sender: ConstantFields, urgency: float, priority: int, size: int, now: float
    ) -> tuple[float, int, Refusal | None]:
        """Returns urgency and priority as far as a client may claim them, and why it is refused, if it is."""
        claim = Claim(urgency, priority, size)
        held = hold_to(rights, claim, sender.client_id, sender.model_id, self._rates, now)
        return claim.urgency, claim.priority, held

    def _pool_of(self, sender: ConstantFields, varying: VaryingFields, now: float) -> str:
        assert self.models is not None
        return self.models.route(
            sender.model_id,
            sender.client_id,
            sender.client_type,
            episode=sender.episode,
            # A runtime that plays chunks never mixes those of two versions, wherever the second begins.
            between_chunks=not varying.steps_remaining or varying.renews is not None,
            now=now,
        )

    def _late(self, sender: ConstantFields) -> Literal["serve", "refuse"]:
        """Returns what the client states, else what the configuration says of the model."""
        if sender.late in _LATE:
            return _LATE[sender.late]
        model = self._models.get(sender.model_id)
        return "serve" if model is None else model.late

    def _unknown_model(self, model_id: str) -> Refusal | None:
        known = self._model_ids()
        if known is None or model_id in known:
            return None
        reason = f"no model {model_id!r}; there is: {', '.join(sorted(known)) or 'none'}"
        return Refusal(RefusalKind.UNKNOWN_MODEL, reason, "unknown_model")
