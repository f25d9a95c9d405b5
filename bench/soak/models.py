"""Models of a soak: fast, slow, batching, and one that does what its observation asks for."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

MOODS = ("good", "good", "slow", "raise", "exit", "nonsense", "long text")
SLOW_S = 0.2


async def quick(observation: dict[str, Any]) -> Any:
    """Answers at once, on the event loop."""
    return observation["state"]


def chunks(observation: dict[str, Any]) -> Any:
    """Takes 5 ms for half a second of actions at 20 Hz."""
    time.sleep(0.005)
    return {"actions": np.tile(observation["state"], (10, 1))}


class Batch:
    """Takes 3 ms for up to 32 observations."""

    max_batch_size = 32

    def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
        """Answers each with its state."""
        time.sleep(0.003)
        return [observation["state"] for observation in observations]


def moody(observation: dict[str, Any]) -> Any:
    """Fails, dawdles or answers as the observation's string `mood` says."""
    mood = observation.get("mood", "good")
    if mood == "slow":
        time.sleep(SLOW_S)
    elif mood == "raise":
        raise ValueError("as asked for")
    elif mood == "exit":
        raise SystemExit(3)
    elif mood == "nonsense":
        return object()
    elif mood == "long text":
        raise RuntimeError("x" * 100_000)
    return observation["state"]
