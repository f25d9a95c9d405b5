"""Learns what a link carries, and when it is free for the newest observation.

The system accepts far more than a thin link carries: megabytes of observations would wait in its buffer, each out of
date when it leaves. So a PING follows what is sent (one of its own goes ahead where the link was idle), and its PONG
says that all before it arrived. From the PONGs come the two figures of BBR (Cardwell et al., "BBR: congestion-based
congestion control", 2016): the rate, from the time between the PONGs of what was under way together, and the round trip
of an idle link. The next observation may leave when the link has probably carried the ones before it; until then the
newest waits with the robot, where a newer one can take its place.

No I/O, no clock: `now` is passed in.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from statistics import median

_FIRST_MARK_BYTES = 32 * 1024
"""Bytes before the first mark: a robot of small observations on a good network never sends one but its heartbeats."""
_LEAST_MARK_BYTES = 1024
_MOST_MARK_BYTES = 4 * 1024 * 1024  # as much as the system holds: each mark wakes both ends once more
_MOST_UNMARKED = 8
"""Large messages without a mark: until one is late, nothing tells that a link carries less than it was taken for."""
_MARK_S = 5e-3
"""A mark follows what the link carries in this time; backlogs below it are not worth waiting for."""
_SUSPICIOUS_S = 20e-3
"""A PONG later than on an idle link by more than this means that something queues, or that the network varies."""
_LATE, _LATE_S = 2, 50e-3  # a PONG is late after so many of the shortest round trips, and this time
_AHEAD_S, _AHEAD_SHARE = 8e-3, 0.15
"""How long before the link is free the next message leaves, so that the link does not run dry; the share is of its
round trip."""
_PROBE_S = 5.0
"""How often the link is left idle for one message at least, to learn its round trip anew."""
_ROUND_TRIPS = 9  # the round trip is the median of the newest ones
_MOST_FADE, _FADE_S = 0.9, 0.5
"""What a sample of the rate leaves of the older ones' weight at most, and in how many seconds it falls to 1/e."""
_COLLAPSE = 1 / 3  # a sample below so much of the rate is a new beginning: the robot has left a good network
_JITTERS = 1.5  # how much longer than the jitter of round trips a sample of the rate is
_TRIED_ALONE = 8  # messages on an idle link of which the fastest counts
_SERIAL_BYTES = 8
_LEAST_S = 1e-6
_LEAST_UNSENT_BYTES, _MOST_UNSENT_BYTES = 16 * 1024, 256 * 1024
"""Bounds of what the system may hold of a robot's data beyond what is under way; about a round trip of it."""
_TIMEOUTS, _TIMEOUTS_OF_MUCH = 1, 2
_THIN_BYTES_S = 50e6
"""A link that carries less is thin: what the system held for it would wait for long."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """A PING: its number, the bytes before it, when it was sent, and whether nothing was under way then."""

    serial: int
    position: int
    sent_at: float
    idle: bool


class Delivery:
    """What was sent by one connection and has not arrived yet.

    Attributes:
        unmarked: bytes that were sent since the last mark; the owner adds to it.
        mark_every: at so many unmarked bytes the owner calls `send`.
        clear_at: from when the next message may leave, in seconds of `time.monotonic()`; infinite until a PONG comes.
        rate_bytes_s: what the link carries, in bytes per second; None before it is known.
        round_trip_s: of an idle link, in seconds; None before it is known.
    """

    __slots__ = (
        "_alone",
        *(
            "_arrived",
            "_began",
            "_carried",
            "_clean_trip_s",
            "_drained_at",
            "_jitter_s",
            "_large",
            "_last",
            "_last_size",
            "_marks",
            "_message_bytes",
            "_plain",
        ),
        *("_position", "_probed_at", "_serial", "_stalled", "_suspicious", "_took", "_trips"),
        *("clear_at", "mark_every", "rate_bytes_s", "round_trip_s", "unmarked"),
    )

    def __init__(self) -> None:
        self.unmarked: int = 0
        self.mark_every: float = _FIRST_MARK_BYTES
        self.clear_at: float = 0.0
        self.rate_bytes_s: float | None = None
        self.round_trip_s: float | None = None
        self._serial = 0
        self._position = 0  # bytes up to the newest mark
        self._arrived = 0  # bytes that are known to have arrived
        self._marks: deque[_Mark] = deque()
        self._last: tuple[_Mark, float] | None = None  # the mark of the last PONG, and when that came
        self._began: tuple[_Mark, float] | None = None  # the same of the first since the link was idle or a sample
        self._jitter_s = 0.0
        self._alone: deque[float] = deque(maxlen=_TRIED_ALONE)
        self._last_size = 0
        self._large, self._message_bytes = False, 0  # whether the last message is by itself worth a mark; its size
        self._drained_at = 0.0  # when the link has probably carried everything
        self._carried, self._took = 0.0, 0.0  # bytes and seconds of the samples of the rate, older ones faded
        self._trips: deque[float] = deque(maxlen=_ROUND_TRIPS)
        self._clean_trip_s = 0.0  # one in three is shorter: systems and jitter make many longer than the link does
        self._probed_at = -math.inf
        self._suspicious = self._stalled = False
        self._plain = 0  # heartbeats without a context that have no PONG yet

    @property
    def outstanding_bytes(self) -> int:
        """Marked bytes that are not known to have arrived."""
        return self._position - self._arrived

    @property
    def expects(self) -> bool:
        """Whether a PONG is due that is worth being read as soon as it comes."""
        outstanding = self._position - self._arrived
        return outstanding > 0 and (self.rate_bytes_s is None or outstanding > self.rate_bytes_s * _MARK_S)

    @property
    def uncertain(self) -> bool:
        """Whether anything was sent that is not known to have arrived."""
        return bool(self.unmarked or self._position - self._arrived)

    @property
    def timeouts(self) -> int:
        """After how many time-outs of the system in a row, each in vain, the network is probably away.

        With a loss of 5 % one packet in 400 has one, as the system first tries without, and one in 8,000 has two: those
        are waited for where much is under way, which a fresh connection would begin anew.
        """
        return _TIMEOUTS_OF_MUCH if self._position - self._arrived >= _FIRST_MARK_BYTES else _TIMEOUTS

    @property
    def is_thin(self) -> bool:
        """Whether the link is known to carry little."""
        return self.rate_bytes_s is not None and self.rate_bytes_s < _THIN_BYTES_S

    def unsent_bytes(self) -> int:
        """Returns how much the system may hold beyond what is under way."""
        window = (self.rate_bytes_s or 0.0) * (self.round_trip_s or 0.0)
        least = _LEAST_UNSENT_BYTES if self.is_thin else _MOST_UNSENT_BYTES
        return round(min(max(window, least), _MOST_UNSENT_BYTES))

    def send(self, size: int, now: float) -> tuple[bytes | None, bytes]:
        """Notes a message of `size` bytes, which are the newest of `unmarked`.

        Returns:
            The contexts of the PINGs to send before (None: no PING) and after it.
        """
        self._large, self._message_bytes = size >= _FIRST_MARK_BYTES, size
        idle = self._position == self._arrived and not self._marks
        before = self._mark(now, self.unmarked - size) if idle else None
        self._position += self.unmarked
        self._last_size, self.unmarked = self.unmarked, 0
        if self.rate_bytes_s is not None:
            self._drained_at = max(self._drained_at, now) + self._last_size / self.rate_bytes_s
        after = self._mark(now)
        self._plan(now)
        return before, after

    def heartbeat(self, now: float) -> bytes:
        """Returns the context of a PING that is sent for another reason than data: a mark while anything is under way.

        Otherwise there is none, and its PONG says nothing.
        """
        return self.ping(now) if self.uncertain else self.plain_ping()

    def ping(self, now: float) -> bytes:
        """Returns the context of a PING that tells when what was sent before has arrived."""
        return self._mark(now, self.unmarked)

    def plain_ping(self) -> bytes:
        """Returns the context of a PING that tells nothing."""
        self._plain += 1
        return b""

    def stall(self) -> None:
        """Lets nothing leave until something comes, as a heartbeat has no PONG: what left now would be late."""
        if self._marks and self.mark_every != math.inf:
            self.clear_at, self._stalled = math.inf, True

    def heard(self) -> None:
        """Notes that the peer was heard of: after a stall small messages may leave before the PONG comes."""
        if self._stalled:
            self._stalled = False
            self.clear_at = self.clear_at if self._large else 0.0

    def pong(self, context: bytes, now: float) -> None:
        """Notes a PONG; one that answers no mark is ignored."""
        if not context:
            if self._plain:
                self._plain -= 1
            else:
                self._give_up()
            return
        serial = int.from_bytes(context, "big")
        if len(context) != _SERIAL_BYTES or not self._marks or not self._marks[0].serial <= serial <= self._serial:
            return
        mark = self._marks.popleft()
        while mark.serial < serial:
            mark = self._marks.popleft()
        trip_s, self._stalled = now - mark.sent_at, False
        if mark.idle:
            self._trips.append(trip_s)
            self.round_trip_s = median(self._trips)
            self._jitter_s = max(self._trips) - min(self._trips)
            self._clean_trip_s = sorted(self._trips)[(len(self._trips) - 1) // 3]
            self._probed_at = now
        self._suspicious = trip_s > (self.round_trip_s or 0.0) + _SUSPICIOUS_S
        self._follow(mark, now)
        self._arrived = mark.position
        self._correct(now)
        self._plan(now)

    def _follow(self, mark: _Mark, now: float) -> None:
        """Learns the rate from marks that followed one another without a pause of the link.

        Jitter is as large as what a message takes; over several messages it cancels out.
        """
        if self._last is None or self._began is None:
            self._began = mark, now
            self._last = mark, now
            return
        last, last_at = self._last
        began, began_at = self._began
        if last.idle and mark.sent_at == last.sent_at:
            self._sample_alone(mark.position - last.position, now - last_at)
            self._began = mark, now
        elif mark.sent_at > last_at - self._clean_trip_s:
            self._began = mark, now  # the link may have been idle between the two
        elif now - began_at >= _JITTERS * self._jitter_s:
            self._sample(mark.position - began.position, now - began_at)
            self._alone.clear()
            self._began = mark, now
        self._last = mark, now

    def _mark(self, now: float, unmarked: int = 0) -> bytes:
        self._serial += 1
        # Small messages without a mark may be under way: seconds of a thin link, once it was taken for a good one.
        idle = self._position == self._arrived and not self._marks and (self._large or unmarked < _FIRST_MARK_BYTES)
        self._marks.append(_Mark(self._serial, self._position, now, idle))
        return self._serial.to_bytes(_SERIAL_BYTES, "big")

    def _give_up(self) -> None:
        """Sends no more marks: the peer's PONGs do not say which PING they answer (libzmq before 4.3)."""
        self._marks.clear()
        self._arrived = self._position
        self.mark_every, self.clear_at = math.inf, 0.0

    def _sample_alone(self, size: int, took_s: float) -> None:
        """Learns the rate from one message on an idle link.

        Jitter may make it look slow, or fast: the best of several counts, and what queues tells the rest.
        """
        if size < _LEAST_MARK_BYTES:
            return
        self._alone.append(size / max(took_s, _LEAST_S))
        best = max(self._alone)
        if self.rate_bytes_s is None or best > self.rate_bytes_s or len(self._alone) == _TRIED_ALONE:
            self._carried, self._took = best * _MARK_S, _MARK_S
            self.rate_bytes_s = best

    def _sample(self, size: int, took_s: float) -> None:
        """Learns the rate from bytes that were under way together."""
        if size < _LEAST_MARK_BYTES:
            return
        took_s = max(took_s, _LEAST_S)
        fade = min(_MOST_FADE, math.exp(-took_s / _FADE_S))
        if self._carried and size / took_s < _COLLAPSE * self._carried / self._took and took_s > _MARK_S:
            fade = 0.0
        self._carried = self._carried * fade + size
        self._took = self._took * fade + took_s
        self.rate_bytes_s = self._carried / self._took

    def _correct(self, now: float) -> None:
        """Corrects by a PONG until when the link is busy: between a round trip before it and now the mark left it."""
        if self.rate_bytes_s is None or self.round_trip_s is None:
            return
        rest_s = self.outstanding_bytes / self.rate_bytes_s
        latest = now + rest_s
        self._drained_at = min(max(self._drained_at, latest - self._clean_trip_s), latest)

    def _plan(self, now: float) -> None:
        """Sets when the next message may leave, and how often marks are sent."""
        if self.mark_every == math.inf:
            return
        rate = self.rate_bytes_s
        if rate is not None:
            self.mark_every = min(max(rate * _MARK_S, _LEAST_MARK_BYTES), _MOST_MARK_BYTES)
            if self._large:
                self.mark_every = min(self.mark_every, _MOST_UNMARKED * self._message_bytes)
        elif self._suspicious:
            self.mark_every = _LEAST_MARK_BYTES
        if self._suspicious and rate is not None:
            self.mark_every = min(self.mark_every, _FIRST_MARK_BYTES)
        outstanding = self.outstanding_bytes
        if not outstanding:
            self.clear_at = 0.0
        elif not self._large:
            # Of small ones jitter is most of what PONGs tell: they wait once one is late by more than that.
            late = now - self._marks[0].sent_at > _LATE * min(self._trips, default=math.inf) + _LATE_S
            self.clear_at = math.inf if late else 0.0
        elif rate is None or self.round_trip_s is None or now - self._probed_at > _PROBE_S:
            self.clear_at = math.inf  # until a PONG tells
        elif outstanding > rate * (self._clean_trip_s + _MARK_S) + self._last_size:
            self.clear_at = math.inf
        else:
            self.clear_at = self._drained_at - max(_AHEAD_S, _AHEAD_SHARE * self.round_trip_s)
