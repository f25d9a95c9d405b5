"""The event pump: everything that happens on the event loop while the server listens.

Three things wake it: a message arrived (receive), a model call ended or a replica came or went (work), or a time came
that the engine or the fleet asked for (timers). Nothing polls.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

from inferential.models.manager import ModelManager
from inferential.models.unmanaged import AllReady
from inferential.observation.slots import ObservationError
from inferential.proto import Cancellation
from inferential.scheduler.engine import Engine
from inferential.scheduler.request import CLIENT_LEFT, DRAINING, InferenceRequest, Refusal, RefusalKind
from inferential.scheduler.running import Batch
from inferential.server.accounting import Accounting
from inferential.server.attention import Attention
from inferential.server.egress import Egress
from inferential.server.executor import Executor
from inferential.server.ingress import IncomingRequest, Ingress, Overtaken
from inferential.server.sweeping import sweep
from inferential.server.turns import Soon, in_turns
from inferential.transport.messages import Received, Skimmed
from inferential.transport.zmq_transport import GONE, MalformedMessage, ZmqTransport

_READ_SLICE_S = 0.001
"""How long messages are read in one turn of the loop, so that calls can end and answers leave."""
RENEW_SLICE_S = 0.004
"""How long they are read where a call begins, so that it has the newest."""
_LEAST_READ, _LONGEST_SLICE_S = 8, 0.002
"""How many messages are read all the same, where other programs have the processor meanwhile, and how long at most."""
_WORK_SLICE_S = 0.001
"""How long calls are begun in one turn of the loop where models complete inline, or as long as was read before."""
_DRAINING = Refusal(RefusalKind.REJECTED, "the server is draining", DRAINING)


class EventPump:
    """Moves requests through the stages, from one start of the server to its end; made on its event loop.

    Args:
        transport: the socket that robots connect to.
        ingress: makes requests of messages.
        accounting: accounts for requests. Its `engine` is the same engine after a flush, for what orders requests.
        engine: decides what is dispatched.
        egress: sends refusals.
        models: what the models are at; None: all of them answer.

    Attributes:
        draining: new requests are refused.
        runs: how often `work` was called.
    """

    def __init__(
        self,
        transport: ZmqTransport,
        ingress: Ingress,
        accounting: Accounting,
        engine: Engine,
        egress: Egress,
        models: ModelManager | None = None,
    ) -> None:
        self._models = models or AllReady()
        self.draining: bool = False
        self.runs: int = 0
        self._transport, self._ingress = transport, ingress
        self._accounting, self._engine, self._egress = accounting, engine, egress
        self._loop = asyncio.get_running_loop()
        self._idle = asyncio.Event()
        self._running = False
        self._reads_on = Soon(self._loop, self._read)
        self._plans = Soon(self._loop, self._plan)  # after the first steps of calls that have just been started
        self._flushes = Soon(self._loop, accounting.flush, turns=2)  # after calls just started, and their answers
        self._attention = Attention(engine)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0  # in the loop's time

    def start(self, executor: Executor) -> None:
        """Receives from now on, and runs model calls by this executor."""
        self._executor = executor
        self._running = True
        self._transport.on_inherited = self._on_inherited
        self._transport.watch(self._on_readable, self.on_closed, self._attention.waits)

    @property
    def timer_set(self) -> bool:
        """Whether a timer is set; none is while there is nothing to wait for."""
        return self._timer is not None

    async def drain(self, timeout_s: float) -> None:
        """Refuses new requests, serves the waiting ones for `timeout_s` seconds, and refuses the rest."""
        self.draining = True
        if self._engine.waiting() or self._executor:
            self._idle.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._idle.wait()
        self._accounting.engine.clear(_DRAINING.reason, _DRAINING.cause, time.monotonic())
        self._send_refusals()
        for request in self._engine.running():
            self._egress.refuse(request, _DRAINING)
        await self._executor.cancel()

    def close(self) -> None:
        """Stops all work; events that follow have no effect."""
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_readable(self) -> None:
        if not self._reads_on.due:  # else it reads on by itself; each call would add one more
            self._read()

    def _read(self) -> None:
        """Reads some messages, and begins the calls that follow from them."""
        if self._running:  # else called for what was readable just before the end
            self.work(self._executor.run_inline, self._receive_some())

    def _receive_some(self, slice_s: float = _READ_SLICE_S) -> float:
        """Reads messages for a slice of time; returns how long it took."""
        count, began = 0, time.monotonic()
        until = began + slice_s
        while (now := time.monotonic()) < until or (count < _LEAST_READ and now < began + _LONGEST_SLICE_S):
            count += 1
            try:
                received = self._transport.receive()
            except MalformedMessage as error:
                self._attention.charge(error.connection, now, error.count)
                if error.reason:
                    self._egress.count_wrong_frames(error.identity, error.reason)
                continue
            if received is None:
                break
            if count == 1:
                self._executor.expect_call()
            if self._transport.overtaken:
                self._refuse_overtaken(received)
            self.receive(received)
        else:
            self._reads_on.schedule()
        return now - began

    def _refuse_overtaken(self, newest: Received) -> None:
        """Ends the older messages that came together with one of the same connection, as far as it supersedes them."""
        older, self._transport.overtaken = self._transport.overtaken, []
        overtaken: Overtaken | None = None
        others: Sequence[Skimmed] = older
        if not self.draining and not self._egress.watched:
            overtaken, others = self._ingress.overtaken(older, newest)
        for envelope, data, start, end in others:
            self.receive((newest[0], envelope, bytearray(data[start:end]), newest[3], newest[4]))
        if overtaken is not None:
            self._egress.refuse_overtaken(overtaken, newest[4], newest[3])

    def on_closed(self, connection: int) -> None:
        """Ends the waiting requests of a connection that has ended."""
        self._attention.forget(connection)
        if not self._running:
            return
        if self._transport.is_away(connection):
            waiting = self._engine.waiting_of(connection)
            for request in waiting:
                self._egress.keep_waiting(request)
            place = self._transport.place
            if not waiting and all(place(request.connection) != connection for request in self._engine.running()):
                self._transport.owe_nothing(connection)
        self._engine.connection_gone(connection, time.monotonic())
        self._send_refusals()

    def _take_inherited(self) -> None:
        """Takes the messages of connections that have ended, whose robots have come back or will not."""
        messages, self._transport.inherited = self._transport.inherited, []
        for message in messages:
            self.receive(self._egress.note_inherited(message))

    def _on_inherited(self) -> None:
        if self._running:
            self._take_inherited()
            self.work(self._executor.run_inline)

    def receive_inprocess(self, received: Received) -> None:
        """Takes a message of a client in this process.

        Raises:
            ConnectionError: the server has stopped.
        """
        if not self._running:
            raise ConnectionError("the server does not run")
        self.receive(received)
        self.work()

    def receive(self, received: Received) -> None:
        """Takes one message; `work` must follow."""
        try:
            incoming = self._ingress.receive(*received)
        except ObservationError as error:
            self._attention.charge(received[4], received[3])
            found = self._ingress.cancellation(received[1], error)
            if isinstance(found, Cancellation):
                self._cancel(found, received[4])
            else:
                self._egress.reject_malformed(received[0], received[4], found)
            return
        request = incoming.request
        refusal = _DRAINING if self.draining else incoming.refusal or self._accounting.refusal_as_new(request)
        objection = self._transport.objection(received[4]) if received[4] > 0 else None
        if objection is not None:
            refusal = CLIENT_LEFT if objection is GONE else Refusal(RefusalKind.REJECTED, objection, "id_in_use")
        if refusal is not None:
            self._attention.charge(request.connection, request.received_at)
            self._accounting.refused_on_arrival(incoming, refusal)
            self._egress.refuse(request, refusal)
            return
        if incoming.renews:
            self._attention.look_at(incoming)
        if self._models.unready and self._models.is_unready(request):
            self._receive_early(incoming)
            return
        if self._engine.can_bypass(request) and self._accounting.defer(incoming):
            self._engine.stage(request)
            return
        if self._accounting.arrived(incoming):
            self._attention.charge(request.connection, request.received_at)
        self._engine.offer(request, request.received_at)
        if request.refusal is not None:  # the queue is full
            self._attention.charge(request.connection, request.received_at)
        if request.takes_latest and request.connection > 0 and not incoming.renews:
            self._transport.prefer_newest(request.connection)
        self._send_refusals()

    def _cancel(self, cancellation: Cancellation, connection: int) -> None:
        """Ends the requests that a robot takes back, and tells it of those of its former connections."""
        self._engine.cancel(connection, frozenset(cancellation.request_ids), time.monotonic())
        self._send_refusals()
        if cancellation.awaited_ids:
            self._take_inherited()
            self._egress.tell_rest(connection, cancellation.client.id, cancellation.awaited_ids)

    def _receive_early(self, incoming: IncomingRequest) -> None:
        """Takes a request for a model that does not answer yet, or not any more."""
        request, models = incoming.request, self._models
        if self._accounting.arrived(incoming):  # a robot that asks is there, whatever it gets
            self._attention.charge(request.connection, request.received_at)
        if (refusal := models.refusal(request)) is not None:
            self._attention.charge(request.connection, request.received_at)
            self._egress.refuse(request, refusal)
            return
        self._engine.offer(request, request.received_at)
        models.hold(request, explicit=incoming.explicit_budget_ms is not None)
        self._send_refusals()

    # Work: there may be something to dispatch

    def work(self, run: Callable[[Batch], None] | None = None, slice_s: float = 0.0) -> None:
        """Dispatches the batches that the engine gives; where requests wait, plans on once these calls have begun.

        Args:
            run: starts the calls; by default each becomes a task.
            slice_s: how long calls that complete inline may be begun at least, in seconds.
        """
        if not self._running:
            return
        self.runs += 1
        if self._models.changing:
            self._models.settle()
        engine, accounting = self._engine, self._accounting
        now = time.monotonic()
        for batch in engine.take_bypassed(now):
            (run or self._executor.submit)(batch)
            now = time.monotonic()  # an inline call may have taken a while
        waiting = engine.waiting()
        if waiting:
            self._begin_calls(run, now, max(slice_s, _WORK_SLICE_S))
        self._send_refusals()
        if self.draining and not engine.waiting() and not engine.running():
            self._idle.set()
        # Else the timer is set already, for the fleet's next sweep.
        if waiting:
            self._plans.schedule()
        elif self._timer is None or self._models.replaceable:
            self._set_timer(now)
        if accounting.pending:
            if self._executor:
                self._flushes.schedule()
            else:
                accounting.flush()  # these calls have ended already, and a turn of the loop costs more

    def _plan(self) -> None:
        """Asks the robots of the next calls for newer observations, and sets the timer."""
        if self._running:
            for request in self._engine.outdated():
                self._egress.ask_anew(request)
            self._set_timer(time.monotonic())

    def _begin_calls(self, run: Callable[[Batch], None] | None, now: float, slice_s: float) -> None:
        """Begins the calls of requests that waited."""
        executor, transport, engine = self._executor, self._transport, self._accounting.engine
        until = now + slice_s
        while batches := engine.work(now):
            inline = executor.inline_calls
            for batch in batches:
                (run or executor.submit)(batch)
                if transport.parked:
                    for request in batch.requests:
                        self._resume(request)
            if executor.inline_calls == inline:
                break  # their slots are taken until these calls end
            now = time.monotonic()
            if now >= until:
                self._reads_on.schedule()
                break

    def on_call_ended(self) -> None:
        """Reacts to the end of a call that ran as a task: its slot is free."""
        if not self._running:
            return
        self._send_refusals()
        # Without a timer the fleet was empty: the call's client may have disconnected meanwhile.
        if self.draining or self._timer is None or self._engine.waiting() or self._models.changing:
            if self._transport.renew():
                self._receive_some(RENEW_SLICE_S)
            self.work(self._run_next)

    def on_call_returned(self) -> None:
        """Begins what waits for the slot of a call whose answers are still to be written; `on_call_ended` follows."""
        if self._running and not self.draining and not self._models.changing and self._engine.waiting():
            if self._transport.renew():
                self._receive_some(RENEW_SLICE_S)
            self._begin_calls(self._run_next, time.monotonic(), _WORK_SLICE_S)

    def _run_next(self, batch: Batch) -> None:
        """Begins a call from within another: one that completes inline has the next turn of the loop."""
        # Not from a task: the first step of the call would run within that.
        if self._executor.begins_elsewhere(batch) and asyncio.current_task() is None:
            self._executor.run_inline(batch)
        elif self._executor.completes_inline(batch):
            self._loop.call_soon(self._run_inline, batch)
        else:
            self._executor.submit(batch)

    def _run_inline(self, batch: Batch) -> None:
        self._executor.run_inline(batch)
        self.work(self._executor.run_inline)

    def _send_refusals(self) -> None:
        """Sends the refusals of requests that the engine has ended."""
        ended = self._engine.ended()
        for request in ended:
            if self._models.unready:
                self._models.explain(request)
            self._egress.send_refusal(request)
            # What a newer one has superseded leaves that waiting.
            if self._transport.parked and not self._engine.waits(request.connection):
                self._resume(request)

    def _resume(self, request: InferenceRequest) -> None:
        """Has a connection read whose request waits no more; one that floods is once it was parked for its time."""
        if not request.floods and not self._attention.excess(request.connection):
            self._transport.resume(request.connection)

    # Timers: the engine or the fleet asked to be called at a time

    def _set_timer(self, now: float) -> None:
        times = (self._engine.wake_at(), self._accounting.next_sweep_at(), self._models.due_at())
        due = min((at for at in times if at is not None), default=None)
        if due is None:
            return
        at = max(due - now, 0.0) + self._loop.time()
        if self._timer is not None:
            if self._timer_at <= at:
                return  # it fires earlier, finds nothing to do, and is set again
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_at(at, self._on_timer), at

    def _on_timer(self) -> None:
        self._timer = None
        now = time.monotonic()
        self._models.expire(now)
        self._accounting.engine.expire(now)
        self._sweep(now)
        self.work()

    def _sweep(self, now: float) -> None:
        """Looks for clients that have fallen silent."""
        if (at := self._accounting.next_sweep_at()) is not None and at <= now:
            self._models.look(now)
            in_turns(sweep(self._accounting, self._egress, self._let_go, now), self._loop)

    def _let_go(self, client_ids: Sequence[str], now: float) -> None:
        """Ends the requests of clients that are gone, and all that the models know of them."""
        for client_id in client_ids:
            self._accounting.engine.client_gone(client_id, now)
        self._send_refusals()
        for client_id in client_ids:
            self._models.forget_client(client_id)
