"""Results, and the counters of a connection. No I/O."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from inferential.client.brief import brief
from inferential.proto.cache import CacheCounts
from inferential.proto.messages import Response, ResponseTiming, parse_response, timing_of
from inferential.zmtp.delivery import Delivery


class Result(dict[str, Any]):
    """One result: tensors and metadata by key, and `response_id`, `model_id`, `inference_latency_ms`.

    Arrays are writable views on the received message.

    Attributes:
        request_id: the id that `observe` returned for its observation; 0 where that is unknown (servers of the 1.x
            line).
        unread_ms: time from the arrival of this result until it was read, in milliseconds, as far as is known.
    """

    __slots__ = (
        "_age_ms",
        "_arrived_at",
        "_mailbox",
        "_message",
        "_model_version",
        "_read_at",
        "request_id",
        "unread_ms",
    )

    def __init__(
        self,
        response: Response,
        request_id: int,
        age_ms: float,
        arrived_at: float | None = None,
        mailbox: Callable[[], Any] | None = None,
    ) -> None:
        self.update(response.values)
        self._message = message = response.message
        self._model_version = response.constant.model_version
        self["response_id"] = message.response_id
        self["model_id"] = response.constant.model_id
        self["inference_latency_ms"] = message.inference_latency_ms
        self.request_id: int = request_id
        self.unread_ms: float = 0.0
        self._age_ms = age_ms  # at its arrival, or when it was applied
        self._arrived_at = arrived_at
        self._read_at: float | None = None  # while its age goes on
        self._mailbox = mailbox

    @property
    def age_ms(self) -> float:
        """The time since its observation, in milliseconds; nan where it is unknown.

        It goes on until `applied` is called, or the step of a `ChunkRuntime` that plays it.
        """
        if self._read_at is None:
            return self._age_ms
        return self._age_ms + (time.monotonic() - self._read_at) * 1e3

    def applied(self) -> None:
        """Says that the robot applies the actions now: their age stands still, and the server gets it.

        It is sent with the handle's next observation. Where this is not called, the server gets the age when the
        result was read. Calling it again does nothing.
        """
        if self._read_at is not None:
            self._age_ms, self._read_at = self.age_ms, None
            self._report()

    def lay_unread(self, seconds: float) -> None:
        """Notes how long it lay with the system, before a connection that reads only when it is asked."""
        timing = self.timing
        elsewhere_ms = 0.0 if timing is None else timing.server_ms
        # The system counts whole milliseconds.
        self.unread_ms += max(min(seconds * 1e3, self._age_ms - elsewhere_ms), 0.0)

    def read(self) -> None:
        """Begins to count on: called by the connection when it hands the result over."""
        now = time.monotonic()
        if self._arrived_at is not None:
            waited_ms = (now - self._arrived_at) * 1e3
            self.unread_ms += waited_ms
            self._age_ms += waited_ms
        self._read_at = now
        self._report()

    def _report(self) -> None:
        """Leaves with the mailbox what the next observation says of this result."""
        mailbox = None if self._mailbox is None else self._mailbox()
        if mailbox is not None and self.request_id and math.isfinite(self._age_ms):
            mailbox.applied = self.request_id, self._age_ms, self.unread_ms

    @property
    def timing(self) -> ResponseTiming | None:
        """Where the request spent its time on the server; None from a server of the 1.x line."""
        return timing_of(self._message)

    @property
    def serve_interval_ms(self) -> float:
        """The shortest interval at which the server can serve this client now, in ms; 0 where it knows no limit.

        Of observations made more often, some are only superseded.
        """
        return self._message.serve_interval_ms

    @property
    def execution_horizon(self) -> int | None:
        """After how many actions of this chunk the next one had better follow; None where the server does not say.

        It follows from the load and from the model's `confidence` in the chunk.
        """
        return self._message.execution_horizon or None

    @property
    def session(self) -> str:
        """Says "restarted" where a model that keeps state of the robot had lost it within the episode; else empty."""
        return self._message.session

    @property
    def fallback(self) -> str:
        """The model that answered in place of the one that was asked, because that one fails; empty: none did."""
        return self._message.fallback

    @property
    def model_version(self) -> str:
        """The version of the model that made the result; empty where the server does not know it."""
        return self._model_version

    @property
    def made_by(self) -> str:
        """What made the result: its version, and the model where another one answered. Actions of two do not mix."""
        return f"{self.fallback} {self.model_version}" if self.fallback else self.model_version

    # A message cannot be pickled itself: protobuf looks for its class under a module name that does not exist.

    def __getstate__(self) -> tuple[bytes, str, int, float]:
        return self._message.SerializeToString(), self._model_version, self.request_id, self.age_ms

    def __setstate__(self, state: tuple[bytes, str, int, float]) -> None:
        message, self._model_version, self.request_id, self._age_ms = state
        self._message = parse_response(message)
        self.unread_ms = 0.0
        self._arrived_at = self._read_at = self._mailbox = None  # the age of a copy stands still


@dataclass(slots=True)
class ClientStats:
    """Counts of a connection's observations and of what became of them, and what is known of its link."""

    observed: int = 0
    """Observations made."""
    results: int = 0
    """Results received."""
    refused: int = 0
    """Errors received, superseded requests not counted."""
    superseded: int = 0
    """Requests that a newer observation replaced, on the server or before they were sent."""
    replaced_unsent: int = 0
    """Of the superseded requests, those that were never sent because the server could not be reached or the link to it
    was full."""
    dropped_unsent: int = 0
    """Observations of `queue="all"` that were dropped while the server could not be reached."""
    cancelled: int = 0
    """Requests that the robot took back by `model.cancel()`."""
    outdated: int = 0
    """Results that were not taken before a newer one arrived, or that arrived after a newer one."""
    unmatched: int = 0
    """Responses that match no open request, and messages that are no response."""
    link_bytes_s: float | None = None
    """What the link to the server carries, in bytes per second, learned from large observations and from those that
    queue; None while it is not known."""
    link_round_trip_ms: float | None = None
    """The round trip of the link while nothing else is under way, in milliseconds; None while it is not known."""
    link_unconfirmed_bytes: int = 0
    """Bytes of observations that were sent and are not known to have arrived, on a link that large ones pass."""
    image_quality: dict[str, int] = field(default_factory=dict)
    """JPEG quality of the newest image by its key, of those whose `encode` is "auto"."""
    image_scale: dict[str, float] = field(default_factory=dict)
    """Their size, as a share of both sides."""
    template_cache: CacheCounts = field(default_factory=CacheCounts)
    """Observations whose envelope came from a template, and those that were serialized whole."""
    response_cache: CacheCounts = field(default_factory=CacheCounts)
    """Responses of which only the new part was read, and those that were read whole."""

    def __str__(self) -> str:
        """Returns what is not as it began, in one line; `repr` has all."""
        return brief(self)

    def note_link(self, delivery: Delivery) -> None:
        """Takes over what is known of the link."""
        self.link_bytes_s = delivery.rate_bytes_s
        self.link_round_trip_ms = None if delivery.round_trip_s is None else delivery.round_trip_s * 1e3
        self.link_unconfirmed_bytes = delivery.outstanding_bytes
