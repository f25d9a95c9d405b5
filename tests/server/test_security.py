"""Servers with keys, on real sockets: who gets in, as whom, and which reason each end gets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
import zmq.asyncio
import zmq.auth

from inferential import AsyncConnection, Connection, InvalidObservation, LocalDispatcher, RequestRejected, Server
from inferential.config import InferentialConfig
from inferential.config.gateways import ActConfig, Gr00tConfig, OpenPiConfig
from inferential.config.services import HttpConfig
from inferential.gateway import ActGateway, Gr00tGateway, OpenPiGateway
from inferential.transport import handshakes
from inferential.web import HttpServer
from inferential.zmtp import curve
from inferential.zmtp import protocol as p
from inferential.zmtp.certificates import CertificateError, write_certificates

Start = Callable[..., Any]
STATE = np.zeros(7, np.float32)
HOSTS = ["127.0.0.1", *(["[::1]"] if os.path.exists("/proc/net/if_inet6") else [])]


def new_key(folder: Path, name: str) -> Path:
    keys = curve.key_pair(os.urandom)
    return write_certificates(folder, name, keys.public, keys.secret)[1]


@pytest.fixture
def keys(short_path: Path) -> Path:
    """A folder with the keys of a server, of robots arm-01 and arm-02, and of a stranger that is not accepted."""
    clients = short_path / "clients"
    clients.mkdir()
    new_key(short_path, "server")
    new_key(short_path, "stranger")
    for name in ("arm-01", "arm-02"):
        new_key(clients, name)
    return short_path


def settings(keys: Path, mode: str = "required", **more: Any) -> InferentialConfig:
    security = {"mode": mode, "server_key": str(keys / "server.key_secret"), "clients": str(keys / "clients")}
    return InferentialConfig.model_validate({"security": security, **more})


@contextlib.asynccontextmanager
async def serving(config: InferentialConfig, bind: str = "tcp://127.0.0.1:0") -> AsyncIterator[Server]:
    def model(observation: dict[str, Any]) -> dict[str, Any]:
        return {"actions": np.ones((2, 7), np.float32)}

    dispatcher = LocalDispatcher({"policy": model, "other": model})
    async with Server(bind, config=config, dispatcher=dispatcher) as server:
        yield server


def robot(server: Server, keys: Path, name: str = "arm-01", client_id: str = "", **more: Any) -> AsyncConnection:
    place = keys / "clients" if name.startswith("arm") else keys
    paths = {"server_key": str(keys / "server.key"), "secret_key": str(place / f"{name}.key_secret")}
    return AsyncConnection(server.address, client_id, reconnect_ivl_ms=10, reconnect_max_ms=50, **(paths | more))


async def error_of(connection: AsyncConnection, text: str) -> None:
    """Waits until the robot has an error with this text."""
    connection.model("policy")
    until = time.monotonic() + 60
    while text not in (connection.last_error or ""):
        assert time.monotonic() < until, f"expected {text!r}, got {connection.last_error!r}"
        with contextlib.suppress(Exception):
            await connection.model("policy").infer(20, state=STATE)
        await asyncio.sleep(0.001)  # where it raised at once


async def test_a_robot_with_a_key_is_served_under_the_name_of_its_key(keys: Path) -> None:
    async with serving(settings(keys)) as server, robot(server, keys) as arm:
        assert arm.client_id == "arm-01"
        result = await arm.model("policy").infer(60_000, state=STATE, image=np.zeros(200_000, np.uint8))
        assert result is not None
        assert server.connected_robots == ["arm-01"]


async def test_a_robot_of_threads_and_keys_as_text_are_served_too(keys: Path) -> None:
    public, _ = zmq.auth.load_certificate(str(keys / "server.key"))
    _, secret = zmq.auth.load_certificate(str(keys / "clients" / "arm-01.key_secret"))
    assert secret is not None

    def ask(address: str) -> Any:
        with Connection(address, "arm-01", server_key=public.decode(), secret_key=secret.decode()) as arm:
            return arm.model("policy").infer(60_000, state=STATE)

    async with serving(settings(keys)) as server:
        assert await asyncio.to_thread(ask, server.address) is not None


async def test_keys_are_taken_from_the_environment(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENTIAL_SERVER_KEY", str(keys / "server.key"))
    monkeypatch.setenv("INFERENTIAL_SECRET_KEY", str(keys / "clients" / "arm-02.key_secret"))
    async with serving(settings(keys)) as server, AsyncConnection(server.address) as arm:
        assert await arm.model("policy").infer(60_000, state=STATE) is not None
        assert server.connected_robots == ["arm-02"]


async def test_a_robot_cannot_speak_in_the_name_of_another(keys: Path) -> None:
    async with serving(settings(keys)) as server, robot(server, keys, client_id="arm-02") as arm:
        with pytest.raises(InvalidObservation, match=r"'arm-02' is not the identity .* which is 'arm-01'"):
            await arm.model("policy").infer(60_000, state=STATE)
        assert server.connected_robots == []


async def test_a_robot_cannot_take_over_the_connection_of_another_by_its_name(keys: Path) -> None:
    async with serving(settings(keys)) as server, robot(server, keys, "arm-02") as victim:
        handle = victim.model("policy")
        assert await handle.infer(60_000, state=STATE) is not None
        async with robot(server, keys, "arm-01", client_id="arm-02") as thief:
            with pytest.raises(InvalidObservation):
                await thief.model("policy").infer(60_000, state=STATE)
            assert await handle.infer(60_000, state=STATE) is not None


async def test_a_robot_without_keys_and_the_operator_learn_what_it_needs(
    keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(settings(keys)) as server:
        async with AsyncConnection(server.address, "arm-01", reconnect_ivl_ms=10, reconnect_max_ms=50) as arm:
            await error_of(arm, "give server_key= and secret_key=")
        assert server.metrics.get_stats("handshake_failures", {"error": "no_keys"}) is not None
    lines = [record.getMessage() for record in caplog.records if "handshake with" in record.getMessage()]
    assert len(lines) == 1
    assert "127.0.0.1" in lines[0]
    assert "has no keys" in lines[0]


async def test_a_robot_with_keys_learns_that_a_server_takes_none(keys: Path) -> None:
    async with serving(InferentialConfig()) as server, robot(server, keys) as arm:
        await error_of(arm, "leave out server_key=")


async def test_a_robot_with_an_unknown_key_learns_why_and_connects_once_it_is_accepted(keys: Path) -> None:
    async with serving(settings(keys)) as server, robot(server, keys, "stranger") as arm:
        await error_of(arm, "its NAME.key is not in the folder security.clients")
        shutil.copy(keys / "stranger.key", keys / "clients" / "stranger.key")
        result = None
        for _ in range(20):
            result = result or await arm.model("policy").infer(1000, state=STATE)
        assert result is not None


async def test_a_robot_that_expects_another_server_does_not_talk_to_this_one(keys: Path) -> None:
    """So no process that takes the server's address can send actions, or read an observation."""
    async with (
        serving(settings(keys)) as server,
        robot(server, keys, server_key=str(keys / "stranger.key")) as arm,
    ):
        await error_of(arm, "the server holds another key")
        assert server.connected_robots == []


async def test_revoking_a_key_ends_its_connection_at_once_and_no_other(keys: Path) -> None:
    async with (
        serving(settings(keys)) as server,
        robot(server, keys, "arm-01") as revoked,
        robot(server, keys, "arm-02") as other,
    ):
        for arm in (revoked, other):
            assert await arm.model("policy").infer(60_000, state=STATE) is not None
        (keys / "clients" / "arm-01.key").rename(keys / "clients" / "arm-01.key.revoked")
        await error_of(revoked, "it was revoked")
        assert await other.model("policy").infer(60_000, state=STATE) is not None


async def is_not_answered(connection: AsyncConnection) -> None:
    """Asks, and finds that no answer comes: the connection is not let in, or ends."""
    with contextlib.suppress(RequestRejected):
        assert await connection.model("policy").infer(300, state=STATE) is None


async def test_optional_serves_both_but_no_robot_without_a_key_under_the_name_of_one(
    keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(settings(keys, "optional")) as server, robot(server, keys) as arm:
        assert await arm.model("policy").infer(60_000, state=STATE) is not None
        async with AsyncConnection(server.address, "guest") as guest:
            assert await guest.model("policy").infer(60_000, state=STATE) is not None
        async with AsyncConnection(server.address, "arm-02", reconnect_ivl_ms=10) as thief:
            await is_not_answered(thief)
        async with server.connect("arm-02") as inside:
            with pytest.raises(InvalidObservation, match="'arm-02' belongs to a key"):
                await inside.model("policy").infer(60_000, state=STATE)
        assert set(server.connected_robots) == {"arm-01", "guest"}
    assert "identity 'arm-02' belongs to a key" in caplog.text


async def test_failover_encrypts_to_each_server_with_its_key(keys: Path) -> None:
    new_key(keys, "second")
    second = settings(keys)
    second.security.server_key = str(keys / "second.key_secret")
    async with (
        serving(settings(keys)) as one,
        serving(second) as two,
        AsyncConnection(
            [one.address, two.address],
            server_key=[str(keys / "server.key"), str(keys / "second.key")],
            secret_key=str(keys / "clients" / "arm-01.key_secret"),
        ) as arm,
    ):
        assert await arm.model("policy").infer(60_000, state=STATE) is not None


def test_several_server_keys_must_be_as_many_as_servers(keys: Path) -> None:
    with pytest.raises(ValueError, match="server_key: expected one key for all servers, or 3"):
        Connection(
            "a:1,b:1,c:1",
            server_key=f"{keys / 'server.key'},{keys / 'stranger.key'}",
            secret_key=str(keys / "stranger.key_secret"),
        )


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"server_key": "server.key"}, "secret_key: server_key is given"),
        ({"secret_key": "server.key_secret"}, "server_key: secret_key is given"),
        ({"server_key": "server.key", "secret_key": "no.key_secret"}, "No such file"),
        ({"server_key": "server.key", "secret_key": "server.key"}, "is a public key; give NAME.key_secret"),
    ],
)
def test_keys_that_cannot_be_used_are_an_error_at_once(
    given: dict[str, str], reason: str, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(keys)
    with pytest.raises(ValueError, match=reason):
        Connection("localhost:1", **given)  # type: ignore[arg-type]


def test_a_secret_key_that_others_may_read_is_refused(keys: Path) -> None:
    secret = keys / "clients" / "arm-01.key_secret"
    secret.chmod(0o644)
    with pytest.raises(CertificateError, match="chmod 600"):
        Connection("localhost:1", server_key=str(keys / "server.key"), secret_key=str(secret))


# Several addresses


def several(keys: Path, local: str | None, mode: str = "required") -> tuple[InferentialConfig, list[Any]]:
    config = settings(keys, mode)
    path = f"ipc://{keys}/robots.sock"
    return config, [path if local is None else {"address": path, "security": local}, "tcp://127.0.0.1:0"]


@contextlib.asynccontextmanager
async def serving_on(config: InferentialConfig, bind: list[Any]) -> AsyncIterator[Server]:
    config.transport.bind = bind
    async with Server(config=config, dispatcher=LocalDispatcher({"policy": lambda observation: 1.0})) as server:
        yield server


async def test_robots_of_one_machine_come_without_keys_while_those_of_the_network_need_them(keys: Path) -> None:
    async with serving_on(*several(keys, "off")) as server:
        local, network = server.addresses
        assert local == server.address == f"ipc://{keys}/robots.sock"
        async with AsyncConnection(local, "local-arm") as inside:
            assert await inside.model("policy").infer(60_000, state=STATE) is not None
        async with robot(server, keys) as arm:  # by the address without keys
            await error_of(arm, "leave out server_key=")
        paths = {"server_key": str(keys / "server.key"), "secret_key": str(keys / "clients" / "arm-01.key_secret")}
        async with AsyncConnection(network, **paths) as arm:
            assert await arm.model("policy").infer(60_000, state=STATE) is not None
        async with AsyncConnection(network, "arm-03", reconnect_ivl_ms=10) as outsider:
            await error_of(outsider, "give server_key= and secret_key=")


async def test_no_robot_takes_the_id_of_a_key_by_the_address_without_keys(keys: Path) -> None:
    async with serving_on(*several(keys, "off")) as server:
        async with AsyncConnection(server.address, "arm-01", reconnect_ivl_ms=10) as thief:
            await is_not_answered(thief)
        assert server.connected_robots == []
        assert server.metrics.get_stats("handshake_failures", {"error": "name_of_key"}) is not None


@pytest.mark.parametrize(("local", "mode", "served"), [(None, "required", False), ("optional", "required", True)])
async def test_an_address_that_says_nothing_asks_for_keys_as_all_do(
    keys: Path, local: str | None, mode: str, served: bool
) -> None:
    async with (
        serving_on(*several(keys, local, mode)) as server,
        AsyncConnection(server.address, "guest", reconnect_ivl_ms=10) as guest,
    ):
        if served:
            assert await guest.model("policy").infer(60_000, state=STATE) is not None
        else:
            await error_of(guest, "give server_key= and secret_key=")


async def test_every_address_of_a_list_is_closed_when_one_cannot_be_had(short_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = [f"ipc://{short_path}/robots.sock", f"tcp://127.0.0.1:{taken.getsockname()[1]}"]
        with pytest.raises(OSError, match=r"transport\.bind: cannot listen on 'tcp://127"):
            async with Server(bind, dispatcher=LocalDispatcher({"policy": lambda observation: 1.0})):
                pass
    assert not (short_path / "robots.sock").exists()


async def test_a_server_of_every_interface_serves_robots_by_ipv4_and_ipv6_at_once() -> None:
    async with serving(InferentialConfig(), "tcp://*:0") as server:
        port = server.address.rpartition(":")[2]
        for number, host in enumerate(HOSTS):
            async with AsyncConnection(f"tcp://{host}:{port}", f"arm-{number}") as arm:
                assert await arm.model("policy").infer(60_000, state=STATE) is not None


def test_an_address_cannot_ask_for_keys_where_there_are_none(keys: Path) -> None:
    bind = [{"address": "tcp://*:5555", "security": "required"}]
    with pytest.raises(ValueError, match=r"transport\.bind has security: required for tcp://\*:5555"):
        InferentialConfig.model_validate({"transport": {"bind": bind}})


async def test_a_folder_of_keys_that_others_may_write_to_is_refused_and_keeps_the_keys_of_a_running_server(
    keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(settings(keys)) as server, robot(server, keys) as arm:
        assert await arm.model("policy").infer(60_000, state=STATE) is not None
        (keys / "clients").chmod(0o777)
        shutil.copy(keys / "stranger.key", keys / "clients" / "stranger.key")
        async with robot(server, keys, "stranger") as stranger:
            await error_of(stranger, "its NAME.key is not in the folder security.clients")
        assert await arm.model("policy").infer(60_000, state=STATE) is not None
    with pytest.raises(CertificateError, match=r"others may write to it, .*: chmod o-w"):
        async with serving(settings(keys)):
            pass


# libzmq's clients


async def test_a_libzmq_client_with_a_key_is_served_as_its_key_says(keys: Path) -> None:
    async with serving(settings(keys)) as server:
        with zmq.asyncio.Context() as context, context.socket(zmq.DEALER) as dealer:
            public, secret = zmq.auth.load_certificate(str(keys / "clients" / "arm-01.key_secret"))
            dealer.curve_publickey, dealer.curve_secretkey = public, secret
            dealer.curve_serverkey = zmq.auth.load_certificate(str(keys / "server.key"))[0]
            dealer.identity, dealer.linger = b"arm-02", 0
            dealer.connect(server.address)
            from inferential.proto import Observation

            observation = Observation(model_id="policy", protocol_version=2, request_id=7)
            observation.client.id = "arm-01"
            await dealer.send_multipart([b"", observation.SerializeToString(), b""])
            async with asyncio.timeout(60):
                _, envelope, _ = await dealer.recv_multipart()
            assert b"arm-01" in envelope
            assert server.connected_robots == ["arm-01"]


# Floods


async def test_a_peer_whose_handshakes_fail_is_closed_unread_after_a_while(
    keys: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshakes, "FAILURES_PER_S", 0.0)  # however long they take here
    async with serving(settings(keys)) as server:
        host, _, port = server.address.removeprefix("tcp://").rpartition(":")
        with contextlib.ExitStack() as flood:
            for _ in range(150):
                one = flood.enter_context(socket.create_connection((host, int(port))))
                with contextlib.suppress(OSError):
                    one.sendall(p.greeting("CURVE") + p.command(curve.HELLO + bytes(194)))
                await asyncio.sleep(0.001)
            async with asyncio.timeout(60):
                while not server.metrics.get_stats("handshake_failures", {"error": "too_many"}):  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
        counts = {
            cause: server.metrics.get_stats("handshake_failures", {"error": cause}) for cause in ("hello", "too_many")
        }
        assert all(counts.values()), counts
    assert len([one for one in caplog.records if "handshake with" in one.getMessage()]) == 1


# Rights


def known(**rights: Any) -> dict[str, Any]:
    return {"clients": {"known": [{"id": "arm-01", "model": "policy", **rights}]}}


async def test_a_model_that_is_not_allowed_is_refused_by_name(keys: Path) -> None:
    config = settings(keys, **known(models=["policy"]))
    async with serving(config) as server, robot(server, keys) as arm:
        assert await arm.model("policy").infer(60_000, state=STATE) is not None
        with pytest.raises(RequestRejected, match="may not ask model 'other'; it may ask: policy"):
            await arm.model("other").infer(60_000, state=STATE)


async def test_a_client_that_asks_too_fast_learns_how_long_to_wait(keys: Path) -> None:
    async with serving(settings(keys, **known(max_rate_hz=0.5))) as server, robot(server, keys) as arm:
        handle = arm.model("policy", queue="all")
        assert await handle.infer(60_000, state=STATE) is not None
        with pytest.raises(RequestRejected, match=r"faster than its 0.5 Hz: wait 1\d{3} ms"):
            await handle.infer(60_000, state=STATE)


async def test_a_payload_above_the_clients_limit_is_refused(keys: Path) -> None:
    async with serving(settings(keys, **known(max_payload_bytes=1000))) as server, robot(server, keys) as arm:
        with pytest.raises(RequestRejected, match="may send 1000 bytes in an observation, got 1028"):
            await arm.model("policy").infer(60_000, state=np.zeros(257, np.float32))


async def test_priority_and_urgency_count_as_the_best_that_the_client_may_claim(keys: Path) -> None:
    seen: list[tuple[int, float]] = []
    config = settings(keys, **known(min_priority=3, max_urgency=0.25))
    async with serving(config) as server, robot(server, keys) as arm:
        server.on_request(lambda request: seen.append((request.priority, request.urgency)))
        handle = arm.model("policy", priority=1)
        await handle.infer(60_000, urgency=1.0, state=STATE)
        await handle.infer(60_000, urgency=0.125, priority=5, state=STATE)
    assert seen == [(3, 0.25), (5, 0.125)]


async def test_rights_hold_for_a_client_in_the_servers_process_as_gateways_are() -> None:
    config = InferentialConfig.model_validate(known(models=["other"]))
    async with serving(config) as server, server.connect("arm-01") as inside:
        with pytest.raises(RequestRejected, match="may not ask model 'policy'"):
            await inside.model("policy").infer(60_000, state=STATE)


# Loud by default


async def test_a_server_that_other_machines_can_reach_without_keys_says_so(
    keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "inferential")
    async with serving(InferentialConfig(), "tcp://0.0.0.0:0") as server:
        (warning,) = server.status().warnings
    assert "any machine that reaches it can read every observation" in warning
    assert warning in caplog.text
    async with serving(settings(keys), "tcp://0.0.0.0:0") as server:
        assert server.status().warnings == []


async def test_an_open_address_of_several_is_warned_of_by_its_name(keys: Path) -> None:
    bind = [{"address": "tcp://0.0.0.0:0", "security": "off"}, "tcp://127.0.0.1:0", "ipc://*"]
    async with serving_on(settings(keys), bind) as server:
        (warning,) = server.status().warnings
    assert warning.startswith("transport.bind: tcp://0.0.0.0:0 listens beyond this machine without security")
    assert "leave out security: off there" in warning


async def test_a_server_on_loopback_does_not_warn(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(InferentialConfig()) as server:
        assert server.status().warnings == []
    assert "any machine" not in caplog.text


@pytest.mark.parametrize(
    ("kind", "section", "token"),
    [
        (HttpServer, HttpConfig(port=0), {"token": "t"}),
        (OpenPiGateway, OpenPiConfig(model="policy", port=0), {"api_keys": ["t"]}),
        (Gr00tGateway, Gr00tConfig(model="policy", port=0), {"api_token": "t"}),
        (ActGateway, ActConfig(model="policy", port=0), {"token": "t"}),
    ],
)
async def test_beside_a_server_that_requires_keys_nothing_starts_that_lets_in_any_client(
    keys: Path, kind: Any, section: Any, token: dict[str, Any]
) -> None:
    async with serving(settings(keys)) as server:
        with pytest.raises(ValueError, match=r"has neither a token nor TLS, and security\.mode is required: set "):
            async with kind(server, section):
                pass
        async with kind(server, type(section).model_validate({**section.model_dump(), **token})):
            pass


async def test_a_server_whose_keys_are_missing_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match=r"server\.key_secret"):
        async with serving(settings(tmp_path)):
            pass
