"""A robot that speaks LeRobot's protocol as `RobotClient` does, without lerobot and torch."""

from __future__ import annotations

import asyncio
import pickle
import sys
import types
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest

from inferential.gateway.lerobot.messages import SERVICE, Actions, Empty, Observation, PolicySetup

DATA = Path(__file__).parent / "data" / "lerobot-0.6.1"
CONFIG = (DATA / "RemotePolicyConfig.pickle").read_bytes()
OBSERVATION = (DATA / "TimedObservation.pickle").read_bytes()
JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
PIECE = 2 * 1024 * 1024


@dataclass
class RemotePolicyConfig:
    policy_type: str
    pretrained_name_or_path: str
    lerobot_features: dict[str, Any]
    actions_per_chunk: int
    device: str = "cpu"
    rename_map: dict[str, str] = field(default_factory=dict)


@dataclass
class TimedAction:
    timestamp: float
    timestep: int
    action: Any


@dataclass
class TimedObservation:
    timestamp: float
    timestep: int
    observation: dict[str, Any]
    must_go: bool = False


@contextmanager
def as_lerobot() -> Iterator[None]:
    """Lets these classes be pickled, and answers be loaded, under LeRobot's names; `torch.tensor` makes an array."""
    helpers: Any = types.ModuleType("lerobot.async_inference.helpers")
    torch: Any = types.ModuleType("torch")
    torch.tensor = lambda numbers: np.array(numbers, np.float32)
    modules = {
        "lerobot": types.ModuleType("lerobot"),
        "lerobot.async_inference": types.ModuleType("lerobot.async_inference"),
        "lerobot.async_inference.helpers": helpers,
        "torch": torch,
    }
    if np.__version__.startswith("1."):  # the recorded pickles are of numpy 2
        modules |= {
            f"numpy._{name}": sys.modules[f"numpy.{name}"] for name in ("core", "core.multiarray", "core.numeric")
        }
    classes = (RemotePolicyConfig, TimedAction, TimedObservation)
    names = {kind: kind.__module__ for kind in classes}
    former = {name: sys.modules.get(name) for name in modules}
    for kind in classes:
        setattr(helpers, kind.__name__, kind)
        kind.__module__ = "lerobot.async_inference.helpers"
    sys.modules.update(modules)
    try:
        yield
    finally:
        for kind, name in names.items():
            kind.__module__ = name
        for name, module in former.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def dumped(value: Any, protocol: int = 4) -> bytes:
    with as_lerobot():
        return pickle.dumps(value, protocol)


def config(**changes: Any) -> bytes:
    names = [f"{joint}.pos" for joint in JOINTS]
    features = {
        "observation.state": {"dtype": "float32", "shape": (6,), "names": names},
        "observation.images.front": {"dtype": "image", "shape": (48, 64, 3), "names": ["height", "width", "channels"]},
    }
    return dumped(
        RemotePolicyConfig(
            **{
                "policy_type": "act",
                "pretrained_name_or_path": "policies/act",
                "lerobot_features": features,
                "actions_per_chunk": 50,
                **changes,
            }
        )
    )


def observation(first_joint: float, timestep: int = 0, *, must_go: bool = False, **values: Any) -> bytes:
    joints = {f"{joint}.pos": first_joint + number for number, joint in enumerate(JOINTS)}
    image = np.full((48, 64, 3), int(first_joint) % 256, np.uint8)
    return dumped(
        TimedObservation(
            1000.0 + timestep / 30, timestep, {**joints, "front": image, "task": "pick", **values}, must_go
        )
    )


class Robot:
    """The four calls of the service over one connection."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        def call(kind: Callable[..., Any], name: str, request: Any, response: Any) -> Any:
            return kind(
                f"/{SERVICE}/{name}",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )

        self.ready = call(channel.unary_unary, "Ready", Empty, Empty)
        self._instruct = call(channel.unary_unary, "SendPolicyInstructions", PolicySetup, Empty)
        self.observe = call(channel.stream_unary, "SendObservations", Observation, Empty)
        self._actions = call(channel.unary_unary, "GetActions", Empty, Actions)

    async def begin(self, instructions: bytes = CONFIG) -> None:
        await self.ready(Empty())
        await self.instruct(instructions)

    async def instruct(self, instructions: bytes) -> None:
        await self._instruct(PolicySetup(data=instructions))

    async def send(self, data: bytes, piece: int = PIECE) -> None:
        parts = [data[at : at + piece] for at in range(0, len(data), piece)]
        states = [1, *[2] * (len(parts) - 2), 3] if len(parts) > 1 else [3]
        await self.stream(zip(states, parts, strict=True))

    async def stream(self, parts: Iterable[tuple[int, bytes]]) -> None:
        await self.observe(iter([Observation(transfer_state=state, data=part) for state, part in parts]))

    async def actions(self) -> list[TimedAction]:
        """What one GetActions answers, as the client loads it; [] where it is empty."""
        data = (await self._actions(Empty())).data
        with as_lerobot():
            return pickle.loads(data) if data else []

    async def some_actions(self) -> list[TimedAction]:
        """The next actions, however often it takes to ask for them."""
        while not (actions := await self.actions()):
            pass
        return actions


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Robot]:
    # A pool of its own gives each its own connection, as processes of their own do.
    async with grpc.aio.insecure_channel(address, (("grpc.use_local_subchannel_pool", 1),)) as channel:
        yield Robot(channel)


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


class Gate:
    """A model that begins each call only when it may."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        self.entered = asyncio.Event()
        self.leave = asyncio.Event()

    async def infer(self, one: dict[str, Any]) -> Any:
        self.seen.append(float(one["observation.state"][0]))
        self.entered.set()
        await self.leave.wait()
        if self.seen[-1] < 0:
            raise ValueError("no such cup")
        return np.full((50, 6), self.seen[-1])
