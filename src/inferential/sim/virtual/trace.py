"""Reads and writes observations as JSON lines: recorded ones to simulate, simulated ones to keep.

The fields are those of `Arrival`; `at` and `deadline_ms` (from the observation on), `client`, `model` must be there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from inferential.config.problems import ConfigError, Problem
from inferential.sim.virtual.world import Arrival

_Kinds = dict[str, type | tuple[type, ...]]
_NEEDED: _Kinds = {"at": (int, float), "client": str, "model": str, "deadline_ms": (int, float)}
_OPTIONAL: _Kinds = {
    "class": str,
    "priority": int,
    "urgency": (int, float),
    "queue": str,
    "late": str,
    "steps_remaining": int,
}

_LARGEST = 1e12  # of any number, seconds and milliseconds too; what is no number is not below it


def save_trace(arrivals: Iterable[Arrival], path: str | Path) -> None:
    """Writes arrivals.

    Raises:
        OSError: the file cannot be written.
    """
    with open(path, "w", encoding="utf-8") as file:
        for arrival in arrivals:
            record: dict[str, Any] = {
                "at": round(arrival.at, 6),
                "client": arrival.client_id,
                "model": arrival.model_id,
                "deadline_ms": round((arrival.deadline - arrival.at) * 1e3, 3),
                "class": arrival.robot_class,
                "priority": arrival.priority,
                "urgency": arrival.urgency,
                "queue": "latest" if arrival.latest else "all",
                "late": arrival.late,
            }
            if arrival.steps_remaining is not None:
                record["steps_remaining"] = arrival.steps_remaining
            file.write(json.dumps(record) + "\n")


def load_trace(path: str | Path) -> list[Arrival]:
    """Reads arrivals, in order of time.

    Raises:
        ConfigError: the file cannot be read, or a line is none; each is named.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem("", f"cannot be read: {error}", str(path))]) from None
    arrivals, problems = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            arrivals.append(_arrival(json.loads(line)))
        except (ValueError, RecursionError) as error:
            problems.append(Problem("", str(error), f"{path}:{number}"))
    if problems:
        raise ConfigError(problems[:10])
    return sorted(arrivals, key=lambda arrival: arrival.at)


def _arrival(line: Any) -> Arrival:
    if not isinstance(line, dict):
        raise ValueError(f"expected an object, got {line!r}")
    fields: dict[str, Any] = line
    for key, kind in (_NEEDED | _OPTIONAL).items():
        if key not in fields and key in _NEEDED:
            raise ValueError(f"{key}: missing; needed are {', '.join(_NEEDED)}")
        if key in fields and (not isinstance(fields[key], kind) or isinstance(fields[key], bool)):
            raise ValueError(f"{key}: got {fields[key]!r}")
        if isinstance(fields.get(key), int | float) and not abs(fields[key]) <= _LARGEST:
            raise ValueError(f"{key}: expected a number of at most {_LARGEST:g}, got {fields[key]!r:.24}")
    unknown = fields.keys() - _NEEDED.keys() - _OPTIONAL.keys()
    if unknown:
        raise ValueError(f"unknown key {min(unknown)!r}; known: {', '.join((*_NEEDED, *_OPTIONAL))}")
    if fields["at"] < 0 or fields["deadline_ms"] <= 0:
        raise ValueError("at: expected at least 0, and deadline_ms above 0")
    queue, late = fields.get("queue", "latest"), fields.get("late", "serve")
    if queue not in ("latest", "all"):
        raise ValueError(f"queue: expected latest or all, got {queue!r}")
    choice: Literal["serve", "refuse"] = "refuse" if late == "refuse" else "serve"
    if late != choice:
        raise ValueError(f"late: expected serve or refuse, got {late!r}")
    return Arrival(
        at=float(fields["at"]),
        client_id=fields["client"],
        model_id=fields["model"],
        robot_class=fields.get("class", fields["model"]),
        deadline=fields["at"] + fields["deadline_ms"] / 1e3,
        priority=fields.get("priority", 1),
        urgency=fields.get("urgency", 0.0),
        latest=queue == "latest",
        late=choice,
        steps_remaining=fields.get("steps_remaining"),
    )
