"""One robot in full, for who looks at it: its last actions part by part, its version and session, its errors."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from inferential.models.manager import ModelManager
from inferential.server.status import ClientStatus
from inferential.tracking.fleet import Fleet
from inferential.tracking.lateness import Action, sentence
from inferential.tracking.outcome_counts import OutcomeCounts

MAX_ACTIONS = 240


@dataclass(frozen=True, slots=True)
class RobotError:
    """Requests in a row that ended without a result for the same cause.

    Attributes:
        kind, cause, reason: those of their refusals; the reason is of the last of them.
        count: how many.
        first_s_ago, last_s_ago: when.
    """

    kind: str
    cause: str
    reason: str
    count: int
    first_s_ago: float
    last_s_ago: float


@dataclass(frozen=True, slots=True)
class RobotModel:
    """A robot's use of one model.

    Attributes:
        model_id: the model.
        version: that answers it; "" where that is not known here.
        session: what the ids of its requests begin with: another one after it has connected anew; "" while unknown.
        text: in a sentence, how its actions are and what makes them late.
        nothing_for_s: for how long its requests have ended without a result; None: they do not.
        actions: the newest of the last minute, oldest first.
        errors: why requests got no result, newest first.
    """

    model_id: str
    version: str
    session: str
    text: str
    nothing_for_s: float | None
    actions: list[Action]
    errors: list[RobotError]


@dataclass(frozen=True, slots=True)
class RobotStatus:
    """A robot in full.

    Attributes:
        client: as in the status of the fleet.
        connected_s: for how long it has been connected; None: it is gone.
        models: what is kept of its use of each model.
    """

    client: ClientStatus
    connected_s: float | None
    models: list[RobotModel]

    def as_dict(self) -> dict[str, Any]:
        """Returns it as dicts, lists and plain values, ready for JSON."""
        return asdict(self)


def robot_of(client: ClientStatus, fleet: Fleet, models: ModelManager, now: float) -> RobotStatus:
    """Returns what is known of a robot whose status is `client`, at `now` in seconds of `time.monotonic()`."""
    state = fleet.client(client.client_id)
    counts = fleet.outcomes.models(client.client_id)
    return RobotStatus(
        client,
        None if state is None else now - state.first_seen,
        [_model_of(client, use.model_id, counts.get(use.model_id), models, now) for use in client.models],
    )


def _model_of(
    client: ClientStatus, model_id: str, counts: OutcomeCounts | None, models: ModelManager, now: float
) -> RobotModel:
    counts = counts or OutcomeCounts()
    name = client.client_id if len(client.models) == 1 else f"{client.client_id}, model {model_id}"
    lateness = counts.ages.summary(now)
    since = None
    if lateness is not None and lateness.late_s_ago is not None:
        since = time.strftime("%H:%M", time.localtime(time.time() - lateness.late_s_ago))
    nothing_since = counts.nothing_since()
    errors = [
        RobotError(one.kind, one.cause, one.reason, one.count, now - one.first_at, now - one.last_at)
        for one in reversed(counts.refusals)
    ]
    return RobotModel(
        model_id,
        version=models.version_for(model_id, client.client_id),
        session=counts.session(),
        text=sentence(name, lateness, since),
        nothing_for_s=None if nothing_since is None else now - nothing_since,
        actions=counts.ages.actions(now)[-MAX_ACTIONS:],
        errors=errors,
    )
