"""What the configuration says of clients: defaults, known clients and their rights."""

from __future__ import annotations

from pydantic import Field, field_validator

from inferential.config.section import Count, Positive, Section


class ClientDefaults(Section):
    """What holds for a client that sends no values of its own."""

    latency_budget_ms: Positive = 50.0
    """How old an action may be when it arrives, of a client that sends no budget, until its own rhythm is known."""
    priority: int = Field(default=1, ge=0)
    """Priority of its requests; 0 is the highest."""


class ClientEntry(Section):
    """One known client; these values outrank those that the client sends."""

    id: str = Field(min_length=1)
    """The client's id."""
    model: str
    """The model that the entry is about."""
    latency_budget_ms: Positive | None = None
    """How old an action may be when it arrives."""
    priority: int | None = Field(default=None, ge=0)
    """Priority of its requests; 0 is the highest."""
    models: list[str] | None = None
    """The only models that the client may ask, of all its entries together; every model by default."""
    max_rate_hz: Positive | None = None
    """Most requests a second; more are refused with the time to wait. This and the limits below hold for every model,
    unless another entry of the client is about that model and sets its own."""
    min_priority: int | None = Field(default=None, ge=0)
    """Best priority that it may claim, 0 being the highest; a better one counts as this."""
    max_urgency: float | None = Field(default=None, ge=0, le=1)
    """Highest urgency that it may claim; a higher one counts as this."""
    max_payload_bytes: Count | None = None
    """All tensors of one observation; more is refused."""


class ClientClass(Section):
    """What robots of one type are given; budget and priority outrank those that they send, and an entry in `known`
    outranks these."""

    latency_budget_ms: Positive | None = None
    """How old an action of theirs may be when it arrives."""
    priority: int | None = Field(default=None, ge=0)
    """Priority of their requests; 0 is the highest."""

    min_rate_hz: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Answers a second that each of them gets, where more is asked than the models carry, before any robot gets more
    than its own minimum."""
    value: Positive = 1.0
    """Of an answer: what the minimum rates leave goes to the class with the most value per second of the model."""


class ClientsConfig(Section):
    """Which clients are served, and what each is given by default."""

    defaults: ClientDefaults = Field(default_factory=ClientDefaults)
    """For clients that send no values of their own."""
    known: list[ClientEntry] = Field(default_factory=list)
    """The fleet, as far as it is known beforehand."""
    classes: dict[str, ClientClass] = Field(default_factory=dict)
    """By the type that a client states (`Connection(client_type=)`), budget, priority and the rates of overload
    (`serve_interval_ms`); of types that are not named, no minimum and the value 1."""
    accept_unknown: bool = True
    """Whether a client that is not in `known` is served."""

    @field_validator("known")
    @classmethod
    def _no_entry_twice(cls, known: list[ClientEntry]) -> list[ClientEntry]:
        seen: dict[tuple[str, str], int] = {}
        for index, entry in enumerate(known):
            first = seen.setdefault((entry.id, entry.model), index)
            if first != index:
                raise ValueError(
                    f"entries [{first}] and [{index}] are both for client {entry.id!r} and model {entry.model!r}"
                )
        return known
