"""What a model takes, where backend and operator say different things of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from inferential.config.schema import ModelsConfig
from inferential.dispatch.base import Dispatcher
from inferential.scheduler.running import Capacity
from inferential.server.capacities import Capacities


class Backend(Dispatcher):
    """Says of every model what the test sets."""

    def __init__(self, batch: int = 1, inflight: int | None = None, most: int | None = None) -> None:
        super().__init__()
        self.batch, self.inflight, self.most = batch, inflight, most
        self.asked = 0

    async def infer(self, model_id: str, observations: Sequence[Any]) -> Sequence[Any]:
        raise NotImplementedError

    def max_batch_size(self, model_id: str) -> int:
        self.asked += 1
        return self.batch

    def max_inflight(self, model_id: str) -> int | None:
        return self.inflight

    def max_inflight_limit(self, model_id: str) -> int | None:
        return self.most

    def replicas(self, model_id: str) -> Sequence[str]:
        return ["a", "b"]


def models(**known: Any) -> ModelsConfig:
    return ModelsConfig.model_validate({"known": {"m": known}, "default_max_inflight": 3})


@pytest.mark.parametrize(
    ("backend", "known", "expected"),
    [
        (Backend(), {}, (3, 1)),  # the default of the configuration
        (Backend(8, 2), {}, (2, 8)),  # the backend's word
        (Backend(8, 2), {"max_batch_size": 4, "max_inflight": 5}, (5, 4)),  # the operator's
        (Backend(1), {"max_batch_size": 4}, (3, 1)),  # who cannot batch is not made to
        (Backend(8, 0), {"max_inflight": 5}, (0, 8)),  # none just now
        (Backend(8, 2, 4), {"max_inflight": 5}, (4, 8)),  # no more than it can
    ],
)
def test_the_operators_settings_take_precedence_up_to_the_limit_of_the_backend(
    backend: Backend, known: dict[str, Any], expected: tuple[int, int]
) -> None:
    capacity = Capacities(backend, models(**known)).of("m")
    assert (capacity.max_inflight, capacity.max_batch_size) == expected


def test_a_capacity_has_replicas_and_device() -> None:
    assert Capacities(Backend(), models(device="gpu0")).of("m") == Capacity(3, 1, ("a", "b"), "gpu0")


def test_a_capacity_is_computed_again_after_a_change_of_backend_or_configuration() -> None:
    backend = Backend()
    capacities = Capacities(backend, models())
    capacities.of("m"), capacities.of("m")
    assert backend.asked == 1
    backend.batch = 2
    capacities.forget()
    assert capacities.of("m").max_batch_size == 2
    capacities.configure(models(max_inflight=9))
    assert capacities.of("m").max_inflight == 9


def test_the_cache_is_bounded_where_any_id_may_be_a_model() -> None:
    capacities = Capacities(Backend(), models())
    for number in range(5000):
        capacities.of(str(number))
    assert len(capacities) <= 1024
