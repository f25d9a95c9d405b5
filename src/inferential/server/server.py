"""The server's life cycle and public interface.

An observation passes `ingress`, `accounting`, the scheduler's engine, the `executor` and `egress`, moved by the `pump`
on one event loop. `Server` connects these parts; they decide.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from inferential.config.exposure import exposure
from inferential.config.schema import InferentialConfig, ModelConfig
from inferential.config.tensors import with_declared
from inferential.dispatch.base import Dispatcher
from inferential.metrics.callbacks import MetricCallback
from inferential.scheduler.request import InferenceRequest
from inferential.scheduler.running import Batch
from inferential.server.arguments import DEFAULT_BIND, check_arguments, configured, ray_dispatcher
from inferential.server.callbacks import BatchCallback, Callbacks, RequestCallback
from inferential.server.core import Core
from inferential.server.egress import Egress
from inferential.server.executor import Executor
from inferential.server.history import History
from inferential.server.inprocess import InProcessConnection
from inferential.server.key_watch import KeyWatch
from inferential.server.process import Endable, frozen_garbage, stop_on_signals
from inferential.server.pump import EventPump
from inferential.server.view import Run, ServerView
from inferential.server.watching import RequestWatcher, each
from inferential.transport.handshakes import HandshakeGuard
from inferential.transport.memory import raise_mmap_threshold
from inferential.transport.messages import Received
from inferential.transport.zmq_transport import ZmqTransport

logger: logging.Logger = logging.getLogger("inferential")

READ_GRACE_S = 0.1
"""A client drops what it has not read when its connection ends; this is a control period or two to read it in."""
READ_REST_S = 1.0
"""How long what robots have sent by then is read, to be refused, before their connections are closed."""


class Server(ServerView):
    """Serves models to robots.

    Args:
        bind: address to listen on, as tcp://HOST:PORT (port 0: a free one) or ipc://PATH, or several as
            `transport.bind` takes them; if it is not the default it takes precedence over `config.transport.bind`.
        models: ids of the Ray Serve applications or deployments to serve, if no dispatcher is given; None: all.
        config: everything else; it is copied. None: the defaults.
        dispatcher: the backend that runs the models; None: Ray Serve.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the address is invalid, `models` is empty, the strategy is unknown, or the file of latency profiles
            cannot be read (`ConfigError`).
        ImportError: no dispatcher is given, and Ray is not installed.

    Example:
        A server with one model, and a client in the same program:

        ```python
        import asyncio
        import numpy as np
        from inferential import AsyncConnection, LocalDispatcher, Server

        def policy(observation):
            return {"actions": np.zeros((16, 7), np.float32)}

        async def main():
            dispatcher = LocalDispatcher({"policy": policy})
            async with Server("tcp://127.0.0.1:0", dispatcher=dispatcher) as server:
                async with AsyncConnection(server.address, "arm-01") as connection:
                    result = await connection.model("policy").infer(1000, state=np.zeros(7, np.float32))
                    print(result["actions"].shape, server.connected_robots)

        asyncio.run(main())
        ```
    """

    def __init__(
        self,
        bind: str | Sequence[str | Mapping[str, str]] = DEFAULT_BIND,
        models: Sequence[str] | None = None,
        config: InferentialConfig | None = None,
        dispatcher: Dispatcher | None = None,
    ) -> None:
        check_arguments(models, config, dispatcher)
        settings = configured(config, bind)
        if dispatcher is None:
            dispatcher = ray_dispatcher(settings.ray, models)
        super().__init__(Core(settings, dispatcher, None if models is None else frozenset(models)))
        self._request_callbacks: Callbacks[InferenceRequest] = Callbacks("request")
        self._watchers: list[RequestWatcher] = []
        self._batch_callbacks: Callbacks[Batch, float] = Callbacks("batch")
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None  # of `run`
        self._starting = Endable()  # the wait for models that load

    # Life cycle

    async def run(self) -> None:
        """Serves until `stop()`, SIGINT or SIGTERM, then drains and closes.

        Raises:
            OSError: the address cannot be bound.
        """
        self._loop = asyncio.get_running_loop()
        with stop_on_signals(self.stop), frozen_garbage():
            try:
                if await self._starting.run(self.start()):
                    await self._main_loop()
                else:
                    self._stop.clear()
            finally:
                await self.shutdown()
                self._loop = None

    async def start(self) -> None:
        """Listens, begins to load the models, and waits for them, for `server.ready_wait_s` at most.

        Robots that ask a model which is not ready wait, or get `ModelLoading`.

        Raises:
            OSError: the address cannot be bound.
            CertificateError: a key file of `security` cannot be used.
            ModelLoadError: none of the models can be loaded.
            RuntimeError: the server runs already.
        """
        if self._run is not None:
            raise RuntimeError("the server runs already")
        raise_mmap_threshold()
        core, config = self._core, self._core.config
        self._run = run = self._connect_parts()
        run.pump.start(run.executor)
        run.keys.start()
        for warning in exposure(config):
            logger.warning("%s", warning)
        try:
            await self._on_listening()
            await core.dispatcher.begin()
            core.resume_models()
            self._work()
            await self._wait_for_models()
        except BaseException:
            await self.shutdown()
            raise

    def _connect_parts(self) -> Run:
        """Listens, and connects the parts that live until `shutdown` with each other and with those that outlive it."""
        core, config = self._core, self._core.config
        # A client whose message is up to twice too large is sent an error; beyond that its connection is closed.
        guard = HandshakeGuard(config.security, core.recorder.handshake_failed)
        core.ingress.has_key = guard.has_key
        limit = 2 * config.observations.max_payload_bytes
        transport = ZmqTransport(config.transport, limit, guard, core.dispatcher.allocate)
        core.connected, core.ingress.ask_owner = transport.has_client, transport.ask
        egress = Egress(transport, core.inprocess, core.recorder, core.accounting, self._request_callbacks)
        pump = EventPump(transport, core.ingress, core.accounting, core.engine, egress, core.models)

        def on_replicas_changed() -> None:
            core.on_replicas_changed()
            pump.work()

        core.dispatcher.watch(on_replicas_changed, core.engine.waiting)
        core.suspend_models()
        history = History(time.monotonic())
        executor = Executor(
            core.dispatcher,
            core.engine,
            egress,
            core.accounting,
            history,
            self._batch_callbacks,
            lambda: None if pump.draining else core.config.scheduling.max_retries,
            pump.on_call_ended,
            pump.on_call_returned,
            core.models,
        )
        core.models.on_work, core.models.on_overdue = pump.work, executor.hand_over
        keys = KeyWatch(guard, transport, config.security.clients)
        core.inprocess.on_closed = pump.on_closed
        return Run(asyncio.get_running_loop(), transport, pump, executor, history, keys)

    async def _on_listening(self) -> None:
        """Says so, before the models are begun, which may take long; a subclass says it in its own way."""
        logger.info("listening on %s, strategy %s", ", ".join(self.addresses), self.config.scheduling.strategy)

    async def _wait_for_models(self) -> None:
        """Waits for the models that load, for a while: most are there within it, and robots need not ask in vain."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._core.config.server.ready_wait_s):
                self._core.models.require_one(await self._core.models.settled())

    async def model_ready(self, model_id: str) -> None:
        """Returns when a model answers; at once where it does."""
        await self._core.models.ready(model_id)

    async def _main_loop(self) -> None:
        """Waits for `stop`; the pump is driven by events."""
        await self._stop.wait()

    def stop(self) -> None:
        """Ends `run`. May be called from any thread and from signal handlers."""
        loop = self._loop if self._run is None else self._run.loop
        if loop is None:
            self._stop.set()
        else:
            loop.call_soon_threadsafe(self._on_stop)

    def _on_stop(self) -> None:
        self._stop.set()
        self._starting.end()

    async def drain(self) -> None:
        """Refuses new requests, serves the others for `server.drain_timeout_s`, and refuses the rest.

        Calling it twice, or on a server that does not run, is allowed.
        """
        if self._run is not None:
            await self._run.pump.drain(self._core.config.server.drain_timeout_s)

    async def shutdown(self) -> None:
        """Drains and closes. Calling it twice, also at the same time, is allowed."""
        run = self._run
        if run is None:
            return
        await self.drain()
        await run.transport.read_rest(READ_REST_S)
        if self._core.accounting.fleet.active_count:
            await asyncio.sleep(READ_GRACE_S)
        if self._run is not run:  # another call closes it
            await run.closed.wait()
            return
        self._run = None
        try:
            run.pump.close()
            await run.keys.stop()
            await run.transport.close()  # first: robots look for another server meanwhile
            await self._core.dispatcher.close()
            self._stop.clear()
        finally:
            run.closed.set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.shutdown()

    # Callbacks and clients in this process

    def on_metric(self, callback: MetricCallback) -> MetricCallback:
        """Registers `callback(name, value, labels)`, called for every recorded metric; a decorator.

        Raises:
            TypeError: it is a coroutine function.
        """
        return self._core.metrics.on_metric(callback)

    def on_request(self, callback: RequestCallback) -> RequestCallback:
        """Registers `callback(request)`, called for every request that has ended; a decorator.

        Raises:
            TypeError: it is a coroutine function.
        """
        self._request_callbacks.register(callback)
        return callback

    def on_batch(self, callback: BatchCallback) -> BatchCallback:
        """Registers `callback(batch, ended_at)`, called for every model call that has ended; a decorator.

        Raises:
            TypeError: it is a coroutine function.
        """
        self._batch_callbacks.register(callback)
        return callback

    def connect(self, client_id: str | int = "", client_type: str = "") -> InProcessConnection:
        """Returns a client within this process, for gateways and tools: `AsyncConnection` without a socket.

        It must be used on the event loop that the server runs on.

        Args:
            client_id: its id; a unique one by default.
            client_type: what it is, for people.

        Raises:
            ValueError: the client id is invalid.
        """
        return InProcessConnection(client_id, client_type, self._core.inprocess, self._submit_inprocess)

    def is_dispatched(self, client_id: str, request_id: int) -> bool:
        """Returns whether a model computes the answer to a request now, so that no newer one can take its place."""
        running = self._core.engine.running()
        return any(request.request_id == request_id and request.client_id == client_id for request in running)

    async def model_metadata(self, model_id: str) -> Mapping[str, Any]:
        """Returns what a model says of itself, as an openpi policy or the policy server behind it does; else {}.

        `inputs` and `outputs` are those of `models.known.<id>` where it declares them.
        """
        said = await self._core.dispatcher.model_metadata(self._core.models.pool_of(model_id))
        known = self.config.models.known.get(model_id)
        return said if known is None else with_declared(said, known.inputs, known.outputs)

    def _submit_inprocess(self, received: Received) -> None:
        if self._run is None:
            raise ConnectionError("the server does not run")
        self._run.pump.receive_inprocess(received)

    def watch(self, watcher: RequestWatcher) -> None:
        """Calls a watcher for what robots send and are answered, until `unwatch`; each may be added once.

        Raises:
            RuntimeError: the server does not run.
        """
        self._require_run()
        self._set_watchers([*self._watchers, watcher])

    def unwatch(self, watcher: RequestWatcher) -> None:
        """Calls a watcher no more; does nothing if it is not called, or the server has ended."""
        self._set_watchers([one for one in self._watchers if one is not watcher])

    def _set_watchers(self, watchers: list[RequestWatcher]) -> None:
        self._watchers = watchers
        if self._run is None:
            return
        egress = self._run.executor.egress
        self._core.accounting.on_dispatch = each([one.dispatched for one in watchers])
        self._core.accounting.on_used_late = each([one.used_late for one in watchers])
        egress.on_result = each([one.answered for one in watchers])
        egress.on_end = each([one.ended for one in watchers])

    def client_type(self, client_id: str) -> str:
        """Returns what a connected client says it is; "" for others."""
        client = self._core.accounting.fleet.client(client_id)
        return "" if client is None else client.client_type

    # Settings

    def use_scheduler(self, strategy: str, policy: str | None = None, **options: Any) -> None:
        """Changes the scheduler, before or while the server runs; waiting requests move to the new one.

        Args:
            strategy: a registered strategy.
            policy: a registered policy, which replaces the strategy's own score.
            options: fields of the scheduling configuration or of the strategy's own section of it.

        Raises:
            ValueError: an unknown strategy, policy or option, an invalid value, or a strategy without a score.
        """
        self._core.use_scheduler(strategy, policy, options)
        self._work()

    def manage_models(self, build: Callable[[str, ModelConfig], Any]) -> None:
        """Has the server load the models of its configuration, and follow it when it changes.

        Args:
            build: makes what the backend's `register_model` takes, of a model's id and its settings, of which `target`
                is set. It is called again for each version that is loaded.

        Raises:
            ValueError: the settings of a model do not fit its target.
        """
        self._core.models.build = build
        self._core.models.configure(self._core.config.models)

    def reconfigure(self, config: InferentialConfig) -> None:
        """Applies a changed configuration; fields that take a restart keep their values.

        Changes made by `use_scheduler` stay, unless `config.scheduling` differs from the last configuration's.

        Raises:
            ValueError: the strategy is unknown; nothing is changed then.
        """
        self._core.reconfigure(config)
        if self._run is not None:
            self._run.keys.reload()
        self._work()

    def _work(self) -> None:
        if self._run is not None:
            self._run.pump.work()
