"""Declares what can be configured, with its default, unit and meaning.

Nothing here reads a file or the environment: that is `config.loading`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from inferential.config.addresses import Bind, ListenAddress, listen_addresses
from inferential.config.alerts import AlertsConfig
from inferential.config.clients import ClientDefaults as ClientDefaults  # names of this module for its users
from inferential.config.clients import ClientEntry as ClientEntry
from inferential.config.clients import ClientsConfig as ClientsConfig
from inferential.config.foxglove import FoxgloveConfig
from inferential.config.gateways import GatewaysConfig
from inferential.config.models import ModelConfig as ModelConfig
from inferential.config.models import ModelsConfig as ModelsConfig
from inferential.config.recording import RecordingConfig
from inferential.config.section import (
    Count,
    Effect,
    NotNegative,
    Positive,
    Section,
    SocketCount,
)
from inferential.config.security import SecurityConfig
from inferential.config.services import HttpConfig, OtlpConfig


class TransportConfig(Section):
    """The address that robots connect to, by ZeroMQ's protocol."""

    type: Literal["zmq"] = "zmq"
    """The only transport there is."""
    bind: Bind = "tcp://*:5555"
    """Address to listen on: tcp://HOST:PORT (* for every interface by IPv4 and IPv6, port 0 for a free one) or
    ipc://PATH; or a list of such addresses. An entry of the list may be a map {address, security}, whose security
    (off, optional, required) holds for that address in place of security.mode."""
    recv_hwm: SocketCount = 1000
    """Accepted for configurations of 1.x, without effect: messages of one client wait in the system's buffers; the
    server reads the next one after it has handled the last."""
    send_hwm: SocketCount = 1000
    """Responses that may wait for one client that does not read; more are counted as send_errors."""

    @property
    def addresses(self) -> list[ListenAddress]:
        """The addresses of `bind`, each with the security that it asks for itself."""
        return listen_addresses(self.bind)


class DeadlineAwareConfig(Section):
    """Weights of the score that `deadline_aware` and `model_deadline` order by."""

    cadence_weight: NotNegative = 45.0
    """For each 0.1 s that the client is overdue by its learned cadence."""
    urgency_weight: NotNegative = 25.0
    """Times the urgency that the client sent (0 to 1)."""
    steps_weight: NotNegative = 15.0
    """Times 1, 0.7 or 0.4 with 0, at most 2 or at most 4 steps remaining."""
    priority_weight: NotNegative = 10.0
    """Times (10 - min(priority, 10)) / 10."""
    age_weight: NotNegative = 15.0
    """Times the request's age over its latency budget, at most 1."""


class BatchConfig(Section):
    """When `batch_optimized` releases a batch."""

    max_batch_size: Count = 8
    """Requests of one model that make a full batch."""
    max_wait_ms: Positive = 10.0
    """Longest wait of the first request of a batch for company."""


class TieredConfig(Section):
    """Tiers of `priority_tiered`."""

    num_tiers: Count = 3
    """Priorities at and above num_tiers - 1 share the last tier."""


class SloAwareConfig(Section):
    """Options of `slo_aware`."""

    latency_quantile: float = Field(default=0.95, ge=0.5, le=1.0)
    """By which quantile of a model's latency a deadline counts as met."""
    overload: Literal["priority", "even"] = "priority"
    """Which requests overload delays most: those of low priority and urgency, or all alike."""
    starvation_ms: Positive = 1000.0
    """How long under overload a client may wait for clients with more weight, beyond half of its own time."""
    objective: Literal["robot_time", "answers"] = "robot_time"
    """What is gained from robots that play chunks and say how many actions they have left: robot_time, the time for
    which they have an action; answers, as from all others, answers in time."""


class SchedulingConfig(Section):
    """Which request runs next, and which may wait at all."""

    strategy: str = "deadline_aware"
    """Name of a registered scheduler: `inferential schedulers` lists them."""
    max_queue_size: Count = 1000
    """Requests that may wait, over all models."""
    request_ttl_ms: Positive = 5000.0
    """Timeout of a waiting request: the longest it waits in the queue; then it ends as expired."""
    overflow_policy: Literal["drop_oldest", "reject_newest"] = "drop_oldest"
    """What is dropped when the queue is full: the oldest of the client with most requests waiting, or the new one."""
    supersede: Literal["aware", "all", "off"] = "aware"
    """Whose waiting request gives way to a newer one of the same client and model: that of clients that asked
    for the latest only (aware), of every client (all), of none (off)."""
    max_retries: int = Field(default=0, ge=0)
    """How often a request whose model failed is tried again."""
    deadline_aware: DeadlineAwareConfig = Field(default_factory=DeadlineAwareConfig)
    """Weights of the strategy of that name."""
    model_deadline: DeadlineAwareConfig = Field(default_factory=DeadlineAwareConfig)
    """Weights of the strategy of that name."""
    batch_optimized: BatchConfig = Field(default_factory=BatchConfig)
    """Options of the strategy of that name."""
    priority_tiered: TieredConfig = Field(default_factory=TieredConfig)
    """Options of the strategy of that name."""
    slo_aware: SloAwareConfig = Field(default_factory=SloAwareConfig)
    """Options of the strategy of that name."""


class ResponseTrackingConfig(Section):
    """How a client's cadence is learned, and when it counts as overdue or gone."""

    overdue_multiplier: float = Field(default=1.5, gt=1.0, allow_inf_nan=False)
    """A client is overdue after this many of its learned periods without an observation."""
    disconnect_timeout_s: Positive = 10.0
    """Timeout of a client: after this long without an observation it counts as gone, and its waiting requests end."""
    cadence_alpha: float = Field(default=0.3, gt=0, le=1.0)
    """Weight of the newest interval in the learned cadence."""


class ObservationConfig(Section):
    """Limits that an observation must keep to be accepted."""

    max_staleness_ms: Positive = 1000.0
    """How old an observation may be on arrival, by its robot's `captured_at`, before it is stale; one that is to be
    refused then also is where it becomes as old while it waits. One whose robot does not give that is logged where it
    is older by the robot's wall clock."""
    stale: Literal["count", "refuse"] = "count"
    """What becomes of a stale observation: it is counted (`observations_stale`), or refused too."""
    temporal_alignment_threshold_ms: Positive = 20.0
    """How far apart the values of one observation may have been seen before they are misaligned, which is logged."""
    misaligned: Literal["count", "refuse"] = "count"
    """What becomes of an observation whose values are misaligned: it is counted (`observation_misalignment_ms`), or
    refused too."""
    max_future_ms: Positive = 60_000.0
    """How far in the future, by the server's clock, a timestamp may lie; one beyond counts as not given."""
    max_id_bytes: Count = 255
    """Longest client, type or model id (a ZeroMQ identity holds 255 bytes)."""
    max_tensors: Count = 64
    """Tensors in one observation."""
    max_dims: Count = 16
    """Dimensions of one tensor."""
    max_payload_bytes: Count = 256 * 1024 * 1024
    """All tensors of one observation, as sent; the socket itself cuts at twice what this was at the start."""
    max_decoded_bytes: Count = 256 * 1024 * 1024
    """One JPEG or PNG tensor, decoded."""
    max_metadata_entries: Count = 64
    """Strings in one observation."""
    max_metadata_bytes: Count = 64 * 1024
    """All keys and strings of one observation."""


class MetricsConfig(Section):
    """Which metrics are kept, and how many points."""

    ring_buffer_size: int = Field(default=10000, ge=100)
    """Newest points kept of each metric."""
    max_label_sets: int = Field(default=4096, ge=16)
    """Label combinations kept apart in each metric; the least recently used goes."""
    enabled: bool = True
    """Off: nothing is kept and no callback is called."""


class ServerConfig(Section):
    """How the server starts and ends."""

    drain_timeout_s: NotNegative = 5.0
    """On shutdown, how long requests that the server already has may still be served."""
    ready_wait_s: NotNegative = 2.0
    """Timeout of the start: how long it waits for models to be ready; robots may ask meanwhile."""


class InferentialConfig(Section):
    """Everything; each field is a table of a configuration file."""

    server: Annotated[ServerConfig, Effect.LIVE] = Field(default_factory=ServerConfig)
    """How the server starts and ends."""
    transport: Annotated[TransportConfig, Effect.ON_RESTART] = Field(default_factory=TransportConfig)
    """The socket that robots connect to."""
    scheduling: Annotated[SchedulingConfig, Effect.LIVE] = Field(default_factory=SchedulingConfig)
    """Which request runs next."""
    models: Annotated[ModelsConfig, Effect.LIVE] = Field(default_factory=ModelsConfig)
    """The models."""
    clients: Annotated[ClientsConfig, Effect.LIVE] = Field(default_factory=ClientsConfig)
    """The clients."""
    response_tracking: Annotated[ResponseTrackingConfig, Effect.LIVE] = Field(default_factory=ResponseTrackingConfig)
    """Cadence and silence of clients."""
    observations: Annotated[ObservationConfig, Effect.LIVE] = Field(default_factory=ObservationConfig)
    """Limits on what comes in."""
    metrics: Annotated[MetricsConfig, Effect.LIVE] = Field(default_factory=MetricsConfig)
    """Which metrics are kept, and how many points."""
    gateways: Annotated[GatewaysConfig, Effect.ON_RESTART] = Field(default_factory=GatewaysConfig)
    """Other clients' protocols."""
    security: Annotated[SecurityConfig, Effect.ON_RESTART] = Field(
        default_factory=SecurityConfig, validate_default=True
    )
    """Keys and encryption."""
    recording: Annotated[RecordingConfig | None, Effect.LIVE] = None
    """What robots send and are answered, as MCAP files; off unless the section is present."""
    foxglove: Annotated[FoxgloveConfig | None, Effect.ON_RESTART] = None
    """What robots send and are answered, live in Foxglove; off unless the section is present."""
    alerts: Annotated[AlertsConfig | None, Effect.LIVE] = None
    """Changes that are posted to a webhook; off unless the section is present."""
    http: Annotated[HttpConfig | None, Effect.ON_RESTART] = None
    """The live page, metrics and health over HTTP; off unless the section is present."""
    otlp: Annotated[OtlpConfig | None, Effect.ON_RESTART] = None
    """Traces and metrics to an OpenTelemetry collector; off unless the section is present."""
    ray: Annotated[dict[str, Any], Effect.ON_RESTART] = Field(default_factory=dict)
    """Arguments with which Ray is joined or started (those of its `init`), as `address`."""

    @field_validator("security")
    @classmethod
    def _has_keys(cls, security: SecurityConfig, info: ValidationInfo) -> SecurityConfig:
        # Not a rule of the section itself, which would hold while its fields are set one after another.
        missing = [name for name in ("server_key", "clients") if getattr(security, name) is None]
        if security.mode != "off" and missing:
            raise ValueError(
                f"mode {security.mode} needs {' and '.join(missing)}: `inferential keys new server` makes them"
            )
        transport = info.data.get("transport")
        asking = [] if transport is None else [one for one in transport.addresses if one.security not in (None, "off")]
        if security.mode == "off" and asking:
            raise ValueError(
                f"mode is off, and transport.bind has security: {asking[0].security} for {asking[0].bind}: set "
                "security.mode to what holds for the other addresses, and security: off for those that ask for no keys"
            )
        return security
