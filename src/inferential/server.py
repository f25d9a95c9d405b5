"""The server: an observation's way from the socket to its model and the answer's way back.

It decides nothing itself. Bytes are judged in `observation`, clients in `tracking`, order in `scheduler`; models run
in `dispatch`. Here they are joined, on one event loop that three things wake: a message came in, a model's call
ended, or the time came that the engine or the fleet asked to be woken at.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
import uuid
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from inferential.config.rights import ClientBook
from inferential.config.schema import InferentialConfig, SchedulingConfig
from inferential.dispatch.base import Dispatcher, DispatchResult
from inferential.metrics.callbacks import MetricCallback
from inferential.metrics.collector import MetricsCollector
from inferential.metrics.recorder import Recorder
from inferential.observation.assembler import DecodedObservation, ObservationAssembler
from inferential.observation.slots import ObservationError
from inferential.proto import PROTOCOL_VERSION, QUEUE_LATEST
from inferential.proto.messages import write_refusal
from inferential.scheduler import create_scheduler
from inferential.scheduler.admission import CLIENT_GONE
from inferential.scheduler.base import Scheduler
from inferential.scheduler.engine import Batch, Capacity, Engine
from inferential.scheduler.options import with_options
from inferential.scheduler.request import InferenceRequest, Refusal, RefusalKind, RequestState
from inferential.tracking.fleet import Fleet
from inferential.transport.messages import IncomingObservation, OutgoingResponse
from inferential.transport.zmq_transport import MalformedMessage, ZmqTransport

logger = logging.getLogger("inferential")

DEFAULT_BIND = "tcp://*:5555"
_RECEIVE_AT_ONCE = 128  # messages read in one go; then answers get their turn
# A client drops what it has not read when its connection ends; this is a control period or two to read it in.
_READ_GRACE_S = 0.1
_DRAINING = Refusal(RefusalKind.REJECTED, "the server is draining", "draining")


class Server:
    """Serves models to robots.

    Args:
        bind: where to listen; outranks `config.transport.bind` where it is not the default.
        models: ids of Ray Serve applications or deployments, where no dispatcher is given.
        config: everything else; the defaults where it is not given. It is copied.
        dispatcher: where the models run.

    Raises:
        ValueError: an unknown strategy, or no dispatcher.
    """

    def __init__(
        self,
        bind: str = DEFAULT_BIND,
        models: Sequence[str] | None = None,
        config: InferentialConfig | None = None,
        dispatcher: Dispatcher | None = None,
    ) -> None:
        if dispatcher is None:
            raise ValueError(
                "dispatcher: none given; this version serves in-process models: "
                "Server(dispatcher=LocalDispatcher({'my-model': my_model}))"
            )
        self._config = InferentialConfig() if config is None else config.model_copy(deep=True)
        if bind != DEFAULT_BIND:
            self._config.transport.bind = bind
        self._models = None if models is None else frozenset(models)
        self._dispatcher = dispatcher
        self._metrics = MetricsCollector(self._config.metrics)
        self._recorder = Recorder(self._metrics)
        self._fleet = Fleet(self._config.response_tracking)
        self._assembler = ObservationAssembler(self._config.observations)
        self._clients = ClientBook(self._config.clients)
        self._engine = Engine(self._config.scheduling, create_scheduler(self._config.scheduling), self._capacity)
        self._transport: ZmqTransport | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._idle = asyncio.Event()
        self._draining = False
        self._calls: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

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
        if self._transport is None:
            raise RuntimeError("the server does not run: its address is known from start() to stop()")
        return self._transport.address

    def on_metric(self, callback: MetricCallback) -> MetricCallback:
        """Has `callback(name, value, labels)` called for every metric that is recorded; a decorator."""
        return self._metrics.on_metric(callback)

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

        Raises:
            ValueError: an unknown strategy; nothing is changed then.
        """
        old, self._config = self._config, config.model_copy(deep=True)
        try:
            if config.scheduling != old.scheduling:
                self._schedule(self._config.scheduling, None)
        except ValueError:
            self._config = old
            raise
        self._config.transport = old.transport
        self._config.ray = old.ray
        self._clients = ClientBook(self._config.clients)
        self._assembler = ObservationAssembler(self._config.observations)
        self._fleet.configure(self._config.response_tracking)
        self._metrics.configure(self._config.metrics)
        self._work()

    async def run(self) -> None:
        """Serves until `stop()`, SIGINT or SIGTERM, then drains and closes.

        Raises:
            OSError: the address cannot be bound.
        """
        with self._signals():
            await self.start()
            try:
                await self._stop.wait()
            finally:
                await self.shutdown()

    def stop(self) -> None:
        """Has `run` end; may be called from any thread and from signal handlers."""
        if self._loop is None:
            self._stop.set()
        else:
            self._loop.call_soon_threadsafe(self._stop.set)

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
        if self._transport is not None:
            raise RuntimeError("the server runs already")
        self._loop = asyncio.get_running_loop()
        # Of twice the size a client is told what is wrong with it; beyond that its connection ends.
        transport = ZmqTransport(self._config.transport, 2 * self._config.observations.max_payload_bytes)
        try:
            await self._dispatcher.start()
        except BaseException:
            await transport.close()
            raise
        self._transport = transport
        self._draining = False
        transport.watch(self._on_readable)
        logger.info("listening on %s, strategy %s", transport.address, self._config.scheduling.strategy)

    async def shutdown(self) -> None:
        """Takes no more requests, serves those it has for `drain_timeout_s`, refuses the rest, and closes."""
        if self._transport is None:
            return
        self._draining = True
        if self._engine.waiting() or self._calls:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._config.server.drain_timeout_s):
                    await self._idle.wait()
        self._engine.clear(_DRAINING.reason, _DRAINING.cause, time.monotonic())
        self._tell_ended()
        for request in self._engine.running():
            self._refuse(request, _DRAINING)
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._fleet.active_count:
            await asyncio.sleep(_READ_GRACE_S)
        transport, self._transport = self._transport, None
        await self._dispatcher.close()
        await transport.close()
        self._stop.clear()
        self._loop = None

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

    def _on_readable(self) -> None:
        assert self._transport is not None
        assert self._loop is not None
        for _ in range(_RECEIVE_AT_ONCE):
            try:
                incoming = self._transport.receive()
            except MalformedMessage as error:
                self._recorder.observation_error(_name_of(error.identity), "frames")
                continue
            if incoming is None:
                break
            self._receive(incoming)
        else:
            self._loop.call_soon(self._on_readable)
        self._work()

    def _receive(self, incoming: IncomingObservation) -> None:
        try:
            observation = self._assembler.decode(incoming.envelope, incoming.payload, incoming.received_at)
            self._check_sender(observation, incoming.identity)
        except ObservationError as error:
            self._refuse_invalid(incoming.identity, error)
            return
        request = self._request(observation, incoming.identity)
        refusal = self._refusal_at_the_door(request)
        if refusal is not None:
            self._refuse(request, refusal)
            return
        now = incoming.received_at
        sighting = self._fleet.seen(
            request.client_id, request.model_id, observation.client_type, incoming.identity, now
        )
        if sighting.is_new:
            logger.info("client %s connected", request.client_id)
            self._engine.client_connected(request.client_id)
            self._recorder.active_clients(self._fleet.active_count)
        request.time_until_next = sighting.time_until_next_s
        self._fleet.responses.on_request(request.client_id, request.response_id, request.model_id)
        self._recorder.observed(
            request, observation.staleness_ms, sighting.learned_cadence_s, sighting.cadence_deviation_s
        )
        self._engine.offer(request, now)
        self._tell_ended()

    def _check_sender(self, observation: DecodedObservation, identity: bytes) -> None:
        """Nobody speaks for another: the connection's identity is the client's id.

        Identities that ZeroMQ made up begin with a zero byte; such a connection may use any id that is not in use.
        """
        client_id = observation.client_id
        if identity == client_id.encode():
            return
        if not identity.startswith(b"\0"):
            reason = f"client.id: {client_id!r} is not the identity of the connection it came by"
        elif self._fleet.owner(client_id) not in (None, identity):
            reason = f"client.id: {client_id!r} is in use by another connection"
        else:
            return
        raise ObservationError(
            reason,
            client_id=client_id,
            model_id=observation.model_id,
            request_id=observation.request_id,
            protocol_version=observation.protocol_version,
        )

    def _request(self, observation: DecodedObservation, identity: bytes) -> InferenceRequest:
        client_id, model_id = observation.client_id, observation.model_id
        supersede = self._config.scheduling.supersede
        return InferenceRequest(
            client_id=client_id,
            model_id=model_id,
            identity=identity,
            envelope=observation.envelope,
            payload=observation.payload,
            received_at=observation.received_at,
            urgency=observation.urgency,
            steps_remaining=observation.steps_remaining,
            time_until_next=0.0,
            latency_budget_ms=self._clients.latency_budget_ms(client_id, model_id, observation.latency_budget_ms),
            priority=self._clients.priority(client_id, model_id, observation.priority),
            request_id=observation.request_id,
            response_id=uuid.uuid4().hex,
            protocol_version=observation.protocol_version,
            takes_latest=supersede == "all" or (supersede == "aware" and observation.queue == QUEUE_LATEST),
            slots=observation.slots,
            metadata=observation.metadata,
        )

    def _refusal_at_the_door(self, request: InferenceRequest) -> Refusal | None:
        if self._draining:
            return _DRAINING
        if not self._clients.accepts(request.client_id):
            return Refusal(RefusalKind.REJECTED, f"client {request.client_id!r} is not accepted", "not_accepted")
        known = self._models if self._models is not None else self._dispatcher.model_ids()
        if known is not None and request.model_id not in known:
            reason = f"no model {request.model_id!r}; there is: {', '.join(sorted(known)) or 'none'}"
            return Refusal(RefusalKind.UNKNOWN_MODEL, reason, "unknown_model")
        return None

    # Work was found

    def _work(self) -> None:
        """Dispatches what the engine gives, and sees to it that it is asked again in time."""
        if self._loop is None or self._transport is None:
            return
        now = time.monotonic()
        for batch in self._engine.work(now):
            self._recorder.dispatched(batch.model_id, batch.requests, self._engine.waiting(batch.model_id), now)
            call = self._loop.create_task(self._run(batch))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
        self._tell_ended()
        if self._draining and not self._engine.waiting() and not self._engine.running():
            self._idle.set()
        self._set_timer(now)

    async def _run(self, batch: Batch) -> None:
        """One call of a model, from its requests to their answers."""
        try:
            results = await self._dispatcher.dispatch(batch.requests)
        except Exception as error:
            logger.exception("backend failed on model %s", batch.model_id)
            refusal = Refusal(RefusalKind.MODEL_FAILED, f"the backend failed: {error}", type(error).__name__)
            results = [DispatchResult(request, 0.0, refusal=refusal) for request in batch.requests]
        finally:
            self._engine.finished(batch)
        for result in results:
            self._settle(result)
        for request in batch.requests:
            if request.state is RequestState.DISPATCHED:
                self._refuse(request, Refusal(RefusalKind.MODEL_FAILED, "the backend gave no result", "no_result"))
        self._work()

    def _settle(self, result: DispatchResult) -> None:
        request = result.request
        if request.state is not RequestState.DISPATCHED:
            return  # refused meanwhile, by shutdown
        if result.refusal is None:
            self._answer(result)
        elif result.refusal.kind is RefusalKind.MODEL_FAILED and self._may_retry(request):
            self._recorder.retried(request)
            self._engine.retry(request, time.monotonic())
            self._tell_ended()
        else:
            self._refuse(request, result.refusal)

    def _may_retry(self, request: InferenceRequest) -> bool:
        return request.retry_count < self._config.scheduling.max_retries and not self._draining

    def _set_timer(self, now: float) -> None:
        times = [at for at in (self._engine.wake_at(), self._fleet.next_sweep_at()) if at is not None]
        if not times or self._loop is None:
            return
        at = max(min(times) - now, 0.0) + self._loop.time()
        if self._timer is not None:
            if self._timer.when() <= at:
                return  # it rings first, finds nothing, and is set anew
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now = time.monotonic()
        self._engine.expire(now)
        self._sweep(now)
        self._work()

    def _sweep(self, now: float) -> None:
        at = self._fleet.next_sweep_at()
        if at is None or at > now:
            return
        changes = self._fleet.sweep(now)
        for client_id, model_id in changes.overdue:
            self._recorder.overdue(client_id, model_id)
        for client_id in changes.gone:
            logger.info("client %s is gone", client_id)
            self._engine.client_gone(client_id, now)
        self._tell_ended()
        if changes.gone:
            self._recorder.gone(changes.gone)
            self._recorder.active_clients(self._fleet.active_count)

    # An end was reached

    def _answer(self, result: DispatchResult) -> None:
        request = result.request
        if self._post(request.identity, request.client_id, result.envelope, result.payload):
            request.move(RequestState.ANSWERED)
            self._fleet.responses.on_response_sent(
                request.client_id, result.response_id, result.latency_ms, request.model_id
            )
            self._recorder.answered(request, result.latency_ms, time.monotonic())
        else:
            request.refuse(Refusal(RefusalKind.REJECTED, "the client cannot be reached", CLIENT_GONE))
            self._invalidate(request)

    def _tell_ended(self) -> None:
        for request in self._engine.ended():
            self._tell(request)

    def _refuse(self, request: InferenceRequest, refusal: Refusal) -> None:
        request.refuse(refusal)
        self._tell(request)

    def _tell(self, request: InferenceRequest) -> None:
        """Counts a refused request, and tells its client where that one can be told."""
        assert request.refusal is not None
        self._recorder.refused(request)
        self._invalidate(request)
        if request.protocol_version >= PROTOCOL_VERSION and request.refusal.cause != CLIENT_GONE:
            envelope = write_refusal(
                client_id=request.client_id,
                model_id=request.model_id,
                request_id=request.request_id,
                status=request.refusal.kind.name,
                reason=request.refusal.reason,
            )
            self._post(request.identity, request.client_id, envelope, b"")

    def _invalidate(self, request: InferenceRequest) -> None:
        assert request.refusal is not None
        self._fleet.responses.on_invalidated(
            request.client_id, request.refusal.cause, request.response_id, request.model_id
        )
        self._recorder.invalidated(request.client_id)

    def _refuse_invalid(self, identity: bytes, error: ObservationError) -> None:
        self._recorder.observation_error(_name_of(identity), "invalid")
        logger.debug("invalid observation from %r: %s", identity, error.reason)
        if error.protocol_version >= PROTOCOL_VERSION and error.request_id:
            envelope = write_refusal(
                client_id=error.client_id,
                model_id=error.model_id,
                request_id=error.request_id,
                status=RefusalKind.INVALID_OBSERVATION.name,
                reason=error.reason,
            )
            self._post(identity, _name_of(identity), envelope, b"")

    def _post(self, identity: bytes, client_id: str, envelope: bytes, payload: Any) -> bool:
        assert self._transport is not None
        try:
            self._transport.post(OutgoingResponse(identity, envelope, payload))
        except OSError as error:
            self._recorder.send_error(client_id, error.strerror or "unknown")
            return False
        return True

    # Settings

    def _schedule(self, config: SchedulingConfig, policy: str | None) -> None:
        scheduler = create_scheduler(config)
        if policy is not None:
            if not hasattr(scheduler, "use_policy"):
                raise ValueError(f"policy: strategy {config.strategy!r} does not order by a score")
            scheduler.use_policy(policy)
        self._config.scheduling = config
        self._engine.swap(config, scheduler, time.monotonic())
        self._tell_ended()
        self._work()

    def _capacity(self, model_id: str) -> Capacity:
        models = self._config.models
        known = models.known.get(model_id)
        max_batch_size = self._dispatcher.max_batch_size(model_id)
        max_inflight = models.default_max_inflight
        if known is not None:
            if known.max_batch_size is not None and max_batch_size > 1:
                max_batch_size = known.max_batch_size
            if known.max_inflight is not None:
                max_inflight = known.max_inflight
        return Capacity(max_inflight, max_batch_size)


def _name_of(identity: bytes) -> str:
    """An identity as a metric label; all nameless and strange ones share one, so that they cannot fill the store."""
    try:
        name = identity.decode()
    except UnicodeDecodeError:
        return "?"
    return name if name.isprintable() and name else "?"
