"""One cell: a robot over a network that is cut for 5 s."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.network import robots, tunnel
from bench.network.seen import Seen, summary
from bench.overhead.environment import Peer
from inferential import LocalDispatcher, Server
from inferential.config.gateways import LeRobotConfig, OpenPiConfig
from inferential.gateway import OpenPiGateway
from inferential.gateway.lerobot import LeRobotGateway
from inferential.sim.network import EmulatedNetwork, NetworkProfile

INFERENCE_S = 0.03
CUT_S = 5.0
WARM_S = 2.0
AFTER_S = 11.0
_LOOK_S = 0.01
NETWORKS = {
    "rtt 50 +- 30 ms": (NetworkProfile(rtt_ms=50, jitter_ms=30), 2_000),
    "rtt 100 +- 60 ms, 5 % loss": (NetworkProfile(rtt_ms=100, jitter_ms=60, loss=0.05), 2_000),
    "2 MB/s, 150 kB": (NetworkProfile(rate_bytes_s=2e6), 150_000),
}
ROBOTS = ("sync", "async", "chunks", "openpi", "lerobot")
OPENPI: Peer = Peer(
    "openpi",
    ("openpi-client==0.1.2", "typing_extensions", "dm-tree", "websockets"),
    environment="openpi-client-0.1.2-robots",
)
_Drive = Callable[[str, Any, float, Seen], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Cell:
    """What is run.

    Attributes:
        kind: "emulated", in the process, or "packets", see `tunnel`.
        network: a name of NETWORKS.
        robot: one of ROBOTS.
        seconds: before the cut.
        seed: of the network's draws.
    """

    kind: str
    network: str
    robot: str
    seconds: float
    seed: int = 1


async def _policy(observation: dict[str, Any]) -> dict[str, Any]:
    await asyncio.sleep(INFERENCE_S)
    return {"actions": robots.chunk()}


async def drive_openpi(address: str, image: Any, seconds: float, seen: Seen) -> None:
    """Runs openpi's own client in an environment of its own."""
    program = Path(__file__).parent / "peers" / "with_openpi.py"
    await _drive_program([str(OPENPI.python()), str(program)], address, image, seconds, seen)


async def drive_lerobot(address: str, image: Any, seconds: float, seen: Seen) -> None:
    """Runs a robot by LeRobot's rules in a process of its own: gRPC's threads are those of the whole process."""
    await _drive_program([sys.executable, "-m", "bench.network.lerobot"], address, image, seconds, seen)


async def _drive_program(program: Sequence[str], address: str, image: Any, seconds: float, seen: Seen) -> None:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    command = [*program, host, port, str(seconds), str(image.size)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    if await process.stdout.readline():
        seen.start()
    output, _ = await process.communicate()
    found = json.loads(output)
    seen.answers += [tuple(one) for one in found["answers"]]
    seen.steps += [tuple(one) for one in found["steps"]]


_DRIVES: dict[str, _Drive] = {
    "sync": robots.ask_and_wait,
    "async": robots.go_on_observing,
    "chunks": robots.play_chunks,
    "openpi": drive_openpi,
    "lerobot": drive_lerobot,
}


@asynccontextmanager
async def serving(robot: str, host: str) -> AsyncIterator[str]:
    """A server with the gateway that a robot needs; yields where that listens, as tcp://HOST:PORT."""
    dispatcher = LocalDispatcher({"policy": _policy})
    async with Server(f"tcp://{host}:*", dispatcher=dispatcher) as server:
        if robot == "openpi":
            async with OpenPiGateway(server, OpenPiConfig(host=host, port=0, model="policy")) as openpi:
                yield f"tcp://{host}:{openpi.address.rpartition(':')[2]}"
        elif robot == "lerobot":
            config = LeRobotConfig(host=host, port=0, model="policy", fps=robots.CHUNK_HZ)
            async with LeRobotGateway(server, config) as gateway:
                yield f"tcp://{host}:{gateway.address.rpartition(':')[2]}"
        else:
            yield server.address


async def run_emulated(cell: Cell) -> dict[str, Any]:
    """Runs a cell over the proxy in this process."""
    profile, size = NETWORKS[cell.network]
    async with (
        serving(cell.robot, "127.0.0.1") as target,
        EmulatedNetwork(target, profile, seed=cell.seed) as network,
    ):
        return await _run(cell, network.address, size, network)


async def _run(cell: Cell, address: str, size: int, network: Any) -> dict[str, Any]:
    seen, seconds = Seen(), WARM_S + cell.seconds + CUT_S + AFTER_S
    image = np.random.default_rng(0).integers(0, 255, size, np.uint8)
    driving = asyncio.ensure_future(_DRIVES[cell.robot](address, image, seconds, seen))
    while not seen.started_at:  # noqa: ASYNC110 (programs of others take their time to begin)
        await asyncio.sleep(_LOOK_S)
    await asyncio.sleep(WARM_S + cell.seconds)
    network.cut()
    cut_at = time.monotonic()
    await asyncio.sleep(CUT_S)
    network.mend()
    back_at = time.monotonic()
    await driving
    return summary(seen, seen.started_at + WARM_S, cut_at, back_at)


def run_packets(cell: Cell) -> dict[str, Any]:
    """Runs a cell over a link of IP packets: server and robot in network namespaces of their own."""
    profile, size = NETWORKS[cell.network]
    with (
        tunnel.Tunnel(replace(profile, queue_ms=100.0), seed=cell.seed) as link,
        link.server_side(lambda: serving(cell.robot, tunnel.SERVER)) as target,
    ):
        return link.on_robot(lambda: asyncio.run(_run(cell, target, size, link)))


def run(cell: Cell) -> dict[str, Any]:
    """Runs a cell, and returns its row."""
    return run_packets(cell) if cell.kind == "packets" else asyncio.run(run_emulated(cell))
