"""An openpi policy server as a model: the client side of its protocol."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from tests.gateway.conftest import HORIZON, serving_openpi
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from inferential.dispatch.base import RemoteModelError
from inferential.dispatch.openpi import OpenPiModel
from inferential.proto.msgpack_numpy import pack, unpack


def target_of(gateway: Any) -> str:
    return str(gateway.address).replace("ws://", "openpi://")


async def asked(address: str, **values: Any) -> Any:
    async with connect(address, compression=None) as websocket:
        await websocket.recv()
        await websocket.send(pack({"observation/state": np.arange(3.0), **values}))
        answer = await websocket.recv()
        return answer if isinstance(answer, str) else unpack(answer)


async def test_a_policy_server_of_openpi_is_a_model_like_any_other() -> None:
    async with serving_openpi(metadata={"name": "pi0"}) as (_, gateway):
        target = target_of(gateway)
        model = OpenPiModel(target)
        async with serving_openpi(model) as (behind, outer):
            answers = await asyncio.gather(
                *(asked(outer.address, **{"observation/state": np.full(2, n)}) for n in range(6))
            )
            assert [answer["actions"][0].tolist() for answer in answers] == [[n, n] for n in range(6)]
            assert behind.status().models[0].calls == 6
            assert "ModelFailed" in await asked(outer.address, prompt="fail")
            assert "actions" in await asked(outer.address)
            async with connect(outer.address) as robot:
                assert unpack(await robot.recv()) == {"name": "pi0"}


async def test_a_policy_server_that_goes_is_an_error_and_is_found_again_when_it_is_back() -> None:
    async with serving_openpi() as (_, gateway):
        port = int(gateway.address.rpartition(":")[2])
        model = OpenPiModel(f"openpi://127.0.0.1:{port}")
        one = {"observation/state": np.zeros(1)}
        assert (await model.infer(one))["actions"].shape == (HORIZON, 1)
    with pytest.raises(ConnectionError, match="cannot be reached"):
        await model.infer(one)
    async with serving_openpi(port=port):
        assert (await model.infer(one))["actions"].shape == (HORIZON, 1)
        with pytest.raises(RemoteModelError, match="no such cup"):
            await model.infer({**one, "prompt": "fail"})
        await model.aclose()


async def test_its_key_is_sent_and_its_silence_ends() -> None:
    async def silent(one: dict[str, Any]) -> Any:
        await asyncio.Event().wait()

    async with serving_openpi(silent, api_keys=["k"]) as (_, gateway):
        target = target_of(gateway)
        with pytest.raises(ConnectionError, match="HTTP 401"):
            await OpenPiModel(target).infer({})
        with pytest.raises(TimeoutError, match="did not answer within"):
            await OpenPiModel(target, "k", timeout_s=0.2).infer({"observation/state": np.zeros(1)})


@pytest.mark.parametrize(
    "target",
    ["openpi://", "openpi://host:port", "openpi://host:70000", "ws://host:1", "openpi://me@host", "openpi://host#part"],
)
def test_what_is_not_an_address_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match="expected openpi://HOST:PORT"):
        OpenPiModel(target)


@asynccontextmanager
async def listening(host: str, paths: list[str]) -> AsyncIterator[int]:
    """A policy server that answers with what it was asked, and notes the paths it was asked at."""

    async def answer(websocket: ServerConnection) -> None:
        assert websocket.request is not None
        paths.append(websocket.request.path)
        await websocket.send(pack({"at": host}))
        async for message in websocket:
            await websocket.send(message)

    async with serve(answer, host, 0) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("host", "target", "path"),
    [
        ("127.0.0.1", "openpi://127.0.0.1:{}", "/"),
        ("127.0.0.1", "openpi://127.0.0.1:{}/v1/policy?session=3", "/v1/policy?session=3"),
        pytest.param(
            "::1",
            "openpi://[::1]:{}/p",
            "/p",
            marks=pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 on this machine"),
        ),
    ],
)
async def test_ipv6_and_paths_lead_to_a_server_past_the_proxies_of_the_environment(
    host: str, target: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    paths: list[str] = []
    async with listening(host, paths) as port:
        model = OpenPiModel(target.format(port))
        assert await model.metadata() == {"at": host}
        assert await model.infer({"a": {"b": 1}, "a/b": None}) == {"a": {"b": 1}, "a/b": None}
        await model.aclose()
    assert paths == [path]


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Addresses and options of the connections that are asked for; none is made."""
    asked_for: list[tuple[str, dict[str, Any]]] = []

    async def refuse(uri: str, **options: Any) -> Any:
        asked_for.append((uri, options))
        raise OSError("not made")

    monkeypatch.setattr("inferential.dispatch.openpi.connect", refuse)
    return asked_for


@pytest.mark.parametrize(
    ("target", "uri", "proxy"),
    [
        ("openpi://gpu", "ws://gpu:8000", True),
        ("openpi+wss://policy.example.org", "wss://policy.example.org:443", True),
        ("openpi+wss://policy.example.org:8443/pi0", "wss://policy.example.org:8443/pi0", True),
        ("openpi://[fe80::1]:1", "ws://[fe80::1]:1", True),
        ("openpi://localhost:1", "ws://localhost:1", None),
        ("openpi://127.9.9.9:1", "ws://127.9.9.9:1", None),
    ],
)
async def test_a_connection_has_tls_and_proxies_by_its_target_and_no_pings(
    target: str, uri: str, proxy: Any, connections: list[tuple[str, dict[str, Any]]]
) -> None:
    with pytest.raises(ConnectionError, match="not made"):
        await OpenPiModel(target).infer({})
    (found, options) = connections[0]
    assert (found, options["proxy"]) == (uri, proxy)
    assert options["ping_interval"] is None  # a server that compiles answers none


async def test_a_server_that_is_slow_to_connect_falls_under_the_same_time_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        model = OpenPiModel(f"openpi://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.05)
        with pytest.raises(TimeoutError, match=r"did not answer within 0\.05 s"):
            await model.infer({})
        with pytest.raises(TimeoutError, match=r"did not answer within 0\.05 s"):
            await model.metadata()


@pytest.mark.parametrize("name", ["bfloat16", "float8_e5m2"])
async def test_narrow_floats_are_sent_as_float32(name: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    async with listening("127.0.0.1", []) as port:
        model = OpenPiModel(f"openpi://127.0.0.1:{port}")
        answer = await model.infer({"state": np.ones(2, getattr(ml_dtypes, name))})
        await model.aclose()
    assert answer["state"].dtype == np.float32


async def test_a_value_that_the_protocol_cannot_carry_is_named() -> None:
    with pytest.raises(ValueError, match="depth/left: dtype '<c16' is not allowed"):
        await OpenPiModel("openpi://127.0.0.1:1").infer({"depth": {"left": np.zeros(2, complex)}})
