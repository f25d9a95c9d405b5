"""Deployments of the tests; replicas import this module, and nothing of the tests themselves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from typing import Any

import numpy as np
from ray import serve

from inferential.replica import direct


def deployment(cls: type, replicas: int = 1, **resources: float) -> Any:
    return serve.deployment(
        num_replicas=replicas,
        ray_actor_options={"num_cpus": 0.05, "resources": resources},
        health_check_period_s=1,
        graceful_shutdown_wait_loop_s=0.1,
    )(cls)


@direct
class Doubles:
    """Twice the state, and who it was."""

    max_batch_size = 8

    def __init__(self, version: str = "v1") -> None:
        self.model_version = version

    def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
        time.sleep(max(float(one.get("seconds", 0.0)) for one in observations))
        version = "".join(self.model_version)
        return [{"actions": one["state"] * 2, "pid": np.array(os.getpid()), "by": version} for one in observations]


@direct(hangs_after_s=0.3)
class HangsOnce:
    """The first call of all replicas together never ends."""

    model_version = "v1"

    def __init__(self, marker: str) -> None:
        self._marker = marker

    def infer(self, observation: dict[str, Any]) -> Any:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self._marker, os.O_CREAT | os.O_EXCL))
            threading.Event().wait()
        return {"actions": observation["state"] * 2, "by": "".join(self.model_version)}


class Plain:
    """Has no endpoint."""

    def __call__(self, observation: dict[str, Any]) -> Any:
        if "fail" in observation:
            raise ValueError("no such arm")
        return observation["state"] * 3


class PlainSlow:
    """Has no endpoint, and takes its time; how many calls ran at once."""

    def __init__(self) -> None:
        self._running = 0

    async def __call__(self, observation: dict[str, Any]) -> Any:
        self._running += 1
        await asyncio.sleep(0.02)
        running, self._running = self._running, self._running - 1
        return {"by": "v1", "pid": np.array(os.getpid()), "running": np.array(running)}


class PlainBatches:
    """Has no endpoint, and can batch."""

    def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
        return [{"actions": one["state"] * 3, "rows": np.array(len(observations))} for one in observations]
