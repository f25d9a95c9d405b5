"""A slow model's crowd and an idle model's one client: what the first costs the second.

A sync model of 50 ms has 20 clients in a closed loop; another model, which costs nothing, is asked by one client
meanwhile, and before that without the crowd.

And what models that hold the interpreter's lock cost an idle one: its client's round trips alone, beside one such model
and beside two, with all models in threads, in processes of their own, and with those that hold the lock in the
background. Beside that, what a bare process gets that is woken as often over a pipe, without this software, beside
processes that compute as much at the priority that a worker with long calls has, or in the background: that is the
system's share.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import percentiles_ms, serving
from inferential import Connection

PLAIN = Path(__file__).parent / "overhead" / "models"
CROWD = 20
SLOW_S = 0.05
HOLD_S = 0.03  # as `plain_policies.holding`
NICER_BY = 5  # as workers whose calls are long
BEHIND = "process, those in the background"
PLACES = ("thread", "process", BEHIND)
_EACH_S = 0.002  # a robot that asks now and then, not a load


def models() -> dict[str, Any]:
    """One model that sleeps in its thread, one that does nothing."""

    def slow(observation: dict[str, Any]) -> Any:
        time.sleep(SLOW_S)
        return observation["state"]

    return {"slow": slow, "idle": lambda observation: observation["state"]}


def holders(place: str) -> dict[str, Any]:
    """One model that does nothing, and two that hold the interpreter's lock, all in a place of PLACES."""
    from inferential import ModelProcess, ModelThread

    names = {"idle": "policy", "holder-0": "holding", "holder-1": "holding"}
    if place != "thread":
        env = {"PYTHONPATH": str(PLAIN)}
        behind = {"holding"} if place == BEHIND else set()
        return {
            model: ModelProcess(f"plain_policies:{name}", env=env, background=name in behind)
            for model, name in names.items()
        }
    sys.path.append(str(PLAIN))
    import plain_policies

    return {model: ModelThread(getattr(plain_policies, name)) for model, name in names.items()}


def run(seconds: float) -> dict[str, Any]:
    """Both cases."""
    beside_holders = {place: _beside_holders(place, seconds) for place in PLACES}
    beside_holders["bare process"] = _bare(seconds, _give_way)
    beside_holders["bare process, others in the background"] = _bare(seconds, _stay_behind)
    return {**_beside_crowd(seconds), "beside_models_that_hold_the_lock": beside_holders}


def _beside_holders(place: str, seconds: float) -> dict[str, Any]:
    found: dict[str, Any] = {}
    p99 = []
    with serving(functools.partial(holders, place)) as address:
        for count in range(3):
            stop = threading.Event()
            answers = [0] * count
            asking = [
                threading.Thread(target=_crowd, args=(address, n, stop, answers, f"holder-{n}")) for n in range(count)
            ]
            for thread in asking:
                thread.start()
            try:
                time.sleep(0.2)
                taken = _ask(address, f"beside-{count}", seconds)
            finally:
                stop.set()
                for thread in asking:
                    thread.join()
            found[f"beside_{count}"] = percentiles_ms(taken)
            p99.append(float(np.percentile(taken, 99)))
    return {**found, "p99_ratios": [round(each / p99[0], 2) for each in p99]}


def _bare(seconds: float, behave: Callable[[], object]) -> dict[str, Any]:
    """Round trips of a process that returns what it is sent, beside none, one and two that behave so and compute."""
    context = multiprocessing.get_context("spawn")
    found: dict[str, Any] = {}
    p99 = []
    ours, theirs = context.Pipe()
    echo = context.Process(target=_echo, args=(theirs,), daemon=True)
    computing: list[BaseProcess] = []
    echo.start()
    try:
        for count in range(3):
            if count:
                computing.append(context.Process(target=_compute, args=(behave,), daemon=True))
                computing[-1].start()
            _round_trips(ours, 0.5)  # until the new process computes
            taken = _round_trips(ours, seconds)
            found[f"beside_{count}"] = percentiles_ms(taken)
            p99.append(float(np.percentile(taken, 99)))
    finally:
        for process in (echo, *computing):
            process.kill()
            process.join()
    return {**found, "p99_ratios": [round(each / p99[0], 2) for each in p99]}


def _round_trips(pipe: Pipe, seconds: float) -> list[float]:
    taken: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        pipe.send_bytes(b"observation")
        pipe.recv_bytes()
        taken.append(time.perf_counter() - began)
        time.sleep(_EACH_S)
    return taken


def _echo(pipe: Pipe) -> None:
    while True:
        pipe.send_bytes(pipe.recv_bytes())


def _give_way() -> None:
    os.nice(NICER_BY)


def _stay_behind() -> None:
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _compute(behave: Callable[[], object]) -> None:
    behave()
    while True:
        until = time.perf_counter() + HOLD_S
        while time.perf_counter() < until:
            pass
        time.sleep(0.0005)  # until the next robot asks


def _beside_crowd(seconds: float) -> dict[str, Any]:
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
            time.sleep(_EACH_S)
    return taken


def _crowd(address: str, number: int, stop: threading.Event, answers: list[int], model_id: str = "slow") -> None:
    state = np.zeros(7, dtype=np.float32)
    with Connection(address, f"crowd-{number}") as connection:
        model = connection.model(model_id)
        while not stop.is_set():
            if model.infer(5000, state=state) is not None:
                answers[number] += 1
