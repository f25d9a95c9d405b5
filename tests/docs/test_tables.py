"""What the pages list is what there is: metrics, fields of the wire, settings, counters, links."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

import inferential
from inferential.client import ClientStats
from inferential.config.fields import leaves
from inferential.metrics.names import METRICS
from inferential.proto import inferential_pb2 as pb

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

# What users of earlier versions rely on; names may be added, none may go.
PROMISED_METRICS = {
    *("inference_latency_ms", "scheduling_wait_ms", "e2e_latency_ms", "observation_staleness_ms", "payload_size_bytes"),
    *("queue_depth", "queue_full_drops", "batch_size", "dispatch_errors", "dispatch_retries", "requests_expired"),
    *("requests_superseded", "active_clients", "client_disconnected", "client_overdue", "observation_errors"),
    *("send_errors", "learned_cadence_ms", "cadence_deviation", "time_until_next_ms", "responses_served"),
    *("invalidation_count", "deadline_misses"),
}
# Settings that docs/migration.md says are gone.
GONE = {"scheduling.pipeline_dispatch", "scheduling.predictive_pre_dispatch", "scheduling.max_concurrent_dispatch"}


def rows(text: str) -> list[list[str]]:
    """The cells of all rows of tables."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]


def section(page: str, heading: str) -> str:
    """What stands under a heading, up to the next of any rank."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"{page} has no section {heading!r}"
    return found[1]


@pytest.mark.parametrize("script", ["generate_metric_docs.py", "generate_bench_docs.py"])
def test_tables_that_a_script_writes_are_up_to_date(script: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / script), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_metric_that_was_promised_is_declared() -> None:
    assert METRICS.keys() >= PROMISED_METRICS


@pytest.mark.parametrize("message", [pb.Client, pb.Tensor, pb.Applied, pb.Observation, pb.ModelResponse, pb.Timing])
def test_the_table_of_a_message_has_its_fields_and_their_numbers(message: type) -> None:
    descriptor = message.DESCRIPTOR  # type: ignore[attr-defined]
    documented = {row[0].strip("`"): row[1] for row in rows(section("protocol.md", descriptor.name)) if "`" in row[0]}
    assert documented == {field.name: str(field.number) for field in descriptor.fields}


def test_every_status_of_the_wire_is_explained() -> None:
    documented = {row[0] for row in rows(section("protocol.md", "Enums"))}
    assert set(pb.Status.keys()) - {"OK"} <= documented


def test_the_table_of_errors_lists_those_that_a_client_sees() -> None:
    documented = {row[0].strip("`") for row in rows(section("client.md", "Errors")) if "`" in row[0]}
    direct = inferential.InferenceError.__subclasses__()
    there_are = {kind.__name__ for kind in [*direct, *(one for kind in direct for one in kind.__subclasses__())]}
    assert documented == there_are


def test_the_table_of_counters_lists_those_of_a_connection() -> None:
    documented = {row[0].strip("`") for row in rows(section("client.md", "Diagnostics")) if "`" in row[0]}
    assert documented == {field.name for field in dataclasses.fields(ClientStats)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_that_a_page_names_exists(page: Path) -> None:
    known = {leaf.path.replace("[0]", "") for leaf in leaves()}
    tables = "|".join({path.partition(".")[0] for path in known})
    named = re.findall(rf"`((?:{tables})\.(?!py`)[a-z_.<>]*[a-z>])`", page.read_text(encoding="utf-8"))
    unknown = {name for name in named if not any(f"{path}.".startswith(f"{name}.") for path in known)}
    assert unknown <= (GONE if page.name in ("migration.md", "CHANGELOG.md") else set())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", page.read_text(encoding="utf-8")):
        path = page.parent / target if target else page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_every_check_that_the_security_page_names_exists() -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert named
    assert {name for name in named if f"def {name}(" not in sources} == set()
