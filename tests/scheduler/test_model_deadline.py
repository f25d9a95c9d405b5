"""Models in turn, the best of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from inferential.config.schema import SchedulingConfig
from inferential.scheduler import InferenceRequest, ModelDeadlineScheduler


def test_models_take_turns_and_each_gives_its_best(clock: Any, make_request: Callable[..., InferenceRequest]) -> None:
    scheduler = ModelDeadlineScheduler(SchedulingConfig())
    names = {}
    for model, urgency in [("a", 0.1), ("a", 0.9), ("a", 0.5), ("b", 0.0), ("b", 0.2)]:
        request = make_request(model=model, urgency=urgency)
        names[request] = f"{model}{urgency}"
        scheduler.submit(request)
    assert [names[scheduler.next_batch()[0]] for _ in names] == ["a0.9", "b0.2", "a0.5", "b0.0", "a0.1"]
    assert scheduler.next_batch() == []
