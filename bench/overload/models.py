"""Models for loads: what they cost is known, and they do nothing else."""

from __future__ import annotations

import ctypes
import time
from typing import Any

import numpy as np

BATCH_S, SINGLE_S, LOCKED_S = 0.003, 0.005, 0.010


async def coroutine(observation: dict[str, Any]) -> Any:
    """Answers at once, on the event loop."""
    return observation["state"]


def single(observation: dict[str, Any]) -> Any:
    """Takes 5 ms in a thread."""
    time.sleep(SINGLE_S)
    return observation["state"]


def chunk(observation: dict[str, Any]) -> Any:
    """Takes 5 ms in a thread, and gives 50 actions."""
    time.sleep(SINGLE_S)
    return np.zeros((50, 6), np.float32)


def locking(observation: dict[str, Any]) -> Any:
    """Takes 10 ms in a thread, and no other thread runs meanwhile, as beside an extension that keeps Python's lock."""
    ctypes.PyDLL(None).usleep(round(LOCKED_S * 1e6))
    return observation["state"]


class Batch:
    """Takes 3 ms in a thread for up to 64 observations."""

    max_batch_size = 64
    seconds = BATCH_S

    def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
        """Answers each with its state."""
        time.sleep(self.seconds)
        return [observation["state"] for observation in observations]


class SlowBatch(Batch):
    """Takes 5 ms in a thread for up to 8 observations."""

    max_batch_size = 8
    seconds = SINGLE_S
