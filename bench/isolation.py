"""A slow model's crowd and an idle model's one client: what the first costs the second.

A sync model of 50 ms has 20 clients in a closed loop; another model, which costs nothing, is asked by one client
meanwhile, and before that without the crowd.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from bench.harness import percentiles_ms, serving
from inferential import Connection

CROWD = 20
SLOW_S = 0.05


def models() -> dict[str, Any]:
    """One model that sleeps in its thread, one that does nothing."""

    def slow(observation: dict[str, Any]) -> Any:
        time.sleep(SLOW_S)
        return observation["state"]

    return {"slow": slow, "idle": lambda observation: observation["state"]}


def run(seconds: float) -> dict[str, Any]:
    """Round trips of the idle model's client, alone and beside the crowd."""
    with serving(models) as address:
        alone = _ask(address, "alone", seconds)
        stop = threading.Event()
        answers = [0] * CROWD
        crowd = [threading.Thread(target=_crowd, args=(address, n, stop, answers)) for n in range(CROWD)]
        for thread in crowd:
            thread.start()
        try:
            time.sleep(0.5)
            beside = _ask(address, "beside", seconds)
        finally:
            stop.set()
            for thread in crowd:
                thread.join()
    return {
        "idle_model_alone": percentiles_ms(alone),
        "idle_model_beside_crowd": percentiles_ms(beside),
        "p99_ratio": round(float(np.percentile(beside, 99) / np.percentile(alone, 99)), 2),
        "slow_model_answers": sum(answers),
    }


def _ask(address: str, name: str, seconds: float) -> list[float]:
    state = np.zeros(7, dtype=np.float32)
    taken: list[float] = []
    with Connection(address, name) as connection:
        model = connection.model("idle")
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            began = time.perf_counter()
            if model.infer(1000, state=state) is None:
                raise TimeoutError("the idle model did not answer within 1 s")
            taken.append(time.perf_counter() - began)
            time.sleep(0.002)  # a robot that asks now and then, not a load
    return taken


def _crowd(address: str, number: int, stop: threading.Event, answers: list[int]) -> None:
    state = np.zeros(7, dtype=np.float32)
    with Connection(address, f"crowd-{number}") as connection:
        model = connection.model("slow")
        while not stop.is_set():
            if model.infer(5000, state=state) is not None:
                answers[number] += 1
