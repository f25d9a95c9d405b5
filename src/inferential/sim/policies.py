"""Holds the policies that drive the simulated robots, batched.

They hold no state of any robot: all that they need comes with the observation.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

from inferential.policies.onnx import BatchedOnnxPolicy, open_onnx
from inferential.sim import camera
from inferential.sim.robots import BallPlate, CartPole, Observation

Array = npt.NDArray[np.float32]
FILTER = 5
"""Width of the camera policy's filter, in pixels."""
POSITION_GAIN, VELOCITY_GAIN = 1.3, 0.75
"""Of the law that tilts the plate, rad per m and per m/s: about 3 rad/s, well damped."""


class BalancePolicy:
    """Balances `CartPole` by state feedback: the linear-quadratic regulator of its physics, linearised where it stands.

    Gains are computed once, by iterating the discrete Riccati equation (Anderson and Moore, Optimal Control, 1990).
    """

    max_batch_size = 8

    def __init__(self) -> None:
        self._gain = _lqr_gain()

    def infer_batch(self, observations: Sequence[Observation]) -> list[dict[str, Array]]:
        """Answers observations with `state` (4,) -> `actions` (1,), a force in N."""
        states = np.stack([observation["state"] for observation in observations])
        return [{"actions": action} for action in (-states @ self._gain.T).astype(np.float32)]

    def infer(self, observation: Observation) -> dict[str, Array]:
        """Answers one observation, as `infer_batch`."""
        return self.infer_batch([observation])[0]


@cache
def _lqr_gain() -> npt.NDArray[np.float64]:
    import mujoco

    robot = CartPole(seed=0)
    mujoco.mj_resetData(robot.physics, robot.data)
    steps = 4  # physics steps in a control period
    a, b = np.zeros((4, 4)), np.zeros((4, 1))
    mujoco.mjd_transitionFD(robot.physics, robot.data, 1e-6, True, a, b, None, None)
    held = sum((np.linalg.matrix_power(a, n) @ b for n in range(steps)), np.zeros((4, 1)))
    a = np.linalg.matrix_power(a, steps)
    cost_state, cost_action = np.diag([1.0, 10.0, 0.5, 1.0]), np.array([[0.3]])
    value = cost_state
    for _ in range(2000):
        gain = np.linalg.solve(cost_action + held.T @ value @ held, held.T @ value @ a)
        value = cost_state + a.T @ value @ (a - held @ gain)
    return np.asarray(gain, dtype=np.float64)


class BallPolicy:
    """Finds the ball in the camera images by a small network; a linear law on position and speed tilts the plate.

    It is written in numpy; `open_ball_policy` gives the same from an ONNX file. The weights are made by
    scripts/train_ball_policy.py.
    """

    max_batch_size = 8

    def __init__(self) -> None:
        with np.load(str(files("inferential.sim").joinpath("ball_policy.npz"))) as weights:
            self.weights: dict[str, Array] = {name: weights[name] for name in weights.files}

    def infer_batch(self, observations: Sequence[Observation]) -> list[dict[str, Array]]:
        """Answers observations with `camera` (2, 48, 48) and `tilt` (2,) -> `actions` (2,), tilts in rad."""
        images = np.stack([observation["camera"] for observation in observations])
        positions = locate(images.reshape(-1, camera.PIXELS, camera.PIXELS), self.weights).reshape(-1, 2, 2)
        now = positions[:, 1]
        velocity = (now - positions[:, 0]) * BallPlate.control_rate_hz
        wanted = -(POSITION_GAIN * now + VELOCITY_GAIN * velocity)  # acceleration over 5/7 g
        # Tilting about y by +a rolls the ball to +x, about x by +a to -y.
        tilts = np.stack([wanted[:, 0], -wanted[:, 1]], axis=1)
        return [{"actions": action} for action in tilts.astype(np.float32)]

    def infer(self, observation: Observation) -> dict[str, Array]:
        """Answers one observation, as `infer_batch`."""
        return self.infer_batch([observation])[0]


def open_ball_policy() -> BatchedOnnxPolicy:
    """Returns the same policy from an ONNX file, which scripts/export_ball_policy.py makes: what the demo runs."""
    policy = open_onnx(str(files("inferential.sim").joinpath("ball_policy.onnx")), threads=1)
    assert isinstance(policy, BatchedOnnxPolicy)  # the first axis of its input varies
    return policy


class HopperPolicy:
    """Drives `Hopper` by a linear law on the observation brought to about zero mean and unit scale.

    The weights are made by scripts/train_hopper_policy.py.
    """

    max_batch_size = 8

    def __init__(self) -> None:
        with np.load(str(files("inferential.sim").joinpath("hopper_policy.npz"))) as weights:
            self._gain, self._mean, self._scale = weights["gain"], weights["mean"], weights["scale"]

    def infer_batch(self, observations: Sequence[Observation]) -> list[dict[str, Array]]:
        """Answers observations with `state` (11,) and `torque` (3,) -> `actions` (3,), torques in [-1, 1]."""
        states = np.stack([np.concatenate([seen["state"], seen["torque"]]) for seen in observations])
        actions = np.clip((states - self._mean) / self._scale @ self._gain.T, -1, 1)
        return [{"actions": action} for action in actions.astype(np.float32)]

    def infer(self, observation: Observation) -> dict[str, Array]:
        """Answers one observation, as `infer_batch`."""
        return self.infer_batch([observation])[0]


def locate(images: npt.NDArray[Any], weights: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
    """Returns ball positions (n, 2) in metres from images (n, 48, 48) uint8.

    One convolution, a softmax over all places, and the place to expect: the spatial softmax of Levine, Finn, Darrell
    and Abbeel, "End-to-end training of deep visuomotor policies" (2016).
    """
    chances, places = attention(patches(images), weights)
    found: npt.NDArray[np.float32] = (chances @ places) * weights["scale"] + weights["offset"]
    return found


def patches(images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Returns all 5 x 5 patches (n, 44 * 44, 25) of images (n, 48, 48), scaled to about one."""
    pixels = images.astype(np.float32) / np.float32(128) - np.float32(0.5)
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (FILTER, FILTER), axis=(1, 2))
    flat: npt.NDArray[np.float32] = windows.reshape(len(images), -1, FILTER * FILTER)
    return flat


def attention(
    windows: npt.NDArray[np.float32], weights: dict[str, npt.NDArray[Any]]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Returns how likely (n, places) the ball is at each of `places` (places, 2), which go from -1 to 1."""
    scores = windows @ weights["filter"]
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    side = np.linspace(-1, 1, camera.PIXELS - FILTER + 1, dtype=np.float32)
    places = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    chances: npt.NDArray[np.float32] = scores / scores.sum(axis=1, keepdims=True)
    return chances, places
