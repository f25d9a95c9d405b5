"""What the replicas of a local model have in common: those in this process, and those in processes of their own."""

from __future__ import annotations

from collections.abc import Sequence

from inferential.dispatch.inprocess import InProcessReplica
from inferential.dispatch.loading import LoadedReplica
from inferential.replica.process import WorkerProcess

Replica = InProcessReplica | WorkerProcess


def lost(replica: Replica) -> int:
    """Returns how many calls over their time still occupy its slots."""
    return replica.lost if isinstance(replica, InProcessReplica) else 0


def takes_calls(replica: Replica) -> bool:
    """Returns whether it takes calls."""
    return replica.up if isinstance(replica, InProcessReplica) else replica.max_inflight > 0


def begin(replica: Replica) -> None:
    """Begins to load it."""
    if isinstance(replica, WorkerProcess):
        replica.begin()
    elif isinstance(replica, LoadedReplica):
        replica.load()


def keeps_state(replica: Replica) -> bool:
    """Returns whether its model takes the robots' sessions."""
    if isinstance(replica, InProcessReplica):
        return replica.sessions is not None
    return replica.greeting is not None and replica.greeting.keeps_state


def sees_timestamps(replica: Replica) -> bool:
    """Returns whether its model wants to know when its observations were seen."""
    if isinstance(replica, InProcessReplica):
        return replica.sees_timestamps
    return replica.greeting is not None and replica.greeting.sees_timestamps


def measured(replica: Replica) -> Sequence[tuple[int, float]]:
    """Returns what its warm-up found."""
    if isinstance(replica, WorkerProcess):
        return () if replica.greeting is None else replica.greeting.measured
    return replica.measured if isinstance(replica, LoadedReplica) else ()
