"""Posts JSON to a webhook from a thread of its own, which tries again what fails."""

from __future__ import annotations

import http.client
import json
import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import Empty, Full, Queue
from typing import Any
from urllib.parse import urlsplit

logger: logging.Logger = logging.getLogger("inferential.alerts")

FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 60.0
GIVE_UP_S = 900.0
MOST_WAITING = 64
"""Posts that may wait for an earlier one; more are dropped, and the log has them."""
_AGAIN = (408, 425, 429)  # answers of 4xx after which another try makes sense


@dataclass(frozen=True, slots=True)
class Post:
    """One post.

    Attributes:
        url, headers: where to.
        body: becomes JSON.
        timeout_s: how long one try may take.
    """

    url: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    timeout_s: float


class _Straight(urllib.request.HTTPRedirectHandler):
    """Takes a redirect as a failure: urllib would make a GET of the post."""

    def redirect_request(self, *args: Any, **options: Any) -> None:
        """Follows none."""


class Webhook:
    """Posts in order, one at a time; the caller never waits.

    Args:
        wait: waits for so many seconds, or until it is to end: returns whether it is.
    """

    def __init__(self, wait: Callable[[float], bool] | None = None) -> None:
        self.posted: int = 0
        self.failed: int = 0
        self._ended = threading.Event()
        self._wait = wait or self._ended.wait
        self._queue: Queue[Post | None] = Queue(MOST_WAITING)
        self._opener = urllib.request.build_opener(_Straight)
        self._thread = threading.Thread(target=self._run, name="inferential-alerts", daemon=True)
        self._thread.start()

    def post(self, post: Post) -> None:
        """Posts it soon."""
        try:
            self._queue.put_nowait(post)
        except Full:
            self.failed += 1
            logger.error("alerts: the webhook does not answer; not posted: %s", post.body.get("text", ""))

    def close(self, timeout_s: float) -> None:
        """Ends it, when what waits has been tried once; after `timeout_s` at the latest."""
        self._ended.set()
        try:
            self._queue.put_nowait(None)
        except Full:  # its thread ends with the process
            return
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (post := self._next()) is not None:
            self._deliver(post)

    def _next(self) -> Post | None:
        if not self._ended.is_set():
            return self._queue.get()
        try:
            return self._queue.get_nowait()
        except Empty:
            return None

    def _deliver(self, post: Post) -> None:
        pause_s, until = FIRST_RETRY_S, time.monotonic() + GIVE_UP_S
        while True:
            problem, again = self._try(post)
            if problem is None:
                self.posted += 1
                return
            if not again or self._ended.is_set() or time.monotonic() + pause_s > until:
                self.failed += 1
                logger.error("alerts: not posted, %s: %s", problem, post.body.get("text", ""))
                return
            logger.warning("alerts: the webhook failed, tried again in %g s: %s", pause_s, problem)
            self._wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_RETRY_S)

    def _try(self, post: Post) -> tuple[str | None, bool]:
        """Returns why it failed, None: it did not, and whether another try makes sense."""
        data = json.dumps(post.body).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "inferential", **post.headers}
        try:
            request = urllib.request.Request(post.url, data, headers, method="POST")
            with self._opener.open(request, timeout=post.timeout_s):
                return None, False  # what it says beside that may take any time
        except urllib.error.HTTPError as error:
            error.close()
            return _refusal(error), error.code >= 500 or error.code in _AGAIN
        except urllib.error.URLError as error:
            return str(error.reason), True
        except (OSError, http.client.HTTPException) as error:
            return str(error) or type(error).__name__, True
        except ValueError as error:  # a header that HTTP does not allow
            return str(error), False


def _refusal(error: urllib.error.HTTPError) -> str:
    """Returns a refusal in words; of where a redirect leads the host alone, as the path of a webhook is a secret."""
    to = urlsplit(error.headers.get("Location", ""))
    if not 300 <= error.code < 400 or not to.netloc:
        return f"HTTP {error.code}"
    where = f"{to.scheme}://{to.netloc.rpartition('@')[2]}"
    return f"HTTP {error.code} (a redirect to {where}, not followed: set alerts.webhook to where it leads)"
