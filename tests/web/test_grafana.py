"""The dashboard of the docs asks for metrics that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from tests.scrape import scraped

from inferential import LocalDispatcher, Server
from inferential.metrics import names
from inferential.telemetry.prometheus import Exporter

DASHBOARD = Path(__file__).parents[2] / "docs" / "grafana" / "inferential.json"


async def test_every_query_uses_metrics_that_are_exported() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    asked = {name for query in queries for name in re.findall(r"inferential_\w+", query)}
    async with Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"arm": lambda one: one})) as server:
        exporter = Exporter(server)
        for metric in names.METRICS.values():
            server.metrics.record(metric.name, 1.0, dict.fromkeys(metric.labels, "x"))
        text = scraped(exporter)
    there = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    assert asked <= there
    assert len(queries) > 8
    assert len({panel["id"] for panel in panels}) == len(panels)
