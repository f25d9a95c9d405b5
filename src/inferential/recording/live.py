"""Shows what robots send and are answered live in Foxglove: the topics of a recording, and the state of the fleet.

A topic costs something only while a client subscribes to it: the event loop copies its payloads then, and a thread
encodes them. Requests that wait for the thread are bounded, and dropped beyond.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import threading
from dataclasses import dataclass, field
from queue import Full, Queue
from typing import Any, ClassVar

import foxglove
from foxglove.websocket import WebSocketServer

from inferential.config.foxglove import FoxgloveConfig
from inferential.config.services import ServiceConfig
from inferential.errors import InferentialError
from inferential.metrics import names
from inferential.notices import Notices
from inferential.recording.cameras import Images
from inferential.recording.entries import Entry, cameras_of, records_of, topics_of
from inferential.recording.making import EntryMaker
from inferential.recording.schemas import descriptor_set
from inferential.scheduler.request import InferenceRequest, RefusalKind
from inferential.server import Server
from inferential.server.status_text import made, whole_status

logger: logging.Logger = logging.getLogger("inferential.recording")

_WAITING = 64  # entries, of which each may have a few pictures
FLEET_S = 0.5
"""Time between two states of the fleet, at least."""
_SHARE = 0.1  # of the event loop's time, that they may take
FORGET_EVERY = 20
"""After so many of them the topics of robots that are gone are taken back."""
LOOK_S = 5.0
"""After so long a robot's observation is looked at for topics that it had none of before."""
_FLEET_TOPIC = "/fleet"
_PICTURES = Images("jpeg", 80)  # raw ones; what comes compressed is shown as it is


@dataclass(slots=True)
class _Topics:
    """Those of a robot at a model that are offered, and when to look for others."""

    known: set[str] = field(default_factory=set)
    look_at: float = 0.0


class FoxgloveServer(EntryMaker):
    """Listens for Foxglove while it is entered; an async context manager.

    Args:
        server: a running server.
        config: where to listen.

    Attributes:
        shown: requests so far that a client subscribed to.
    """

    Config: ClassVar[type[ServiceConfig]] = FoxgloveConfig

    def __init__(self, server: Server, config: FoxgloveConfig) -> None:
        super().__init__(server, config)
        self.shown: int = 0
        self._context = foxglove.Context()
        self._channels: dict[str, foxglove.Channel] = {}
        self._topics: dict[tuple[str, str], _Topics] = {}  # of each robot at each model
        self._notices = Notices(logger)
        self._queue: Queue[Entry | None] = Queue(_WAITING)
        self._websocket: WebSocketServer | None = None
        self._thread: threading.Thread | None = None
        self._telling: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Where Foxglove connects to."""
        host = f"[{self._config.host}]" if ":" in self._config.host else self._config.host
        port = self._config.port if self._websocket is None else self._websocket.port
        return f"ws://{host}:{port}"

    def announcement(self) -> str:
        """Returns where Foxglove connects to."""
        return f"for Foxglove on {self.address}"

    async def start(self) -> None:
        """Listens.

        Raises:
            OSError: the address cannot be bound.
        """
        try:
            self._websocket = foxglove.start_server(
                name="inferential", host=self._config.host, port=self._config.port, context=self._context
            )
        except RuntimeError as error:  # of any kind
            raise OSError(f"foxglove: cannot listen on {self.address}: {error}") from error
        self._offer(
            _FLEET_TOPIC,
            foxglove.Schema(name="inferential.Fleet", encoding="jsonschema", data=_json({"type": "object"})),
            "json",
        )
        self._thread = threading.Thread(target=self._encode, name="foxglove", daemon=True)
        self._thread.start()
        self._telling = asyncio.get_running_loop().create_task(self._tell_of_fleet())
        self._server.watch(self)

    async def stop(self) -> None:
        """Ends all connections."""
        websocket, self._websocket = self._websocket, None
        if websocket is None:
            return
        assert self._thread is not None
        assert self._telling is not None
        self._server.unwatch(self)
        self._telling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._telling
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._queue.put, None)
        await loop.run_in_executor(None, self._thread.join)
        await loop.run_in_executor(None, websocket.stop)

    # On the event loop

    def _wants(self, request: InferenceRequest) -> bool:
        key = request.client_id, request.model_id
        topics = self._topics.setdefault(key, _Topics())
        if request.received_at >= topics.look_at:
            topics.look_at = request.received_at + LOOK_S
            topics.known.update(self._declare(key, request))
        return any(map(self._is_watched, topics.known))

    def _declare(self, key: tuple[str, str], request: InferenceRequest) -> list[str]:
        """Offers the topics of a robot at a model that an observation has."""
        try:
            cameras = cameras_of(request.envelope, request.payload)
        except (InferentialError, ValueError):  # of a request that was refused for it
            cameras = {}
        topics = topics_of(*key, cameras)
        for topic, schema in topics.items():
            if topic not in self._channels:
                self._offer(topic, foxglove.Schema(name=schema, encoding="protobuf", data=descriptor_set()), "protobuf")
        return list(topics)

    def _offer(self, topic: str, schema: foxglove.Schema, encoding: str) -> None:
        self._channels[topic] = foxglove.Channel(topic, schema=schema, message_encoding=encoding, context=self._context)

    def _is_watched(self, topic: str) -> bool:
        channel = self._channels.get(topic)
        return channel is not None and channel.has_sinks()

    def _ends(self, request: InferenceRequest, refusal: RefusalKind | None, *, is_late: bool) -> bool:
        return True

    def _take(self, entry: Entry, now: float) -> None:
        try:
            self._queue.put_nowait(entry)
            self.shown += 1
        except Full:
            self._server.metrics.record(names.FOXGLOVE_DROPS, 1.0)

    async def _tell_of_fleet(self) -> None:
        fleet, has_failed = self._channels[_FLEET_TOPIC], False
        for period in itertools.count(1):
            pause_s = FLEET_S
            try:
                if fleet.has_sinks():
                    status, took_s = await made(whole_status(self._server))
                    fleet.log(status.encode())
                    pause_s = max(FLEET_S, took_s / _SHARE)
                if period % FORGET_EVERY == 0:
                    self._forget_gone()
            except Exception:
                if not has_failed:
                    logger.exception("the fleet cannot be shown in Foxglove; it is tried again")
                has_failed = True
            await asyncio.sleep(pause_s)

    def _forget_gone(self) -> None:
        """Takes back the topics of robots that are gone."""
        known = frozenset(self._server.known_clients)
        gone = [key for key in self._topics if key[0] not in known]
        left = {topic for key in gone for topic in self._topics.pop(key).known}
        kept = (topics.known for topics in self._topics.values())  # ids that differ in a slash alone share topics
        for topic in left.difference(*kept):
            self._channels.pop(topic).close()

    # In a thread

    def _encode(self) -> None:
        while (entry := self._queue.get()) is not None:
            try:
                for record in records_of(entry, _PICTURES, self._is_watched):
                    channel = self._channels.get(record.topic)
                    if channel is not None:
                        channel.log(record.data, log_time=record.time_ns)
            except ValueError as error:
                text = "a request of %s cannot be shown in Foxglove: %s"
                self._notices.say("frames", text, entry.common["client_id"], error, level=logging.WARNING)


def _json(value: Any) -> bytes:
    return json.dumps(value, default=str).encode()
