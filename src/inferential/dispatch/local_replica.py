"""What the replicas of a local model have in common: those in this process, and those in processes of their own."""

from __future__ import annotations

import enum
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any

from inferential.dispatch.base import ModelProblem, WorkerUse
from inferential.dispatch.inprocess import InProcessReplica
from inferential.dispatch.loading import LoadedReplica
from inferential.replica.condition import best_of
from inferential.replica.process import WorkerProcess
from inferential.replica.usage import use_of

Replica = InProcessReplica | WorkerProcess


class Place(enum.Enum):
    """Where a model's calls begin."""

    INLINE = "inline"  # and end
    THREAD = "thread"
    PROCESS = "process"


INLINE, THREAD, PROCESS = Place  # an attribute of an enumeration takes 74 ns


def begins_in(replicas: Sequence[Replica]) -> Place | None:
    """Returns where a model's calls begin; None where that is in a task of the event loop."""
    here = [one for one in replicas if isinstance(one, InProcessReplica)]
    if len(here) < len(replicas):
        return PROCESS
    if all(one.runs_in_thread for one in here):
        return THREAD
    return INLINE if all(one.completes_inline for one in here) else None


def lost(replica: Replica) -> int:
    """Returns how many calls over their time still occupy its slots."""
    return replica.lost if isinstance(replica, InProcessReplica) else 0


def taking(replicas: Sequence[Replica]) -> list[int]:
    """Returns the numbers of those that calls go to: the ones that are up; all, where none is."""
    return [number for number, one in enumerate(replicas) if one.up] or list(range(len(replicas)))


def taking_most(replicas: Sequence[Replica]) -> list[int]:
    """Returns the numbers of those of them that have lost the fewest slots."""
    slots = {number: lost(replicas[number]) for number in taking(replicas)}
    least = min(slots.values())
    return [number for number, gone in slots.items() if gone == least]


def begin(replica: Replica) -> None:
    """Begins to load it."""
    if isinstance(replica, WorkerProcess | LoadedReplica):
        replica.begin()


def check(model_id: str, model: Any) -> None:
    """Raises ValueError for a name on Ray Serve."""
    if isinstance(model, str):
        raise ValueError(f"model {model_id!r}: ray:{model} is for a server of models on Ray Serve; start one for it")


def end_calls(replicas: Sequence[Replica]) -> None:
    """Ends the processes that have calls; a call in a thread cannot be ended."""
    for one in replicas:
        if isinstance(one, WorkerProcess):
            one.end_calls("it was replaced, and its call did not end")


def end_sessions(replicas: Sequence[Replica], client_id: str) -> Iterator[Coroutine[Any, Any, None]]:
    """Ends the sessions of a robot on replicas; yields what is to be awaited for those in this process."""
    for one in replicas:
        if isinstance(one, WorkerProcess):
            one.end_session(client_id)
        elif one.sessions is not None:
            yield one.end_session(client_id)


async def metadata_of(replicas: Sequence[Replica]) -> Mapping[str, Any]:
    """Returns what the model of the first replica that is up says of itself; {} where none is."""
    for one in replicas:
        if one.up:
            if isinstance(one, InProcessReplica):
                return await one.metadata()
            return {} if one.greeting is None else one.greeting.metadata
    return {}


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


def problem_of(replicas: Sequence[Replica]) -> ModelProblem | None:
    """Returns which processes of a model do not run, or how many slots calls over their time have taken; else None."""
    down = [one.problem for one in replicas if isinstance(one, WorkerProcess) and one.problem is not None]
    gone = sum(map(lost, replicas))
    if down:
        reason = f"{len(down)} of {len(replicas)} processes do not run: {down[0]}"
        return ModelProblem(reason, is_down=len(down) == len(replicas))
    if not any(one.up for one in replicas):
        return ModelProblem(best_of(one.condition() for one in replicas).brief, is_down=True)
    if gone:
        reason = f"{gone} calls took longer than call_timeout_ms and still occupy their slots"
        return ModelProblem(reason, is_down=False)  # whether slots are left, the server knows
    return None


def uses_of(
    model_id: str, replicas: Sequence[Replica], on_gpu: Callable[[int], float | None] = lambda pid: None
) -> list[WorkerUse]:
    """Returns what each process of a model that takes calls uses, read from the system now.

    `on_gpu` returns how many megabytes of GPUs' memory a process uses; None: none, or not known.
    """
    found = []
    for number, one in enumerate(replicas):
        pid = one.pid if isinstance(one, WorkerProcess) and one.up else None
        use = None if pid is None else use_of(pid)
        if pid is not None and use is not None:
            replica = str(number) if len(replicas) > 1 else ""
            found.append(WorkerUse(model_id, replica, pid, use.memory_mb, use.cpu_s, on_gpu(pid)))
    return found
