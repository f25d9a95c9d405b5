"""The open requests and unread outcomes of one model handle. No I/O, no clock."""

from __future__ import annotations

from collections import OrderedDict, deque
from weakref import ref

from inferential.client.handle import Handle
from inferential.client.result import ClientStats, Result
from inferential.errors import InferenceError, ObservationOutdated, RequestRejected, RequestSuperseded
from inferential.proto.cache.templates import ObservationWriter

Outcome = Result | InferenceError

MAX_UNREAD = 1024
"""Outcomes that wait in one handle for `get_result`; the oldest are dropped first."""


class Mailbox:
    """The open requests and unread outcomes of one model handle.

    Args:
        handle: its arguments.
        writer: writes its observations.
        stats: the connection's counters.
    """

    def __init__(self, handle: Handle, writer: ObservationWriter, stats: ClientStats) -> None:
        self.handle = handle
        self.writer = writer
        self.open: OrderedDict[int, float] = OrderedDict()
        self.reference: ref[Mailbox] = ref(self)  # one for all requests
        self.unsent_id = 0
        self.waits = True
        """Whether `observe` may wait until it is connected, or until there is room in the socket."""
        self.serve_interval_ms: float = 0.0
        self.applied: tuple[int, float, float] | None = None
        """What the next observation says of the last result that was used: request id, age and time unread in ms."""
        self.unread: deque[tuple[int, Outcome]] = deque()
        """What `take` returns, the newest last."""
        self._stats = stats
        self._kept: dict[int, Outcome | None] = {}
        self._newest_result = 0

    def opened(self, request_id: int, at: float, *, keep: bool) -> None:
        """Adds a request; with `keep` its outcome is for `take_kept` alone."""
        self.open[request_id] = at
        if keep:
            self._kept[request_id] = None

    def forget_oldest(self) -> int:
        """Closes the oldest request and returns its id."""
        return self.open.popitem(last=False)[0]

    def deliver(self, request_id: int, outcome: Outcome) -> None:
        """Puts an outcome where `take` or `take_kept` finds it."""
        self.open.pop(request_id, None)
        if isinstance(outcome, Result):
            self._stats.results += 1
        elif isinstance(outcome, RequestSuperseded):
            self._stats.superseded += 1
        else:
            self._stats.refused += 1
        if request_id in self._kept:
            self._kept[request_id] = outcome
            return
        if isinstance(outcome, RequestSuperseded):
            return
        if self.handle.queue == "latest" and isinstance(outcome, Result):
            if request_id and request_id < self._newest_result:
                self._stats.outdated += 1
                return
            self._newest_result = max(self._newest_result, request_id)
            self._stats.outdated += sum(isinstance(unread, Result) for _, unread in self.unread)
            # How a newer request ended, or that its robot is asked for another observation, is news still.
            newer = [one for one in self.unread if one[0] > request_id > 0]
            self.unread.clear()
            self.unread.extend(newer)
        self._append(request_id, outcome)

    def _append(self, request_id: int, outcome: Outcome) -> None:
        self.unread.append((request_id, outcome))
        if len(self.unread) > MAX_UNREAD:
            self.unread.popleft()
            self._stats.outdated += 1

    def outdated(self, notice: ObservationOutdated) -> None:
        """Puts where `take` finds it that a newer observation is asked for; the request stays open.

        Of several of the newest request the last one counts.
        """
        if notice.request_id in self._kept:
            return
        if self.unread and self.unread[-1][0] == notice.request_id:
            self.unread.pop()
        self._append(notice.request_id, notice)

    def awaits(self, request_id: int) -> bool:
        """Returns whether the outcome of a request is still to come, or to be taken."""
        return request_id in self.open or any(one[0] == request_id for one in self.unread)

    def take(self) -> Outcome | None:
        """Returns the next unread outcome, None where there is none."""
        return self.unread.popleft()[1] if self.unread else None

    def take_kept(self, request_id: int) -> Outcome | None:
        """Returns the outcome of one request that was opened with `keep`, None before it has ended."""
        if self._kept.get(request_id) is None:
            return None
        return self._kept.pop(request_id)

    def reset(self) -> list[int]:
        """Drops what is unread, and the outcomes of all open requests, whose ids it returns.

        Those that were opened with `keep` end in RequestSuperseded.
        """
        dropped = list(self.open)
        self.unread.clear()
        for request_id in dropped:
            if request_id in self._kept:
                model_id = self.handle.model_id
                error = RequestSuperseded("a new episode was begun", request_id=request_id, model_id=model_id)
                self.deliver(request_id, error)
        self.open.clear()
        return dropped

    def cancel(self, request_id: int) -> None:
        """Ends an open request because the robot takes it back."""
        self.open.pop(request_id, None)
        if request_id in self._kept:
            model_id = self.handle.model_id
            self._kept[request_id] = RequestRejected("it was cancelled", request_id=request_id, model_id=model_id)

    def abandon(self, request_id: int) -> None:
        """Forgets a request; its outcome will count as unmatched."""
        self._kept.pop(request_id, None)
        self.open.pop(request_id, None)


def result_of(outcome: Outcome | None) -> Result | None:
    """Returns the result where the request ended in one, read from now on; None where it has not ended.

    Neither it nor its caller keeps the error: in a circle with its traceback, the observations in the frames would
    stay until the garbage collector comes.

    Raises:
        InferenceError: it ended without a result.
    """
    if isinstance(outcome, InferenceError):
        try:
            raise outcome
        finally:
            del outcome
    if outcome is not None:
        outcome.read()
    return outcome
