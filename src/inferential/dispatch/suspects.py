"""Requests under which a replica has died go alone: if one is the reason, it takes no others with it.

So do robots whose call has failed as a whole, of a model that keeps state: as none of it is run again, one whose
observations are broken would otherwise end those of the others call after call.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from inferential.dispatch.outcomes import MAX_REPLICAS_LOST, BatchFailedError, RemoteModelError, ReplicaLost
from inferential.notices import Notices
from inferential.replica.failures import is_first
from inferential.scheduler.request import InferenceRequest, episode_key

_notices = Notices(logging.getLogger("inferential.dispatch"))

Run = Callable[[Sequence[InferenceRequest]], Awaitable[Sequence[Any]]]


async def run_apart(requests: Sequence[InferenceRequest], run: Run) -> Sequence[Any]:
    """Runs requests as one call, and then each suspect among them as a call of its own.

    Args:
        requests: of one model.
        run: runs a call; returns an outcome for each request.

    Returns:
        The outcomes, in the order of the requests.
    """
    if len(requests) == 1 or not any(request.replicas_lost for request in requests):
        return await run(requests)
    return await _apart(requests, [bool(request.replicas_lost) for request in requests], run)


async def _apart(requests: Sequence[InferenceRequest], alone: Sequence[bool], run: Run) -> Sequence[Any]:
    others = [request for request, apart in zip(requests, alone, strict=True) if not apart]
    groups = [others] if others else []
    groups += [[request] for request, apart in zip(requests, alone, strict=True) if apart]
    outcomes: dict[int, Any] = {}
    for group in groups:
        for request, outcome in zip(group, await run(group), strict=True):
            outcomes[id(request)] = outcome
    return [outcomes[id(request)] for request in requests]


class Suspects:
    """Robots of models that keep state whose last call has failed as a whole: each goes alone until it succeeds."""

    def __init__(self) -> None:
        self.known: set[tuple[str, str]] = set()
        """Pool and robot of each."""

    async def run(self, requests: Sequence[InferenceRequest], run: Run) -> Sequence[Any]:
        """Runs requests of one pool, those of suspects alone; returns an outcome for each."""
        return await _apart(requests, [(one.pool, one.client_id) in self.known for one in requests], run)

    def note(self, requests: Sequence[InferenceRequest], outcomes: Sequence[Any]) -> None:
        """Takes the outcomes of requests of one pool."""
        for request, outcome in zip(requests, outcomes, strict=True):
            if isinstance(outcome, BatchFailedError):
                self.known.add((request.pool, request.client_id))
            elif not isinstance(outcome, Exception):
                self.known.discard((request.pool, request.client_id))

    def forget(self, client_id: str) -> None:
        """Forgets a robot that is gone."""
        if self.known:
            self.known = {one for one in self.known if one[1] != client_id}


def after_loss(request: InferenceRequest, error: ReplicaLost) -> Exception:
    """Returns what a lost replica means for a request that was sent there, and counts the loss against it."""
    if not error.ran:
        return error
    if request.keeps_state:
        request.replicas_lost = MAX_REPLICAS_LOST
        return RemoteModelError(f"ReplicaLost: {error} while it ran this observation, which is not run again")
    request.replicas_lost += 1
    if request.replicas_lost < MAX_REPLICAS_LOST:
        return error
    return RemoteModelError(f"ReplicaLost: {request.replicas_lost} replicas ended while they ran it: {error}")


def session_of(request: InferenceRequest) -> tuple[str, str, int, str]:
    """Returns whose a request is: client id and type, episode and its key."""
    return request.client_id, request.client_type, request.episode, episode_key(request)


def not_again(why: str, rows: int, place: str = "") -> BatchFailedError:
    """Returns the outcome of each row of a call that failed as a whole, of a model that keeps state."""
    text = f"{why}: one of {rows} observations of a call; as the model keeps state, none is run again"
    return BatchFailedError(text, place)


def note_alone(model_id: str, why: str, place: str, outcomes: Sequence[Any]) -> None:
    """Notes what became of the rows of a call that failed as a whole, as each was run alone.

    Where none of them fails alone, it is logged, now and then; else the failure of the first says where it was raised.
    """
    failed = next((one for one in outcomes if isinstance(one, Exception)), None)
    if failed is None:
        text = "model %s fails on %d observations together, which take longer alone, but succeed: %s%s"
        _notices.say(model_id, text, model_id, len(outcomes), why, place.partition("\n")[0], level=logging.WARNING)
    elif isinstance(failed, RemoteModelError) and not is_first(failed.place):
        failed.place = place
