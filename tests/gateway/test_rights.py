"""Robots of gateways that are known by their keys and tokens: their ids, and what they may do."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from tests.gateway.conftest import Open, Recorder
from tests.gateway.test_act import OPENVLA, post
from tests.gateway.test_gr00t import STATE
from tests.gateway.test_gr00t import client as gr00t_client
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from inferential import InferenceRequest
from inferential.proto.msgpack_numpy import pack, unpack

HASHED = "sha256:" + hashlib.sha256(b"hers").hexdigest()
KEYS = [{"id": "arm-01", "key": "his"}, {"id": "arm-02", "key": HASHED}, "shared"]


def rights(**entry: Any) -> dict[str, Any]:
    return {"clients": {"known": [{"id": "arm-01", "model": "pi0", **entry}]}}


async def ask_openpi(address: str, key: str, client_id: str = "", size: int = 4) -> Any:
    """Returns what an openpi robot gets: a map, or the text of an error."""
    headers = {"Authorization": f"Api-Key {key}"} | ({"X-Client-Id": client_id} if client_id else {})
    async with connect(address, compression=None, additional_headers=headers) as websocket:
        try:
            first = await websocket.recv()
            if isinstance(first, str):
                return first
            await websocket.send(pack({"observation/state": np.zeros(size), "prompt": "go"}))
            answer = await websocket.recv()
            return answer if isinstance(answer, str) else unpack(answer)
        except ConnectionClosed as closed:
            return str(closed)


@pytest.mark.parametrize(("key", "name"), [("his", "arm-01"), ("hers", "arm-02")])
async def test_an_openpi_robot_is_known_by_its_key(openpi: Open, key: str, name: str) -> None:
    async with openpi(api_keys=KEYS) as (server, gateway):
        assert "actions" in await ask_openpi(gateway.address, key)
        assert server.known_clients == [name]


async def test_the_rights_of_a_key_hold_for_its_robot_whatever_id_it_sends(openpi: Open) -> None:
    async with openpi(api_keys=KEYS, sections=rights(max_payload_bytes=64)) as (_, gateway):
        assert "may send 64 bytes" in await ask_openpi(gateway.address, "his", size=100)
        assert "'free' is not the id of the key that was shown" in await ask_openpi(gateway.address, "his", "free")
        assert "actions" in await ask_openpi(gateway.address, "hers", size=100)


async def test_no_robot_takes_the_id_of_a_key_without_it(openpi: Open) -> None:
    async with openpi(api_keys=KEYS) as (server, gateway):
        assert "'arm-01' belongs to a key" in await ask_openpi(gateway.address, "shared", "arm-01")
        assert "actions" in await ask_openpi(gateway.address, "shared", "arm-03")
        assert server.known_clients == ["arm-03"]


async def test_a_model_that_a_key_may_not_ask_is_refused_at_once(openpi: Open) -> None:
    async with openpi(api_keys=KEYS, sections=rights(models=["act"])) as (_, gateway):
        assert "may not ask model 'pi0'; it may ask: act" in await ask_openpi(gateway.address, "his")


async def test_a_refusal_that_may_pass_is_asked_again_whatever_words_are_in_its_reason(
    openpi: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inferential.gateway.base.RETRY_PAUSES_S", (0.0, 0.0, 0.0))
    async with openpi(api_keys=KEYS, sections={"clients": {"accept_unknown": False}}) as (server, gateway):
        ended: list[InferenceRequest] = []
        server.on_request(ended.append)
        answer = await ask_openpi(gateway.address, "shared", "who may send it")
    assert answer == "RequestRejected: client 'who may send it' is not accepted"
    assert len(ended) == 4


async def test_robots_of_gr00t_are_known_by_their_tokens(gr00t: Open) -> None:
    sections = {"clients": {"known": [{"id": "arm-01", "model": "gr00t", "max_payload_bytes": 16}]}}
    async with gr00t(api_token=KEYS, sections=sections) as (server, gateway):
        async with gr00t_client(gateway, "his") as robot:
            assert "may send 16 bytes" in (await robot.call(data=STATE))["error"]
        async with gr00t_client(gateway, "hers") as robot:
            assert "action.arm" in await robot.call(data=STATE)
        async with gr00t_client(gateway, "other") as robot:
            assert "Invalid API token" in (await robot.call(data=STATE))["error"]
        assert server.known_clients == ["arm-02"]


async def test_a_robot_of_gr00t_that_takes_the_identity_of_another_gets_no_client_of_it(gr00t: Open) -> None:
    async with gr00t(api_token=KEYS) as (server, gateway):
        async with gr00t_client(gateway, "his") as robot:
            await robot.call(data=STATE)
        async with gr00t_client(gateway, "shared", b"id arm-01") as thief:
            await thief.call(data=STATE)
        assert len(server.known_clients) == 2


async def test_robots_of_act_are_known_by_their_tokens(act: Open) -> None:
    sections = {"clients": {"known": [{"id": "arm-01", "model": "vla", "max_payload_bytes": 16}]}}
    async with act(Recorder(), token=KEYS, sections=sections) as (server, gateway):
        status, answer = await post(gateway, OPENVLA, Authorization="Bearer his")
        assert (status, "may send 16 bytes" in answer["error"]) == (413, True)
        assert (await post(gateway, OPENVLA, Authorization="Bearer hers"))[0] == 200
        status, answer = await post(gateway, OPENVLA, Authorization="Bearer shared", X_Client_Id="arm-01")
        assert (status, "belongs to a key" in answer["error"]) == (403, True)
        assert (await post(gateway, OPENVLA, Authorization="Bearer wrong"))[0] == 401
        assert server.known_clients == ["arm-02"]


@pytest.mark.parametrize(
    ("clients", "status"),
    [
        ({"accept_unknown": False}, 403),
        ({"known": [{"id": "arm-01", "model": "vla", "models": ["other"]}]}, 403),
        ({"known": [{"id": "arm-01", "model": "vla", "max_rate_hz": 0.001}]}, 429),
    ],
)
async def test_what_a_client_may_not_gets_a_status_of_http_that_is_not_tried_again(
    act: Open, monkeypatch: pytest.MonkeyPatch, clients: dict[str, Any], status: int
) -> None:
    monkeypatch.setattr("inferential.gateway.base.RETRY_PAUSES_S", (0.0, 20.0))  # the second does not fit
    async with act(Recorder(), timeout_ms=5000.0, sections={"clients": clients}) as (_, gateway):
        for _ in range(2):
            found, answer = await post(gateway, OPENVLA, X_Client_Id="arm-01")
    assert found == status, answer


async def test_a_hash_in_the_file_is_no_token(act: Open) -> None:
    async with act(Recorder(), token=KEYS) as (_, gateway):
        assert (await post(gateway, OPENVLA, Authorization=f"Bearer {HASHED}"))[0] == 401
