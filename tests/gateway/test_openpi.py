"""openpi's websocket protocol, with messages written from its published format; the real clients are in test_peers."""

from __future__ import annotations

import asyncio
import logging
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from tests.gateway.conftest import HORIZON, Open, Recorder
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus

from inferential import InferenceRequest
from inferential.gateway import openpi as openpi_module
from inferential.proto.msgpack_numpy import pack, unpack


def observation(**values: Any) -> dict[str, Any]:
    return {"observation/state": np.arange(3.0), "prompt": "pick up the cup", **values}


async def asked(address: str, **values: Any) -> Any:
    async with connect(address, compression=None) as websocket:
        await websocket.recv()
        await websocket.send(pack(observation(**values)))
        answer = await websocket.recv()
        return answer if isinstance(answer, str) else unpack(answer)


@pytest.mark.parametrize("path", ["", "/", "/v1/realtime/robot/openpi"])
async def test_both_paths_lead_to_the_model(openpi: Open, path: str) -> None:
    async with openpi() as (_, gateway):
        answer = await asked(gateway.address + path)
    np.testing.assert_array_equal(answer["actions"][:, 0], np.arange(HORIZON))
    assert answer["policy_timing"]["infer_ms"] > 0
    assert answer["server_timing"]["infer_ms"] >= answer["policy_timing"]["infer_ms"]


async def test_the_second_answer_says_how_long_the_first_took(openpi: Open) -> None:
    async with openpi() as (_, gateway), connect(gateway.address) as websocket:
        await websocket.recv()
        timings = []
        for _ in range(2):
            await websocket.send(pack(observation()))
            timings.append(unpack(await websocket.recv())["server_timing"])
    assert "prev_total_ms" not in timings[0]
    assert timings[1]["prev_total_ms"] > 0


async def test_health_and_other_paths(openpi: Open) -> None:
    async with openpi(api_keys=["k"]) as (_, gateway):
        http = gateway.address.replace("ws://", "http://")

        def get(path: str) -> tuple[int, bytes]:
            try:
                with urllib.request.urlopen(http + path) as response:
                    return response.status, response.read()
            except urllib.error.HTTPError as error:
                return error.code, error.read()

        assert await asyncio.to_thread(get, "/healthz") == (200, b"OK\n")
        assert (await asyncio.to_thread(get, "/other"))[0] == 404
        with pytest.raises(InvalidStatus, match="401"):
            await connect(gateway.address)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"prompt": "fail"}, "ModelFailed: ValueError: no such cup"),
        ({"x" * 70_000: 1}, "InvalidObservation: "),
        ({"a": {1: 2}}, "ValueError: expected keys that are strings, got 1 in 'a'"),
    ],
)
async def test_a_failure_is_sent_as_text_and_ends_the_connection(
    openpi: Open, values: dict[str, Any], text: str
) -> None:
    async with openpi() as (_, gateway), connect(gateway.address) as websocket:
        await websocket.recv()
        await websocket.send(pack(observation(**values)))
        assert str(await websocket.recv()).startswith(text)
        with pytest.raises(ConnectionClosedError) as caught:
            await websocket.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1011


FULL = {"max_queue_size": 1, "overflow_policy": "reject_newest"}


async def test_a_robot_that_finds_no_room_is_answered_once_there_is(openpi: Open) -> None:
    refused, leave = asyncio.Event(), asyncio.Event()

    async def slow(one: dict[str, Any]) -> Any:
        await leave.wait()
        return one["observation/state"]

    async with openpi(slow, {"scheduling": FULL}) as (server, gateway):

        @server.on_request
        def note(request: InferenceRequest) -> None:
            if request.refusal is not None:
                refused.set()

        answers = [asyncio.create_task(asked(gateway.address)) for _ in range(3)]  # at the model, waiting, one too many
        await refused.wait()
        leave.set()
        assert [answer["actions"].tolist() for answer in await asyncio.gather(*answers)] == [[0, 1, 2]] * 3


async def test_a_full_queue_ends_no_session_before_the_time_out(openpi: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inferential.gateway.base.RETRY_PAUSES_S", (0.001,))
    refused_often, leave = asyncio.Event(), asyncio.Event()

    async def slow(one: dict[str, Any]) -> Any:
        await leave.wait()
        return one["observation/state"]

    async with openpi(slow, {"scheduling": FULL}) as (server, gateway):
        left = iter(range(20))

        @server.on_request
        def note(request: InferenceRequest) -> None:
            if request.refusal is not None and next(left, None) is None:
                refused_often.set()

        answers = [asyncio.create_task(asked(gateway.address)) for _ in range(3)]
        await refused_often.wait()
        leave.set()
        assert [answer["actions"].tolist() for answer in await asyncio.gather(*answers)] == [[0, 1, 2]] * 3


async def test_a_robot_that_finds_no_room_within_the_time_out_gets_an_error(
    openpi: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inferential.gateway.base.RETRY_PAUSES_S", (0.05, 10.0))  # the second does not fit

    async def never(one: dict[str, Any]) -> Any:
        await asyncio.Event().wait()

    async with openpi(never, {"scheduling": FULL}, timeout_ms=1000.0) as (_, gateway):
        answers = await asyncio.gather(*(asked(gateway.address) for _ in range(3)))
    assert sum(answer.startswith(("RequestRejected: the queue is full", "TimeoutError: ")) for answer in answers) == 3
    assert any(answer.startswith("RequestRejected: ") for answer in answers)


async def test_a_client_that_is_not_accepted_learns_it_after_four_attempts(
    openpi: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inferential.gateway.base.RETRY_PAUSES_S", (0.0, 0.0, 0.0))
    async with openpi(sections={"clients": {"accept_unknown": False}}) as (server, gateway):
        ended: list[InferenceRequest] = []
        server.on_request(ended.append)
        answer = await asked(gateway.address)
    assert answer.startswith("RequestRejected: client ")
    assert answer.endswith(" is not accepted")
    assert len(ended) == 4


async def test_the_log_names_a_robot_that_got_an_error_by_host_and_port(
    openpi: Open, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "inferential.gateway")

    async def broken(one: dict[str, Any]) -> Any:
        raise RuntimeError("no weights")

    async with openpi(broken) as (_, gateway):
        assert "no weights" in await asked(gateway.address)
    assert re.search(
        r"^127\.0\.0\.1:\d+: ModelFailed: RuntimeError: no weights$", "\n".join(caplog.messages), re.MULTILINE
    )


@pytest.mark.parametrize("said", [b"GET / HT", b"SSH-2.0-OpenSSH_9.6\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"])
async def test_one_that_is_no_robot_leaves_no_traceback_in_the_log(
    openpi: Open, said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with openpi() as (_, gateway):
        host, port = gateway.address.removeprefix("ws://").split(":")
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(said)
        writer.write_eof()
        await reader.read()
        writer.close()
        assert "actions" in await asked(gateway.address)
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("message", [b"\xc1", b"", b"\x93\x01\x02\x03", "text", pack({b"__ndarray__": True})])
async def test_strange_messages_are_refused_and_affect_no_other_robot(openpi: Open, message: Any) -> None:
    async with openpi() as (_, gateway), connect(gateway.address) as good:
        await good.recv()
        async with connect(gateway.address) as bad:
            await bad.recv()
            await bad.send(message)
            assert "ValueError" in str(await bad.recv())
        await good.send(pack(observation()))
        assert unpack(await good.recv())["actions"].shape == (HORIZON, 3)


async def test_a_model_sees_what_was_sent(openpi: Open) -> None:
    sent = {
        "images": {"cam_high": np.zeros((3, 2, 2), np.uint8)},
        "images/cam_high": np.ones((3, 2, 2), np.uint8),
        "gripper": 1,
        "joints": [1.0, 2.0],
        "mask": None,
        "words": ["a", "b"],
        "scale": np.float32(0.5),
        "names": np.array(["left", "right"]),
    }
    model = Recorder()
    async with openpi(model) as (_, gateway):
        await asked(gateway.address, **sent)
    assert list(model.seen) == list(observation(**sent))
    assert pack(model.seen) == pack(observation(**sent))


async def test_what_stands_beside_the_actions_is_sent_on(openpi: Open) -> None:
    result = {
        "actions": np.zeros((2, 1)),
        "confidence": 0.5,
        "policy_timing": {"infer_ms": 7.0, "steps": [1, 2]},
        "server_timing": {"cache_ms": 1.0},
        "note": None,
        "tags": ["a", "b"],
    }
    async with openpi(Recorder(result)) as (_, gateway):
        answer = await asked(gateway.address)
    assert answer["confidence"] == 0.5  # a number: clients slice every array by its first axis
    assert answer["policy_timing"]["infer_ms"] == 7.0
    assert np.asarray(answer["policy_timing"]["steps"]).tolist() == [1, 2]
    assert answer["server_timing"].keys() == {"cache_ms", "infer_ms", "queue_ms"}
    assert (answer["note"], answer["tags"]) == (None, ["a", "b"])


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn"])
async def test_narrow_floats_are_sent_as_float32(openpi: Open, name: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    async with openpi(Recorder({"actions": np.ones((2, 3), getattr(ml_dtypes, name))})) as (_, gateway):
        answer = await asked(gateway.address)
    assert answer["actions"].dtype == np.float32
    assert answer["actions"].tolist() == [[1.0] * 3] * 2


class StackingPolicy:
    """As some revisions of openpi's Policy: one map of stacked arrays for a batch."""

    metadata: Mapping[str, Any] = {"reset_pose": [0.0, 1.0], "name": "pi0"}

    def __init__(self, rows: int | None = None) -> None:
        self._rows = rows

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        return {"actions": observation["state"][None], "policy_timing": {"infer_ms": 1.0}}

    def infer_batch(self, observations: list[dict[str, Any]]) -> dict[str, Any]:
        rows = np.stack([one["state"] for one in observations])[: self._rows, None]
        return {"actions": rows, "policy_timing": {"infer_ms": 1.0}, "note": None}


async def test_a_policy_of_openpi_that_stacks_its_batches_is_a_model(openpi: Open) -> None:
    async with openpi(StackingPolicy()) as (server, gateway):
        answers = await asyncio.gather(*(asked(gateway.address, state=np.full(2, n)) for n in range(8)))
        assert max(batch.rows for batch in server.status().batches) > 1
    assert [answer["actions"].tolist() for answer in answers] == [[[n, n]] for n in range(8)]
    assert all(answer["policy_timing"] == {"infer_ms": 1.0} for answer in answers)


async def test_metadata_of_the_model_reaches_the_robot_and_the_configuration_outranks_it(openpi: Open) -> None:
    async with openpi(StackingPolicy(), metadata={"name": "pi0 here"}) as (_, gateway), connect(gateway.address) as one:
        assert unpack(await one.recv()) == {"reset_pose": [0.0, 1.0], "name": "pi0 here"}


class Broken:
    def __init__(self, metadata: Any) -> None:
        self.metadata = metadata

    def infer(self, observation: dict[str, Any]) -> Any:
        return np.zeros(1)


async def test_metadata_that_cannot_be_had_is_left_out(openpi: Open, caplog: pytest.LogCaptureFixture) -> None:
    def unreachable() -> Any:
        raise ConnectionError("ws://other cannot be reached")

    async with openpi(Broken(unreachable), metadata={"a": 1}) as (_, gateway), connect(gateway.address) as robot:
        assert unpack(await robot.recv()) == {"a": 1}
    assert "no metadata of model pi0 for the robot: ConnectionError: ws://other cannot be reached" in caplog.text


async def test_metadata_that_cannot_be_sent_is_named(openpi: Open) -> None:
    async with openpi(Broken({"policy": {"cls": object()}})) as (_, gateway), connect(gateway.address) as robot:
        assert "policy/cls: expected an array" in str(await robot.recv())


async def test_keys_may_be_called_like_our_own_arguments(openpi: Open) -> None:
    async with openpi(lambda one: one["priority"]) as (_, gateway):
        answer = await asked(gateway.address, priority=np.arange(2), urgency=0.1, timeout_ms=3, self=1)
    assert answer["actions"].tolist() == [0, 1]


async def test_a_robot_may_have_a_name_of_its_own(openpi: Open) -> None:
    async with openpi() as (server, gateway):
        async with connect(gateway.address, additional_headers={"X-Client-Id": "arm-7"}) as websocket:
            await websocket.recv()
            await websocket.send(pack(observation()))
            await websocket.recv()
        assert [client.client_id for client in server.status().clients] == ["arm-7"]


async def test_a_robot_that_leaves_while_it_waits_gives_its_name_back(openpi: Open) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(one: dict[str, Any]) -> Any:
        entered.set()
        await leave.wait()
        return one["observation/state"]

    async def act(robot: ClientConnection) -> Any:
        await robot.recv()
        await robot.send(pack(observation()))
        return await robot.recv()

    async with openpi(slow) as (_, gateway):
        named = {"X-Client-Id": "arm-7"}
        async with connect(gateway.address, additional_headers=named) as robot:
            waiting = asyncio.create_task(act(robot))
            await entered.wait()
        with pytest.raises(ConnectionClosed):
            await waiting
        leave.set()
        async with asyncio.timeout(60):
            answer: Any = ""
            while isinstance(answer, str):  # the server may still hear that the first one left
                async with connect(gateway.address, additional_headers=named) as robot:
                    answer = await act(robot)
    assert unpack(answer)["actions"].tolist() == [0, 1, 2]


UPGRADE = (
    "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nX-Client-Id: arm\r\n\r\n"
)


async def answered_as(name: str, address: str) -> Any:
    async with connect(address, additional_headers={"X-Client-Id": name}) as websocket:
        await websocket.recv()
        await websocket.send(pack(observation()))
        answer = await websocket.recv()
        return answer if isinstance(answer, str) else unpack(answer)


async def test_a_robot_that_returns_is_served_although_its_old_connection_is_half_open(
    openpi: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openpi_module, "ANSWER_S", 0.02)
    async with openpi() as (_, gateway):
        host, _, port = gateway.address.removeprefix("ws://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(UPGRADE.encode())
        assert b"101" in await reader.readline()
        sent = pack(observation())
        writer.write(b"\x82" + bytes((0x80 | 126,)) + len(sent).to_bytes(2) + bytes(4) + sent)
        await reader.readuntil(b"actions")  # it reads no more, so it answers no ping
        for _ in range(2):
            assert "actions" in await answered_as("arm", gateway.address)
        writer.close()


async def test_a_robot_that_answers_keeps_its_name(openpi: Open) -> None:
    async with openpi() as (_, gateway), connect(gateway.address, additional_headers={"X-Client-Id": "arm"}) as first:
        await first.recv()
        for _ in range(2):
            await first.send(pack(observation()))
            assert "actions" in unpack(await first.recv())
            assert "in use by another connection" in await answered_as("arm", gateway.address)


@pytest.mark.parametrize("where", ["unpack", "pack"])
@pytest.mark.parametrize("error", [RecursionError("too deep"), KeyError("x"), OverflowError("big"), MemoryError()])
async def test_whatever_a_decoder_or_encoder_raises_costs_its_own_request_only(
    openpi: Open, monkeypatch: pytest.MonkeyPatch, where: str, error: Exception
) -> None:
    async with openpi() as (server, gateway), connect(gateway.address) as other:
        await other.recv()
        async with connect(gateway.address) as websocket:
            await websocket.recv()
            with monkeypatch.context() as patched:

                def fail(*_: Any) -> Any:
                    raise error

                patched.setattr(openpi_module, where, fail)
                await websocket.send(pack(observation()))
                assert str(await websocket.recv()).startswith(type(error).__name__)
        await other.send(pack(observation()))
        assert "actions" in unpack(await other.recv())
        stats = server.metrics.get_stats("observation_errors", {"error": "gateway"})
        assert stats is not None
        assert stats.count == 1
