"""Gymnasium's `Hopper-v5` as a robot of the fleet.

Its policy is in `sim.policies`; gymnasium gives the description of its body, not its loop: robots run in real time.
"""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import ClassVar

import numpy as np

from inferential.sim.robots import Observation, Robot


class Hopper(Robot):
    """A leg with a torso: observes `state` (11,) and `torque` (3,), acts with joint torques (3,) in [-1, 1]; 50 Hz.

    Body, state and the rule of failure are those of gymnasium's `Hopper-v5` (Erez, Tassa and Todorov, "Infinite horizon
    model predictive control for nonlinear periodic tasks", 2011): `state` is height of the torso in m, angles of torso,
    thigh, leg and foot in rad, and the six velocities, clipped to +-10. It has failed when it is not what gymnasium
    calls healthy: the torso below 0.7 m or tilted beyond 0.2 rad, or an angle or velocity beyond +-100. Gymnasium acts
    at 125 Hz and never pushes; here it is 50 Hz, `torque` tells what is in force, and a push comes about once a second.
    """

    kind: ClassVar[str] = "hopper"
    model_id: ClassVar[str] = "hopper"
    xml: ClassVar[str] = "envs/mujoco/assets/hopper.xml"
    control_rate_hz: ClassVar[float] = 50.0
    deadline_ms: ClassVar[float] = 100.0
    physics_step_s: ClassVar[float] = 0.002
    push_m_s: ClassVar[float] = 0.3
    """Most that a push adds to the speed, either way."""

    @classmethod
    def xml_file(cls) -> Traversable:
        return files("gymnasium").joinpath(cls.xml)

    def observe(self) -> Observation:
        state = np.concatenate([self.data.qpos[1:], np.clip(self.data.qvel, -10, 10)])
        return {"state": state.astype(np.float32), "torque": self.data.ctrl.astype(np.float32)}

    def _set_up(self) -> None:
        self.data.qpos[:] += self.chance.uniform(-5e-3, 5e-3, self.physics.nq)
        self.data.qvel[:] += self.chance.uniform(-5e-3, 5e-3, self.physics.nv)

    def _disturb(self) -> None:
        # A push of the torso about once a second.
        if self.chance.random() < self.physics_step_s:
            self.data.qvel[0] += self.chance.uniform(-self.push_m_s, self.push_m_s)

    def has_failed(self) -> bool:
        height, angle = self.data.qpos[1:3]
        state = np.concatenate([self.data.qpos[2:], self.data.qvel])
        return bool(height < 0.7 or abs(angle) > 0.2 or np.abs(state).max() > 100)
