"""What connections that flood the server cost ten robots that do not.

On a machine with few cores a flood costs twice: the server's work on it, and the CPU of the processes that make it.
`run` has both. `run_apart` has the first alone: the server has a core for itself, and the robots go before the flooders
on the other one, as if those were on another machine.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from bench.overload.clients import Outcome, Plan
from bench.overload.harness import Cpu, together
from bench.overload.serving import Serving

MODELS = {"single": "bench.overload.models:single", "batch": "bench.overload.models:SlowBatch"}
ROBOTS, ROBOT_HZ = 10, 5.0
FLOODS = {"one": (1, 19_000.0), "ten": (10, 4_000.0)}
NAMELESS = {
    "nameless": (5_000.0, 0),
    "reconnects after 1000": (5_000.0, 1000),
    "reconnects after 20": (5_000.0, 20),
    "reconnects after 1": (500.0, 1),
}
"""Observations a second, and after how many of them the connection is replaced by another one; 0: never."""
WARM_S = 2.0
SERVER_CPU, CLIENTS_CPU, LAST = 0, 1, 19


def run(seconds: float, *, apart: bool = False) -> dict[str, Any]:
    """Returns, for each model and queue, the robots' round trips alone, beside one flooder and beside ten."""
    result: dict[str, Any] = {}
    for model in MODELS:
        for queue in ("latest", "all"):
            found = {"alone": beside(model, queue, None, seconds, apart=apart)}
            for name, (clients, rate_hz) in FLOODS.items():
                plan = Plan("", model, clients, rate_hz, 0.0, 0.0, WARM_S + seconds, queue, "flooder")
                found[name] = beside(model, queue, plan, seconds, apart=apart)
            result[f"{model}, {queue}"] = found | {"ratios": ratios(found)}
    return result


run_apart = partial(run, apart=True)


def run_nameless(seconds: float) -> dict[str, Any]:
    """Returns the same of one connection without an identity that has a new client id in every message."""
    result: dict[str, Any] = {}
    for model in MODELS:
        found = {"alone": beside(model, "latest", None, seconds, apart=True)}
        for name, (rate_hz, after) in NAMELESS.items():
            plan = Plan("", model, 1, rate_hz, 0.0, 0.0, WARM_S + seconds, "all", "unnamed", True, after)
            found[name] = beside(model, "latest", plan, seconds, apart=True)
        result[model] = found | {"ratios": ratios(found)}
    return result


def beside(model: str, queue: str, flood: Plan | None, seconds: float, *, apart: bool = False) -> dict[str, Any]:
    """Returns the figures of the robots, with those of the flood, on a server of its own."""
    cpu = CLIENTS_CPU if apart else None
    with Serving(MODELS, cpu=SERVER_CPU if apart else None) as serving:
        plans = [Plan(serving.address, model, ROBOTS, ROBOT_HZ, 0.0, WARM_S, seconds, queue, cpu=cpu)]
        if flood is not None:
            plans.append(replace(flood, server=serving.address, cpu=cpu, nice=LAST if apart else 0))
        with Cpu(serving.process) as used:
            outcomes = together(plans)
        result: dict[str, Any] = {**outcomes[0].as_dict(), **used.figures()}
        if flood is not None:
            result["flood"] = _short(outcomes[1])
        return result


def _short(outcome: Outcome) -> dict[str, Any]:
    keys = ("sent_per_s", "unsent_per_s", "answered_per_s", "refused_per_s")
    return {key: value for key, value in outcome.as_dict().items() if key in keys}


def ratios(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Returns the robots' p50 and p99 beside each flood as multiples of those alone."""
    alone = found["alone"]
    return {
        name: {key: round(figures[key] / alone[key], 1) for key in ("p50_ms", "p99_ms") if key in figures}
        for name, figures in found.items()
        if name != "alone"
    }
