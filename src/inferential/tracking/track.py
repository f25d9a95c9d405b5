"""What is tracked of one client and model, together: found by one look for each observation, and none for its end."""

from __future__ import annotations

from dataclasses import dataclass

from inferential.tracking.action_horizon import ActionHorizon
from inferential.tracking.cadence import Rhythm
from inferential.tracking.outcome_counts import OutcomeCounts
from inferential.tracking.robots import ClientState


@dataclass(slots=True, eq=False)
class Track:
    """The entries of one client and model in the tables of the fleet; made by it, and dropped with them.

    Attributes:
        client, rhythm, horizon, counts: the entries.
        stands: whether the client has not been forgotten since.
    """

    client: ClientState
    rhythm: Rhythm
    horizon: ActionHorizon
    counts: OutcomeCounts
    stands: bool = True
