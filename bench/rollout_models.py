"""The versions that `bench rollout` serves: the demo's balancing policy, and what may be wrong with a new one."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from inferential.sim.policies import BalancePolicy


class Policy(BalancePolicy):
    """Balances poles; may crash, take long, or answer with another scale.

    Args:
        name: sent with every result.
        dies_after: rows after which the process ends; 0: never.
        fails_after: rows after which every call fails; 0: never.
        hangs_after: rows after which a call never ends; 0: never.
        slow_s: how much longer a call takes.
        scale: of the actions.
    """

    def __init__(
        self,
        name: str,
        dies_after: int = 0,
        slow_s: float = 0.0,
        scale: float = 1.0,
        fails_after: int = 0,
        hangs_after: int = 0,
    ) -> None:
        super().__init__()
        self._fails_after, self._hangs_after = fails_after, hangs_after
        self._name, self._dies_after, self._slow_s, self._scale = name, dies_after, slow_s, scale
        self._rows = 0

    def infer_batch(self, observations: Sequence[Any]) -> list[dict[str, Any]]:
        """Answers as `BalancePolicy` does."""
        self._rows += len(observations)
        if 0 < self._dies_after < self._rows:
            os._exit(3)
        if 0 < self._fails_after < self._rows:
            raise RuntimeError("it has turned bad")
        while 0 < self._hangs_after < self._rows:
            time.sleep(1.0)
        time.sleep(self._slow_s)
        return [
            {"actions": result["actions"] * self._scale, "name": self._name}
            for result in super().infer_batch(observations)
        ]


class Remembers(BalancePolicy):
    """Balances poles, and counts the steps of each robot's episode."""

    def reset(self, session: Any) -> None:
        """Begins an episode."""
        session.state = 0

    def infer_batch(self, observations: Sequence[Any], sessions: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Answers as `BalancePolicy` does."""
        results: list[dict[str, Any]] = []
        for result, session in zip(super().infer_batch(observations), sessions, strict=True):
            session.state += 1
            results.append({**result, "name": "", "steps": session.state, "pid": os.getpid()})
        return results


class Chunks:
    """Answers with chunks of which every action is its number.

    Args:
        number: which.
    """

    def __init__(self, number: float) -> None:
        self._number = number

    def infer(self, observation: Any) -> dict[str, Any]:
        """Returns 20 actions of 6 joints."""
        return {"actions": np.full((20, 6), self._number, np.float32)}
