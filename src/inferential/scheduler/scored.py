"""What the strategies that order by a score share: the weights, and policies in place of the built-in score.

How the best is found is in `kinetic_heap`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from inferential.scheduler.base import get_policy, policy_names
from inferential.scheduler.kinetic_heap import KineticLane, PolicyLane, ScoredLane
from inferential.scheduler.queued import QueueScheduler
from inferential.scheduler.score import GuardedPolicy, Weights

if TYPE_CHECKING:
    from inferential.config.schema import DeadlineAwareConfig, SchedulingConfig


class ScoredScheduler(QueueScheduler[ScoredLane]):
    """Serves the highest score first, as it is when a request is taken."""

    def __init__(self, config: SchedulingConfig, options: DeadlineAwareConfig) -> None:
        super().__init__(config)
        self._weights = Weights.of(options)
        self._policy: GuardedPolicy | None = None

    def use_policy(self, name: str) -> None:
        """Orders by a registered policy from now on, the requests that wait included.

        Raises:
            ValueError: no policy has that name.
        """
        policy = get_policy(name)
        if policy is None:
            raise ValueError(f"Unknown policy '{name}'. Known: {', '.join(policy_names()) or 'none'}")
        self.may_defer = True  # a policy is to see every request
        self._policy = GuardedPolicy(name, policy, self._weights)
        now = time.monotonic()
        self._lanes = {model_id: self.new_lane() for model_id in self._lanes}
        for request in self._ages:
            self._lanes[request.pool].push(request, now)

    def new_lane(self) -> ScoredLane:
        return KineticLane(self._weights) if self._policy is None else PolicyLane(self._policy)

    def status(self) -> dict[str, Any]:
        """Returns what every strategy does, and the name of the policy; None for the built-in score."""
        return super().status() | {"policy": None if self._policy is None else self._policy.name}
