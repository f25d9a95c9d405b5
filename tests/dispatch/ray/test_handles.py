"""Calls by handle, of a Serve that does as the test says."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("ray")

import ray

from inferential.dispatch.base import ReplicaLost
from inferential.dispatch.ray.deployments import Deployment
from inferential.dispatch.ray.handles import Handle


class Serve:
    """A handle of a deployment that has one method; what its calls end in, one after the other."""

    def __init__(self, method: str, *ends: Any) -> None:
        self._has, self._ends = method, list(ends)
        self._asks = "__call__"

    def __getattr__(self, method: str) -> Serve:
        self._asks = method
        return self

    async def remote(self, *arguments: Any) -> Any:
        asked, self._asks = self._asks, "__call__"
        if isinstance(self._ends[0], ray.exceptions.RayError):  # it dies before it looks what it has
            raise self._ends.pop(0)
        if asked != self._has:
            raise AttributeError(f"method '{asked}' does not exist")
        end = self._ends.pop(0)
        if isinstance(end, Exception):
            raise end
        return end


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> Any:
    def _handle(method: str, *ends: Any) -> Handle:
        monkeypatch.setattr("ray.serve.get_deployment_handle", lambda name, app_name: Serve(method, *ends))
        return Handle(Deployment("app", "Policy", True, ("r1",), 1))

    return _handle


@pytest.mark.parametrize(("method", "end"), [("infer_batch", ["done"]), ("infer", "done"), ("__call__", "done")])
async def test_a_replica_that_dies_is_lost_and_tells_nothing_of_the_methods(handle: Any, method: str, end: Any) -> None:
    lost = ray.exceptions.RayActorError
    called = handle(method, lost(), end, lost(), end)
    for _ in range(2):
        with pytest.raises(ReplicaLost, match=r"app/Policy died: RayActorError"):
            await called.run([{}])
        assert await called.run([{}]) == ["done"]
    assert called.batches is (method == "infer_batch")


async def test_what_a_model_raises_is_its_row(handle: Any) -> None:
    error = ValueError("no such arm")
    called = handle("infer", error, "done")
    assert await called.run([{}]) == [error]
    assert await called.run([{}]) == ["done"]


async def test_a_deployment_without_any_of_the_methods_is_an_error(handle: Any) -> None:
    with pytest.raises(AttributeError, match=r"app/Policy has none of infer_batch, infer, __call__"):
        await handle("other", "never").run([{}])
