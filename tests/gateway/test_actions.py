"""`models.known.<id>.actions` holds for the robots of every protocol as it does for those of the SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from tests.gateway.lerobot_robot import connected, observation
from tests.gateway.test_act import post
from tests.gateway.test_gr00t import STATE, client
from tests.gateway.test_kserve_grpc import Caller, Request
from tests.gateway.test_openpi import asked

from inferential import AsyncConnection, LocalDispatcher, ModelFailed, Server
from inferential.config import InferentialConfig
from inferential.config.gateways import (
    ActConfig,
    Gr00tConfig,
    KServeConfig,
    KServeGrpcConfig,
    LeRobotConfig,
    OpenPiConfig,
)
from inferential.dispatch.kserve import KServeModel
from inferential.dispatch.outcomes import RemoteModelError
from inferential.gateway import ActGateway, Gr00tGateway, OpenPiGateway
from inferential.gateway.kserve import KServeGateway
from inferential.gateway.kserve.rpc import KServeGrpcGateway
from inferential.gateway.lerobot import LeRobotGateway

MODEL = "policy"
VALUES = {"state": np.zeros(2, np.float32)}
LIMITS = {"shape": [2], "low": [-1.0, -2.0], "high": 3.0, "max_change": 2.0}


class Served:
    """A server, and a gateway of each protocol; `actions` is what the model returns."""

    def __init__(self, server: Server, gateways: dict[str, Any]) -> None:
        self.server = server
        self.gateways = gateways
        self.actions: Any = None

    async def ask(self, protocol: str) -> Any:
        """Returns the actions that a robot of a protocol gets, or the text of its error."""
        return await getattr(self, f"_{protocol}")(self.gateways.get(protocol))

    async def _sdk(self, _: None) -> Any:
        async with AsyncConnection(self.server.address) as connection:
            try:
                result = await connection.model(MODEL).infer(60_000, **VALUES)
            except ModelFailed as error:
                return f"ModelFailed: {error.reason}"
        assert result is not None
        return result["actions"]

    async def _openpi(self, gateway: Any) -> Any:
        answer = await asked(gateway.address)
        return answer if isinstance(answer, str) else answer["actions"]

    async def _act(self, gateway: Any) -> Any:
        status, answer = await post(gateway, {"state": [0, 1]})
        return answer if status == 200 else f"{status} {answer['error']}"

    async def _gr00t(self, gateway: Any) -> Any:
        async with client(gateway) as robot:
            answer = await robot.call(data=STATE)
        return answer.get("error", answer.get("actions"))

    async def _lerobot(self, gateway: Any) -> Any:
        async with connected(gateway.address) as robot:
            await robot.begin()
            await robot.send(observation(1.0))
            try:
                return [action.action for action in await robot.actions()]
            except grpc.aio.AioRpcError as error:
                return f"{error.code().name} {error.details()}"

    async def _kserve(self, gateway: Any) -> Any:
        model = KServeModel(f"{gateway.address.replace('http', 'kserve')}/{MODEL}")
        try:
            return next(iter((await model.infer(VALUES)).values()))
        except RemoteModelError as error:
            return str(error)
        finally:
            await model.aclose()

    async def _kserve_grpc(self, gateway: Any) -> Any:
        request = Request(model_name=MODEL, raw_input_contents=[VALUES["state"].tobytes()])
        request.inputs.add(name="state", datatype="FP32", shape=[2])
        caller = Caller(gateway)
        answer = await caller.call("ModelInfer", request)
        await caller.close()
        if isinstance(answer, tuple):
            return " ".join(answer)
        dtype = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64}[answer.outputs[0].datatype]
        return np.frombuffer(answer.raw_output_contents[0], dtype).reshape(answer.outputs[0].shape)


GATEWAYS: dict[str, tuple[Any, Any]] = {
    "openpi": (OpenPiGateway, OpenPiConfig(model=MODEL, port=0)),
    "act": (ActGateway, ActConfig(model=MODEL, port=0)),
    "gr00t": (Gr00tGateway, Gr00tConfig(model=MODEL, port=0)),
    "lerobot": (LeRobotGateway, LeRobotConfig(model=MODEL, port=0, wait_ms=10_000.0)),
    "kserve": (KServeGateway, KServeConfig(port=0)),
    "kserve_grpc": (KServeGrpcGateway, KServeGrpcConfig(port=0)),
}
PROTOCOLS = ["sdk", *GATEWAYS]


@asynccontextmanager
async def serving(**actions: Any) -> AsyncIterator[Served]:
    limits = {MODEL: {"actions": {**LIMITS, **actions}}}
    config = InferentialConfig.model_validate({"server": {"drain_timeout_s": 0.0}, "models": {"known": limits}})
    served: Served
    async with AsyncExitStack() as stack:
        dispatcher = LocalDispatcher({MODEL: lambda observation: served.actions})
        server = Server("tcp://127.0.0.1:0", config=config, dispatcher=dispatcher)
        await stack.enter_async_context(server)
        gateways = {
            name: await stack.enter_async_context(gateway(server, settings))
            for name, (gateway, settings) in GATEWAYS.items()
        }
        served = Served(server, gateways)
        yield served


BAD = [
    (np.array([[0.0, np.nan]]), "expected finite numbers, got nan at [0, 1]"),
    (np.zeros((4, 3)), "expected actions of shape (2,), got (3,)"),
    (np.zeros((0, 2)), "expected a chunk [T, action_dim], got shape (0, 2)"),
    (np.array([[0.0, -2.5]]), "expected at least low -2, got -2.5 at [0, 1]"),
    ([[9, 0]], "expected at most high 3, got 9 at [0, 0]"),
    (np.array([[0.0, 0], [0, 2.5]]), "expected a change of at most 2 a step, got 2.5 from action 0 on"),
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_bad_actions_end_as_the_error_of_the_robots_protocol(protocol: str) -> None:
    async with serving() as served:
        for served.actions, problem in BAD:
            assert str(await served.ask(protocol)).endswith(f"ModelFailed: BadActions: result 'actions': {problem}")
        served.actions = np.array([[0.0, 2], [1, 1]])
        np.testing.assert_array_equal(await served.ask(protocol), served.actions)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
async def test_bad_actions_are_clipped_for_robots_of_every_protocol(protocol: str, dtype: Any) -> None:
    async with serving(on_bad="clip") as served:
        served.actions = np.array([[0, 2], [5, 2], [0, -9]], dtype)
        np.testing.assert_array_equal(await served.ask(protocol), [[0, 2], [2, 2], [0, 0]])


@pytest.mark.parametrize("protocol", ["kserve", "kserve_grpc"])
async def test_actions_of_a_map_in_a_map_are_outputs_as_robots_of_the_sdk_have_them(protocol: str) -> None:
    async with serving() as served:
        arm = np.array([[0.0, 2], [1, 1]])
        served.actions = {"action": {"arm": arm}}
        np.testing.assert_array_equal(await served.ask(protocol), arm)
        served.actions = {"action": {"arm": arm * 9}}
        assert "'action/arm': expected at most high 3, got 18 at [0, 1]" in await served.ask(protocol)
