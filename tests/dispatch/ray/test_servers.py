"""Several servers in front of one model, real robots between them, and one of them killed."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.dispatch.ray.deployments import Doubles, deployment

from inferential import AsyncConnection, InferenceError
from inferential.client.failover import rendezvous_order
from inferential.cluster import ServerGroup
from inferential.config import InferentialConfig

serve = pytest.importorskip("ray.serve")
pytestmark = [pytest.mark.slow]
ROBOTS = 12


@pytest.fixture(autouse=True)
def own_cluster(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes "auto" mean this cluster, not whichever was started last on this machine."""
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)


@pytest.fixture(scope="module")
def doubles(cluster: Any) -> Iterator[None]:
    """The application "doubles", of one replica, for all tests that leave it as it is."""
    serve.run(deployment(Doubles).bind(), name="doubles", route_prefix=None)
    yield
    serve.delete("doubles")


def config(**options: Any) -> InferentialConfig:
    values = {"transport": {"bind": "tcp://127.0.0.1:0"}, "ray": {"address": "auto"}, **options}
    return InferentialConfig.model_validate(values)


async def served(addresses: list[str]) -> None:
    """Waits until the model answers through every server."""
    for address in addresses:
        async with AsyncConnection(address) as connection, asyncio.timeout(240):
            while await connection.model("doubles").infer(timeout_ms=2000, state=np.ones(2)) is None:
                pass


async def robot(addresses: list[str], number: int, stop: asyncio.Event) -> Counter[str]:
    """Closed-loop requests until `stop` is set; how they ended."""
    ends: Counter[str] = Counter()
    async with AsyncConnection(addresses, f"robot-{number}", reconnect_ivl_ms=50) as connection:
        model = connection.model("doubles", latency_budget_ms=60_000.0, queue="all")
        while not stop.is_set():
            try:
                result = await model.infer(timeout_ms=60_000, state=np.full(2, float(number)))
            except InferenceError as error:
                ends[type(error).__name__] += 1
            else:
                assert result is not None, "a request ended in nothing"
                assert result["actions"].tolist() == [2.0 * number] * 2
                ends["result"] += 1
            await asyncio.sleep(0.005)
    return ends


def numbers_for(addresses: list[str]) -> list[int]:
    """Robots of whom every server has its share: addresses are new in each run, and by chance one might get none."""
    share = ROBOTS // len(addresses)
    numbers: dict[str, list[int]] = {address: [] for address in addresses}
    for number in itertools.count():
        own = numbers[rendezvous_order(addresses, f"robot-{number}")[0]]
        if len(own) < share:
            own.append(number)
        if all(len(some) == share for some in numbers.values()):
            return sorted(itertools.chain(*numbers.values()))
    raise AssertionError


async def clients_of(actor: Any) -> set[str]:
    """The robots that a server has."""
    status = await actor.status.remote()
    return set() if status is None else {client["client_id"] for client in status["clients"]}


async def pid_of(actor: Any) -> int:
    return int(await actor.__ray_call__.remote(lambda actor: os.getpid()))


async def test_robots_are_spread_over_servers_and_a_killed_one_hands_them_over(cluster: Any, run: Any) -> None:
    run(deployment(Doubles, replicas=2).bind(), "two-doubles")
    servers = ServerGroup(config(), {"doubles": "two-doubles"}, 2)
    async with servers as addresses:
        assert len(set(addresses)) == 2
        await served(addresses)
        stop = asyncio.Event()
        numbers = numbers_for(addresses)
        robots = [asyncio.create_task(robot(addresses, number, stop)) for number in numbers]
        names = {f"robot-{number}" for number in numbers}
        async with asyncio.timeout(240):
            while True:
                spread = [names & await clients_of(actor) for actor in servers.actors]
                if set.union(*spread) == names and all(len(some) >= 2 for some in spread):
                    break
                await asyncio.sleep(0.05)

        os.kill(await pid_of(servers.actors[0]), signal.SIGKILL)
        async with asyncio.timeout(240):
            while not names <= (await clients_of(servers.actors[1])):  # noqa: ASYNC110 (nothing tells of it)
                await asyncio.sleep(0.02)
        async with asyncio.timeout(240):  # Ray begins it again, and its robots come back
            while len(names & await clients_of(servers.actors[0])) < 2:  # noqa: ASYNC110 (nothing tells of it)
                await asyncio.sleep(0.1)
        stop.set()
        ends = sum(await asyncio.gather(*robots), Counter())
    assert ends["result"] > 100
    assert set(ends) <= {"result", "RequestRejected"}
    assert ends["RequestRejected"] <= 2 * ROBOTS  # what was in flight, and at most once more


@pytest.mark.usefixtures("doubles")
async def test_a_killed_server_comes_back_with_the_newest_configuration() -> None:
    async def strategies() -> list[str | None]:
        return [None if one is None else one["strategy"] for one in await servers.status()]

    servers = ServerGroup(config(), {"doubles": "doubles"}, 2)
    async with servers:
        for strategy in ("batch_optimized", "round_robin"):
            await servers.reconfigure(config(scheduling={"strategy": strategy}))
        assert await strategies() == ["round_robin"] * 2
        killed = await pid_of(servers.actors[0])
        os.kill(killed, signal.SIGKILL)
        async with asyncio.timeout(240):
            while await pid_of(servers.actors[0]) == killed:
                pass
            while await strategies() != ["round_robin"] * 2:  # noqa: ASYNC110 (nothing tells of it)
                await asyncio.sleep(0.1)


@pytest.mark.usefixtures("doubles")
async def test_each_server_tells_its_own_metrics_to_who_has_the_token() -> None:
    servers = ServerGroup(config(http={"port": 0, "token": "secret"}), {"doubles": "doubles"}, 2)
    async with servers as addresses:
        await served(addresses)
        assert len(set(servers.pages)) == 2
        for page in servers.pages:
            assert 'inferential_replicas{model="doubles"' in await read(f"{page}/metrics", "secret")
            with pytest.raises(urllib.error.HTTPError):
                await read(f"{page}/metrics", "guess")


async def read(url: str, token: str) -> str:
    """A page's text."""

    def _read() -> str:
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=60) as page:
            return str(page.read().decode())

    return await asyncio.get_running_loop().run_in_executor(None, _read)


@pytest.mark.usefixtures("doubles")
async def test_a_server_whose_node_goes_leaves_its_robots_to_the_others(
    cluster: Any, caplog: pytest.LogCaptureFixture
) -> None:
    node = cluster.add_node(num_cpus=1)
    loop = asyncio.get_running_loop()
    servers = ServerGroup(config(transport={"bind": "tcp://*:0"}), {"doubles": "doubles"}, 2)
    async with servers as addresses:
        assert not any("0.0.0.0" in address for address in addresses)
        await served(addresses)
        stop = asyncio.Event()
        numbers = numbers_for(addresses)
        robots = [asyncio.create_task(robot(addresses, number, stop)) for number in numbers]
        names = {f"robot-{number}" for number in numbers}
        async with asyncio.timeout(240):
            while len(names & await clients_of(servers.actors[1])) < 2:  # noqa: ASYNC110 (nothing tells of it)
                await asyncio.sleep(0.05)
        await loop.run_in_executor(None, lambda: cluster.remove_node(node, allow_graceful=False))
        async with asyncio.timeout(240):
            while not names <= (await clients_of(servers.actors[0])):  # noqa: ASYNC110 (nothing tells of it)
                await asyncio.sleep(0.02)
            while "is not restarted" not in caplog.text:  # noqa: ASYNC110 (nothing tells of it)
                await asyncio.sleep(0.02)
        stop.set()
        ends = sum(await asyncio.gather(*robots), Counter())
        await servers.reconfigure(config())
        assert [one is None for one in await servers.status()] == [False, True]
    assert set(ends) <= {"result", "RequestRejected"}
    assert ends["RequestRejected"] <= 2 * ROBOTS


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("count", [1, 2])
async def test_the_command_serves_models_of_a_running_cluster(cluster: Any, tmp_path: Path, count: int) -> None:
    arguments = ["--model", "arm=ray:doubles", "--servers", str(count), "--http", "0", "--bind", "tcp://127.0.0.1:0"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "inferential.cli.main", "serve", *arguments),
        cwd=tmp_path,
        env={**os.environ, "RAY_ADDRESS": cluster.address},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(240):
            line, pages = [(await process.stdout.readline()).decode() for _ in range(2)]
            assert line.startswith("listening on" if count == 1 else "2 servers listening on"), line
            assert len(re.findall(r"http://127\.0\.0\.1:\d+", pages)) == count
            addresses = re.findall(r"tcp://127\.0\.0\.1:\d+", line)
            assert len(addresses) == count
            async with AsyncConnection(addresses) as connection:
                result = await connection.model("arm").infer(timeout_ms=60_000, state=np.ones(2))
                assert result is not None
                assert result["actions"].tolist() == [2.0, 2.0]
            process.send_signal(signal.SIGTERM)
            _, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        assert "Traceback" not in err.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
