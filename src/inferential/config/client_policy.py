"""What a client may do and expect, looked up once for each of its envelopes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inferential.config.schema import ClientEntry, ClientsConfig

_LIMITS = ("max_rate_hz", "min_priority", "max_urgency", "max_payload_bytes")


@dataclass(frozen=True, slots=True)
class ClientRights:
    """What a client may ask of one model; None: no limit.

    Attributes:
        model_is_allowed: whether it may ask the model at all.
        models: those that it may ask.
        max_rate_hz: most requests a second.
        min_priority: the best priority that it may claim.
        max_urgency: the highest urgency that it may claim.
        max_payload_bytes: all tensors of one observation.
    """

    model_is_allowed: bool
    models: tuple[str, ...]
    max_rate_hz: float | None
    min_priority: int | None
    max_urgency: float | None
    max_payload_bytes: int | None


class ClientPolicies:
    """The client settings of one configuration, by client and model.

    The operator's entry for a known client takes precedence over that for its class, that over what the client states,
    and that over the defaults.
    """

    def __init__(self, config: ClientsConfig) -> None:
        self._defaults = config.defaults
        self._classes = config.classes
        self._accept_unknown = config.accept_unknown
        self._ids = {entry.id for entry in config.known}
        self._entries: dict[tuple[str, str], ClientEntry] = {(entry.id, entry.model): entry for entry in config.known}
        self._limited: dict[str, list[ClientEntry]] = {}
        for entry in config.known:
            if any(getattr(entry, name) is not None for name in ("models", *_LIMITS)):
                self._limited.setdefault(entry.id, []).append(entry)

    def accepts(self, client_id: str) -> bool:
        """Returns whether the client is served at all."""
        return self._accept_unknown or client_id in self._ids

    def explicit_budget_ms(
        self, client_id: str, client_type: str, model_id: str, stated_ms: float | None
    ) -> float | None:
        """Returns the maximum age of an action at its arrival, by the operator or else as the client states it."""
        for entry in (self._entries.get((client_id, model_id)), self._classes.get(client_type)):
            if entry is not None and entry.latency_budget_ms is not None:
                return entry.latency_budget_ms
        return stated_ms

    def rights(self, client_id: str, model_id: str) -> ClientRights | None:
        """Returns the limits on a client's requests to a model; None if there are none.

        A limit is that of the entry for the model, else the strictest of the client's other entries.
        """
        entries = self._limited.get(client_id)
        if entries is None:
            return None
        own = self._entries.get((client_id, model_id))
        lists = [entry.models for entry in entries if entry.models is not None]
        models = sorted({model for models in lists for model in models})
        return ClientRights(
            not lists or model_id in models,
            tuple(models),
            _strictest(own, entries, "max_rate_hz", min),
            _strictest(own, entries, "min_priority", max),
            _strictest(own, entries, "max_urgency", min),
            _strictest(own, entries, "max_payload_bytes", min),
        )

    @property
    def default_budget_ms(self) -> float:
        """The budget if neither operator nor client states one."""
        return self._defaults.latency_budget_ms

    def fixed_priority(self, client_id: str, client_type: str, model_id: str) -> int | None:
        """Returns the priority that the operator sets, 0 the highest; None if the client chooses it."""
        for entry in (self._entries.get((client_id, model_id)), self._classes.get(client_type)):
            if entry is not None and entry.priority is not None:
                return entry.priority
        return None

    @property
    def default_priority(self) -> int:
        """The priority if neither operator nor client sets one."""
        return self._defaults.priority


def _strictest(
    own: ClientEntry | None, entries: Sequence[ClientEntry], name: str, choose: Callable[[list[Any]], Any]
) -> Any:
    if own is not None and getattr(own, name) is not None:
        return getattr(own, name)
    stated = [value for entry in entries if (value := getattr(entry, name)) is not None]
    return choose(stated) if stated else None
