"""How results of benchmarks are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench import harness


def test_a_case_takes_the_place_of_its_former_result_and_the_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    harness.save("network", {"emulated": 1, "packets": 1})
    path = harness.save("network", {"packets": 2}, keep_others=True)
    found = json.loads(path.read_text())
    assert (found.pop("machine")["cpus"], found) == (harness.machine()["cpus"], {"emulated": 1, "packets": 2})
    harness.save("network", {"packets": 3})
    assert json.loads(path.read_text()).keys() == {"machine", "packets"}
