"""A transformer policy in plain torch that 16 robots ask: in a thread of the server, and in a process of its own.

    python -m bench.gpu                 # a GPU, or the CPU where there is none: 2 minutes
    python -m bench.gpu --tiny          # a net that a CPU runs in milliseconds: does it work?

It needs torch in this environment; with --python in that one alone, and then the thread is left out. How busy the GPU
was is given where the extra `gpu` is installed.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import machine, percentiles_ms, serving
from inferential import Connection

MODELS = Path(__file__).parent / "overhead" / "models"
IMAGE, STATE = (224, 224, 3), 14
ROBOTS = 16
TINY = {"width": 64, "layers": 2, "max_batch_size": ROBOTS}
_WARM_UP_S = 1.0


def models(place: str, args: dict[str, Any], python: str | None) -> dict[str, Any]:
    """The policy, in a thread or in a process."""
    from inferential import ModelProcess, ModelThread

    if place == "process":
        return {"policy": ModelProcess("chunk_policy:ChunkPolicy", args=args, python=python, env=_env())}
    sys.path.append(str(MODELS))
    import chunk_policy

    return {"policy": ModelThread(chunk_policy.ChunkPolicy(**args))}


def measure(place: str, args: dict[str, Any], python: str | None, robots: int, seconds: float) -> dict[str, Any]:
    """Round trips of robots that ask one after another, each in a thread, and how busy the GPU was."""
    from inferential.dispatch.gpus import Gpus

    gpus, busy = Gpus(), []
    with serving(functools.partial(models, place, args, python), ready_s=300.0) as address:
        taken: list[list[float]] = [[] for _ in range(robots)]
        began = time.perf_counter() + _WARM_UP_S
        until = began + seconds
        asking = [threading.Thread(target=_ask, args=(address, n, began, until, taken[n])) for n in range(robots)]
        for thread in asking:
            thread.start()
        while time.perf_counter() < until:
            time.sleep(0.5)
            gpus.read()
            busy += [gpu.utilisation_percent for gpu in gpus.latest()[:1] if gpu.utilisation_percent is not None]
        for thread in asking:
            thread.join()
    found = [each for one in taken for each in one]
    return {
        **percentiles_ms(found),
        "per_second": round(len(found) / seconds, 1),
        "gpu_percent": round(float(np.median(busy)), 1) if busy else None,
    }


def _ask(address: str, number: int, began: float, until: float, taken: list[float]) -> None:
    chance = np.random.default_rng(number)
    image = chance.integers(0, 255, IMAGE, np.uint8)
    state = chance.normal(size=STATE).astype(np.float32)
    with Connection(address, f"robot-{number}") as connection:
        model = connection.model("policy", queue="all")
        while (now := time.perf_counter()) < until:
            if model.infer(30_000, image=image, state=state) is None:
                raise TimeoutError("no answer within 30 s")
            if now >= began:
                taken.append(time.perf_counter() - now)


def _env() -> dict[str, str]:
    """The policy's folder alone: what is installed here is of no use to another interpreter, or harms it."""
    return {"PYTHONPATH": str(MODELS)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a small net, and 3 s each")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each measurement (default %(default)s)")
    parser.add_argument("--robots", type=int, default=ROBOTS, help="default %(default)s")
    parser.add_argument("--python", help="interpreter of an environment with torch; the thread is left out")
    args = parser.parse_args()
    places = ["process"] if args.python else ["thread", "process"]
    if args.python is None and importlib.util.find_spec("torch") is None:
        parser.error("torch is not installed here; --python names the interpreter of an environment that has it")
    net = TINY if args.tiny else {}
    seconds = 3.0 if args.tiny else args.seconds
    result = {place: measure(place, net, args.python, args.robots, seconds) for place in places}
    print(json.dumps({"machine": machine(), "robots": args.robots, "net": net, **result}, indent=2))


if __name__ == "__main__":
    main()
