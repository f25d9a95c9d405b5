"""Which replicas are free, looked up fast and slowly."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from inferential.scheduler import InferenceRequest
from inferential.scheduler.running import Batch, Capacity, Running
from inferential.scheduler.time.availability import FREE
from inferential.scheduler.time.profile import Profiles

NAMES = ("0", "1", "2")


@given(
    max_inflight=st.integers(0, 2),
    replicas=st.sets(st.sampled_from(NAMES), min_size=1),
    device=st.sampled_from([None, "gpu"]),
    changes=st.lists(st.sampled_from([*NAMES, "end"]), max_size=12),
)
def test_a_model_whose_replicas_are_all_busy_has_no_free_one_however_it_is_looked_up(
    make_request: Callable[..., InferenceRequest],
    max_inflight: int,
    replicas: set[str],
    device: str | None,
    changes: list[str],
) -> None:
    capacity = Capacity(max_inflight, 4, tuple(sorted(replicas)), device)
    running = Running(lambda model_id: capacity, Profiles())
    calls: list[Batch] = []
    for change in changes:
        running.begin_decision()
        if change != "end":
            calls.append(Batch("m", [make_request(f"arm-{len(calls)}")], change, 1.0))
            running.begin(calls[-1], device)
        elif calls:
            running.end(calls.pop(0), 2.0, measured=False)
        found = [slot.replica for slot in running.free_slots("m")]
        assert sorted(found) == [slot.replica for slot in running.slots("m") if slot.free_at == FREE]
