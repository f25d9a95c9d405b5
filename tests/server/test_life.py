"""Start, stop, drain, signals, reconfiguration."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench.overload.wire import Observations
from bench.overload.wire import connect as connect_raw

from inferential import AsyncConnection, Connection, LocalDispatcher, RequestRejected, Server
from inferential.config import InferentialConfig
from inferential.proto import ModelResponse
from inferential.server import server as server_module

WAIT_MS = 60_000
STATE = np.arange(7, dtype=np.float32)
Connect = Callable[..., AsyncConnection]


def config(**sections: Any) -> InferentialConfig:
    return InferentialConfig(transport={"bind": "tcp://127.0.0.1:0"}, **sections)


async def test_run_returns_after_stop_and_the_port_is_free_again() -> None:
    for _ in range(2):
        server = Server(config=config(), dispatcher=LocalDispatcher({"m": lambda obs: obs}))
        running = asyncio.create_task(server.run())
        await asyncio.sleep(0)
        address = server.address
        server.stop()
        await running
        again = Server(address, dispatcher=LocalDispatcher({"m": lambda obs: obs}))
        async with again:
            assert again.address == address


async def test_stop_may_be_called_from_another_thread() -> None:
    server = Server(config=config(), dispatcher=LocalDispatcher({"m": lambda obs: obs}))
    running = asyncio.create_task(server.run())
    await asyncio.sleep(0)
    threading.Thread(target=server.stop).start()
    await running


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_server_cleanly(number: signal.Signals) -> None:
    script = """
import asyncio
from inferential import LocalDispatcher, Server
server = Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"m": lambda obs: obs}))
@server.on_metric
def note(name, value, labels): pass
async def main():
    running = asyncio.create_task(server.run())
    await asyncio.sleep(0)
    print(server.address, flush=True)
    await running
    print("ended", flush=True)
asyncio.run(main())
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("tcp://127.0.0.1:")
        os.kill(process.pid, number)
        rest, _ = process.communicate(timeout=60)
        assert rest == "ended\n"
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


def test_a_model_that_never_returns_does_not_keep_the_process_alive() -> None:
    script = """
import asyncio, threading
from inferential import AsyncConnection, LocalDispatcher, Server
from inferential.config import InferentialConfig

def stuck(observation):
    entered.set()
    threading.Event().wait()

async def main():
    global entered
    entered = threading.Event()
    config = InferentialConfig(server={"drain_timeout_s": 0.1})
    async with Server("tcp://127.0.0.1:0", config=config, dispatcher=LocalDispatcher({"m": stuck})) as server:
        async with AsyncConnection(server.address) as connection:
            await connection.model("m").observe(go="on")
            await asyncio.to_thread(entered.wait)

asyncio.run(main())
print("ended")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "ended\n", done.stderr
    assert done.returncode == 0


async def test_while_draining_waiting_requests_are_served_and_new_ones_refused(connect: Connect, gate: Any) -> None:
    server = Server(config=config(server={"drain_timeout_s": 20.0}), dispatcher=LocalDispatcher({"m": gate}))
    await server.start()
    model = connect(server).model("m", queue="all")
    await model.observe(state=STATE)
    await model.observe(state=STATE + 1)
    await gate.wait_entered()
    closing = asyncio.create_task(server.shutdown())
    await asyncio.sleep(0)
    with pytest.raises(RequestRejected, match="draining") as refused:
        await connect(server).model("m").infer(WAIT_MS, state=STATE)
    assert refused.value.cause == "draining"
    gate.let(2)
    for n in range(2):
        result = await model.get_result(WAIT_MS)
        assert result is not None
        assert result["state"][0] == n
    await closing


async def test_a_server_that_has_drained_still_refuses_new_requests(connect: Connect) -> None:
    server = Server(config=config(), dispatcher=LocalDispatcher({"m": lambda obs: obs}))
    await server.start()
    for _ in range(2):
        await server.drain()
        assert server.status().draining
        with pytest.raises(RequestRejected, match="draining"):
            await connect(server).model("m").infer(WAIT_MS, state=STATE)
    await server.shutdown()
    await server.drain()  # of a server that has ended there is nothing to drain
    assert not server.running


async def test_requests_that_are_not_served_while_draining_are_refused(connect: Connect, gate: Any) -> None:
    server = Server(config=config(server={"drain_timeout_s": 0.0}), dispatcher=LocalDispatcher({"m": gate}))
    await server.start()
    model = connect(server).model("m", queue="all")
    for _ in range(3):
        await model.observe(state=STATE)
    await gate.wait_entered()
    while server.status().waiting < 2:  # noqa: ASYNC110 (no event is set)
        await asyncio.sleep(0.001)
    await server.shutdown()
    for _ in range(3):
        with pytest.raises(RequestRejected, match="draining"):
            await model.get_result(WAIT_MS)
    gate.let(3)


async def test_what_a_robot_has_sent_and_was_not_read_yet_is_refused_too(
    gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "READ_GRACE_S", 0.0)
    server = Server(config=config(server={"drain_timeout_s": 0.0}), dispatcher=LocalDispatcher({"m": gate}))
    await server.start()
    robot, frames = await asyncio.to_thread(connect_raw, server.address, b"robot")
    messages, sent = Observations("robot", "m", "all"), range(1, 201)
    await asyncio.to_thread(robot.sendall, b"".join(messages.message(number, time.time_ns()) for number in sent))
    while not server.status().waiting:  # noqa: ASYNC110 (no event is set)
        await asyncio.sleep(0)

    def ended() -> list[int]:
        found = []
        while data := robot.recv(65536):
            found += [ModelResponse.FromString(one[1]).request_id for one in frames.feed(data) if len(one) == 3]
        return found

    ends = asyncio.create_task(asyncio.to_thread(ended))
    await server.shutdown()
    assert sorted(await ends) == list(sent)
    robot.close()
    gate.let(1)


async def test_a_server_that_is_shut_down_twice_at_once_ends_once_for_both() -> None:
    server = Server(config=config(), dispatcher=LocalDispatcher({"m": lambda obs: obs}))
    for _ in range(2):
        await server.start()
        assert await server.connect().model("m").infer(WAIT_MS, state=STATE) is not None
        await asyncio.gather(server.shutdown(), server.shutdown(), server.shutdown())
        assert not server.running


async def test_a_server_cannot_be_started_twice_but_again_after_its_end() -> None:
    server = Server(config=config(), dispatcher=LocalDispatcher({"m": lambda obs: obs}))
    await server.start()
    with pytest.raises(RuntimeError, match="runs already"):
        await server.start()
    await server.shutdown()
    await server.shutdown()
    with pytest.raises(RuntimeError, match="does not run"):
        _ = server.address


async def test_an_address_in_use_is_an_error_that_names_it(serve: Any) -> None:
    async with serve({"m": lambda obs: obs}) as server:
        other = Server(server.address, dispatcher=LocalDispatcher({}))
        with pytest.raises(OSError, match=r"transport\.bind: cannot listen on 'tcp://127"):
            await other.start()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"bind": "localhost:5555"}, r"^bind: expected tcp://HOST:PORT .* got 'localhost:5555'$"),
        ({"bind": 5555}, r"^bind: expected tcp://HOST:PORT .* got 5555$"),
        ({"config": "fleet.yaml"}, r"^config: expected an InferentialConfig, got str; load_config\(path\) or "),
        ({"config": {}}, r"^config: expected an InferentialConfig, got dict; "),
        ({"dispatcher": {"m": print}}, r"^dispatcher: expected one, as LocalDispatcher\(.*\), got dict$"),
        ({"models": "policy"}, r"^models: expected a sequence of ids, as \['policy'\], got 'policy'$"),
        ({"models": []}, r"^models: expected at least one id, got an empty sequence; name .* as models=\['policy'\]"),
        ({"models": ()}, r"^models: expected at least one id"),
    ],
)
def test_an_error_names_the_invalid_argument(argument: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Server(**{"dispatcher": LocalDispatcher({}), **argument})


def test_the_error_of_a_server_without_a_backend_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in [name for name in sys.modules if name.startswith("inferential.dispatch.ray")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=r"inferential\[server\].*LocalDispatcher"):
        Server()


async def test_a_robot_survives_a_restart_of_its_server() -> None:
    first = Server(config=config(), dispatcher=LocalDispatcher({"m": lambda obs: obs}))
    await first.start()
    address = first.address
    connection = await asyncio.to_thread(Connection, address, "robot", "", 10, 50)
    try:
        model = connection.model("m")
        assert await asyncio.to_thread(model.infer, WAIT_MS, state=STATE) is not None
        await first.shutdown()
        await asyncio.to_thread(model.observe, state=STATE + 1)
        with contextlib.suppress(RequestRejected):  # it may be lost with the connection
            assert await asyncio.to_thread(model.get_result, 50) is None
        async with Server(address, dispatcher=LocalDispatcher({"m": lambda obs: obs})):
            await asyncio.to_thread(model.observe, state=STATE + 2)
            result = None
            with contextlib.suppress(RequestRejected):  # or only now
                result = await asyncio.to_thread(model.get_result, WAIT_MS)
            if result is None:
                result = await asyncio.to_thread(model.get_result, WAIT_MS)
            assert result is not None
            np.testing.assert_array_equal(result["state"], STATE + 2)
    finally:
        connection.close()


async def test_a_changed_configuration_takes_effect_at_once_and_keeps_waiting_requests(
    serve: Any, connect: Connect, gate: Any
) -> None:
    async with serve({"m": gate}) as server:
        model = connect(server, "robot").model("m", queue="all")
        for _ in range(4):
            await model.observe(state=STATE)
        await gate.wait_entered()
        while server.status().waiting < 3:  # noqa: ASYNC110 (no event is set)
            await asyncio.sleep(0.001)
        changed = config(
            scheduling={"strategy": "round_robin"},
            clients={"accept_unknown": False},
            models={"default_max_inflight": 4},
        )
        server.reconfigure(changed)
        assert server.scheduler.status()["strategy"] == "round_robin"
        assert server.config.transport.bind != changed.transport.bind or server.address
        for _ in range(3):
            await gate.wait_entered()
        with pytest.raises(RequestRejected, match="not accepted"):
            await connect(server, "new").model("m").infer(WAIT_MS, state=STATE)
        gate.let(4)
        for _ in range(4):
            assert await model.get_result(WAIT_MS) is not None


async def test_changes_by_use_scheduler_survive_changes_of_other_sections(serve: Any) -> None:
    async with serve({"m": lambda obs: obs}) as server:
        server.use_scheduler("batch_optimized", max_batch_size=3)
        server.reconfigure(config(models={"default_max_inflight": 4}))
        assert server.config.scheduling.batch_optimized.max_batch_size == 3
        assert server.scheduler.status()["strategy"] == "batch_optimized"
        server.reconfigure(config(scheduling={"strategy": "round_robin"}))
        assert server.scheduler.status()["strategy"] == "round_robin"


async def test_a_configuration_with_an_unknown_strategy_changes_nothing(serve: Any) -> None:
    async with serve({"m": lambda obs: obs}) as server:
        before = server.config
        with pytest.raises(ValueError, match="Unknown scheduler strategy 'best'"):
            server.reconfigure(config(scheduling={"strategy": "best"}, metrics={"enabled": False}))
        assert server.config == before


@pytest.mark.parametrize("content", [None, '{"m": [{"batch_size": 1, "median_ms": 5}], "n": 7}'])
async def test_a_configuration_with_profiles_that_cannot_be_read_changes_nothing(
    serve: Any, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "profiles.json"
    if content is not None:
        path.write_text(content)
    async with serve({"m": lambda obs: obs}) as server:
        before, profiles = server.config, server.profiles.as_dict()
        with pytest.raises(ValueError, match=r"profiles\.json"):
            server.reconfigure(config(scheduling={"strategy": "round_robin"}, models={"profiles": str(path)}))
        assert server.config == before
        assert server.scheduler.status()["strategy"] == "deadline_aware"
        assert server.profiles.as_dict() == profiles


def test_options_of_a_strategy_are_checked_and_take_effect() -> None:
    server = Server(config=config(), dispatcher=LocalDispatcher({}))
    server.use_scheduler("batch_optimized", max_batch_size=3, request_ttl_ms=100.0)
    assert server.config.scheduling.batch_optimized.max_batch_size == 3
    assert server.config.scheduling.request_ttl_ms == 100.0
    with pytest.raises(ValueError, match="unknown option 'max_bach_size'"):
        server.use_scheduler("batch_optimized", max_bach_size=3)
    with pytest.raises(ValueError, match="max_batch_size"):
        server.use_scheduler("batch_optimized", max_batch_size=0)
    with pytest.raises(ValueError, match="does not order by a score"):
        server.use_scheduler("round_robin", policy="anything")
    with pytest.raises(ValueError, match="Unknown policy"):
        server.use_scheduler("deadline_aware", policy="no such policy")
    assert server.config.scheduling.strategy == "batch_optimized"


def test_the_example_in_the_docstring_of_server_runs() -> None:
    assert Server.__doc__ is not None
    _, _, rest = inspect.cleandoc(Server.__doc__).partition("```python\n")
    code = textwrap.dedent(rest.partition("```")[0])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "(16, 7) ['arm-01']\n", done.stderr


async def test_fields_that_take_a_restart_keep_the_values_in_force_after_a_reload() -> None:
    known = {"policy": {"target": "policies:Old", "max_inflight": 1}}
    config = InferentialConfig.model_validate({"models": {"known": known}, "transport": {"bind": "tcp://127.0.0.1:0"}})
    server = Server(config=config, dispatcher=LocalDispatcher({"policy": lambda observation: observation["state"]}))
    changed = {"policy": {"target": "policies:New", "max_inflight": 3}}
    moved = {"bind": "tcp://127.0.0.1:1"}
    server.reconfigure(InferentialConfig.model_validate({"models": {"known": changed}, "transport": moved}))
    model = server.config.models.known["policy"]
    assert (model.target, model.max_inflight) == ("policies:New", 3)
    assert server.config.transport.bind == "tcp://127.0.0.1:0"
