"""GR00T's protocol, with a client written from its published format: a plain REQ socket and msgpack."""

from __future__ import annotations

import asyncio
import io
import pickle
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq
import zmq.asyncio
from tests.gateway.conftest import ArmPolicy, Open, Recorder

from inferential.gateway import Gr00tGateway
from inferential.gateway import gr00t as gr00t_module
from inferential.gateway.gr00t_messages import token_of


def encode(value: Any) -> Any:
    output = io.BytesIO()
    np.save(output, value, allow_pickle=False)
    return {"__ndarray_class__": True, "as_npy": output.getvalue()}


def decode(value: dict[Any, Any]) -> Any:
    if "__ndarray_class__" in value:
        return np.load(io.BytesIO(value["as_npy"]), allow_pickle=False)
    return value


class Client:
    """As the published one: a REQ socket, one request after another."""

    def __init__(self, address: str, api_token: str | None = None, identity: bytes = b"") -> None:
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.REQ)
        if identity:
            self._socket.setsockopt(zmq.IDENTITY, identity)
        self._socket.connect(address)
        self._token = api_token

    async def call(self, endpoint: str | None = None, data: Any = None) -> Any:
        request = {
            name: value
            for name, value in (("endpoint", endpoint), ("data", data), ("api_token", self._token))
            if value is not None
        }
        return await self.send(msgpack.packb(request, default=encode))

    async def send(self, message: bytes) -> Any:
        await self._socket.send(message)
        reply = await asyncio.wait_for(self._socket.recv(), 60)
        return msgpack.unpackb(reply, object_hook=decode, strict_map_key=False)

    def close(self) -> None:
        self._context.destroy(linger=0)


@asynccontextmanager
async def client(gateway: Gr00tGateway, token: str | None = None, identity: bytes = b"") -> AsyncIterator[Client]:
    made = Client(gateway.address, token, identity)
    try:
        yield made
    finally:
        made.close()


STATE = {"state.arm": np.arange(3.0), "video.ego": np.zeros((1, 4, 4, 3), np.uint8), "annotation.task": "pick"}


async def test_the_older_form_is_answered_by_the_action(gr00t: Open) -> None:
    async with gr00t() as (_, gateway), client(gateway) as robot:
        answer = await robot.call(data=STATE)
        np.testing.assert_array_equal(answer["action.arm"], np.tile([0.0, 2.0, 4.0], (4, 1)))
        assert set(answer) == {"action.arm"}


async def test_the_newer_form_is_answered_by_action_and_info(gr00t: Open) -> None:
    async with gr00t() as (_, gateway), client(gateway) as robot:
        action, info = await robot.call("get_action", {"observation": STATE, "options": None})
        assert action["action.arm"].shape == (4, 3)
        assert info == {}


@pytest.mark.parametrize("text", ["pick", ["pick"], [["pick"]]])
async def test_a_model_sees_what_was_sent(gr00t: Open, text: Any) -> None:
    sent = {
        "video": {"ego": np.zeros((1, 1, 2, 2, 3), np.uint8)},
        "video/ego": np.ones(1),
        "language": {"task": text},
        "names": np.array(["left", "right"]),
        "mask": None,
    }
    model = Recorder()
    async with gr00t(model) as (_, gateway), client(gateway) as robot:
        await robot.call("get_action", {"observation": sent})
    assert msgpack.packb(model.seen, default=encode) == msgpack.packb(sent, default=encode)


async def test_an_action_may_be_spread_over_several_keys_with_more_beside_it(gr00t: Open) -> None:
    arms = {"action.left_arm": np.zeros((1, 4, 7)), "action.right_arm": np.ones((1, 4, 7))}
    async with gr00t(Recorder({**arms, "info": {"ms": 3.0}, "note": None})) as (_, gateway), client(gateway) as robot:
        action, _ = await robot.call("get_action", {"observation": STATE, "options": {}})
    np.testing.assert_array_equal(action.pop("action.left_arm"), arms["action.left_arm"])
    np.testing.assert_array_equal(action.pop("action.right_arm"), arms["action.right_arm"])
    assert action == {"info": {"ms": 3.0}, "note": None}


async def test_arrays_come_back_in_the_form_of_the_request(gr00t: Open) -> None:
    request = {"data": {**STATE, "state.arm": {b"nd": True, b"type": "<f8", b"kind": b"", b"shape": (3,)}}}
    request["data"]["state.arm"][b"data"] = np.arange(3.0).tobytes()
    request["data"]["video.ego"] = None
    async with gr00t() as (_, gateway), client(gateway) as robot:
        as_numpy = await robot.send(msgpack.packb(request))
        as_npy = await robot.call(data=STATE)
    arm = as_numpy["action.arm"]
    assert (arm[b"nd"], arm[b"type"], arm[b"kind"], arm[b"shape"]) == (True, "<f8", b"", [4, 3])
    assert np.frombuffer(arm[b"data"]).reshape(4, 3).tolist() == as_npy["action.arm"].tolist()


CONFIG = {"delta_indices": [0], "modality_keys": ["arm"]}


async def test_a_modality_config_has_the_markers_of_both_versions(gr00t: Open) -> None:
    async with gr00t(modality_config={"state": CONFIG, "other": 7}) as (_, gateway), client(gateway) as robot:
        answer = await robot.call("get_modality_config")
    assert answer == {
        "state": {"__ModalityConfig_class__": True, "__ModalityConfig__": True, "as_json": CONFIG},
        "other": 7,
    }


async def test_a_robot_may_end_its_episode_before_and_after_it_acts(gr00t: Open) -> None:
    async with gr00t() as (_, gateway), client(gateway) as robot:
        assert await robot.call("reset", {"options": None}) == {}
        await robot.call(data=STATE)
        assert await robot.call("reset") == {}
        assert "action.arm" in await robot.call(data=STATE)


async def test_the_small_endpoints(gr00t: Open) -> None:
    async with gr00t(modality_config={"state": ["arm"]}) as (_, gateway), client(gateway) as robot:
        assert await robot.call("ping") == {"status": "ok", "message": "Server is running"}
        assert await robot.call("get_modality_config") == {"state": ["arm"]}
        assert await robot.call("reset") == {}
        assert "no endpoint 'dance'" in (await robot.call("dance"))["error"]
        message = msgpack.packb({"endpoint": np.arange(3)}, default=encode)
        assert (await robot.send(message))["error"] == "ValueError: endpoint: expected a name, got ndarray"


async def test_kill_is_refused_and_all_go_on(gr00t: Open) -> None:
    async with gr00t() as (_, gateway), client(gateway) as robot:
        assert "kill is refused" in (await robot.call("kill"))["error"]
        assert "action.arm" in await robot.call(data=STATE)


async def test_the_token_is_checked_on_every_request(gr00t: Open) -> None:
    async with gr00t(api_token="s3cret") as (_, gateway):
        for token, right in (("s3cret", True), ("other", False), (None, False)):
            async with client(gateway, token) as robot:
                answer = await robot.call("ping")
                assert ("status" in answer) == right
                assert right or answer["error"] == "ValueError: Unauthorized: Invalid API token"


async def test_many_at_once_are_batched_and_each_gets_its_own(gr00t: Open) -> None:
    policy = ArmPolicy()
    async with gr00t(policy) as (_, gateway):
        robots = [Client(gateway.address) for _ in range(16)]

        async def drive(number: int, robot: Client) -> None:
            for step in range(10):
                answer = await robot.call(data={"state.arm": np.array([number, step], np.float32)})
                assert answer["action.arm"][0].tolist() == [2 * number, 2 * step]

        await asyncio.gather(*(drive(number, robot) for number, robot in enumerate(robots)))
        for robot in robots:
            robot.close()
    assert sum(policy.sizes) == 160
    assert max(policy.sizes) > 1


async def test_a_failing_model_is_an_error_and_the_robot_goes_on(gr00t: Open) -> None:
    async with gr00t() as (_, gateway), client(gateway) as robot:
        assert "ModelFailed" in (await robot.call(data={"other": np.zeros(1)}))["error"]
        assert "action.arm" in await robot.call(data=STATE)


class Evil:
    """Would run something when it is unpickled."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was loaded",))


def evil_array() -> bytes:
    output = io.BytesIO()
    np.save(output, np.array([Evil()], dtype=object), allow_pickle=True)
    return output.getvalue()


BAD_FIELDS: list[dict[Any, Any]] = [
    {},
    {b"kind": b"O", b"type": "|O", b"shape": [1], b"data": pickle.dumps(Evil())},
    {b"kind": b"", b"type": "|O", b"shape": [1], b"data": pickle.dumps(Evil())},
    {b"kind": b"V", b"type": [["a", "<u2"]], b"shape": [1]},
    {b"type": "<u2", b"shape": [2]},
    {b"type": "<u2", b"shape": [-1, -1]},
    {b"type": "<u2", b"shape": [1.0]},
    {b"type": "<u2", b"shape": 1},
    {b"type": "|V2", b"shape": [1]},
    {b"type": "no such", b"shape": [1]},
    {b"type": "<c8", b"nd": False},
    {b"type": "<u2", b"nd": False, b"data": b"1"},
]


def npy(header: bytes, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def archive() -> bytes:
    output = io.BytesIO()
    np.savez_compressed(output, a=np.zeros(50_000))
    return output.getvalue()


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xc1",
        pickle.dumps(Evil()),
        msgpack.packb([1]),
        msgpack.packb({"data": 7}),
        msgpack.packb({"data": {"state": {"__ndarray_class__": True}}}),
        msgpack.packb({"data": {"state": {"__ndarray_class__": True, "as_npy": b"no"}}}),
        msgpack.packb({"data": {"state": {"__ndarray_class__": True, "as_npy": evil_array()}}}),
        *(msgpack.packb({"data": {"state": {b"nd": True, b"data": b"12", **fields}}}) for fields in BAD_FIELDS),
        *(
            msgpack.packb({"data": {"state": {"__ndarray_class__": True, "as_npy": data}}})
            for data in (
                archive(),
                archive()[:100],
                npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999,), }\n", bytes(8)),
                npy(b"{'descr': '<f4', 'fortran_order':$False, 'sha"),
                npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }\n"),
            )
        ),
    ],
)
async def test_hostile_bytes_are_refused_and_affect_no_other_robot(gr00t: Open, message: bytes) -> None:
    async with gr00t() as (_, gateway), client(gateway) as bad, client(gateway) as good:
        assert "ValueError" in (await bad.send(message))["error"]
        assert "action.arm" in await good.call(data=STATE)


async def test_a_robot_that_disappears_while_it_waits_affects_no_other(gr00t: Open) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(one: dict[str, Any]) -> Any:
        entered.set()
        await leave.wait()
        return one["state.arm"]

    async with gr00t(slow) as (_, gateway), client(gateway) as good:
        gone = Client(gateway.address)
        asking = asyncio.create_task(gone.call(data=STATE))
        await entered.wait()
        asking.cancel()
        gone.close()
        leave.set()
        assert (await good.call(data=STATE))["actions"].tolist() == [0, 1, 2]


async def test_a_robot_that_waits_when_the_gateway_ends_gets_an_error(gr00t: Open) -> None:
    entered = asyncio.Event()

    async def endless(one: dict[str, Any]) -> Any:
        entered.set()
        await asyncio.Event().wait()

    async with gr00t(endless) as (_, gateway), client(gateway) as robot:
        asking = asyncio.create_task(robot.call(data=STATE))
        await entered.wait()
        await gateway.stop()
        assert (await asking)["error"].startswith("ConnectionError: ")


async def test_an_answer_that_takes_too_long_is_an_error_and_the_robot_goes_on(gr00t: Open) -> None:
    async def endless(one: dict[str, Any]) -> Any:
        await asyncio.Event().wait()

    async with gr00t(endless, timeout_ms=30.0) as (_, gateway), client(gateway) as robot:
        assert "within 0.03 s (timeout_ms of the gateway)" in (await robot.call(data=STATE))["error"]
        assert await robot.call("reset") == {}


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn"])
async def test_an_array_of_a_dtype_that_the_protocol_cannot_say_is_refused_with_its_key(gr00t: Open, name: str) -> None:
    narrow = np.zeros(2, getattr(pytest.importorskip("ml_dtypes"), name))
    as_numpy = {b"nd": True, b"type": narrow.dtype.str, b"kind": b"V", b"shape": [2], b"data": narrow.tobytes()}
    async with gr00t() as (_, gateway), client(gateway) as robot:
        for array in (narrow, as_numpy):
            answer = await robot.call("get_action", {"observation": {"state": {"arm": array}}})
            assert "data/observation/state/arm: an array" in answer["error"]


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn"])
async def test_narrow_floats_are_sent_as_float32(gr00t: Open, name: str) -> None:
    action = {"arm": np.ones((1, 4, 7), getattr(pytest.importorskip("ml_dtypes"), name)), "info": {"ms": 1.0}}
    async with gr00t(Recorder(action)) as (_, gateway), client(gateway) as robot:
        answer = await robot.call(data=STATE)
    assert answer["arm"].dtype == np.float32
    assert answer["arm"].shape == (1, 4, 7)


def test_the_token_is_found_without_making_anything_of_the_rest() -> None:
    deep: Any = []
    for _ in range(100):
        deep = [deep]
    assert token_of(msgpack.packb({"data": deep, "api_token": "s3cret"})) == "s3cret"
    assert token_of(msgpack.packb({"data": 1})) is None
    for broken in (b"", b"\x81", b"\xc1", b"\x93\1\2\3", msgpack.packb({"data": 1})[:-1]):
        assert token_of(broken) is None


@pytest.mark.parametrize("where", ["unpack", "pack"])
async def test_whatever_a_decoder_or_encoder_raises_is_answered_and_costs_its_own_request_only(
    gr00t: Open, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    async with gr00t() as (server, gateway), client(gateway) as robot:
        calls = 0

        def fail(*given: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > 1:
                return real(*given)
            raise RecursionError("too deep")

        real = getattr(gr00t_module, where)
        monkeypatch.setattr(gr00t_module, where, fail)
        assert await robot.call("ping") == {"error": "RecursionError: too deep"}
        assert (await robot.call("ping"))["status"] == "ok"
        stats = server.metrics.get_stats("observation_errors", {"error": "gateway"})
        assert stats is not None
        assert stats.count == 1


async def test_a_robot_that_sends_requests_without_waiting_holds_one_of_them_in_memory(gr00t: Open) -> None:
    async with gr00t() as (_, gateway):
        context = zmq.asyncio.Context()
        flood = context.socket(zmq.DEALER)
        flood.connect(gateway.address)
        request = msgpack.packb({"endpoint": "get_action", "data": {"state": np.zeros(3)}}, default=encode)
        for _ in range(50):
            await flood.send_multipart([b"", request])
        async with asyncio.timeout(60):
            replies = [msgpack.unpackb((await flood.recv_multipart())[1], object_hook=decode) for _ in range(2)]
        assert any("one request at a time" in str(reply.get("error")) for reply in replies)
        context.destroy(linger=0)
        async with client(gateway) as robot:
            assert (await robot.call("ping"))["status"] == "ok"


async def test_no_request_is_received_while_those_that_are_answered_fill_their_bytes(
    gr00t: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gr00t_module, "MAX_HELD_BYTES", 1)
    async with gr00t() as (_, gateway), client(gateway) as one, client(gateway) as other:
        asked = [one.call("ping"), other.call("ping")]
        assert [reply["status"] for reply in await asyncio.gather(*asked)] == ["ok", "ok"]
