"""`inferential schedulers`."""

from __future__ import annotations

from typing import Any

import pytest

from inferential.scheduler import base, register_scheduler

BUILT_IN = {"batch_optimized", "deadline_aware", "model_deadline", "priority_tiered", "round_robin", "slo_aware"}


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registrations of a test end with it."""
    monkeypatch.setattr(base, "factories", dict(base.factories))


def test_each_strategy_is_a_line_with_what_it_does(run: Any) -> None:
    heading, *rows = run("schedulers").out.splitlines()
    assert heading.split()[0] == "strategy"
    lines = dict(line.split(maxsplit=1) for line in rows)
    assert set(lines) == BUILT_IN
    assert all(lines.values())
    assert lines["deadline_aware"].endswith(" (default)")


def test_json_lists_name_description_module_and_default(run: Any) -> None:
    found = {one["name"]: one for one in run("schedulers", "--json").json}
    assert set(found) == BUILT_IN
    assert found["round_robin"]["module"] == "inferential.scheduler.round_robin"
    assert [name for name, one in found.items() if one["default"]] == ["deadline_aware"]


def test_registered_strategies_are_listed_with_or_without_a_docstring(run: Any) -> None:
    @register_scheduler("mine")
    def make(config: Any) -> Any:
        """Mine is best.

        In every way.
        """

    @register_scheduler("bare")
    def make_bare(config: Any) -> Any: ...

    found = {one["name"]: one["description"] for one in run("schedulers", "--json").json}
    assert found["mine"] == "Mine is best."
    assert found["bare"] == ""


def test_one_that_cannot_be_imported_is_listed_as_such(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from inferential.scheduler import get_scheduler

    def broken(name: str) -> Any:
        if name == "round_robin":
            raise ImportError("no GPU")
        return get_scheduler(name)

    monkeypatch.setattr("inferential.scheduler.get_scheduler", broken)
    ran = run("schedulers")
    assert ran.code == 0
    assert "cannot be imported: ImportError: no GPU" in ran.out
