"""Live topics, read as Foxglove reads them: over its WebSocket protocol."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

pytest.importorskip("foxglove")

import foxglove.messages
import websockets
from google.protobuf import descriptor_pb2
from tests.recording.test_recorder import CAMERA, STATE, ask, policy

from inferential import AsyncConnection, LocalDispatcher, Server
from inferential.config import InferentialConfig
from inferential.config.foxglove import FoxgloveConfig
from inferential.metrics import names
from inferential.recording import live as live_module
from inferential.recording.live import FoxgloveServer
from inferential.recording.schemas import ANSWER, IMAGE, OBSERVATION, RAW_IMAGE, message_class
from inferential.server.status_text import whole_status

PROTOCOL: Any = "foxglove.sdk.v1"
HEAD = struct.Struct("<BIQ")  # opcode, subscription, time
TIMEOUT_S = 60.0
ROBOT = "/robots/arm-01/pi0"


class Viewer:
    """A client of Foxglove's protocol, that knows the topics which it is offered."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self.channels: dict[str, Any] = {}

    async def wait_for(self, topic: str) -> Any:
        """Reads until a topic is offered, and returns its description."""
        while topic not in self.channels:
            self._note(await self._receive())
        return self.channels[topic]

    async def subscribe(self, topic: str) -> None:
        channel = await self.wait_for(topic)
        wanted = [{"id": channel["id"], "channelId": channel["id"]}]
        await self._socket.send(json.dumps({"op": "subscribe", "subscriptions": wanted}))

    async def message(self) -> tuple[str, bytes]:
        """Returns the topic and the content of the next message."""
        while not isinstance(received := await self._receive(), bytes) or received[0] != 1:
            self._note(received)
        _, number, _ = HEAD.unpack_from(received)
        topic = next(topic for topic, channel in self.channels.items() if channel["id"] == number)
        return topic, received[HEAD.size :]

    async def _receive(self) -> Any:
        return await asyncio.wait_for(self._socket.recv(), TIMEOUT_S)

    def _note(self, received: Any) -> None:
        if isinstance(received, str) and (found := json.loads(received))["op"] == "advertise":
            self.channels |= {channel["topic"]: channel for channel in found["channels"]}


@asynccontextmanager
async def shown() -> AsyncIterator[tuple[Server, FoxgloveServer, Viewer]]:
    config = InferentialConfig.model_validate({"server": {"drain_timeout_s": 0.0}})
    async with (
        Server("tcp://127.0.0.1:0", config=config, dispatcher=LocalDispatcher({"pi0": policy})) as server,
        FoxgloveServer(server, FoxgloveConfig(port=0)) as live,
        websockets.connect(live.address, subprotocols=[PROTOCOL], max_size=None, max_queue=None) as socket,
    ):
        yield server, live, Viewer(socket)


@asynccontextmanager
async def asking(server: Server, name: str = "arm-01", **values: Any) -> AsyncIterator[None]:
    """A robot that asks all the time."""

    async def ask() -> None:
        async with AsyncConnection(server.address, name, "arm") as connection:
            model = connection.model("pi0", latency_budget_ms=60_000.0)
            while True:
                await model.infer(60_000, **{"state": STATE, "camera": CAMERA, "prompt": "pick", **values})

    task = asyncio.create_task(ask())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_robot_is_shown_with_what_it_sees_and_is_answered() -> None:
    async with shown() as (server, _, viewer), asking(server):
        for part in ("observation", "image/camera", "answer"):
            await viewer.subscribe(f"{ROBOT}/{part}")
        found: dict[str, bytes] = {}
        while len(found) < 3:
            topic, data = await viewer.message()
            found[topic] = data
    observation = message_class(OBSERVATION).FromString(found[f"{ROBOT}/observation"])
    np.testing.assert_array_equal(np.frombuffer(observation.arrays[0].data, np.float32), STATE)
    answer = message_class(ANSWER).FromString(found[f"{ROBOT}/answer"])
    assert (answer.end, answer.client_type) == ("answered", "arm")
    np.testing.assert_allclose(answer.arrays[0].values, [*(STATE + 1), *(STATE + 1)])
    image = message_class(IMAGE).FromString(found[f"{ROBOT}/image/camera"])
    assert (image.format, image.data[:2]) == ("jpeg", b"\xff\xd8")


async def test_depth_is_shown_as_rows_of_numbers() -> None:
    metres = np.linspace(0.5, 4.0, 48 * 64, dtype=np.float32).reshape(1, 48, 64)
    topic = f"{ROBOT}/depth/depth"
    async with shown() as (server, _, viewer), asking(server, depth=metres):
        assert (await viewer.wait_for(topic))["schemaName"] == RAW_IMAGE
        await viewer.subscribe(topic)
        _, data = await viewer.message()
    image = message_class(RAW_IMAGE).FromString(data)
    assert (image.encoding, image.width, image.height, image.step) == ("32FC1", 64, 48, 256)
    np.testing.assert_array_equal(np.frombuffer(image.data, np.float32), metres.ravel())


async def test_a_camera_that_comes_later_is_offered_and_so_is_one_of_another_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live_module, "LOOK_S", 0.0)
    millimetres = np.full((48, 64), 700, np.uint16)
    async with shown() as (server, _, viewer):
        await ask(server, times=1)
        await viewer.wait_for(f"{ROBOT}/image/camera")
        viewer.channels.clear()
        await ask(server, times=1, camera=millimetres, wrist=CAMERA)
        assert (await viewer.wait_for(f"{ROBOT}/image/wrist"))["schemaName"] == IMAGE
        assert (await viewer.wait_for(f"{ROBOT}/depth/camera"))["schemaName"] == RAW_IMAGE
        await viewer.subscribe(f"{ROBOT}/depth/camera")
        async with asking(server, camera=millimetres):
            _, data = await viewer.message()
    assert message_class(RAW_IMAGE).FromString(data).encoding == "16UC1"


async def test_only_what_is_looked_at_is_sent() -> None:
    async with shown() as (server, _, viewer), asking(server):
        await viewer.subscribe(f"{ROBOT}/answer")
        assert [(await viewer.message())[0] for _ in range(5)] == [f"{ROBOT}/answer"] * 5


async def test_topics_explain_themselves() -> None:
    async with shown() as (server, _, viewer), asking(server):
        channel = await viewer.wait_for(f"{ROBOT}/image/camera")
    assert (channel["encoding"], channel["schemaName"]) == ("protobuf", "foxglove.CompressedImage")


@pytest.mark.parametrize("name", [IMAGE, RAW_IMAGE])
def test_images_are_foxgloves_own_messages(name: str) -> None:
    theirs = getattr(foxglove.messages, name.rpartition(".")[2]).get_schema()
    files = descriptor_pb2.FileDescriptorSet.FromString(theirs.data).file
    fields = next(one.field for file in files for one in file.message_type if f"{file.package}.{one.name}" == name)
    ours = message_class(name).DESCRIPTOR.fields
    assert theirs.name == name
    assert {(one.name, one.number, one.type) for one in fields} == {(one.name, one.number, one.type) for one in ours}


async def test_the_fleet_has_a_topic_of_its_own_and_is_looked_at_a_part_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Server, "status", lambda self: 1 / 0)  # of a thousand robots at once: 0.1 s and more
    async with shown() as (server, _, viewer), asking(server):
        await viewer.subscribe("/fleet")
        topic, data = await viewer.message()
        while not (fleet := json.loads(data))["clients"]:
            topic, data = await viewer.message()
    assert topic == "/fleet"
    assert [client["client_id"] for client in fleet["clients"]] == ["arm-01"]


async def test_after_what_goes_wrong_the_fleet_is_shown_again_and_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left = [OSError("no room"), ValueError("no status")]

    def breaks_at_first(server: Server) -> Any:
        if left:
            raise left.pop()
        return whole_status(server)

    monkeypatch.setattr(live_module, "FLEET_S", 0.02)
    monkeypatch.setattr(live_module, "whole_status", breaks_at_first)
    async with shown() as (_, _, viewer):
        await viewer.subscribe("/fleet")
        topic, _ = await viewer.message()
    assert topic == "/fleet"
    assert not left
    assert caplog.text.count("the fleet cannot be shown in Foxglove") == 1


async def test_without_a_subscription_no_payload_is_copied() -> None:
    async with shown() as (server, live, viewer):
        async with asking(server):
            await viewer.wait_for(f"{ROBOT}/answer")
        assert live.shown == 0
        assert server.metrics.get_latest(names.FOXGLOVE_DROPS) is None


async def test_a_port_that_is_taken_is_an_error() -> None:
    async with shown() as (server, live, _):
        port = int(live.address.rpartition(":")[2])
        with pytest.raises(OSError, match=f"foxglove: cannot listen on ws://127.0.0.1:{port}"):
            await FoxgloveServer(server, FoxgloveConfig(port=port)).start()


async def test_robots_whose_ids_give_one_topic_may_both_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "FLEET_S", 0.02)
    monkeypatch.setattr(live_module, "FORGET_EVERY", 1)
    async with shown() as (server, _, viewer):
        await ask(server, "arm/1", times=1)
        await ask(server, "arm_1", times=1)
        await viewer.subscribe("/fleet")
        monkeypatch.setattr(Server, "known_clients", property(lambda self: []))
        while json.loads((await viewer.message())[1])["clients"]:
            pass
        for _ in range(3):
            assert (await viewer.message())[0] == "/fleet"
