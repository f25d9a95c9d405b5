"""Models that the server runs itself: in its own process, or in processes of their own on its host.

It neither queues nor limits: how much of a model runs at once is decided before a request comes here.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from inferential.dispatch.base import Dispatcher, Observation, UnknownModelError
from inferential.dispatch.inprocess import InProcessReplica
from inferential.observation.assembler import is_encoded
from inferential.scheduler.request import InferenceRequest

_ON_THE_WAY = ("dispatch", "outcomes", "infer_on")  # to a model


class LocalDispatcher(Dispatcher):
    """Runs models without Ray.

    A model is a callable of one observation (a dict of arrays and strings) that returns a result, or an object with
    `infer(observation)` and, if it can batch, `infer_batch(observations) -> results` and `max_batch_size`; each sync
    or async. A sync model runs in a thread and never blocks the server; an async one runs on the server's event loop
    and must not block it. `ModelProcess`, `ModelThread` and `ModelInline` say where a model runs instead. A coroutine
    function `aclose` is called when the server ends.

    Args:
        models: by model id; a list of models is one model in several replicas, for example one on each GPU.

    Raises:
        TypeError: naming a model that has none of these forms, or is a class.
        ValueError: naming a model whose `max_batch_size` is not a whole number above 0.

    Example:
        ```python
        import asyncio
        import numpy as np
        from inferential import AsyncConnection, LocalDispatcher, Server

        def policy(observation):
            return -0.5 * observation["state"]

        async def main():
            async with Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"reach": policy})) as server:
                async with AsyncConnection(server.address, client_id="arm-01") as connection:
                    result = await connection.model("reach").infer(timeout_ms=5000, state=np.ones(3))
                    print(result["actions"])

        asyncio.run(main())
        ```
    """

    def __init__(self, models: Mapping[str, Any]) -> None:
        super().__init__()
        if not isinstance(models, Mapping):
            raise TypeError(f"models: expected models by id, as {{'my-model': my_model}}, got {type(models).__name__}")
        self._models: dict[str, list[InProcessReplica]] = {}
        self._completes_inline: set[str] = set()  # models that always do, in each of their forms
        # A subclass may wait before it calls the model.
        self._is_plain = all(getattr(type(self), name) is getattr(LocalDispatcher, name) for name in _ON_THE_WAY)
        self._notify: Callable[[], None] | None = None
        for model_id, model in models.items():
            self.register_model(model_id, model)

    def register_model(self, model_id: str, model: Any) -> None:
        """Adds a model or replaces one; calls that run keep the one they began with."""
        replicas = model if isinstance(model, list) else [model]
        if not replicas:
            raise TypeError(f"model {model_id!r}: expected at least one replica, got an empty list")
        replaced = self._models.get(model_id, [])
        self._models[model_id] = models = [InProcessReplica(model_id, one, self._on_change) for one in replicas]
        self._completes_inline.discard(model_id)
        if all(one.completes_inline for one in models):
            self._completes_inline.add(model_id)
        for former in replaced:
            former.close()
        self._on_change()

    def _on_change(self) -> None:
        if self._notify is not None:
            self._notify()

    def watch(self, on_change: Callable[[], None], waiting: Callable[[str], int]) -> None:
        """Takes the server's callbacks."""
        self._notify = on_change

    def model_ids(self) -> list[str]:
        """Returns the ids of all models."""
        return list(self._models)

    def max_batch_size(self, model_id: str) -> int:
        """Returns the model's own `max_batch_size`; 8 where it has `infer_batch` and none; else 1.

        Of several replicas it is the least. A model whose calls are short, in a thread, takes 8: they share their
        hand-over, and run one after another.
        """
        return min((model.max_batch_size for model in self._models.get(model_id, ())), default=1)

    def lost_slots(self, model_id: str) -> int:
        """Returns how many calls over their time each replica that `replicas` names has to bear."""
        return min((model.lost for model in self._models.get(model_id, ())), default=0)

    def replicas(self, model_id: str) -> Sequence[str]:
        """Returns ("",) for a single replica, else "0", "1", ...: those with the fewest lost slots."""
        models = self._models.get(model_id, ())
        if len(models) < 2:
            return ("",)
        lost = self.lost_slots(model_id)
        return [str(number) for number, model in enumerate(models) if model.lost == lost]

    def problems(self) -> Mapping[str, str]:
        """Returns, by model id, how many slots are lost to calls over their time."""
        lost = {model_id: sum(one.lost for one in models) for model_id, models in self._models.items()}
        return {
            model_id: f"{count} calls took longer than call_timeout_ms and still run; their slots are lost"
            for model_id, count in lost.items()
            if count
        }

    async def infer(self, model_id: str, observations: Sequence[Observation]) -> Sequence[Any]:
        """Does what `infer_on` does, on the first replica."""
        return await self.infer_on("", model_id, observations)

    def infer_on(
        self, replica: str, model_id: str, observations: Sequence[Observation]
    ) -> Coroutine[Any, Any, Sequence[Any]]:
        """Runs a replica of the model: `infer_batch` where it has it, else once for each observation.

        Raises:
            UnknownModelError: "No model registered ..."; at once, not when it is awaited.
        """
        models = self._models.get(model_id)
        if models is None:
            known = ", ".join(self._models) or "none"
            raise UnknownModelError(f"No model registered for {model_id!r}; there is: {known}")
        # Fewer replicas may have been registered since the call was decided.
        return models[int(replica or 0) % len(models)].run(observations)

    def completes_inline(self, requests: Sequence[InferenceRequest]) -> bool:
        """Returns whether the model never waits, and no image has to be decoded first."""
        if not self._is_plain or requests[0].model_id not in self._completes_inline:
            return False
        for request in requests:  # noqa: SIM110 (half the price of `any`)
            if is_encoded(request.slots):
                return False
        return True

    async def close(self) -> None:
        """Lets the threads end when their calls do."""
        await super().close()
        for models in self._models.values():
            for model in models:
                model.close()
                await model.aclose()
