"""`AsyncModel`: a handle to one model of the server, for asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inferential.client.arguments import timeout_s_of
from inferential.client.mailbox import Mailbox, result_of
from inferential.client.result import Result

if TYPE_CHECKING:
    from inferential.client.async_base import AsyncConnectionBase


class AsyncModel:
    """A handle to one model of the server; `AsyncConnection.model` makes it."""

    def __init__(self, connection: AsyncConnectionBase, mailbox: Mailbox) -> None:
        self._connection = connection
        self._mailbox = mailbox
        self._model_id = mailbox.handle.model_id

    @property
    def model_id(self) -> str:
        """The model's id."""
        return self._model_id

    @property
    def serve_interval_ms(self) -> float:
        """The shortest interval at which the server can serve this robot, in ms; 0: no limit is known."""
        return self._mailbox.serve_interval_ms

    async def observe(
        self,
        /,
        urgency: float = 0.0,
        steps_remaining: int | None = None,
        priority: int | None = None,
        **values: Any,
    ) -> int:
        """Sends an observation, as `Model.observe`, and never waits; returns the request id."""
        hints = {"urgency": urgency, "steps_remaining": steps_remaining, "priority": priority}
        return self._connection._observe(self._mailbox, values, hints, False)

    async def get_result(self, timeout_ms: float = 100) -> Result | None:
        """Returns the next result of this handle, as `Model.get_result`; None after `timeout_ms`."""
        return result_of(await self._connection._wait(self._mailbox.take, timeout_s_of(timeout_ms)))

    async def cancel(self) -> int:
        """Takes back all open requests of this handle, and returns their number.

        Those that are not sent yet are not sent; those that wait on the server end there (metric `requests_rejected`
        with the error `cancelled`); the results of those that run are dropped. A call of `infer` that waits raises
        RequestRejected.
        """
        return self._connection._cancel(self._mailbox)

    async def infer(
        self,
        /,
        timeout_ms: float = 100,
        urgency: float = 0.0,
        steps_remaining: int | None = None,
        priority: int | None = None,
        **values: Any,
    ) -> Result | None:
        """Sends an observation and waits for its own response, as `Model.infer`; None after `timeout_ms`."""
        hints = {"urgency": urgency, "steps_remaining": steps_remaining, "priority": priority}
        return await self._connection._infer(self._mailbox, values, hints, timeout_ms)

    def awaits(self, request_id: int) -> bool:
        """Returns whether the outcome of a request may still come, as `Model.awaits`."""
        return self._mailbox.awaits(request_id)

    def heard_s_ago(self) -> float:
        """Returns how long ago anything came from the server, as `Model.heard_s_ago`."""
        return self._connection._heard_s_ago()

    def nudge(self) -> None:
        """Sends the server a heartbeat out of turn, as `Model.nudge`."""
        self._connection._nudge()

    def never_wait(self) -> None:
        """Does nothing: `observe` never waits. For code that works with handles of both kinds."""

    async def reset(self) -> None:
        """Begins a new episode, as `Model.reset`."""
        self._connection._reset(self._model_id)
