"""A thousand clients at rates that a server can serve, and cannot."""

from __future__ import annotations

from typing import Any

from bench.overload.clients import Plan
from bench.overload.harness import Cpu, together
from bench.overload.serving import Serving

CLIENTS, RATES_HZ = 1000, (7.0, 10.0, 20.0)
MODELS = {"coroutine": "bench.overload.models:coroutine", "batch": "bench.overload.models:Batch"}
WARM_S = 2.0


def run(seconds: float) -> dict[str, Any]:
    """Returns, for each model and rate: answers and refusals a second, and the longest time without an answer."""
    return {
        f"{model}, {rate_hz:g} Hz": crowd(model, CLIENTS, rate_hz, seconds) for model in MODELS for rate_hz in RATES_HZ
    }


def crowd(model: str, clients: int, rate_hz: float, seconds: float) -> dict[str, Any]:
    """Returns the figures of one model and rate, on a server of its own."""
    with Serving(MODELS) as serving:
        plan = Plan(serving.address, model, clients, rate_hz, 0.0, WARM_S, seconds)
        with Cpu(serving.process) as cpu:
            (outcome,) = together([plan])
        return {**outcome.as_dict(), **cpu.figures()}
