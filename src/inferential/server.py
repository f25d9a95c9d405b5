"""The server: an observation's way from the socket to its model and the answer's way back.

It decides nothing itself. Messages are judged in `reception`, clients in `tracking`, order in `scheduler`; models run
in `dispatch`. Here they are joined, on one event loop that three things wake: a message came in, a model's call
ended, or the time came that the engine or the fleet asked to be woken at.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self

from inferential.books import Books
from inferential.calls import Calls
from inferential.capacities import Capacities
from inferential.config.profiles import load_profiles
from inferential.config.schema import InferentialConfig, SchedulingConfig
from inferential.delivery import BatchCallback, Callbacks, Delivery, RequestCallback
from inferential.dispatch.base import Dispatcher
from inferential.memory import keep_what_is_freed
from inferential.metrics.callbacks import MetricCallback
from inferential.metrics.collector import MetricsCollector
from inferential.metrics.recorder import Recorder
from inferential.observation.slots import ObservationError
from inferential.reception import Reception
from inferential.scheduler import create_scheduler
from inferential.scheduler.base import Scheduler
from inferential.scheduler.engine import Batch, Engine
from inferential.scheduler.options import with_options
from inferential.scheduler.request import InferenceRequest, Refusal, RefusalKind
from inferential.scheduler.slo_lane import weight_of
from inferential.scheduler.time.fair_share import FairShares
from inferential.scheduler.time.profile import Profiles
from inferential.status import History, ServerStatus, clients_of, model_of
from inferential.tracking.fleet import Fleet
from inferential.transport.messages import Received
from inferential.transport.zmq_transport import MalformedMessage, ZmqTransport
from inferential.visits import InProcessConnection, Visits

logger = logging.getLogger("inferential")

DEFAULT_BIND = "tcp://*:5555"
_RECEIVE_AT_ONCE = 128  # messages read in one go; then answers get their turn
# A client drops what it has not read when its connection ends; this is a control period or two to read it in.
_READ_GRACE_S = 0.1
_DRAINING = Refusal(RefusalKind.REJECTED, "the server is draining", "draining")


@dataclass(frozen=True, slots=True)
class _Open:
    """What there is while the server listens."""

    loop: asyncio.AbstractEventLoop
    transport: ZmqTransport
    delivery: Delivery
    calls: Calls
    history: History


class Server:
    """Serves models to robots.

    Args:
        bind: where to listen; outranks `config.transport.bind` where it is not the default.
        models: ids of Ray Serve applications or deployments, where no dispatcher is given.
        config: everything else; the defaults where it is not given. It is copied.
        dispatcher: where the models run.

    Raises:
        TypeError: naming an argument that is of none of these types.
        ValueError: an address that none can listen on, an unknown strategy, or a file of profiles that cannot be read
            (ConfigError).
        ImportError: no dispatcher is given, and Ray is not installed.
    """

    def __init__(
        self,
        bind: str = DEFAULT_BIND,
        models: Sequence[str] | None = None,
        config: InferentialConfig | None = None,
        dispatcher: Dispatcher | None = None,
    ) -> None:
        _check_types(models, config, dispatcher)
        self._config = InferentialConfig() if config is None else config.model_copy(deep=True)
        if bind != DEFAULT_BIND:
            try:
                self._config.transport.bind = bind
            except ValueError:  # whose words are pydantic's
                expected = "tcp://HOST:PORT (tcp://*:5555: every interface) or ipc://PATH"
                raise ValueError(f"bind: expected {expected}, got {bind!r}") from None
        self._configured_scheduling = self._config.scheduling.model_copy(deep=True)
        self._models = None if models is None else frozenset(models)
        if dispatcher is None:
            dispatcher = _ray_dispatcher(self._config.ray, models)
        self._dispatcher = dispatcher
        self._metrics = MetricsCollector(self._config.metrics)
        self._recorder = Recorder(self._metrics)
        self._fleet = Fleet(self._config.response_tracking)
        self._visits = Visits()
        self._reception = Reception(self._config, self._owner, self._model_ids)
        self._capacities = Capacities(self._dispatcher, self._config.models)
        scheduling = self._config.scheduling
        self._engine = Engine(scheduling, create_scheduler(scheduling), self._capacities.of, self._new_profiles())
        self._shares = FairShares(self._engine.availability)
        self._weighs_priority = scheduling.slo_aware.overload == "priority"
        self._books = Books(self._fleet, self._recorder, self._shares, self._weigh, self._greet)
        self._request_callbacks: Callbacks[InferenceRequest] = Callbacks("request")
        self._batch_callbacks: Callbacks[Batch, float] = Callbacks("batch")
        self._open: _Open | None = None
        self._stop = asyncio.Event()
        self._idle = asyncio.Event()
        self._draining = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0  # in the loop's time

    # What users see

    @property
    def metrics(self) -> MetricsCollector:
        """What happened so far."""
        return self._metrics

    @property
    def config(self) -> InferentialConfig:
        """The configuration in force; change it with `reconfigure`."""
        return self._config

    @property
    def scheduler(self) -> Scheduler:
        """The strategy in charge."""
        return self._engine.scheduler

    @property
    def address(self) -> str:
        """Where the server listens, with the real port; RuntimeError while it does not."""
        return self._on().transport.address

    def _on(self) -> _Open:
        if self._open is None:
            raise RuntimeError("the server does not run: its address is known from start() to stop()")
        return self._open

    @property
    def running(self) -> bool:
        """Whether it listens."""
        return self._open is not None

    @property
    def profiles(self) -> Profiles:
        """The models' latencies by batch size, as learned so far."""
        return self._engine.profiles

    def on_metric(self, callback: MetricCallback) -> MetricCallback:
        """Has `callback(name, value, labels)` called for every metric that is recorded; a decorator."""
        return self._metrics.on_metric(callback)

    def on_request(self, callback: RequestCallback) -> RequestCallback:
        """Has `callback(request)` called for every request that ends, one way or another; a decorator."""
        self._request_callbacks.register(callback)
        return callback

    def on_batch(self, callback: BatchCallback) -> BatchCallback:
        """Has `callback(batch, ended_at)` called for every call of a model, once it is over; a decorator."""
        self._batch_callbacks.register(callback)
        return callback

    def connect(self, client_id: str | int = "", client_type: str = "") -> InProcessConnection:
        """A client within this process, for gateways and tools: the handles of `AsyncConnection`, without a socket.

        To be used on the event loop that the server runs on.

        Raises:
            ValueError: for a client id that cannot be used.
        """
        return InProcessConnection(client_id, client_type, self._visits, self._on_visit)

    def status(self) -> ServerStatus:
        """The fleet, the models and the newest batches.

        Raises:
            RuntimeError: it does not run.
        """
        on = self._on()
        now = time.monotonic()
        self._books.keep()
        known = self._model_ids()
        model_ids = self.profiles.models() if known is None else known
        return ServerStatus(
            version=version("inferential"),
            address=on.transport.address,
            strategy=self._config.scheduling.strategy,
            uptime_s=now - on.history.started_at,
            draining=self._draining,
            waiting=self._engine.waiting(),
            in_flight=len(self._engine.running()),
            clients=clients_of(self._fleet, self._shares, now),
            models=[
                model_of(
                    model_id, self._capacities.of(model_id), self._engine, self._dispatcher.endpoint_health(model_id)
                )
                for model_id in sorted(model_ids)
            ],
            batches=on.history.batches(),
            nodes=list(self._dispatcher.nodes()),
        )

    def use_scheduler(self, strategy: str, policy: str | None = None, **options: Any) -> None:
        """Puts a strategy in charge, of the requests that wait too; before or while the server runs.

        Args:
            strategy: a registered strategy.
            policy: a registered policy that takes the place of the strategy's score.
            options: fields of the scheduling configuration or of the strategy's own section of it.

        Raises:
            ValueError: an unknown strategy, policy or option, a bad value, or a strategy that knows no policies.
        """
        self._schedule(with_options(self._config.scheduling, strategy, options), policy)

    def reconfigure(self, config: InferentialConfig) -> None:
        """Takes on a changed configuration while running; what cannot change then is left as it is.

        What `use_scheduler` has changed stays, unless the scheduling of the configuration itself has changed.

        Raises:
            ValueError: an unknown strategy; nothing is changed then.
        """
        old, self._config = self._config, config.model_copy(deep=True)
        try:
            if config.scheduling == self._configured_scheduling:
                self._config.scheduling = old.scheduling  # and with it what `use_scheduler` has changed since
            else:
                self._schedule(self._config.scheduling, None)
        except ValueError:
            self._config = old
            raise
        self._configured_scheduling = config.scheduling.model_copy(deep=True)
        self._config.transport = old.transport
        self._config.ray = old.ray
        self._config.gateways, self._config.http, self._config.otlp = old.gateways, old.http, old.otlp
        self._capacities.configure(self._config.models)
        self._reception = Reception(self._config, self._owner, self._model_ids)
        self._fleet.configure(self._config.response_tracking)
        self._metrics.configure(self._config.metrics)
        self._work()

    async def run(self) -> None:
        """Serves until `stop()`, SIGINT or SIGTERM, then drains and closes.

        Raises:
            OSError: the address cannot be bound.
        """
        with self._signals(), _few_collections():
            await self.start()
            try:
                await self._stop.wait()
            finally:
                await self.shutdown()

    def stop(self) -> None:
        """Has `run` end; may be called from any thread and from signal handlers."""
        if self._open is None:
            self._stop.set()
        else:
            self._open.loop.call_soon_threadsafe(self._stop.set)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.shutdown()

    # Life

    async def start(self) -> None:
        """Begins to listen.

        Raises:
            OSError: the address cannot be bound.
            RuntimeError: it listens already.
        """
        if self._open is not None:
            raise RuntimeError("the server runs already")
        keep_what_is_freed()
        # Of twice the size a client is told what is wrong with it; beyond that its connection ends.
        transport = ZmqTransport(self._config.transport, 2 * self._config.observations.max_payload_bytes)
        self._dispatcher.watch(self._on_replicas, self._engine.waiting)
        try:
            await self._dispatcher.start()
        except BaseException:
            await transport.close()
            raise
        delivery = Delivery(transport, self._visits, self._recorder, self._books, self._request_callbacks)
        history = History(time.monotonic())
        calls = Calls(
            self._dispatcher,
            self._engine,
            delivery,
            self._books,
            history,
            self._batch_callbacks,
            self._max_retries,
            self._on_call_ended,
        )
        self._open = _Open(asyncio.get_running_loop(), transport, delivery, calls, history)
        self._draining = False
        transport.watch(self._on_readable)
        logger.info("listening on %s, strategy %s", transport.address, self._config.scheduling.strategy)

    async def drain(self) -> None:
        """Takes no more requests, serves those it has for `drain_timeout_s`, and refuses the rest. Twice is fine."""
        on = self._open
        if on is None:
            return
        self._draining = True
        self._books.keep()
        if self._engine.waiting() or on.calls:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._config.server.drain_timeout_s):
                    await self._idle.wait()
        self._engine.clear(_DRAINING.reason, _DRAINING.cause, time.monotonic())
        self._tell_ended()
        for request in self._engine.running():
            on.delivery.refuse(request, _DRAINING)
        await on.calls.cancel()

    async def shutdown(self) -> None:
        """Drains, and closes."""
        if self._open is None:
            return
        await self.drain()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._fleet.active_count:
            await asyncio.sleep(_READ_GRACE_S)
        transport, self._open = self._open.transport, None
        await self._dispatcher.close()
        await transport.close()
        self._stop.clear()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM call `stop`, where this is the main thread and the platform can."""
        loop = asyncio.get_running_loop()
        installed = []
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, self.stop)
                installed.append(number)
        try:
            yield
        finally:
            for number in installed:
                loop.remove_signal_handler(number)

    # A message came in

    def _on_visit(self, received: Received) -> None:
        if self._open is None:
            raise ConnectionError("the server does not run")
        self._receive(received, self._open.delivery)
        self._work()

    def _on_readable(self) -> None:
        on = self._open
        if on is None:
            return  # it was asked for just before the end
        for _ in range(_RECEIVE_AT_ONCE):
            try:
                received = on.transport.receive()
            except MalformedMessage as error:
                on.delivery.malformed(error.identity)
                continue
            if received is None:
                break
            self._receive(received, on.delivery)
        else:
            on.loop.call_soon(self._on_readable)
        self._work(on.calls.make)

    def _receive(self, received: Received, delivery: Delivery) -> None:
        try:
            arrival = self._reception.receive(*received)
        except ObservationError as error:
            delivery.not_believed(received[0], error)
            return
        request = arrival.request
        refusal = _DRAINING if self._draining else arrival.refusal
        if refusal is not None:
            delivery.refuse(request, refusal)
            return
        if self._engine.can_bypass(request) and self._books.later(arrival):
            self._engine.stage(request)
            return
        self._books.arrived(arrival)
        self._engine.offer(request, request.received_at)
        self._tell_ended()

    def _greet(self, client_id: str) -> None:
        """A client is there that was not."""
        logger.info("client %s connected", client_id)
        self._engine.client_connected(client_id)
        self._recorder.active_clients(self._fleet.active_count)

    def _weigh(self, request: InferenceRequest) -> float:
        return weight_of(request) if self._weighs_priority else 1.0

    def _owner(self, client_id: str) -> bytes | None:
        """Who speaks for a client; None where nobody does any more."""
        identity = self._fleet.owner(client_id)
        return None if identity is not None and self._visits.has_left(identity) else identity

    def _model_ids(self) -> Collection[str] | None:
        return self._dispatcher.model_ids() if self._models is None else self._models

    # Work was found

    def _work(self, make: Callable[[Batch], None] | None = None) -> None:
        """Dispatches what the engine gives, and sees to it that it is asked again in time.

        Args:
            make: makes the calls that go straight; None: they have a task each.
        """
        on = self._open
        if on is None:
            return
        now = time.monotonic()
        straight = self._engine.take_bypassed(now)
        for batch in straight:
            (make or on.calls.begin)(batch)
        if straight:
            now = time.monotonic()  # models may have run meanwhile
        waiting = self._engine.waiting()
        if waiting:
            self._books.keep()  # who has to wait needs a deadline
            for batch in self._engine.work(now):
                on.calls.begin(batch)
        if self._books.behind:
            on.loop.call_soon(self._books.keep)  # after the calls that have just been made
        self._tell_ended()
        if self._draining and not self._engine.waiting() and not self._engine.running():
            self._idle.set()
        if waiting or self._timer is None:  # else it rings for the fleet's sake, in time
            self._set_timer(on.loop, now)

    def _on_call_ended(self) -> None:
        self._tell_ended()
        if self._draining or self._engine.waiting() or self._timer is None:  # its client may be gone, and the timer
            self._work()

    def _max_retries(self) -> int | None:
        return None if self._draining else self._config.scheduling.max_retries

    def _on_replicas(self) -> None:
        """Replicas came or went: those that are gone are forgotten, and there may be room for what waits."""
        self._capacities.forget()
        for model_id in self.profiles.models():
            known = set(self._dispatcher.replicas(model_id))
            for replica in self.profiles.replicas(model_id):
                if replica not in known:
                    self.profiles.forget(model_id, replica)
        self._work()

    def _tell_ended(self) -> None:
        ended = self._engine.ended()
        if self._open is not None:
            for request in ended:
                self._open.delivery.refused(request)

    def _set_timer(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        times = [at for at in (self._engine.wake_at(), self._fleet.next_sweep_at()) if at is not None]
        if not times:
            return
        at = max(min(times) - now, 0.0) + loop.time()
        if self._timer is not None:
            if self._timer_at <= at:
                return  # it rings first, finds nothing, and is set anew
            self._timer.cancel()
        self._timer, self._timer_at = loop.call_at(at, self._on_timer), at

    def _on_timer(self) -> None:
        self._timer = None
        now = time.monotonic()
        self._books.keep()
        self._engine.expire(now)
        self._sweep(now)
        self._work()

    def _sweep(self, now: float) -> None:
        at = self._fleet.next_sweep_at()
        if at is None or at > now:
            return
        changes = self._fleet.sweep(now)
        self._shares.update(self._fleet.periods())
        for client_id, model_id in changes.overdue:
            self._recorder.overdue(client_id, model_id)
        for client_id in changes.gone:
            logger.info("client %s is gone", client_id)
            self._engine.client_gone(client_id, now)
        self._tell_ended()
        if changes.gone:
            self._recorder.gone(changes.gone)
            self._recorder.active_clients(self._fleet.active_count)

    # Settings

    def _new_profiles(self) -> Profiles:
        profiles = Profiles(self._config.scheduling.slo_aware.latency_quantile)
        if self._config.models.profiles is not None:
            load_profiles(profiles, self._config.models.profiles)
        return profiles

    def _schedule(self, config: SchedulingConfig, policy: str | None) -> None:
        scheduler = create_scheduler(config)
        if policy is not None:
            if not hasattr(scheduler, "use_policy"):
                raise ValueError(f"policy: strategy {config.strategy!r} does not order by a score")
            scheduler.use_policy(policy)
        self._config.scheduling = config
        self._weighs_priority = config.slo_aware.overload == "priority"
        self.profiles.set_quantile(config.slo_aware.latency_quantile)
        self._reception = Reception(self._config, self._owner, self._model_ids)
        self._books.keep()  # a new strategy orders by deadlines, too
        self._engine.swap(config, scheduler, time.monotonic())
        self._tell_ended()
        self._work()


@contextlib.contextmanager
def _few_collections() -> Iterator[None]:
    """Python's collector looks no more at what is there already, modules and models: that takes it tens of
    milliseconds now and then, and robots wait meanwhile."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _check_types(models: object, config: object, dispatcher: object) -> None:
    if isinstance(models, str):
        raise TypeError(f"models: expected a sequence of ids, as [{models!r}], got {models!r}")
    if config is not None and not isinstance(config, InferentialConfig):
        made_by = "load_config(path) or InferentialConfig.model_validate(dict) makes one"
        raise TypeError(f"config: expected an InferentialConfig, got {type(config).__name__}; {made_by}")
    if dispatcher is not None and not isinstance(dispatcher, Dispatcher):
        kind = type(dispatcher).__name__
        raise TypeError(f"dispatcher: expected one, as LocalDispatcher({{'my-model': my_model}}), got {kind}")


def _ray_dispatcher(ray_config: Mapping[str, Any], models: Sequence[str] | None) -> Dispatcher:
    try:
        from inferential.dispatch.ray.dispatcher import RayDispatcher
    except ModuleNotFoundError as error:
        raise ImportError(
            f"dispatcher: none given, and {error.name} is not installed, which serving from Ray needs: "
            "pip install 'inferential[server]', or Server(dispatcher=LocalDispatcher({'my-model': my_model}))"
        ) from error
    return RayDispatcher(dict(ray_config), models)
