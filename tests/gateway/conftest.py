"""A server with one model and a gateway in front of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from inferential import LocalDispatcher, Server
from inferential.config import InferentialConfig
from inferential.config.gateways import ActConfig, Gr00tConfig, LeRobotConfig, OpenPiConfig
from inferential.gateway import ActGateway, Gateway, Gr00tGateway, OpenPiGateway
from inferential.gateway.lerobot import LeRobotGateway

HORIZON = 10
Open = Callable[..., AbstractAsyncContextManager[tuple[Server, Any]]]


class ChunkPolicy:
    """Returns chunks of the state, counted up; it batches, and notes the sizes of its batches."""

    max_batch_size = 8

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
        self.sizes.append(len(observations))
        return [self._one(one) for one in observations]

    def _one(self, observation: dict[str, Any]) -> Any:
        if observation.get("prompt") == "fail":
            return ValueError("no such cup")
        state = np.asarray(observation["observation/state"], np.float64)
        return {"actions": state[None, :] + np.arange(HORIZON)[:, None]}


class ArmPolicy:
    """Returns twice the state of an arm, over 4 steps; it batches."""

    max_batch_size = 8

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
        self.sizes.append(len(observations))
        return [{"action.arm": np.tile(one["state.arm"] * 2, (4, 1))} for one in observations]


class Recorder:
    """Keeps what it sees, and returns what it was given."""

    def __init__(self, result: Any = None) -> None:
        self.seen: dict[str, Any] = {}
        self._result = {"actions": np.zeros((1, 1))} if result is None else result

    def infer(self, observation: dict[str, Any]) -> Any:
        self.seen = observation
        return self._result


@asynccontextmanager
async def serving(
    gateway: Callable[[Server, Any], Gateway], settings: Any, model: Any, sections: Mapping[str, Any]
) -> AsyncIterator[tuple[Server, Any]]:
    config = InferentialConfig(server={"drain_timeout_s": 0.0}, **sections)
    dispatcher = LocalDispatcher({settings.model: model})
    async with (
        Server("tcp://127.0.0.1:0", config=config, dispatcher=dispatcher) as server,
        gateway(server, settings) as started,
    ):
        yield server, started


def serving_openpi(
    policy: Any = None, sections: Mapping[str, Any] = MappingProxyType({}), **settings: Any
) -> AbstractAsyncContextManager[tuple[Server, Any]]:
    config = OpenPiConfig(**{"model": "pi0", "port": 0, **settings})
    return serving(OpenPiGateway, config, policy or ChunkPolicy(), sections)


@pytest.fixture
def openpi() -> Open:
    """`async with openpi(policy, sections={...}, api_keys=[...]) as (server, gateway):`"""
    return serving_openpi


@pytest.fixture
def gr00t() -> Open:
    """`async with gr00t(policy, sections={...}, api_token=...) as (server, gateway):`"""

    def start(policy: Any = None, sections: Mapping[str, Any] = MappingProxyType({}), **settings: Any) -> Any:
        config = Gr00tConfig(**{"model": "gr00t", "port": 0, **settings})
        return serving(Gr00tGateway, config, policy or ArmPolicy(), sections)

    return start


class JointPolicy:
    """Returns the joints over 60 steps, counted up by a thousandth; it batches, and keeps what it sees."""

    max_batch_size = 8

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
        self.seen += observations
        steps = np.arange(60)[:, None] / 1000
        return [one["observation.state"][None, :] + steps for one in observations]


@pytest.fixture
def lerobot() -> Open:
    """`async with lerobot(policy, sections={...}, fps=...) as (server, gateway):`"""

    def start(policy: Any = None, sections: Mapping[str, Any] = MappingProxyType({}), **settings: Any) -> Any:
        # However busy the machine is, an answer that is said to come has come by then.
        config = LeRobotConfig(**{"model": "act", "port": 0, "wait_ms": 10_000.0, **settings})
        return serving(LeRobotGateway, config, policy or JointPolicy(), sections)

    return start


@pytest.fixture
def act() -> Open:
    """`async with act(policy, sections={...}, token=...) as (server, gateway):`"""

    def start(policy: Any, sections: Mapping[str, Any] = MappingProxyType({}), **settings: Any) -> Any:
        return serving(ActGateway, ActConfig(**{"model": "vla", "port": 0, **settings}), policy, sections)

    return start
