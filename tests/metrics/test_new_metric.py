"""A new metric takes its declaration and the place that records it; everything else follows from these."""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.scrape import scraped

from inferential import LocalDispatcher, Server
from inferential.metrics import names
from inferential.telemetry.prometheus import Exporter

SCRIPT = Path(__file__).parents[2] / "scripts" / "generate_metric_docs.py"


@pytest.fixture
def new_metric() -> Iterator[names.Metric]:
    """The declaration, which would stand in metrics/names.py."""
    metric = names.declare("grasp_force_ms", "ms", (names.CLIENT, names.MODEL), "at arrival: an example")
    yield metric
    del names.METRICS[metric.name]


@pytest.fixture
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_metric_docs", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_it_can_be_read_and_prometheus_gets_it_in_its_unit(new_metric: names.Metric) -> None:
    async with Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({})) as server:
        exporter = Exporter(server)
        server.metrics.record(new_metric, 20.0, {"client": "arm", "model": "policy"})
        stats = server.metrics.get_stats("grasp_force_ms", {"model": "policy"})
        families = {family.name: family for family in text_string_to_metric_families(scraped(exporter))}
    assert stats is not None
    assert stats.avg == 20.0
    family = families["inferential_grasp_force_seconds"]
    assert (family.type, family.documentation) == ("histogram", "at arrival: an example")
    (total,) = (sample for sample in family.samples if sample.name.endswith("_sum"))
    assert (total.value, total.labels) == (0.02, {"model": "policy"})


def test_the_table_of_the_documentation_has_it(new_metric: names.Metric, generator: ModuleType) -> None:
    row = "| `grasp_force_ms` | ms | client, model | at arrival: an example |"
    assert row in generator.table(names.METRICS.values())


def test_a_name_cannot_be_declared_twice(new_metric: names.Metric) -> None:
    with pytest.raises(ValueError, match="'grasp_force_ms' is declared already"):
        names.declare("grasp_force_ms", "1", (), "something else")


def test_another_process_gets_the_name_of_a_metric() -> None:
    sent = pickle.loads(pickle.dumps({names.BATCH_SIZE: 2}))
    assert sent == {"batch_size": 2}
    assert type(next(iter(sent))) is str
