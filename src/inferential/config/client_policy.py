"""What a client may do and expect, looked up once for each of its envelopes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inferential.config.schema import ClientEntry, ClientsConfig


class ClientPolicies:
    """The client settings of one configuration, by client and model.

    The operator's entry for a known client takes precedence over what the client states, and that over the defaults.
    """

    def __init__(self, config: ClientsConfig) -> None:
        self._defaults = config.defaults
        self._accept_unknown = config.accept_unknown
        self._ids = {entry.id for entry in config.known}
        self._entries: dict[tuple[str, str], ClientEntry] = {(entry.id, entry.model): entry for entry in config.known}

    def accepts(self, client_id: str) -> bool:
        """Returns whether the client is served at all."""
        return self._accept_unknown or client_id in self._ids

    def explicit_budget_ms(self, client_id: str, model_id: str, stated_ms: float | None) -> float | None:
        """Returns the maximum age of an action at its arrival, by the operator or else as the client states it."""
        entry = self._entries.get((client_id, model_id))
        if entry is not None and entry.latency_budget_ms is not None:
            return entry.latency_budget_ms
        return stated_ms

    @property
    def default_budget_ms(self) -> float:
        """The budget if neither operator nor client states one."""
        return self._defaults.latency_budget_ms

    def fixed_priority(self, client_id: str, model_id: str) -> int | None:
        """Returns the priority that the operator sets, 0 the highest; None if the client chooses it."""
        entry = self._entries.get((client_id, model_id))
        return None if entry is None else entry.priority

    @property
    def default_priority(self) -> int:
        """The priority if neither operator nor client sets one."""
        return self._defaults.priority
