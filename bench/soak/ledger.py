"""Has a server's process write down each request that it takes, and each end of one: robots saw the same, or not.

It stands where requests are made and where they change their state, beside all that counts, sends or forgets them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ARRIVED, OVERTAKEN, ANSWERED = "arrived", "overtaken", "OK"
SILENT = frozenset({"client_gone", "cancelled"})
"""Causes of ends that no robot is sent."""


@dataclass
class Entry:
    """What the server did with one request.

    Attributes:
        arrivals: how often it was taken: again where its robot came back before it had run.
        sent: ends that its robot is to be sent, by the name of the status.
        silent: causes of ends that it is not sent.
    """

    arrivals: int = 0
    sent: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)


def keep(path: str) -> None:
    """Writes down from now on what becomes of the requests of this process."""
    from inferential.scheduler import request as requests
    from inferential.server.egress import Egress
    from inferential.server.ingress import Ingress, Overtaken

    written = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(request_id: int, what: str, cause: str = "") -> None:
        if request_id:
            os.write(written, json.dumps([request_id, what, cause]).encode() + b"\n")

    take, move, refuse = Ingress._incoming, requests.InferenceRequest.move, requests.InferenceRequest.refuse
    send, overtake = Egress.send_refusal, Egress.refuse_overtaken

    def taken(self, *given):  # type: ignore[no-untyped-def]
        incoming = take(self, *given)
        write(incoming.request.request_id if incoming.request.connection > 0 else 0, ARRIVED)
        return incoming

    def moved(self, state):  # type: ignore[no-untyped-def]
        move(self, state)
        if state is requests.ANSWERED and self.connection > 0:
            write(self.request_id, ANSWERED)

    def refused(self, refusal):  # type: ignore[no-untyped-def]
        refuse(self, refusal)
        if self.connection > 0 and refusal.cause in SILENT:
            write(self.request_id, refusal.kind.name, refusal.cause)

    def sent(self, request):  # type: ignore[no-untyped-def]
        refusal = request.refusal  # which may be said more precisely by now
        if request.connection > 0 and refusal.cause not in SILENT:
            write(request.request_id, refusal.kind.name, refusal.cause)
        send(self, request)

    def overtaken(self, those: Overtaken, connection: int, now: float) -> None:  # type: ignore[no-untyped-def]
        for one in those.request_ids:
            write(_number_of(one), OVERTAKEN)
        overtake(self, those, connection, now)

    Ingress._incoming = taken  # type: ignore[method-assign]
    Egress.send_refusal, Egress.refuse_overtaken = sent, overtaken  # type: ignore[method-assign]
    requests.InferenceRequest.move, requests.InferenceRequest.refuse = moved, refused  # type: ignore[method-assign]


def _number_of(one: bytes) -> int:
    """Returns the request id of a field as it was sent: a tag of two bytes, and the number, seven bits a byte."""
    return sum((byte & 0x7F) << 7 * place for place, byte in enumerate(one[2:]))


def read(path: Path) -> dict[int, Entry]:
    """Returns what was written down, by request id."""
    found: dict[int, Entry] = {}
    for line in path.read_text().splitlines():
        request_id, what, cause = json.loads(line)
        entry = found.setdefault(request_id, Entry())
        if what == ARRIVED:
            entry.arrivals += 1
        elif what == OVERTAKEN:
            entry.arrivals += 1
            entry.sent.append("SUPERSEDED")
        elif cause in SILENT:
            entry.silent.append(cause)
        else:
            entry.sent.append(what)
    return found


def faults(entries: Mapping[int, Entry], ended: Mapping[int, Sequence[str]]) -> list[str]:
    """Returns where the server's ends and what came to robots differ; empty if they do not.

    Args:
        entries: of `read`.
        ended: the names of the statuses, and causes behind them, that came to robots, by request id.
    """
    wrong = []
    for number, entry in entries.items():
        if entry.arrivals != len(entry.sent) + len(entry.silent):
            wrong.append(f"{number} was taken {entry.arrivals} times and ended as {entry.sent + entry.silent}")
        elif len(entry.sent) > 1:
            wrong.append(f"{number} ended as {entry.sent}")
    for number, said in ended.items():
        kinds = [one.partition(" ")[0] for one in said]
        sent = entries[number].sent if number in entries else []
        invalid = not sent and kinds == ["INVALID_OBSERVATION"]
        unknown = said == ["REJECTED not_arrived"]  # or its end was on the way when the connection was lost
        replaced = sent == [ANSWERED] and kinds == ["SUPERSEDED"]  # a newer result was there before it was sent
        if kinds != sent and not invalid and not unknown and not replaced:
            wrong.append(f"{number} ended as {sent}, its robot got {said}")
    return wrong
