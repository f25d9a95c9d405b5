"""Metrics that users record themselves, as Prometheus reads them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from tests.scrape import scraped

from inferential import InferenceError, LocalDispatcher, Server
from inferential.dispatch.base import GpuUse, NodeUse
from inferential.metrics import MetricsCollector, names
from inferential.telemetry.prometheus import MAX_VALUES, OTHER, Exporter


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({})) as server:
        yield server


def custom(exporter: Exporter) -> dict[str, Metric]:
    families = {family.name: family for family in text_string_to_metric_families(scraped(exporter))}
    return {
        name.removeprefix("inferential_"): family
        for name, family in families.items()
        if name.startswith(("inferential_custom_", "inferential_last_"))
    }


def values(family: Metric, suffix: str = "") -> dict[tuple[str, ...], float]:
    """The values of one sample name, by the values of its labels."""
    return {
        tuple(sample.labels.values()): sample.value for sample in family.samples if sample.name == family.name + suffix
    }


async def test_a_metric_of_a_user_has_count_sum_and_last_value(server: Server) -> None:
    exporter = Exporter(server)
    for value in (2.0, -3.0, 5.0):
        server.metrics.record("grip_force", value, {"model": "policy", "hand": "left"})
    found = custom(exporter)
    assert found["custom_grip_force"].type == "summary"
    assert values(found["custom_grip_force"], "_count") == {("left", "policy"): 3.0}
    assert values(found["custom_grip_force"], "_sum") == {("left", "policy"): 4.0}
    assert found["last_grip_force"].type == "gauge"
    assert values(found["last_grip_force"]) == {("left", "policy"): 5.0}


async def test_points_with_different_labels_are_series_of_one_metric(server: Server) -> None:
    exporter = Exporter(server)
    server.metrics.record("drops", 1.0)
    server.metrics.record("drops", 1.0, {"cause": "slip"})
    assert values(custom(exporter)["custom_drops"], "_count") == {("",): 1.0, ("slip",): 1.0}


async def test_clients_are_summed_up(server: Server) -> None:
    exporter = Exporter(server)
    for client in ("arm-1", "arm-2"):
        server.metrics.record("drops", 1.0, {"client": client})
    assert values(custom(exporter)["custom_drops"], "_count") == {(): 2.0}


@pytest.mark.parametrize("name", ["grip force", "grip-force", "grip/force", "grip\nforce", "grip.force"])
async def test_any_name_and_label_make_a_page_that_can_be_parsed(name: str, server: Server) -> None:
    exporter = Exporter(server)
    server.metrics.record(name, 1.0, {"__name__": "x", "2nd hand": 'a "quoted"\nline', "": "empty"})
    assert list(custom(exporter)) == ["custom_grip_force", "last_grip_force"]


async def test_after_some_values_of_a_label_the_others_count_together(server: Server) -> None:
    exporter = Exporter(server)
    for number in range(MAX_VALUES + 10):
        server.metrics.record("drops", 1.0, {"object": f"cup-{number}"})
    counts = values(custom(exporter)["custom_drops"], "_count")
    assert len(counts) == MAX_VALUES + 1
    assert counts[OTHER,] == 10.0


async def test_metrics_whose_names_differ_by_what_is_added_do_not_collide(server: Server) -> None:
    exporter = Exporter(server)
    for name in ("drops", "drops_count", "last_drops", "custom_drops"):
        server.metrics.record(name, 1.0)
    assert len(custom(exporter)) == 8


_POINTS = st.lists(
    st.tuples(
        st.sampled_from((names.E2E_LATENCY_MS, names.RESPONSES_SERVED, names.BATCH_SIZE, "grip_force")),
        st.sampled_from(("arm-1", "arm-2")),
        st.integers(0, MAX_VALUES + 5).map(lambda number: f"m{number % 3 if number % 2 else number}"),
        st.integers(0, 8000).map(lambda eighths: eighths / 8),  # whose sums are exact in any order
    ),
    max_size=200,
)


@given(_POINTS)
def test_points_that_come_together_are_counted_as_if_they_came_one_by_one(
    points: list[tuple[str, str, str, float]],
) -> None:
    together, one_by_one = (SimpleNamespace(metrics=MetricsCollector(), running=False) for _ in range(2))
    exporters = [Exporter(cast("Server", server)) for server in (together, one_by_one)]
    groups = {name: together.metrics.group(name) for name in dict.fromkeys(point[0] for point in points)}
    for name, client_id, model_id, value in points:
        together.metrics.add(groups[name], 1.0, (("client", client_id), ("model", model_id)), (value,))
    for name in groups:  # in the order in which they are flushed
        for other, client_id, model_id, value in points:
            if other == name:
                one_by_one.metrics.record(name, value, {"client": client_id, "model": model_id})
    found, expected = (scraped(exporter) for exporter in exporters)
    assert sorted(found.splitlines()) == sorted(expected.splitlines())


async def test_gpus_are_gauges_as_far_as_they_are_known() -> None:
    class OnGpus(LocalDispatcher):
        def nodes(self) -> list[NodeUse]:
            return [NodeUse("", "gpu-1", None, None, (GpuUse(0, "H200", 37.0, 2500.0), GpuUse(1, "A30", None, 10.0)))]

    async with Server("tcp://127.0.0.1:0", dispatcher=OnGpus({})) as server:
        lines = scraped(Exporter(server)).splitlines()
    assert 'inferential_gpu_utilization{gpu="0",node="gpu-1"} 0.37' in lines
    assert 'inferential_gpu_memory_bytes{gpu="1",node="gpu-1"} 1e+07' in lines
    assert not any(line.startswith('inferential_gpu_utilization{gpu="1"') for line in lines)


async def test_the_counters_of_a_model_begin_at_0_so_that_a_rate_sees_its_first_event() -> None:
    async with Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"arm": lambda observation: 1.0})) as server:
        lines = scraped(Exporter(server)).splitlines()
    for name in ("responses_served", "deadline_misses", "requests_unanswered"):
        assert f'inferential_{name}_total{{model="arm"}} 0.0' in lines


async def test_robots_that_get_nothing_at_all_are_misses() -> None:
    def fails(observation: dict[str, Any]) -> Any:
        raise RuntimeError("no weights")

    async with Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"arm": fails})) as server:
        exporter, robot = Exporter(server), server.connect("robot-1")
        model = robot.model("arm", latency_budget_ms=50.0)
        asked = 0
        line = ""
        while not line and asked < 1000:  # its requests fail at once, for a second and more
            asked += 1
            with pytest.raises(InferenceError):
                await model.infer(60_000, state=np.zeros(1))
            await asyncio.sleep(0.02)
            found = [one for one in scraped(exporter).splitlines() if one.startswith("inferential_deadline_misses")]
            line = next((one for one in found if 'model="arm"' in one and not one.endswith(" 0.0")), "")
        assert line
        client = server.status().clients[0]
        assert client.models[0].condition == "unanswered"
        assert client.requests == asked  # those for a model that is not asked for now are signs of life too
        robot.close()
