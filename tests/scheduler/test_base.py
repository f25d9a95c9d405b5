"""Registries, entry points and the smallest scheduler there can be."""

from __future__ import annotations

import doctest
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import inferential.scheduler.base
from inferential.config.schema import SchedulingConfig
from inferential.scheduler import (
    BatchOptimizedScheduler,
    DeadlineAwareScheduler,
    InferenceRequest,
    ModelDeadlineScheduler,
    PriorityTieredScheduler,
    QueueFullError,
    RoundRobinScheduler,
    Scheduler,
    create_scheduler,
    get_policy,
    get_scheduler,
    policy_names,
    register_policy,
    register_scheduler,
    scheduler_names,
)
from inferential.scheduler.base import ModelAwareScheduler

MakeRequest = Callable[..., InferenceRequest]


class Fifo(Scheduler):
    """The five methods that a scheduler must have, and no more."""

    def __init__(self, config: SchedulingConfig) -> None:
        self.waiting: deque[InferenceRequest] = deque(maxlen=config.max_queue_size)

    def submit(self, request: InferenceRequest) -> None:
        self.waiting.append(request)

    def next_batch(self) -> list[InferenceRequest]:
        return [self.waiting.popleft()] if self.waiting else []

    def tick(self) -> int | None:
        return None

    def status(self) -> dict[str, Any]:
        return {}

    def queue_len(self) -> int:
        return len(self.waiting)


def test_a_scheduler_needs_five_methods_only(make_request: MakeRequest) -> None:
    scheduler = Fifo(SchedulingConfig())
    first, second = make_request(), make_request()
    scheduler.submit(first)
    scheduler.resubmit(second)
    scheduler.on_client_connected("c")
    scheduler.on_client_disconnected("c")
    assert scheduler.window is None
    assert [scheduler.next_batch(), scheduler.next_batch(), scheduler.next_batch()] == [[first], [second], []]


class Last(ModelAwareScheduler):
    """What a scheduler by model must have, and no more."""

    def __init__(self) -> None:
        self.waiting: list[InferenceRequest] = []

    def submit(self, request: InferenceRequest) -> None:
        self.waiting.append(request)

    def next_batch_for_model(self, model_id: str, limit: int | None = None) -> list[InferenceRequest]:
        found = [request for request in reversed(self.waiting) if request.model_id == model_id][: limit or 1]
        return [request for request in found if self.remove(request)]

    def models(self) -> list[str]:
        return sorted({request.model_id for request in self.waiting})

    def queue_len_for_model(self, model_id: str) -> int:
        return sum(request.model_id == model_id for request in self.waiting)

    def remove(self, request: InferenceRequest) -> bool:
        known = request in self.waiting
        if known:
            self.waiting.remove(request)
        return known

    def tick(self) -> int | None:
        return None

    def status(self) -> dict[str, Any]:
        return {}

    def queue_len(self) -> int:
        return len(self.waiting)


def test_a_scheduler_by_model_gets_the_rest_from_its_base(make_request: MakeRequest) -> None:
    scheduler = Last()
    assert scheduler.next_batch() == []
    request = make_request(model="b")
    scheduler.submit(request)
    assert scheduler.ready_at("a") is None
    ready_at = scheduler.ready_at("b")
    assert ready_at is not None
    assert ready_at <= request.received_at
    assert scheduler.eviction_rank(request) == 0
    assert scheduler.next_batch() == [request]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("batch_optimized", BatchOptimizedScheduler),
        ("deadline_aware", DeadlineAwareScheduler),
        ("model_deadline", ModelDeadlineScheduler),
        ("priority_tiered", PriorityTieredScheduler),
        ("round_robin", RoundRobinScheduler),
    ],
)
def test_each_built_in_strategy_is_made_by_its_name(name: str, kind: type[Scheduler]) -> None:
    assert name in scheduler_names()
    scheduler = create_scheduler(SchedulingConfig(strategy=name))
    assert type(scheduler) is kind
    assert scheduler.status() | {"queue_size": 0, "max_queue_size": 1000, "models": {}} == scheduler.status()
    assert scheduler.status()["strategy"] == name


def test_an_unknown_strategy_is_an_error_that_tells_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"^Unknown scheduler strategy 'nope'\. Known: .*round_robin"):
        create_scheduler(SchedulingConfig(strategy="nope"))


def test_a_registered_class_is_found_by_its_name() -> None:
    register_scheduler("test_fifo")(Fifo)
    assert "test_fifo" in scheduler_names()
    assert isinstance(create_scheduler(SchedulingConfig(strategy="test_fifo")), Fifo)


def test_a_registered_policy_is_found_by_its_name() -> None:
    @register_policy("test_oldest")
    def oldest(request: InferenceRequest) -> float:
        return -request.received_at

    assert get_policy("test_oldest") is oldest
    assert "test_oldest" in policy_names()
    assert get_policy("test_none") is None


def test_an_installed_package_offers_a_strategy_that_is_imported_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lifo_for_robots.py").write_text(
        "from inferential.scheduler import DeadlineAwareScheduler\nclass Lifo(DeadlineAwareScheduler): ...\n"
    )
    dist = tmp_path / "lifo_for_robots-1.0.dist-info"
    dist.mkdir()
    (dist / "METADATA").write_text("Metadata-Version: 2.1\nName: lifo-for-robots\nVersion: 1.0\n")
    (dist / "entry_points.txt").write_text("[inferential.schedulers]\nlifo_test = lifo_for_robots:Lifo\n")
    monkeypatch.syspath_prepend(tmp_path)

    assert "lifo_test" in scheduler_names()
    assert "lifo_for_robots" not in sys.modules
    assert type(create_scheduler(SchedulingConfig(strategy="lifo_test"))).__name__ == "Lifo"
    assert get_scheduler("lifo_test") is get_scheduler("lifo_test")


def test_the_error_of_a_full_queue_names_the_client() -> None:
    error = QueueFullError("arm-7")
    assert error.client_id == "arm-7"
    assert "arm-7" in str(error)


def test_importing_the_schedulers_imports_no_pydantic() -> None:
    code = "import sys, inferential.scheduler; sys.exit(any(name.startswith('pydantic') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_example_of_the_interface_runs() -> None:
    results = doctest.testmod(inferential.scheduler.base)
    assert results.attempted > 3
    assert results.failed == 0
