"""Lists the tasks of the demo: which robots make a fleet, and which policies drive them.

Nothing runs here: `sim.fleet` does that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from inferential.sim.accelerator import Policy
from inferential.sim.hopper import Hopper
from inferential.sim.policies import BalancePolicy, HopperPolicy, open_ball_policy
from inferential.sim.robots import BallPlate, CartPole, Robot


@dataclass(frozen=True, slots=True)
class Task:
    """A fleet's robots and policies.

    Attributes:
        kinds: the robots, which take turns.
        policies: by model id, what makes the policy.
    """

    kinds: tuple[type[Robot], ...]
    policies: dict[str, Callable[[], Policy]]

    def kind_of(self, number: int) -> type[Robot]:
        """Returns the kind of the robot of that number."""
        return self.kinds[number % len(self.kinds)]


TASKS: dict[str, Task] = {
    "balance": Task((CartPole, BallPlate), {CartPole.model_id: BalancePolicy, BallPlate.model_id: open_ball_policy}),
    "hopper": Task((Hopper,), {Hopper.model_id: HopperPolicy}),
}
