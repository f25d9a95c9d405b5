"""What every backend does alike: one suite against models in the process, by handle, and straight into replicas."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

from inferential import AsyncConnection, LocalDispatcher, ModelFailed, Server, UnknownModel
from inferential.dispatch.base import Dispatcher
from inferential.dispatch.dispatcher import RayDispatcher
from inferential.replica import direct

serve = pytest.importorskip("ray.serve")
pytestmark = [pytest.mark.slow]
OPTIONS = {"ray_actor_options": {"num_cpus": 0.05}, "graceful_shutdown_wait_loop_s": 0.1}


class Policy:
    """Everything that a model may be asked here."""

    max_batch_size = 8

    def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
        return [self._one(observation, len(observations)) for observation in observations]

    def _one(self, observation: dict[str, Any], rows: int) -> Any:
        if observation.get("do") == "raise":
            raise ValueError("no such arm")
        if observation.get("do") == "fail alone":
            return ValueError("only mine")
        return {"actions": observation["state"] * 2, "rows": np.array(rows), "said": observation.get("do", "")}


@pytest.fixture(scope="module")
def deployed(cluster: Any) -> Iterator[None]:
    """The policy as an application that is reached by handle, and as one that is reached directly."""
    for name, cls in (("handle", Policy), ("direct", direct(Policy))):
        serve.run(serve.deployment(**OPTIONS)(cls).bind(), name=name, route_prefix=None)
    yield
    for name in ("handle", "direct"):
        serve.delete(name)


@pytest.fixture(params=["local", "handle", "direct"])
def model_id(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def server(model_id: str, request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    dispatcher: Dispatcher
    if model_id == "local":
        dispatcher = LocalDispatcher({model_id: Policy()})
    else:
        request.getfixturevalue("deployed")
        dispatcher = RayDispatcher(models=[model_id], direct=model_id == "direct")
    async with Server("tcp://127.0.0.1:*", dispatcher=dispatcher) as server:
        async with asyncio.timeout(240):
            while dispatcher.max_inflight(model_id) == 0:  # noqa: ASYNC110 (nothing tells of it)
                await asyncio.sleep(0.02)
        yield server


@pytest.fixture
async def model(model_id: str, server: Server) -> AsyncIterator[Any]:
    async with AsyncConnection(server.address, client_id="robot") as connection:
        model = connection.model(model_id, queue="all", latency_budget_ms=60_000.0)
        await model.infer(timeout_ms=60_000, state=np.ones(1))  # by now it is known that it batches
        yield model


async def test_arrays_and_strings_come_back(model: Any) -> None:
    dtypes, shapes = ("float32", "float64", "uint8", "int64", "float16"), ((), (0,), (7,), (2, 3, 4), (300, 300))
    for dtype, shape in itertools.product(dtypes, shapes):
        state = np.ones(shape, dtype)
        result = await model.infer(timeout_ms=60_000, state=state, do="nothing")
        assert result["actions"].dtype == (state * 2).dtype
        np.testing.assert_array_equal(result["actions"], state * 2)
        assert result["said"] == "nothing"


async def test_what_waits_runs_in_batches(model: Any) -> None:
    results = await asyncio.gather(*(model.infer(timeout_ms=60_000, state=np.ones(4)) for _ in range(12)))
    assert max(int(result["rows"]) for result in results) > 1
    assert all(int(result["rows"]) <= 8 for result in results)
    assert {result.timing.batch_size for result in results} == {int(result["rows"]) for result in results}


async def test_one_that_fails_fails_alone(model: Any) -> None:
    for deed, said in (("raise", "no such arm"), ("fail alone", "only mine")):
        doings = ["", deed, "", ""]
        calls = [model.infer(timeout_ms=60_000, state=np.ones(4), do=doing) for doing in doings]
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(ends[1], ModelFailed)
        assert said in str(ends[1])
        assert [dict(end)["said"] for end in (ends[0], *ends[2:])] == ["", "", ""]


async def test_a_model_that_there_is_not_is_unknown(server: Server) -> None:
    async with AsyncConnection(server.address, client_id="robot") as connection:
        with pytest.raises(UnknownModel):
            await connection.model("other").infer(timeout_ms=60_000, state=np.ones(1))
