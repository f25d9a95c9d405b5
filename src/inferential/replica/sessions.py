"""Robots as a model that keeps state knows them: a `Session` for each, which its methods get with each observation.

A model keeps state if `infer` has a parameter `session`, or `infer_batch` one named `sessions`. It may have
`reset(session)`, called when an episode begins, and `close(session)`, called when the robot is gone.
"""

from __future__ import annotations

import inspect
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from inferential.replica.values import Observation

MAX_SESSIONS = 4096
"""Sessions of one replica; the one that was used longest ago ends for a new one."""


NO_ROBOT = ("", "", 0, "")
"""Whose an observation is that no robot sent, as that of a warm-up: client id and type, episode and its key."""


@dataclass(slots=True)
class Session:
    """One robot, from its first observation until it is gone.

    Attributes:
        client_id, client_type: the robot.
        episode: how often it has begun a new episode on its connection.
        started_at: when this episode began, in seconds since 1970.
        state: the model's own; None when an episode begins.
    """

    client_id: str
    client_type: str
    episode: int
    started_at: float
    state: Any = None


@dataclass(slots=True)
class SessionRow:
    """An observation of a robot on its way to a model that keeps state.

    Attributes:
        observation: what the model sees.
        client_id, client_type, episode: of its session.
        key: which episode of which connection it is.
        fresh: whether its session began with it; known once the model was called.
    """

    observation: Observation
    client_id: str
    client_type: str
    episode: int
    key: str
    fresh: bool = field(default=False, compare=False)


class SessionStore:
    """The sessions of one replica; used by one call at a time.

    Args:
        model: whose `reset` and `close` are called, where it has them.
    """

    def __init__(self, model: Any) -> None:
        self._reset: Callable[[Session], Any] | None = _taking_one(model, "reset")
        self._close: Callable[[Session], Any] | None = _taking_one(model, "close")
        self._sessions: OrderedDict[str, tuple[str, Session]] = OrderedDict()
        self._unreported: set[str] = set()  # robots whose session began with a row that has no result yet

    def __len__(self) -> int:
        return len(self._sessions)

    def enter(self, row: SessionRow) -> tuple[Session, list[Any]]:
        """Returns the session of a row, and what is to be awaited of the model's `reset` and `close`."""
        known = self._sessions.get(row.client_id)
        pending = []
        if known is not None and known[0] == row.key:
            session = known[1]
        else:
            if known is None:
                self._unreported.add(row.client_id)
            session = Session(row.client_id, row.client_type, row.episode, time.time())
            self._sessions.pop(row.client_id, None)
            if self._reset is not None:
                pending.append(self._reset(session))
            self._sessions[row.client_id] = row.key, session  # not where its reset failed: it is tried again
        self._sessions.move_to_end(row.client_id)
        row.fresh = row.client_id in self._unreported
        while len(self._sessions) > MAX_SESSIONS:
            pending.append(self.end(next(iter(self._sessions))))
        return session, [one for one in pending if inspect.isawaitable(one)]

    async def begin(self, row: SessionRow) -> Session:
        """Does what `enter` does, and awaits it."""
        session, pending = self.enter(row)
        try:
            for one in pending:
                await one
        except BaseException:
            self._sessions.pop(row.client_id, None)
            raise
        return session

    def reported(self, *rows: SessionRow) -> None:
        """Notes that rows have results, which say of a session that it is a fresh one."""
        if self._unreported:
            self._unreported.difference_update(row.client_id for row in rows)

    def abandon(self, row: SessionRow) -> None:
        """Forgets the session of a row that may run still: what its robot sends next begins another one."""
        self._sessions.pop(row.client_id, None)

    def end(self, client_id: str) -> Any:
        """Ends a robot's session; returns what `close` returned, which may be awaitable."""
        self._unreported.discard(client_id)
        known = self._sessions.pop(client_id, None)
        return None if known is None or self._close is None else self._close(known[1])


def with_sessions(single: Any, batch: Any, store: SessionStore) -> tuple[Any, Any]:
    """Returns a model's methods as functions of `SessionRow`s; one without sessions is left out beside another."""
    if single is not None and batch is not None and _has(single, "session") != _has(batch, "sessions"):
        single, batch = (single, None) if _has(single, "session") else (None, batch)
    return (
        None if single is None else _each(single, store),
        None if batch is None else _together(batch, store),
    )


def keeps_state(single: Any, batch: Any) -> bool:
    """Returns whether a method of a model takes the robots' sessions."""
    return _has(single, "session") or _has(batch, "sessions")


def _each(single: Any, store: SessionStore) -> Any:
    takes = _has(single, "session")
    if _is_async(single):

        async def run_async(row: SessionRow) -> Any:
            session = await store.begin(row)
            result = await (single(row.observation, session=session) if takes else single(row.observation))
            store.reported(row)
            return result

        return run_async

    def run(row: SessionRow) -> Any:
        session, pending = store.enter(row)
        _refuse(pending)
        result = single(row.observation, session=session) if takes else single(row.observation)
        store.reported(row)
        return result

    return run


def _together(batch: Any, store: SessionStore) -> Any:
    takes = _has(batch, "sessions")
    if _is_async(batch):

        async def run_async(rows: Sequence[SessionRow]) -> Any:
            sessions = [await store.begin(row) for row in rows]
            observations = [row.observation for row in rows]
            results = await (batch(observations, sessions=sessions) if takes else batch(observations))
            store.reported(*rows)
            return results

        return run_async

    def run(rows: Sequence[SessionRow]) -> Any:
        sessions = []
        for row in rows:
            session, pending = store.enter(row)
            _refuse(pending)
            sessions.append(session)
        observations = [row.observation for row in rows]
        results = batch(observations, sessions=sessions) if takes else batch(observations)
        store.reported(*rows)
        return results

    return run


def _refuse(pending: list[Any]) -> None:
    for one in pending:
        getattr(one, "close", lambda: None)()
        raise TypeError("reset and close are async, and infer is not: make both async, or neither")


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def _has(function: Any, name: str) -> bool:
    try:
        return function is not None and name in inspect.signature(function).parameters
    except (TypeError, ValueError):  # some built-in functions have none
        return False


def _taking_one(model: Any, name: str) -> Callable[[Session], Any] | None:
    """Returns a method that takes a session; one that takes nothing concerns no robot."""
    method = getattr(model, name, None)
    try:
        return method if callable(method) and inspect.signature(method).parameters else None
    except (TypeError, ValueError):
        return None
