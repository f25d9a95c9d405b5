"""Posts what someone should know of a server to a webhook: once when it begins, and once when it is over.

The event loop looks once a second, which takes microseconds; a thread posts (`webhook`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

from inferential.config.alerts import AlertsConfig
from inferential.config.services import ServiceConfig
from inferential.metrics import names
from inferential.metrics.store import LabelSet
from inferential.notices import Notices
from inferential.server import Server
from inferential.server.service import Service
from inferential.telemetry.conditions import Change, Seen, Totals, Watch, in_words
from inferential.telemetry.webhook import Post, Webhook

logger: logging.Logger = logging.getLogger("inferential.alerts")

LOOK_S = 1.0
END_S = 2.0
"""How long the end of the server may wait for the last posts."""
_COUNTED = (names.RESPONSES_SERVED, names.DEADLINE_MISSES, names.REQUESTS_UNANSWERED, names.REQUESTS_REFUSED)


class Alerts(Service):
    """Watches a server while it is entered; an async context manager.

    Args:
        server: a running server.
        config: what to watch for, and where to post.
    """

    Config: ClassVar[type[ServiceConfig]] = AlertsConfig

    def __init__(self, server: Server, config: AlertsConfig) -> None:
        super().__init__(server, config)
        self._watch = Watch()
        self._counts: dict[str, float] = dict.fromkeys(map(str, _COUNTED), 0.0)
        self._webhook: Webhook | None = None
        self._task: asyncio.Task[None] | None = None
        self._notices = Notices(logger)

    @property
    def address(self) -> str:
        """The host of the webhook."""
        return str(self._config.address().url)

    def announcement(self) -> str:
        """Returns where to alerts are posted."""
        return f"alerts to {self.address}"

    async def start(self) -> None:
        """Begins to watch."""
        self._server.metrics.add_sink(self._take)
        self._webhook = Webhook()
        self.look(time.monotonic())  # what is counted from here on
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Ends it, when the last posts have been tried."""
        task, webhook, self._task, self._webhook = self._task, self._webhook, None, None
        if task is None or webhook is None:
            return
        task.cancel()
        await asyncio.get_running_loop().run_in_executor(None, webhook.close, END_S)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                self.look(time.monotonic())
            except Exception as error:  # of one part of what is looked at: alerts about the others go on
                text, kind = "alerts: the server could not be looked at: %s: %s", type(error).__name__
                self._notices.say(kind, text, kind, error, level=logging.ERROR)

    def look(self, now: float) -> list[Change]:
        """Looks at the server, posts what has changed, and returns it.

        Args:
            now: seconds of `time.monotonic()`.
        """
        config = self._server.config.alerts
        if config is None:  # turned off while the server runs
            return []
        self._config = config
        changes = self._watch.look(now, self._seen(), config)
        if changes and self._webhook is not None:
            headers = {name: value.get_secret_value() for name, value in config.headers.items()}
            body = self._body(changes, now)
            self._webhook.post(Post(config.webhook.get_secret_value(), headers, body, config.timeout_s))
        return changes

    def _take(self, name: str, values: Sequence[float], keys: Sequence[LabelSet]) -> None:
        if name in self._counts:
            self._counts[name] += sum(values)

    def _seen(self) -> Seen:
        server, counts = self._server, self._counts
        server.metrics.flush()
        served = counts[names.RESPONSES_SERVED]
        refused = counts[names.REQUESTS_REFUSED]
        totals = Totals(
            served + counts[names.REQUESTS_UNANSWERED], counts[names.DEADLINE_MISSES], served + refused, refused
        )
        models = {model_id: (one["state"], one["why"]) for model_id, one in server.model_states().items()}
        return Seen(totals, server.late_by_cause, models, server.connected_robots, server.departed_robots)

    def _body(self, changes: list[Change], now: float) -> dict[str, Any]:
        """Returns what is posted; `text` is what chat programs show of a webhook."""
        now_unix = time.time()
        return {
            "text": in_words(changes),
            "server": self._server.address,
            "alerts": [
                {
                    "alert": one.alert,
                    "state": one.state,
                    "subject": one.subject,
                    "text": one.text,
                    "since": datetime.fromtimestamp(now_unix - (now - one.since), UTC).isoformat(timespec="seconds"),
                }
                for one in changes
            ],
        }
