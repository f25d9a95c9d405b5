"""`POST /act` in JSON, with messages written from its published form; the real clients are in test_peers."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.conftest import Open, Recorder

from inferential import InferenceRequest
from inferential.config.gateways import ActConfig
from inferential.gateway import ActGateway
from inferential.gateway.json_numpy import dumps, loads

IMAGE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


def packed(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    """An array as json-numpy writes it."""
    data = base64.b64encode(array.tobytes()).decode()
    return {"__numpy__": data, "dtype": array.dtype.str, "shape": list(array.shape)}


def unpacked(value: dict[str, Any]) -> np.ndarray[Any, Any]:
    return np.frombuffer(base64.b64decode(value["__numpy__"]), value["dtype"]).reshape(value["shape"])


OPENVLA = {"image": packed(IMAGE), "instruction": "pick up the cup"}
YAM = {
    "top_cam": packed(IMAGE),
    "instruction": "fold",
    "state": packed(np.arange(14, dtype=np.float32)),
    "num_steps": 10,
}


async def post(gateway: Any, body: Any, path: str = "/act", **headers: str) -> tuple[int, Any]:
    """Asks over a connection of its own, as `requests.post` does; returns the status and the JSON."""
    reader, writer = await open_connection(gateway)
    writer.write(request_of(body, path, **headers))
    answer = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    head, _, content = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(content) if b"json" in head else content.decode()


async def open_connection(gateway: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(gateway.address.rpartition(":")[2]))


def request_of(body: Any, path: str = "/act", **headers: str) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"Host": "localhost", "Content-Length": str(len(content)), "Connection": "close"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + content


async def test_an_openvla_client_gets_the_action_alone(act: Open) -> None:
    model = Recorder(np.arange(7.0))
    async with act(model) as (_, gateway):
        status, answer = await post(gateway, OPENVLA)
    assert status == 200
    np.testing.assert_array_equal(unpacked(answer), np.arange(7.0))
    assert set(model.seen) == {"image", "instruction"}
    np.testing.assert_array_equal(model.seen["image"], IMAGE)
    assert model.seen["instruction"] == "pick up the cup"


async def test_doubly_encoded_requests_are_answered_likewise(act: Open) -> None:
    async with act(Recorder(np.arange(7.0))) as (_, gateway):
        status, answer = await post(gateway, {"encoded": json.dumps(OPENVLA)})
    assert status == 200
    assert isinstance(answer, str)
    np.testing.assert_array_equal(unpacked(json.loads(answer)), np.arange(7.0))


async def test_a_request_with_num_steps_gets_a_map(act: Open) -> None:
    model = Recorder({"actions": np.ones((30, 14), np.float32), "note": "ok"})
    async with act(model, dt_ms=33.3) as (_, gateway):
        status, answer = await post(gateway, YAM)
    assert status == 200
    assert unpacked(answer.pop("actions")).shape == (30, 14)
    assert answer == {"dt_ms": 33.3, "note": "ok"}
    assert model.seen["num_steps"] == 10
    assert (model.seen["state"].dtype, model.seen["state"].shape) == (np.float32, (14,))


async def test_the_models_own_dt_ms_outranks_the_files(act: Open) -> None:
    async with act(Recorder({"actions": np.ones((1, 1)), "dt_ms": 20.0}), dt_ms=33.3) as (_, gateway):
        _, answer = await post(gateway, YAM)
    assert answer["dt_ms"] == 20.0


async def test_robots_at_once_are_batched_and_each_gets_its_own(act: Open) -> None:
    class Policy:
        max_batch_size = 8
        sizes: list[int] = []  # noqa: RUF012

        async def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
            self.sizes.append(len(observations))
            await asyncio.sleep(0.02)
            return [one["state"] for one in observations]

    async def drive(number: int) -> None:
        for step in range(5):
            state = np.array([number, step], np.float32)
            _, answer = await post(gateway, {**OPENVLA, "state": packed(state)})
            np.testing.assert_array_equal(unpacked(answer), state)

    async with act(Policy()) as (server, gateway):
        await asyncio.gather(*map(drive, range(8)))
        assert 2 <= len(server.status().clients) <= 8
    assert max(Policy.sizes) > 1


async def test_a_robot_keeps_its_client_over_connections(act: Open) -> None:
    ended: list[InferenceRequest] = []
    async with act(Recorder()) as (server, gateway):
        server.on_request(ended.append)
        for name in ("arm-1", "arm-2", "arm-1"):
            await post(gateway, OPENVLA, X_Client_Id=name)
        for _ in range(3):
            await post(gateway, OPENVLA)
    names = [request.client_id for request in ended]
    assert names[:3] == ["arm-1", "arm-2", "arm-1"]
    assert len(set(names[3:])) == 1


async def test_a_token_is_required_where_the_file_has_one(act: Open) -> None:
    async with act(Recorder(), token="s3cret") as (_, gateway):
        assert (await post(gateway, OPENVLA))[0] == 401
        status, answer = await post(gateway, OPENVLA, Authorization="Bearer wrong")
        assert (status, answer) == (401, {"error": "expected the header Authorization: Bearer TOKEN"})
        assert (await post(gateway, OPENVLA, Authorization="Bearer s3cret"))[0] == 200


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"", 400, "expected JSON, as "),
        (b"{", 400, "expected JSON, as "),
        (b"\xff\xfe", 400, "expected JSON, as "),
        (b"[" * 100_000, 400, "JSON nested too deeply"),
        ([1], 400, 'expected a map of observations, as {"state": [1, 2, 3]}, got a list'),
        ({"encoded": 3}, 400, "encoded: expected JSON as text, got int"),
        ({"image": {"__numpy__": "AA==", "dtype": "O", "shape": [1]}}, 400, "dtype 'O': objects"),
        ({"image": {"__numpy__": "AA==", "dtype": [["a", "f4"]], "shape": [1]}}, 400, "expected base64 and a dtype"),
        ({"image": {"__numpy__": "AA==", "dtype": "no", "shape": [1]}}, 400, "unknown dtype 'no'"),
        ({"image": {"__numpy__": "AA==", "dtype": "u1", "shape": [2]}}, 400, "shape (2,) has 1 bytes"),
        ({"image": {"__numpy__": "AA==", "dtype": "u1", "shape": [-1]}}, 400, "expected a shape of up to 16 sizes"),
        ({"image": {"__numpy__": "!", "dtype": "u1", "shape": [1]}}, 400, "expected base64: "),
        ({"instruction": "x" * 70_000}, 400, "observations.max_metadata_bytes"),
    ],
)
async def test_what_cannot_be_read_is_named_and_affects_no_other_robot(
    act: Open, body: Any, status: int, text: str
) -> None:
    async with act(Recorder()) as (_, gateway):
        found, answer = await post(gateway, body)
        assert found == status
        assert text in answer["error"]
        assert (await post(gateway, OPENVLA))[0] == 200


async def test_a_body_that_is_too_large_is_refused(act: Open) -> None:
    async with act(Recorder(), {"observations": {"max_payload_bytes": 1000}}) as (_, gateway):
        status, answer = await post(gateway, {"instruction": "x" * 3000})
    assert status == 413
    assert answer["error"].startswith("a body of more than 2000 bytes")


async def test_a_body_that_does_not_come_is_refused(act: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inferential.gateway.http.RECEIVE_S", 0.03)
    async with act(Recorder()) as (_, gateway):
        reader, writer = await open_connection(gateway)
        writer.write(request_of(OPENVLA)[:-20])
        answer = await asyncio.wait_for(reader.read(), 60)
        writer.close()
    assert b" 408 " in answer
    assert b"the body has not arrived within 0.03 s" in answer


@pytest.mark.parametrize(
    ("model", "settings", "status", "text"),
    [
        (lambda one: 1 / 0, {}, 500, "ModelFailed: ZeroDivisionError"),
        (lambda one: {"pose": np.zeros(3)}, {}, 500, "the answer of model 'vla' has no 'actions', but pose"),
        (lambda one: asyncio.sleep(10), {"timeout_ms": 30.0}, 504, "TimeoutError: model 'vla' gave no answer"),
    ],
)
async def test_requests_without_actions_end_in_an_error(
    act: Open, model: Any, settings: dict[str, Any], status: int, text: str
) -> None:
    async with act(model, **settings) as (_, gateway):
        found, answer = await post(gateway, OPENVLA)
    assert (found, text in answer["error"]) == (status, True), answer


async def test_a_request_that_cannot_be_read_or_answered_is_counted_once_and_no_other(act: Open) -> None:
    def moody(observation: dict[str, Any]) -> Any:
        return {"pose": np.zeros(3)} if "image" in observation else observation["state"]

    async with act(moody) as (server, gateway):
        asked: list[tuple[Any, int]] = [(b"{", 400), ([1], 400), ({"state": [1, 2]}, 200), ({"nothing": 1}, 500)]
        asked.append((OPENVLA, 500))  # which has no 'actions'
        counts = []
        for body, status in asked:
            assert (await post(gateway, body, X_Client_Id="arm"))[0] == status
            stats = server.metrics.get_stats("observation_errors", {"error": "gateway", "client": "arm"})
            counts.append(stats.count if stats else 0)
    assert counts == [1, 2, 2, 2, 3]  # a model's failure is counted as that


async def test_texts_of_internal_errors_stay_here(act: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(body: Any) -> Any:
        raise RuntimeError("/secret/path")

    monkeypatch.setattr("inferential.gateway.act_messages.loads", broken)
    async with act(Recorder()) as (_, gateway):
        status, answer = await post(gateway, OPENVLA)
    assert (status, answer) == (500, {"error": "internal error of the server; its log has more"})


async def test_a_robot_that_leaves_frees_its_place(act: Open) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()
    ended: list[InferenceRequest] = []
    gone = asyncio.Event()

    async def slow(one: dict[str, Any]) -> Any:
        entered.set()
        await leave.wait()
        return np.zeros(1)

    async with act(slow) as (server, gateway):

        @server.on_request
        def note(request: InferenceRequest) -> None:
            ended.append(request)
            gone.set()

        _, writer = await open_connection(gateway)
        writer.write(request_of(OPENVLA))
        await entered.wait()
        writer.close()
        while server.status().sizes["inprocess_clients"]:  # noqa: ASYNC110 (there is no event for it)
            await asyncio.sleep(0.01)
        leave.set()
        await asyncio.wait_for(gone.wait(), 60)
        assert (await post(gateway, OPENVLA))[0] == 200
    assert ended[0].refusal is not None
    assert ended[0].refusal.cause == "client_gone"


async def test_a_silent_robot_is_forgotten(act: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inferential.gateway.clients.FORGET_S", 0.01)
    async with act(Recorder()) as (server, gateway):
        await post(gateway, OPENVLA)
        while server.status().sizes["inprocess_clients"]:  # noqa: ASYNC110 (there is no event for it)
            await asyncio.sleep(0.01)


async def test_of_very_many_robots_those_that_are_silent_give_way(act: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inferential.gateway.clients.MAX_CLIENTS", 2)
    leave = asyncio.Event()

    async def policy(observation: dict[str, Any]) -> Any:
        if observation["instruction"] == "wait":
            await leave.wait()
        return np.zeros((1, 1))

    async with act(policy) as (server, gateway):
        for name in ("one", "two", "one", "three"):
            assert (await post(gateway, OPENVLA, X_Client_Id=name))[0] == 200
        assert server.status().sizes["inprocess_clients"] == 2
        waiting = [
            asyncio.create_task(post(gateway, {**OPENVLA, "instruction": "wait"}, X_Client_Id=name))
            for name in ("one", "two")
        ]
        while (status := server.status()).in_flight + status.waiting < 2:  # noqa: ASYNC110 (there is no event for it)
            await asyncio.sleep(0.01)
        refused = await post(gateway, OPENVLA, X_Client_Id="three")
        assert refused == (503, {"error": "2 clients have requests open"})
        assert server.status().sizes["inprocess_clients"] == 2
        leave.set()
        assert [status for status, _ in await asyncio.gather(*waiting)] == [200, 200]


async def test_health_and_other_paths(act: Open) -> None:
    async with act(Recorder()) as (_, gateway):
        assert (await post(gateway, {}, "/predict"))[0] == 404
        reader, writer = await open_connection(gateway)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert b" 200 " in await reader.read()
        writer.close()


async def test_a_taken_port_is_named(act: Open) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        async with act(Recorder()) as (server, _):
            with pytest.raises(OSError, match=f"gateways.act: cannot listen on 127.0.0.1:{port}: Address already in"):
                await ActGateway(server, ActConfig(model="vla", port=port)).start()


# Arrays in JSON


@given(st.sampled_from(["u1", "<i4", "<f4", ">f8", "?", "<U3"]), st.lists(st.integers(0, 3), min_size=1, max_size=3))
def test_arrays_come_back_as_they_were(dtype: str, shape: list[int]) -> None:
    array = np.zeros(shape, dtype)
    found = loads(dumps({"a": array}))["a"]
    assert (found.dtype, found.shape) == (array.dtype, tuple(shape))
    np.testing.assert_array_equal(found, array)


def test_numpys_scalars_are_scalars() -> None:
    found = loads(dumps({"a": np.int32(3), "b": np.array(0.5)}))
    assert (found["a"], type(found["a"]), found["b"]) == (3, np.int32, 0.5)


def test_narrow_floats_are_sent_as_float32() -> None:
    found = loads(dumps({"a": np.ones(2, ml_dtypes.bfloat16)}))["a"]
    assert (found.dtype, found.tolist()) == (np.float32, [1.0, 1.0])


@pytest.mark.parametrize("value", [object(), np.array([object()]), np.array([1j])])
def test_what_json_cannot_carry_is_named(value: Any) -> None:
    with pytest.raises(TypeError, match="an answer cannot hold"):
        dumps({"a": value})
