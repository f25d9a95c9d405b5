"""What a client may do and expect, looked up for each of its observations.

It reads the configuration once; a changed configuration makes a new book.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inferential.config.schema import ClientEntry, ClientsConfig


class ClientBook:
    """The clients of a configuration, found by id and model.

    What the operator wrote of a known client outranks what the client tells of itself, and that outranks the
    defaults.
    """

    def __init__(self, config: ClientsConfig) -> None:
        self._defaults = config.defaults
        self._accept_unknown = config.accept_unknown
        self._ids = {entry.id for entry in config.known}
        self._entries: dict[tuple[str, str], ClientEntry] = {(entry.id, entry.model): entry for entry in config.known}

    def accepts(self, client_id: str) -> bool:
        """Whether the client is served at all."""
        return self._accept_unknown or client_id in self._ids

    def told_budget_ms(self, client_id: str, model_id: str, told: float | None) -> float | None:
        """How old an action for this client may be when it arrives; None where nobody said."""
        entry = self._entries.get((client_id, model_id))
        if entry is not None and entry.latency_budget_ms is not None:
            return entry.latency_budget_ms
        return told

    @property
    def default_budget_ms(self) -> float:
        """The same, of those of whom nobody said."""
        return self._defaults.latency_budget_ms

    def fixed_priority(self, client_id: str, model_id: str) -> int | None:
        """The client's priority for this model, whatever it tells, 0 the highest; None where that is its own choice."""
        entry = self._entries.get((client_id, model_id))
        return None if entry is None else entry.priority

    @property
    def default_priority(self) -> int:
        """That of a client of which nobody said."""
        return self._defaults.priority
