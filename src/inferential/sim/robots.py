"""Simulates robots: physics, what they sense, and when they have failed.

They know no server and no clock: `driver` says how much time has passed and which action holds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, ClassVar

import mujoco
import numpy as np
import numpy.typing as npt

from inferential.sim import camera

DOWN_S = 1.0
"""How long a robot that has failed lies there before it is set up again."""

Observation = dict[str, npt.NDArray[Any]]


class Robot(ABC):
    """One simulated robot. It holds its last action until it is given another.

    Attributes:
        kind: for people to read.
        model_id: the policy that drives it.
        control_rate_hz: how often it observes.
        deadline_ms: how old the observation behind its action may be; the latency budget that it tells.
        physics_step_s: the time that `step` goes on.
    """

    kind: ClassVar[str]
    model_id: ClassVar[str]
    control_rate_hz: ClassVar[float]
    deadline_ms: ClassVar[float]
    physics_step_s: ClassVar[float] = 0.005
    xml: ClassVar[str]

    def __init__(self, seed: int) -> None:
        self.chance: np.random.Generator = np.random.default_rng(seed)
        self.physics: Any = mujoco.MjModel.from_xml_string(self.xml_file().read_text())
        self.data: Any = mujoco.MjData(self.physics)
        self.falls: int = 0
        self.time_s: float = 0.0
        self.up_s: float = 0.0
        self._down_until_s = -1.0
        self.reset()

    @classmethod
    def xml_file(cls) -> Traversable:
        """Returns where its physics are described, in MuJoCo's MJCF."""
        return files("inferential.sim").joinpath(cls.xml)

    @property
    def up(self) -> bool:
        """Returns whether it does its job just now."""
        return self.time_s >= self._down_until_s

    def reset(self) -> None:
        """Sets it up anew, near its balance."""
        mujoco.mj_resetData(self.physics, self.data)
        self._set_up()
        mujoco.mj_forward(self.physics, self.data)

    def act(self, action: npt.NDArray[Any]) -> None:
        """Applies an action from now on."""
        self.data.ctrl[:] = np.clip(
            action, self.physics.actuator_ctrlrange[:, 0], self.physics.actuator_ctrlrange[:, 1]
        )

    def step(self) -> None:
        """Advances by one physics step, of `physics_step_s`."""
        was_up = self.up
        self.time_s += self.physics_step_s
        if not was_up:
            if self.up:
                self.reset()
            return
        self._disturb()
        mujoco.mj_step(self.physics, self.data)
        self.up_s += self.physics_step_s
        if self.has_failed():
            self.falls += 1
            self._down_until_s = self.time_s + DOWN_S

    @abstractmethod
    def observe(self) -> Observation:
        """Returns what it senses now, arrays by key."""

    @abstractmethod
    def _set_up(self) -> None: ...

    @abstractmethod
    def _disturb(self) -> None: ...

    @abstractmethod
    def has_failed(self) -> bool:
        """Returns whether the robot has fallen, or lost what it holds; it is set up again then."""


class CartPole(Robot):
    """An inverted pendulum on a cart: observes `state` (4,), acts with a force (1,) in N; 50 Hz.

    `state` is [cart position in m, pole angle in rad, cart velocity, pole velocity]. It has failed beyond 0.6 rad.
    """

    kind: ClassVar[str] = "cartpole"
    model_id: ClassVar[str] = "balance"
    xml: ClassVar[str] = "cartpole.xml"
    control_rate_hz: ClassVar[float] = 50.0
    deadline_ms: ClassVar[float] = 100.0

    def observe(self) -> Observation:
        return {"state": np.concatenate([self.data.qpos, self.data.qvel]).astype(np.float32)}

    def _set_up(self) -> None:
        self.data.qpos[:] = self.chance.normal(0, [0.05, 0.03])

    def _disturb(self) -> None:
        # A push of the pole about once a second.
        if self.chance.random() < self.physics_step_s:
            self.data.qvel[1] += self.chance.normal(0, 0.25)

    def has_failed(self) -> bool:
        return bool(abs(self.data.qpos[1]) > 0.6 or abs(self.data.qpos[0]) > 2.35)


class BallPlate(Robot):
    """A ball on a tilting plate: observes `camera` (2, 48, 48) uint8 and `tilt` (2,), acts with tilts (2,) rad; 30 Hz.

    `camera` is the image of the observation before and that of now, in the plate's frame. It has failed when the ball
    has left the plate.
    """

    kind: ClassVar[str] = "ballplate"
    model_id: ClassVar[str] = "ball"
    xml: ClassVar[str] = "ballplate.xml"
    control_rate_hz: ClassVar[float] = 30.0
    deadline_ms: ClassVar[float] = 150.0
    _image: npt.NDArray[np.uint8] | None = None

    def observe(self) -> Observation:
        image = camera.draw(self.ball_position(), self.chance)
        before = image if self._image is None else self._image
        self._image = image
        return {"camera": np.stack([before, image]), "tilt": self.data.qpos[:2].astype(np.float32)}

    def ball_position(self) -> npt.NDArray[np.float64]:
        """Returns (x, y) of the ball on the plate, in metres from its middle."""
        plate = self.data.body("plate")
        offset = plate.xmat.reshape(3, 3).T @ (self.data.body("ball").xpos - plate.xpos)
        position: npt.NDArray[np.float64] = offset[:2]
        return position

    def _set_up(self) -> None:
        self._image = None
        self.data.qpos[2:4] += self.chance.normal(0, 0.03, 2)

    def _disturb(self) -> None:
        # A flick of the ball about every second.
        if self.chance.random() < self.physics_step_s:
            self.data.qvel[2:4] += self.chance.normal(0, 0.12, 2)

    def has_failed(self) -> bool:
        return bool(np.abs(self.ball_position()).max() > 0.25 or self.data.body("ball").xpos[2] < 0.4)
