"""Workloads of the comparison: ours, and those of the systems whose rules are compared, with their profiles.

A cell is a fleet as in a fleet file, and the figure that its authors count by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from inferential.sim.virtual.fleet_file import Fleet

Measure = Literal["starved", "robots at 98 %", "qualified/s", "answers/s"]

Index = Literal["time", "executed"]
EXECUTED = ", executed"
"""Ends the names of our cells whose robots go on with the first action that they have not executed (`ChunkRuntime`)."""

ARMORY_L40S_MS = (73, 110, 142, 178, 211, 245, 280, 317)
ARMORY_H100_MS = (42, 56, 66, 79, 87)
GR00T_L40S_MS = (72, 77, 84, 92, 101, 113, 125, 137, 159, 181, 203, 225, 248, 270, 292, 314)
"""Published are 1 to 5, 8 and 16; the others are interpolated."""
ATTAINMENT = 0.98


@dataclass(frozen=True, slots=True)
class Cell:
    """One workload.

    Attributes:
        name: in the table.
        fleet: models and robots.
        measure: "starved": control steps without an action; "robots at 98 %": the most robots of the only class whose
            requests are answered in time at that share; "qualified/s": actions whose answer met its SLO; "answers/s".
        published: figures of its authors, by rule, in the unit of `measure` (shares of 1).
        source: whose workload it is.
    """

    name: str
    fleet: Fleet
    measure: Measure = "starved"
    published: dict[str, float] = field(default_factory=dict)
    source: str = "ours"


def _fleet(models: Mapping[str, Mapping[str, Any]], robots: Mapping[str, Mapping[str, Any]]) -> Fleet:
    """A fleet whose calls follow one another at once, as what is published counts them."""
    at_once = {name: {"turnaround_ms": 0, **model} for name, model in models.items()}
    return Fleet.model_validate({"models": at_once, "robots": robots})


def _ours(count: int, horizon_steps: int, *, refresh: bool, index: Index) -> Cell:
    arm = {
        "model": "policy",
        "count": count,
        "kind": "chunked",
        "rate_hz": 50,
        "horizon_steps": horizon_steps,
        "delay_ms": 5,
        "refresh": refresh,
        "index": index,
    }
    policy = {"fixed_ms": 65.4, "per_row_ms": 10.57, "max_batch_size": 8, "replicas": 4}
    name = f"{count} H{horizon_steps}" + (" refreshed" if refresh else "") + (EXECUTED if index == "executed" else "")
    return Cell(name, _fleet({"policy": policy}, {"arm": arm}))


def _profile(medians_ms: tuple[int, ...], most: int | None = None) -> list[dict[str, float]]:
    return [{"batch_size": rows, "median_ms": ms} for rows, ms in enumerate(medians_ms[:most], 1)]


def _armory(
    name: str,
    profile_ms: tuple[int, ...],
    *,
    rate_hz: int = 20,
    horizons: tuple[int, int] = (10, 6),
    fast: int = 1,
    published: dict[str, float] | None = None,
) -> Cell:
    """Ten robots whose newest observation the server always has; a fast one plays less of each chunk and counts 5."""
    robot: dict[str, Any] = {
        "model": "pi",
        "kind": "chunked",
        "rate_hz": rate_hz,
        "ask": "every_step",
        "refresh": True,
        "index": "executed",
        "chunk_steps": 50,
        "delay_ms": 1,
    }
    robots = {"slow": {**robot, "count": 10 - fast, "horizon_steps": horizons[0]}}
    if fast:
        robots["fast"] = {**robot, "count": fast, "horizon_steps": horizons[1], "value": 5}
    fleet = _fleet({"pi": {"profile": _profile(profile_ms, 3)}}, robots)
    return Cell(name, fleet, published=published or {}, source="Armory")


def _robion(name: str, model: dict[str, Any]) -> Cell:
    """One GPU; each robot asks twice a second and wants its answer within 156 ms."""
    robots = {"arm": {"model": "pi0", "count": 1, "rate_hz": 2, "budget_ms": 156}}
    fleet = _fleet({"pi0": model}, robots)
    return Cell(name, fleet, "robots at 98 %", source="Robion")


def _vllm_omni(count: int, published: dict[str, float]) -> Cell:
    """Clients that ask again as soon as they are answered; a call takes 150 ms, for more rows a guess."""
    robot = {
        "model": "gr00t",
        "count": count,
        "kind": "chunked",
        "rate_hz": 200,
        "horizon_steps": 16,
        "ask": "threshold",
        "ask_at_steps": 15,
        "index": "executed",
    }
    models = {"gr00t": {"fixed_ms": 140, "per_row_ms": 10, "max_batch_size": 8}}
    fleet = _fleet(models, {"client": robot})
    return Cell(f"vLLM-Omni {count}", fleet, "answers/s", published, "vLLM-Omni")


def _rosa(count: int, published: dict[str, float]) -> Cell:
    """System 1 of ROSA's robots: an action is 0.2 s of motion, after which the robot asks for the next and waits."""
    robot = {
        "model": "system1",
        "count": count,
        "kind": "chunked",
        "rate_hz": 50,
        "horizon_steps": 10,
        "ask": "threshold",
        "index": "executed",
        "delay_ms": 2,
        "slo_ms": 200,
        "value": 0.1,
    }
    models = {"system1": {"profile": _profile(GR00T_L40S_MS), "replicas": 3}}
    fleet = _fleet(models, {"arm": robot})
    return Cell(f"ROSA {count}", fleet, "qualified/s", published, "ROSA")


OURS = tuple(
    _ours(count, horizon_steps, refresh=refresh, index=index)
    for index in get_args(Index)
    for refresh in (False, True)
    for count in (64, 128)
    for horizon_steps in (50, 25)
)
_ONE_FAST = {"round_robin": 0.129, "edf_full": 0.134, "lookahead": 0.152}
THEIRS = (
    _armory("pi0.5 L40S, equal", ARMORY_L40S_MS, fast=0),
    _armory("pi0.5 L40S, one fast", ARMORY_L40S_MS, published=_ONE_FAST),
    _armory("pi0.5 H100, one fast", ARMORY_H100_MS),
    _armory("GR00T L40S, one fast", GR00T_L40S_MS),
    _armory("pi0.5 L40S, 30 Hz", ARMORY_L40S_MS, rate_hz=30, horizons=(20, 10)),
    _robion("2 Hz, SLO 156, H100", {"profile": _profile(ARMORY_H100_MS)}),
    _rosa(32, {"rosa_rate": 89.4}),
    _rosa(64, {"rosa_rate": 78.8, "earliest_head": 24.8}),
    _vllm_omni(8, {"one_request": 6.7}),
)
CELLS = (*OURS, *THEIRS)
