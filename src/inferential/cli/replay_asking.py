"""Asks a model or a server what was recorded, as it was asked then, and compares the answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from inferential import AsyncConnection, AsyncModel, InferenceError, LocalDispatcher, Server
from inferential.cli.answer_differences import Compared
from inferential.cli.errors import CliError
from inferential.config.schema import InferentialConfig
from inferential.errors import system_reason
from inferential.transport.listening import LARGEST_PORT

if TYPE_CHECKING:
    from inferential.recording.reading import Recorded
    from inferential.recording.spool import Spool

_TIMEOUT_MS = 60_000.0
_CONNECT_S = 10.0


class Asked(NamedTuple):
    """One recorded request, without what it holds.

    Attributes:
        received_ns: when it came, in ns since 1970.
        client_id, session, model_id: as recorded.
        place: in the spool.
    """

    received_ns: int
    client_id: str
    session: str
    model_id: str
    place: int

    @property
    def connection(self) -> str:
        """What all sessions of one connection have in common; those of its models begin anew one by one."""
        return self.session.rpartition("-")[0]


@dataclass(slots=True)
class Asking:
    """Asks what was recorded, and compares.

    Attributes:
        asked: in order of time.
        spool: has what they hold.
        compared: where answers go.
        advance: is called for each.
    """

    asked: Sequence[Asked]
    spool: Spool
    compared: Compared
    advance: Callable[[], None]

    async def ask_model(self, dispatcher: LocalDispatcher) -> None:
        """Asks as a gateway does, within the process: one observation after another, each session a client."""
        # Every observation is asked, however many fail before it.
        models = {"known": {"replayed": {"breaker": {"failures": None}}}}
        config = InferentialConfig.model_validate({"server": {"drain_timeout_s": 0.0}, "models": models})
        try:
            async with (
                Server("ipc://*", config=config, dispatcher=dispatcher) as running,
                AsyncExitStack() as open_ones,
            ):
                robots: dict[tuple[str, str], Any] = {}  # a session each, as policies with memory keep state of it
                for asked in self.asked:
                    one = self.spool.at(asked.place)
                    session = one.client_id, one.session
                    connection = robots.get(session)
                    if connection is None:
                        connection = robots[session] = await open_ones.enter_async_context(
                            running.connect(f"{one.client_id} {one.session}", one.client_type)
                        )
                    handle = connection.model("replayed", queue="all", late="serve")
                    if (observation := self._observation(one)) is not None:
                        await self._compare(one, connection.infer(handle, observation, _TIMEOUT_MS))
        except ValueError as error:
            raise CliError(str(error)) from error

    async def ask_server(self, address: str, speed: float, server_key: str | None, secret_key: str | None) -> None:
        """Asks as the fleet did: each robot by connections of its own, as it had, at its times.

        Args:
            address: of the server.
            speed: how many times as fast; 0: each robot asks when the answer before has come.
            server_key, secret_key: as the client takes them.
        """
        robots: dict[str, dict[str, list[Asked]]] = {}
        for one in self.asked:
            robots.setdefault(one.client_id, {}).setdefault(one.connection, []).append(one)
        if secret_key and len(robots) > 1:
            names = ", ".join(list(robots)[:5])
            raise CliError(f"--secret-key is one robot's, and the recording has {len(robots)}: {names}")
        await _check_listens(address)
        pace = _Pace(speed, time.monotonic(), self.asked[0].received_ns)

        async def drive(client_id: str) -> None:
            name = "" if secret_key else client_id  # else that of the key
            for requests in robots[client_id].values():
                await pace.wait_for(requests[0])
                async with AsyncConnection(
                    address, name, "replay", server_key=server_key, secret_key=secret_key
                ) as connection:
                    await self._drive(connection, requests, pace)

        try:
            async with asyncio.TaskGroup() as asking:
                for client_id in robots:
                    asking.create_task(drive(client_id))
        except ExceptionGroup as error:  # of each robot the same
            first = _first_of(error)
            if isinstance(first, ImportError | TypeError | ValueError):
                raise CliError(str(first)) from first
            raise first from None

    async def _drive(self, connection: AsyncConnection, requests: list[Asked], pace: _Pace) -> None:
        """Asks what one robot asked by one connection."""
        models: dict[str, _Model] = {}
        async with asyncio.TaskGroup() as answers:
            for asked in requests:
                await pace.wait_for(asked)
                one = self.spool.at(asked.place)
                model = models.setdefault(one.model_id, _Model(one.session))
                if one.session != model.session:  # of answers that are still to come a reset would leave none
                    await asyncio.gather(*model.answers)
                    await model.begin(one.session)
                if (observation := self._observation(one)) is None:
                    continue
                hints = {"urgency": one.fields["urgency"], "priority": one.fields["priority"]}
                if (steps := one.fields["steps_remaining"]) >= 0:
                    hints["steps_remaining"] = steps
                handle = model.handle(connection, one)
                comparing = answers.create_task(
                    self._compare(one, handle.infer(_TIMEOUT_MS, observation=observation, **hints))
                )
                model.answers.add(comparing)
                comparing.add_done_callback(model.answers.discard)
                if not pace.speed:
                    await comparing

    def _observation(self, one: Recorded) -> dict[str, Any] | None:
        """Returns an observation as the model saw it; None, and a failure, where that is not known."""
        try:
            return one.seen()
        except ValueError as error:
            self.compared.fail(f"the observation cannot be read: {error}")
            self.advance()
            return None

    async def _compare(self, one: Recorded, answering: Any) -> None:
        try:
            answer = await answering
        except InferenceError as error:
            self.compared.fail(f"{type(error).__name__}: {error.reason}")
        else:
            if answer is None:
                self.compared.fail("no answer in time")
            else:
                self.compared.add(one, answer)
        self.advance()


@dataclass(slots=True)
class _Model:
    """A model as one robot asks it.

    Attributes:
        session: the recorded one that it is in.
        answers: those that are still to come.
    """

    session: str
    answers: set[asyncio.Task[None]] = field(default_factory=set)
    _handle: AsyncModel | None = None
    _stated: dict[str, float] = field(default_factory=dict)

    def handle(self, connection: AsyncConnection, one: Recorded) -> AsyncModel:
        """Returns a handle that states what the robot's did; all answers are wanted, however late."""
        stated = {}
        if budget_ms := one.fields["latency_budget_ms"]:
            stated["latency_budget_ms"] = budget_ms
        if period_ms := one.fields["control_period_ms"]:
            stated["control_rate_hz"] = 1e3 / period_ms
        if self._handle is None or stated != self._stated:
            self._handle = connection.model(one.model_id, queue="all", late="serve", **stated)
            self._stated = stated
        return self._handle

    async def begin(self, session: str) -> None:
        """Begins another session, as the robot did; it holds for all handles of the model."""
        self.session = session
        if self._handle is not None:
            await self._handle.reset()


class _Pace(NamedTuple):
    """When to ask what was recorded.

    Attributes:
        speed: how many times as fast as it was; 0: at once.
        began_at: by the event loop's clock, that of `time.monotonic()`.
        first_ns: when the first request was recorded.
    """

    speed: float
    began_at: float
    first_ns: int

    async def wait_for(self, one: Asked) -> None:
        """Waits until a request is due."""
        if self.speed:
            due_at = self.began_at + (one.received_ns - self.first_ns) / 1e9 / self.speed
            await asyncio.sleep(max(due_at - time.monotonic(), 0.0))


def _first_of(group: BaseExceptionGroup[Exception]) -> Exception:
    first = group.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first


async def _check_listens(address: str) -> None:
    """Sees that something listens at an address, rather than wait a minute for each answer; of TCP alone."""
    host, colon, port = address.removeprefix("tcp://").rpartition(":")
    if "://" in host or not colon or not port.isdecimal() or int(port) > LARGEST_PORT:
        return  # what connects says what is wrong
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host.strip("[]"), int(port)), _CONNECT_S)
    except (OSError, TimeoutError) as error:
        why = f"no connection within {_CONNECT_S:g} s" if isinstance(error, TimeoutError) else system_reason(error)
        raise CliError(f"--server: nothing listens at {address}: {why}") from error
    writer.close()
