"""The alert rules of the docs: by Prometheus' own tool where it is installed, and against what `/metrics` has."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML
from tests.scrape import scraped

from inferential import LocalDispatcher, Server
from inferential.telemetry.prometheus import Exporter

RULES = Path(__file__).parents[2] / "docs" / "prometheus" / "inferential.rules.yml"
_OF_PROMETHEUS = {"instance", "job", "alertname"}


@pytest.fixture
def rules() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = YAML(typ="safe").load(RULES)["groups"][0]["rules"]
    return found


async def test_every_rule_asks_for_metrics_and_labels_that_are_there_before_anything_went_wrong(
    rules: list[dict[str, Any]],
) -> None:
    async with Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"arm": lambda one: one})) as server:
        text = scraped(Exporter(server))
    labels: dict[str, set[str]] = {}
    states: set[str] = set()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
            states.add(sample.labels.get("state", ""))
    for rule in rules:
        query = rule["expr"]
        asked = set(re.findall(r"inferential_\w+", query))
        assert asked <= labels.keys(), rule["alert"]
        by = {label.strip() for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(",")}
        shown = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        for name in asked:
            assert by <= labels[name] | _OF_PROMETHEUS, (rule["alert"], name)
        known = set().union(*(labels[name] for name in asked)) | _OF_PROMETHEUS
        assert shown <= (by | _OF_PROMETHEUS if by else known), rule["alert"]
        for alternatives in re.findall(r'state=~"([^"]*)"', query):
            assert set(alternatives.split("|")) <= states


def test_what_the_webhook_posts_has_a_rule_each(rules: list[dict[str, Any]]) -> None:
    assert {"FleetLate", "ModelDown", "RobotGone", "Refusals"} <= {
        rule["alert"].removeprefix("Inferential") for rule in rules
    }


def test_promtool_finds_the_rules_right_and_sees_them_fire() -> None:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed (Debian: apt install prometheus)")
    checked = subprocess.run([tool, "check", "rules", str(RULES)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tests = RULES.with_name("inferential.test.yml")
    done = subprocess.run([tool, "test", "rules", str(tests)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
