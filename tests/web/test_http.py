"""The HTTP side of a running server: what it tells, and to whom."""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.turns import Turns

from inferential import AsyncConnection, LocalDispatcher, ModelFailed, Server
from inferential.config import InferentialConfig
from inferential.config.services import HttpConfig
from inferential.sim.network import EmulatedNetwork, NetworkProfile
from inferential.telemetry.prometheus import MAX_VALUES, OTHER, text_of
from inferential.tracking.lateness import ActionAges
from inferential.web import HttpServer
from inferential.web.feed import Feed

Open = Callable[..., AbstractAsyncContextManager[tuple[Server, HttpServer]]]


def echo(observation: dict[str, Any]) -> Any:
    if "fail" in observation:
        raise ValueError("no cup")
    return observation


@pytest.fixture
def opened() -> Open:
    """`async with opened(token=...) as (server, http):`"""

    @asynccontextmanager
    async def start(**reported: Any) -> AsyncIterator[tuple[Server, HttpServer]]:
        config = InferentialConfig(server={"drain_timeout_s": 0.0})
        models = {"arm": echo, "leg": echo}
        async with (
            Server("tcp://127.0.0.1:0", config=config, dispatcher=LocalDispatcher(models)) as server,
            HttpServer(server, HttpConfig(**{"port": 0, **reported})) as page,
        ):
            yield server, page

    return start


@pytest.mark.parametrize(("bind", "warned"), [("tcp://127.0.0.1:0", False), ("tcp://0.0.0.0:0", True)])
async def test_the_page_has_a_banner_for_what_is_open_to_the_whole_network(bind: str, warned: bool) -> None:
    dispatcher = LocalDispatcher({"arm": echo})
    async with (
        Server(bind, dispatcher=dispatcher) as server,
        HttpServer(server, HttpConfig(port=0)) as page,
    ):
        warnings = json.loads((await get(page, "/api/status"))[2])["warnings"]
        assert any("any machine that reaches it can read every observation" in one for one in warnings) == warned
        assert '<p id="warnings" role="alert" hidden></p>' in (await get(page, "/"))[2]
        assert "showWarnings(status.warnings)" in (await get(page, "/app.js"))[2]


async def get(page: HttpServer, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
    """Status, headers and body."""

    def ask() -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection(page.address.removeprefix("http://"), timeout=60)
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        reported = {name.lower(): value for name, value in response.getheaders()}
        found = response.status, reported, response.read().decode()
        connection.close()
        return found

    return await asyncio.to_thread(ask)


async def drive(server: Server, *clients: str, model: str = "arm") -> None:
    for client in clients:
        async with server.connect(client) as connection:
            await connection.model(model).infer(60_000, state=np.zeros(3, np.float32))


async def test_status_is_that_of_the_server(opened: Open) -> None:
    async with opened() as (server, page):
        await drive(server, "robot-1")
        code, _, body = await get(page, "/api/status")
        reported = json.loads(body)
    assert code == 200
    assert [client["client_id"] for client in reported["clients"]] == ["robot-1"]
    assert [model["model_id"] for model in reported["models"]] == ["arm", "leg"]
    assert reported["batches"][0]["rows"] == 1
    assert reported["sizes"]["clients"] == 1


async def test_the_page_has_the_ages_that_the_robot_itself_sees(opened: Open) -> None:
    """Not what the server alone knows of: a robot far away has old actions, however quick the server is."""
    async with (
        opened() as (server, page),
        EmulatedNetwork(server.address, NetworkProfile(rtt_ms=60.0)) as network,
        AsyncConnection(network.address, client_id="far") as robot,
    ):
        model, ages = robot.model("arm", latency_budget_ms=50.0), []
        for _ in range(4):
            result = await model.infer(60_000, state=np.zeros(3, np.float32))
            assert result is not None
            result.applied()
            ages.append(result.age_ms)
        (client,) = json.loads((await get(page, "/api/status"))[2])["clients"]
        (use,) = client["models"]
        assert min(ages[:-1]) - 1 <= use["age_ms"] <= max(ages[:-1]) + 1  # of the last one it has not said anything yet
        assert min(ages) >= 60.0
        assert use["answered"] == 4
        assert use["in_time"] <= 1  # the last one, where the server was in time


async def test_models_say_what_they_take(opened: Open) -> None:
    async with opened() as (_, page):
        code, _, body = await get(page, "/api/models")
    assert (code, json.loads(body)) == (200, {name: {"inputs": [], "outputs": []} for name in ("arm", "leg")})


async def test_the_stream_tells_the_status_and_then_what_is_new(opened: Open) -> None:
    async with opened() as (server, _):
        await drive(server, "robot-1")
        events = Feed(server).events()
        first = json.loads(await anext(events))
        await drive(server, "robot-2")
        second = json.loads(await anext(events))
        while len(second["clients"]) < 2:
            second = json.loads(await anext(events))
        third = json.loads(await anext(events))
        await events.aclose()
    assert len(first["batches"]) == 1
    assert third["batches"] == []


@pytest.mark.parametrize(
    ("limit", "path"), [("MAX_VIEWERS", "/api/stream"), ("MAX_READERS", "/api/requests?seconds=60")]
)
async def test_more_than_so_many_streams_are_refused(
    limit: str, path: str, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"inferential.web.http.{limit}", 2)
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    async with opened() as (_, page), asyncio.timeout(60):
        host, port = page.address.removeprefix("http://").split(":")
        writers = []
        for _number in range(2):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(request)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            await reader.readuntil(b"\r\n\r\n")
            await reader.readline()  # the first of it
            writers.append(writer)
        assert (await get(page, path))[0] == 503
        for writer in writers:
            writer.close()
        while (await page_answers(page, path)) == 503:  # noqa: ASYNC110 (nothing tells of it)
            await asyncio.sleep(0.02)


async def page_answers(page: HttpServer, path: str) -> int:
    """Returns the status of an answer that may have no end."""
    host, port = page.address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    status = int((await reader.readline()).split()[1])
    writer.close()
    return status


async def test_over_http_the_stream_is_server_sent_events(opened: Open) -> None:
    async with opened() as (_, page):
        reader, writer = await asyncio.open_connection(*page.address.removeprefix("http://").split(":"))
        writer.write(b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        events = [await reader.readuntil(b"\n\n") for _ in range(3)]
        writer.close()
    assert b"text/event-stream" in head
    assert all(b"data: {" in event for event in events)


async def test_metrics_are_what_a_prometheus_parser_reads(opened: Open) -> None:
    async with opened() as (server, page):
        await drive(server, "robot-1", "robot-2")
        await drive(server, "robot-1", model="leg")
        with pytest.raises(ModelFailed):
            async with server.connect("robot-3") as connection:
                await connection.model("arm").infer(60_000, fail="please", state=np.zeros(1))
        code, headers, body = await get(page, "/metrics")
    assert code == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(body)}
    assert all(name.startswith("inferential_") for name in families)

    def value(name: str, **labels: str) -> float:
        found = [
            sample.value
            for family in families.values()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert len(found) == 1, (name, labels, found)
        return found[0]

    assert value("inferential_responses_served_total", model="arm") == 2
    assert value("inferential_responses_served_total", model="leg") == 1
    assert value("inferential_dispatch_errors_total", model="arm", error="ValueError") == 1
    assert value("inferential_e2e_latency_seconds_count", model="arm") == 2
    assert value("inferential_e2e_latency_seconds_bucket", model="arm", le="+Inf") == 2
    assert 0 < value("inferential_e2e_latency_seconds_sum", model="arm") < 120
    assert value("inferential_payload_size_bytes_sum", model="leg") == 12
    assert value("inferential_clients", state="active") == 3
    assert value("inferential_replicas", model="leg") == 1
    assert not any("client" in sample.labels for family in families.values() for sample in family.samples)


async def test_counts_go_on_from_scrape_to_scrape(opened: Open) -> None:
    async with opened() as (server, page):
        counts = []
        for _ in range(3):
            await drive(server, "robot-1")
            _, _, body = await get(page, "/metrics")
            families = {family.name: family for family in text_string_to_metric_families(body)}
            counts.append(families["inferential_responses_served"].samples[0].value)
    assert counts == [1, 2, 3]


async def test_a_scrape_asks_no_robot_for_its_figures_and_leaves_the_loop_to_them(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a thousand robots they took 0.1 s of the event loop."""
    async with opened() as (server, page):
        await drive(server, "robot-1", "robot-2")
        monkeypatch.setattr(ActionAges, "summary", lambda self, now: 1 / 0)
        made: list[int] = []
        async with Turns() as turns:
            monkeypatch.setattr("inferential.web.http.text_of", lambda one: made.append(turns.count) or text_of(one))
            code, _, body = await get(page, "/metrics")
        assert code == 200
        assert 'inferential_clients{state="active"} 2.0' in body
        assert len(made) == len(set(made)) > 30


async def test_labels_are_bounded(opened: Open) -> None:
    async with opened() as (server, page):
        for number in range(MAX_VALUES + 50):
            server.metrics.record("dispatch_errors", 1.0, {"model": f"m{number}", "error": "unknown_model"})
        _, _, body = await get(page, "/metrics")
    (family,) = (f for f in text_string_to_metric_families(body) if f.name == "inferential_dispatch_errors")
    assert len(family.samples) == MAX_VALUES + 1
    assert next(sample.value for sample in family.samples if sample.labels["model"] == OTHER) == 50


async def test_health_and_readiness(opened: Open) -> None:
    async with opened() as (server, page):
        assert (await get(page, "/healthz"))[0] == 200
        code, _, body = await get(page, "/readyz")
        ready = json.loads(body)
        assert (code, ready["ready"], ready["problems"]) == (200, True, [])
        assert body.endswith("}\n")
        assert {model: one["state"] for model, one in ready["models"].items()} == {"arm": "ready", "leg": "ready"}
        code, _, body = await get(page, "/readyz/arm")
        assert (code, json.loads(body)["state"]) == (200, "ready")
        assert (await get(page, "/readyz/nothing"))[0] == 404
        await server.drain()
        code, _, body = await get(page, "/readyz")
        assert (code, json.loads(body)["problems"]) == (503, ["the server is draining"])


async def test_a_model_without_replicas_is_not_ready() -> None:
    class Absent(LocalDispatcher):
        def max_inflight(self, model_id: str) -> int | None:
            return 0

    async with Server("tcp://127.0.0.1:0", dispatcher=Absent({"arm": echo})) as server:
        assert server.readiness() == ["model 'arm' has no replica"]


async def test_the_page_loads_nothing_from_elsewhere(opened: Open) -> None:
    async with opened() as (_, page):
        for path in ("/", "/app.js", "/style.css"):
            code, headers, body = await get(page, path)
            assert code == 200
            assert "https://" not in body
            assert "http://" not in body
            assert headers["content-security-policy"].startswith("default-src 'none'")
        assert (await get(page, "/other"))[0] == 404


async def test_a_token_is_asked_for(opened: Open) -> None:
    async with opened(token="s3cret") as (_, page):
        assert (await get(page, "/api/status"))[0] == 401
        assert (await get(page, "/metrics", Authorization="Bearer other"))[0] == 401
        assert (await get(page, "/metrics", Authorization="Bearer s3cret"))[0] == 200
        assert (await get(page, "/healthz"))[0] == 200
        code, headers, _ = await get(page, "/?token=s3cret")
        assert (code, headers["location"]) == (307, "/")
        assert "HttpOnly" in headers["set-cookie"]
        assert (await get(page, "/", Cookie=headers["set-cookie"].partition(";")[0]))[0] == 200
        assert (await get(page, "/?token=other"))[0] == 401


async def test_another_sites_name_for_this_machine_gets_nothing(opened: Open) -> None:
    async with opened() as (_, page):
        port = page.address.rpartition(":")[2]
        assert (await get(page, "/api/status", Host=f"evil.example:{port}"))[0] == 403
        for host in ("localhost", "127.0.0.1", "[::1]"):
            assert (await get(page, "/healthz", Host=f"{host}:{port}"))[0] == 200


async def test_only_reading_is_possible(opened: Open) -> None:
    async with opened() as (_, page):

        def post() -> int:
            connection = http.client.HTTPConnection(page.address.removeprefix("http://"), timeout=60)
            connection.request("POST", "/api/status", body="{}")
            status = connection.getresponse().status
            connection.close()
            return status

        assert await asyncio.to_thread(post) == 405


async def test_a_port_that_is_taken_is_sent(opened: Open) -> None:
    async with opened() as (server, page):
        port = int(page.address.rpartition(":")[2])
        with pytest.raises(OSError, match="http: cannot listen on"):
            await HttpServer(server, HttpConfig(port=port)).start()


async def test_an_answer_leaves_at_once_and_waits_for_no_acknowledgement(opened: Open) -> None:
    async with opened() as (_, page):
        host, _, port = page.address.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        mine = writer.get_extra_info("sockname")
        # By type(): what asks a weak proxy itself raises where its object is gone.
        transports = [found for found in gc.get_objects() if issubclass(type(found), asyncio.Transport)]
        (accepted,) = [found for found in transports if found.get_extra_info("peername") == mine]
        sends_at_once = accepted.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.close()
        await writer.wait_closed()
    assert sends_at_once
