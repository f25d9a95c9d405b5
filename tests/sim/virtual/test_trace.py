"""Traces: what is written is read again, and a broken line is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from inferential.config.problems import ConfigError
from inferential.sim.virtual import generate
from inferential.sim.virtual.fleet_file import example
from inferential.sim.virtual.trace import load_trace, save_trace


def test_a_fleets_arrivals_survive_being_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    arrivals = generate.arrivals(example("cluster"), seconds=0.5, seed=0)
    save_trace(arrivals, path)
    read = load_trace(path)
    assert [(one.client_id, one.model_id, one.robot_class) for one in read] == [
        (one.client_id, one.model_id, one.robot_class) for one in arrivals
    ]
    assert [one.deadline for one in read] == pytest.approx([one.deadline for one in arrivals], abs=2e-6)
    assert {(one.priority, one.late, one.steps_remaining) for one in read} == {
        (one.priority, one.late, one.steps_remaining) for one in arrivals
    }


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", ":2: "),
        ("[" * 100_000, ":2: "),
        ('{"at": 1' + 400 * "0" + ', "client": "a", "model": "m", "deadline_ms": 5}', ":2: at: expected a number"),
        ('{"at": NaN, "client": "a", "model": "m", "deadline_ms": 5}', ":2: at: expected a number of at most 1e+12"),
        ('{"at": 0, "client": "a", "model": "m", "deadline_ms": Infinity}', ":2: deadline_ms: expected a number"),
        ('{"at": 0, "client": "a", "model": "m", "deadline_ms": 5, "urgency": -1e400}', ":2: urgency: expected a"),
        ("[]", "expected an object"),
        ('{"at": 1}', "client: missing; needed are at, client, model, deadline_ms"),
        ('{"at": "1", "client": "a", "model": "m", "deadline_ms": 5}', "at: got '1'"),
        ('{"at": 1, "client": "a", "model": "m", "deadline_ms": 5, "color": 1}', "unknown key 'color'"),
        ('{"at": 1, "client": "a", "model": "m", "deadline_ms": 0}', "deadline_ms above 0"),
        ('{"at": 1, "client": "a", "model": "m", "deadline_ms": 5, "late": "no"}', "late: expected serve or refuse"),
        ('{"at": 1, "client": "a", "model": "m", "deadline_ms": 5, "queue": "x"}', "queue: expected latest or all"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"at": 0, "client": "a", "model": "m", "deadline_ms": 5}\n' + line + "\n")
    with pytest.raises(ConfigError) as error:
        load_trace(path)
    assert problem in str(error.value)
    assert "trace.jsonl:2" in str(error.value)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_trace(tmp_path / "none.jsonl")
