"""Models that the server runs itself: in its own process, or in processes of their own on its host.

It neither queues nor limits: how much of a model runs at once is decided before a request comes here.
"""

from __future__ import annotations

import asyncio
import contextlib
import platform
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from itertools import chain
from typing import Any

from inferential.dispatch.base import Dispatcher, ModelProblem, NodeUse, Observation, UnknownModelError, WorkerUse
from inferential.dispatch.gpus import Gpus
from inferential.dispatch.inprocess import InProcessReplica
from inferential.dispatch.loading import LoadedReplica
from inferential.dispatch.local_replica import (
    INLINE,
    PROCESS,
    THREAD,
    Place,
    Replica,
    begin,
    begins_in,
    check,
    end_calls,
    end_sessions,
    keeps_state,
    lost,
    measured,
    metadata_of,
    problem_of,
    sees_timestamps,
    taking,
    taking_most,
    uses_of,
)
from inferential.dispatch.process import ProcessRunner, description_of, infer
from inferential.observation.values import is_encoded
from inferential.replica.condition import Condition
from inferential.replica.inbox import Inbox
from inferential.replica.loading_turns import LoadingTurns
from inferential.replica.outcomes import ModelLoadError
from inferential.replica.process import Row, WorkerProcess
from inferential.replica.spec import ModelLoader, ModelProcess
from inferential.replica.warming import LAST
from inferential.scheduler.request import InferenceRequest, family_of, whole_pool

_ON_THE_WAY = ("dispatch", "outcomes", "infer_on")  # to a model


class LocalDispatcher(Dispatcher):
    """Runs models without Ray.

    A model is a callable of one observation (a dict of arrays and strings) that returns a result, or an object with
    `infer(observation)` and, if it can batch, `infer_batch(observations) -> results` and `max_batch_size`; each sync
    or async. `infer_batch` may return one map of stacked arrays in place of a list. A sync model runs in a thread and
    holds up the server for 0.2 ms at most; an async one runs on its event loop and must not block it. `ModelProcess`,
    `ModelThread` and `ModelInline` say where a model runs instead. A coroutine function `aclose` is called when the
    server ends.

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
        self._models: dict[str, list[Replica]] = {}
        self._runners: dict[str, ProcessRunner] = {}  # of models that have processes
        self._inbox: Inbox | None = None  # once there is a process
        self._turns, self._gpus = LoadingTurns(), Gpus()
        self._running = False
        self._ending: dict[asyncio.Task[None], Replica | None] = {}  # work behind, and the replica that it retires
        self._begins: dict[str, Place | None] = {}  # where calls of each model begin
        # A subclass may wait before it calls the model.
        self._is_plain = all(getattr(type(self), name) is getattr(LocalDispatcher, name) for name in _ON_THE_WAY)
        self._notify: Callable[[], None] | None = None
        self._newest: dict[str, Row] = {}  # by model, of those whose warm-up is the newest observation
        self._keeps_newest: set[str] = set()
        self._results.version_of = self._runner.version_of = self._version_of
        self._runner.sees_timestamps = lambda pool: any(map(sees_timestamps, self._of(pool)))
        for model_id, model in models.items():
            self.register_model(model_id, model)

    def register_model(self, model_id: str, model: Any) -> None:
        """Adds a model or replaces one; calls that run keep the one they began with.

        Args:
            model: a model, or a list of its replicas, as for the class.

        Raises:
            TypeError, ValueError: as for the class.
        """
        replicas = model if isinstance(model, list) else [model]
        if not replicas:
            raise TypeError(f"model {model_id!r}: expected at least one replica, got an empty list")
        replaced = self._models.get(model_id, [])
        self._models[model_id] = models = [made for one in replicas for made in self._made(model_id, one)]
        self._begins[model_id] = begins_in(self._models[model_id])
        workers = [one for one in models if isinstance(one, WorkerProcess)]
        self._runners.pop(model_id, None)
        if workers:
            self._runners[model_id] = ProcessRunner(model_id, workers, lambda requests: self.on_ending(requests))
        if self._running:
            for one in models:
                begin(one)
        self._retire(replaced)
        self._on_change()

    def check_model(self, model_id: str, model: Any) -> None:
        """As in `Dispatcher`."""
        check(model_id, model)

    def end_calls(self, model_id: str) -> None:
        """As in `Dispatcher`."""
        end_calls(self._of(model_id))

    def unregister_model(self, model_id: str) -> None:
        """Removes a model; calls that run end, and its processes with them."""
        self._runners.pop(model_id, None)
        self._begins.pop(model_id, None)
        self._retire(self._models.pop(model_id, []))
        self._on_change()

    def _retire(self, former: Sequence[Replica]) -> None:
        for one in former:
            if isinstance(one, InProcessReplica):
                one.close()
            if self._running:
                self._in_background(one.aclose() if isinstance(one, InProcessReplica) else one.retire(), one)

    def _version_of(self, model_id: str) -> str:
        models = self._of(model_id)
        return models[0].model_version if models and isinstance(models[0], InProcessReplica) else ""

    def _made(self, model_id: str, model: Any) -> list[Replica]:
        family = family_of(model_id)
        if getattr(model, "warm_up", None) == LAST:
            self._keeps_newest.add(family)
        if isinstance(model, ModelLoader):
            loaded = LoadedReplica(model_id, model, lambda: self._on_loading(model_id), self._turns)
            loaded.newest = lambda: self._newest.get(family)
            return [loaded]
        if not isinstance(model, ModelProcess):
            return [InProcessReplica(model_id, model, self._on_change)]
        with contextlib.suppress(OSError):  # the platform has none, and payloads are copied
            self._inbox = self._inbox or Inbox()
        envs = model.environments()
        names = [str(number) for number in range(len(envs))] if len(envs) > 1 else [""]
        workers = [
            WorkerProcess(model_id, name, model, env, self._on_change, self._inbox, self._turns)
            for name, env in zip(names, envs, strict=True)
        ]
        for worker in workers:
            worker.newest = lambda: self._newest.get(family)
        return list(workers)

    def _on_loading(self, model_id: str) -> None:
        if model_id in self._models:
            self._begins[model_id] = begins_in(self._models[model_id])
        self._on_change()

    def allocate(self, length: int) -> memoryview | None:
        """As in `Dispatcher`."""
        return None if self._inbox is None else self._inbox.allocate(length)

    def _in_background(self, work: Coroutine[Any, Any, None], retired: Replica | None = None) -> None:
        async def run() -> None:
            with contextlib.suppress(ModelLoadError):  # which the process has logged
                await work

        task = asyncio.get_running_loop().create_task(run())
        self._ending[task] = retired
        task.add_done_callback(self._ending.pop)

    def _workers(self) -> list[WorkerProcess]:
        return [one for models in self._models.values() for one in models if isinstance(one, WorkerProcess)]

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

        Of several replicas that are up it is the least. A model whose calls are short, in a thread, takes 8 together.
        """
        models = self._of(model_id)
        return min((models[number].max_batch_size for number in taking(models)), default=1)

    def max_inflight(self, model_id: str) -> int | None:
        """Returns what a model's processes take, 0 while none is up; None for a model in the server's process."""
        return self.max_inflight_limit(model_id)

    def max_inflight_limit(self, model_id: str) -> int | None:
        """Returns the same: more calls than a process takes would wait there, where no strategy sees them."""
        models = self._of(model_id)
        if not any(isinstance(one, WorkerProcess) for one in models):
            return None if any(one.up for one in models) else 0
        workers = [one for number in taking(models) if isinstance(one := models[number], WorkerProcess)]
        return min((one.max_inflight for one in workers), default=0)

    def lost_slots(self, model_id: str) -> int:
        """Returns how many calls over their time each replica that `replicas` names has to bear."""
        return min(map(lost, self._of(model_id)), default=0)

    def replicas(self, model_id: str) -> Sequence[str]:
        """Returns ("",) for a single replica, else "0", "1", ...: those that take the most calls now."""
        models = self._of(model_id)
        if len(models) < 2:
            return ("",)
        return list(map(str, taking_most(models)))

    def keeps_state(self, model_id: str) -> bool:
        """Returns whether a replica of the model that is up takes the robots' sessions."""
        return any(map(keeps_state, self._of(model_id)))

    def end_session(self, client_id: str) -> None:
        """As in `Dispatcher`."""
        super().end_session(client_id)
        for model_id in self._models:
            self.leave_session(model_id, client_id)

    def leave_session(self, model_id: str, client_id: str) -> None:
        """As in `Dispatcher`."""
        for work in end_sessions(self._of(model_id), client_id) if self._running else ():
            self._in_background(work)

    def _of(self, model_id: str) -> list[Replica]:
        """Returns the replicas of a model, or of `MODEL%N` its replica N alone."""
        found = self._models.get(model_id)
        if found is not None or "%" not in model_id:
            return found or []
        base, _, number = model_id.rpartition("%")
        models = self._models.get(base, [])
        return [models[int(number)]] if number.isdigit() and int(number) < len(models) else []

    def conditions(self) -> Mapping[str, Sequence[Condition]]:
        """As in `Dispatcher`."""
        return {model_id: [one.condition() for one in models] for model_id, models in self._models.items()}

    def measured(self, model_id: str) -> Sequence[tuple[int, float]]:
        """Returns what the warm-up of a replica that is up found."""
        return next(filter(None, map(measured, self._of(model_id))), ())

    def problems(self) -> Mapping[str, ModelProblem]:
        """Returns, by model id, which processes do not run, or how many slots calls over their time have taken."""
        return {one: problem for one, models in self._models.items() if (problem := problem_of(models)) is not None}

    async def model_metadata(self, model_id: str) -> Mapping[str, Any]:
        """Returns the `metadata` of the model's first replica that is up."""
        return await metadata_of(self._models.get(model_id, ()))

    def workers(self) -> list[WorkerUse]:
        """As in `Dispatcher`."""
        self._gpus.latest()
        return [use for one, models in self._models.items() for use in uses_of(one, models, self._gpus.memory_mb)]

    def nodes(self) -> list[NodeUse]:
        """Returns this machine with its GPUs, where the extra `gpu` is installed."""
        gpus = self._gpus.latest()
        return [NodeUse("", platform.node(), cpu_percent=None, memory_used_mb=None, gpus=gpus)] if gpus else []

    def process_ids(self, model_id: str) -> list[int]:
        """Returns the ids of a model's processes that take calls."""
        models = self._of(model_id)
        return [one.pid for one in models if isinstance(one, WorkerProcess) and one.up and one.pid is not None]

    async def begin(self) -> None:
        """Begins to load the models, as many at once as there are cores; one that cannot be loaded is tried again."""
        self._running = True
        for one in chain.from_iterable(self._models.values()):
            begin(one)

    async def start(self) -> None:
        """Starts the models' processes, as `begin`, and waits until all are loaded.

        Raises:
            ModelLoadError: naming the model that cannot be loaded, and why.
        """
        self._running = True
        loading: list[Awaitable[None]] = [worker.start() for worker in self._workers()]
        loading += [one.load() for one in chain.from_iterable(self._models.values()) if isinstance(one, LoadedReplica)]
        try:
            outcomes = await asyncio.gather(*loading, return_exceptions=True)
        except asyncio.CancelledError:
            await self._close_workers()
            raise
        failed = next((one for one in outcomes if isinstance(one, BaseException)), None)
        if failed is not None:
            await self._close_workers()
            raise failed

    async def _close_workers(self) -> None:
        self._running = False
        retired = [one for one in self._ending.values() if isinstance(one, WorkerProcess)]  # whose calls may never end
        await asyncio.gather(*(worker.close() for worker in [*self._workers(), *retired]))
        if self._ending:
            await asyncio.wait(self._ending)

    def outcomes(self, requests: Sequence[InferenceRequest], replica: str) -> Coroutine[Any, Any, Sequence[Any]]:
        """Returns results and exceptions of one call; a process is sent what the robots sent."""
        if self._keeps_newest:
            self._keep_newest(requests[0])
        pool = requests[0].pool
        runner = self._runners.get(pool) or (self._runners.get(pool.rpartition("%")[0]) if "%" in pool else None)
        if runner is not None:
            models = self._of(pool)
            chosen = models[int(replica or 0) % len(models)]
            if isinstance(chosen, WorkerProcess):
                self.expect_call = chosen.expect_call  # most often the next call is its own, too
                return runner.run(chosen, requests)
        return super().outcomes(requests, replica)

    def _keep_newest(self, request: InferenceRequest) -> None:
        family = family_of(request.pool)
        if family in self._keeps_newest:
            self._newest[family] = description_of(request), bytes(request.payload)

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
        models = self._of(model_id)
        if not models:
            known = ", ".join(self._models) or "none"
            raise UnknownModelError(f"No model registered for {model_id!r}; there is: {known}")
        # Fewer replicas may have been registered since the call was decided.
        chosen = models[int(replica or 0) % len(models)]
        return infer(chosen, observations) if isinstance(chosen, WorkerProcess) else chosen.run(observations)

    def completes_inline(self, requests: Sequence[InferenceRequest]) -> bool:
        """Returns whether the model never waits, and no image has to be decoded; or what `begins_elsewhere` does."""
        begins = self._begins.get(requests[0].pool)
        if begins is INLINE and self._is_plain:
            for request in requests:  # noqa: SIM110 (half the price of `any`)
                if is_encoded(request.slots):
                    return False
            return True
        at_once = begins is PROCESS or begins is THREAD
        return self._is_plain and (at_once or (requests[0].keeps_state and self.begins_elsewhere(requests)))

    def begins_elsewhere(self, requests: Sequence[InferenceRequest]) -> bool:
        """As in `Dispatcher`: True of a model in a process."""
        return self._is_plain and self._begins.get(whole_pool(requests[0])) is PROCESS

    def begins_in_thread(self, requests: Sequence[InferenceRequest]) -> bool:
        """As in `Dispatcher`."""
        return self._is_plain and self._begins.get(requests[0].pool) is THREAD

    async def close(self) -> None:
        """Ends the models' processes, and lets threads end when their calls do."""
        await super().close()
        await self._close_workers()
        for here in [one for one in chain.from_iterable(self._models.values()) if isinstance(one, InProcessReplica)]:
            here.close()
            await here.aclose()
