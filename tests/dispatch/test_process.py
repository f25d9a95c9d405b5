"""Models in processes of their own: real ones, with load running, and every request counted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench.environments import made
from tests.dispatch.conftest import Serving, load, models_of, robot, until
from tests.dispatch.conftest import ask_robot as ask
from tests.scrape import scraped

from inferential import (
    InferenceError,
    InvalidObservation,
    LocalDispatcher,
    ModelFailed,
    ModelFailing,
    ModelProcess,
    ModelThread,
    Server,
)
from inferential.config import InferentialConfig
from inferential.replica.busy_polling import BusyPolling
from inferential.replica.channel import Stream
from inferential.replica.outcomes import ModelLoadError
from inferential.telemetry.prometheus import Exporter

if sys.platform != "linux":
    pytest.skip("worker processes are watched by pidfd", allow_module_level=True)

MODELS = '''
import ctypes, os, sys, threading, time
import numpy as np

def echo(observation):
    return {"actions": observation["state"], "pid": os.getpid()}

def strange(observation):
    """Does what the observation says."""
    what = observation.get("do", "")
    if what == "exit":
        os._exit(7)
    if what == "segfault":
        ctypes.string_at(0)
    if what == "kill":
        os.kill(os.getpid(), 9)
    if what == "hang":
        time.sleep(600)
    if what == "hold":
        kept.append(np.ones(40_000_000))
        time.sleep(600)
    if what == "raise":
        raise ValueError("broken")
    if what == "sys.exit":
        sys.exit(1)
    return {"actions": np.zeros(2), "pid": os.getpid()}

kept = []

class Batch:
    model_version = "v7"
    max_batch_size = 8

    def infer_batch(self, observations):
        for observation in observations:
            observation["state"] *= 2  # in place, of what a second try must not see
        if len(observations) > 1 and any(o["state"][0] < 0 for o in observations):
            raise ValueError("a negative one")
        for observation in observations:
            if observation["state"][0] < 0:
                raise ValueError("negative")
            if observation["state"][0] == 26:
                os._exit(1)
        return [observation.pop("state") for observation in observations]

class Slow(Batch):
    def __init__(self, seconds=0.05):
        self.seconds = seconds
    def infer_batch(self, observations):
        time.sleep(self.seconds)
        return super().infer_batch(observations)

class Computes(Batch):
    def infer_batch(self, observations):
        begun = time.process_time()
        while time.process_time() - begun < 0.003:
            pass
        return super().infer_batch(observations)

class Async:
    async def infer(self, observation):
        import asyncio
        await asyncio.sleep(0)
        return observation["state"]

def environment(observation):
    waits = os.environ["OMP_WAIT_POLICY"]
    python = sys.version.split()[0]
    return {"value": os.environ.get("WORKER_TEST", ""), "waits": waits, "python": python, "numpy": np.__version__}

class Speaking:
    metadata = {"action_horizon": np.int64(16), "mean": np.zeros(2), "names": ["x", "y"]}

    def infer(self, observation):
        return observation["state"]

class Unsayable(Speaking):
    metadata = {"lock": threading.Lock()}

class NeverLoads:
    def __init__(self):
        time.sleep(600)

class NoWeights:
    def __init__(self, path):
        raise FileNotFoundError(path)
'''


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModelProcess]:
    """`models("name", ...)`: a ModelProcess of a module that only workers import."""
    return models_of(MODELS, "worker", tmp_path, monkeypatch)


@pytest.fixture
def module(models: Any, tmp_path: Path) -> Path:
    """The file of the models."""
    (found,) = tmp_path.glob("*.py")
    return found


def write(module: Path, text: str) -> None:
    """Python compares times in whole seconds and sizes: what it compiled before must go."""
    module.write_text(text)
    shutil.rmtree(module.parent / "__pycache__", ignore_errors=True)


async def test_a_model_in_a_process_answers_with_arrays_and_strings(serving: Serving, models: Any) -> None:
    server, _ = await serving(m=models("echo"))
    async with robot(server, "m") as model:
        for size in (1, 16, 40_000, 1_000_000):
            state = np.arange(size, dtype=np.float32)
            result = await ask(model, state=state, prompt="pick")
            np.testing.assert_array_equal(result["actions"], state)
        assert int(result["pid"]) != os.getpid()


async def test_a_coroutine_function_runs_in_a_process_too(serving: Serving, models: Any) -> None:
    server, _ = await serving(m=models("Async"))
    async with robot(server, "m") as model:
        assert (await ask(model, state=np.ones(2)))["actions"].tolist() == [1.0, 1.0]


async def test_the_models_version_comes_with_every_answer(serving: Serving, models: Any) -> None:
    server, _ = await serving(m=models("Batch"))
    async with robot(server, "m") as model:
        assert (await ask(model, state=np.ones(2))).model_version == "v7"


async def test_what_a_model_says_of_itself_is_known_in_the_server(serving: Serving, models: Any) -> None:
    server, _ = await serving(m=models("Speaking"), plain=models("echo"))
    assert await server.model_metadata("m") == {"action_horizon": 16, "mean": [0.0, 0.0], "names": ["x", "y"]}
    assert await server.model_metadata("plain") == {}


async def test_a_call_is_announced_to_the_process_that_ran_short_ones(
    serving: Serving, models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced: list[Stream] = []
    announce = Stream.announce

    def note(stream: Stream) -> None:
        announced.append(stream)
        announce(stream)

    monkeypatch.setattr(Stream, "announce", note)
    monkeypatch.setattr(BusyPolling, "announces", lambda self: True)  # however busy the machine is
    server, _ = await serving(m=models("echo"))
    async with robot(server, "m") as model:
        for _ in range(2000):  # until its calls were short, some in a row
            assert (await ask(model, state=np.ones(2)))["actions"].tolist() == [1.0, 1.0]
            if announced:
                break
        assert announced


async def test_memory_and_cpu_time_of_processes_are_known(serving: Serving, models: Any) -> None:
    server, dispatcher = await serving(m=models("echo", replicas=2))
    workers = server.status().workers
    assert [(one.model_id, one.replica) for one in workers] == [("m", "0"), ("m", "1")]
    assert [one.pid for one in workers] == dispatcher.process_ids("m")
    assert all(5 < one.memory_mb < 500 and one.cpu_s > 0 for one in workers)
    text = scraped(Exporter(server))
    assert 'inferential_worker_memory_bytes{model="m",replica="1"}' in text
    assert 'inferential_worker_cpu_seconds_total{model="m",replica="0"}' in text


async def test_stopping_ends_a_server_whose_models_still_load(models: Any) -> None:
    server = Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"m": models("NeverLoads")}))
    running = asyncio.create_task(server.run())
    await asyncio.sleep(0.05)
    server.stop()
    async with asyncio.timeout(60):
        await running
    assert not server.running


async def test_readiness_names_a_model_that_lacks_processes(serving: Serving, models: Any) -> None:
    server, dispatcher = await serving(m=models("strange", replicas=2))
    os.kill(dispatcher.process_ids("m")[0], signal.SIGKILL)
    await until(lambda: bool(dispatcher.problems()))
    assert server.readiness() == []
    (impairment,) = server.impairments()
    assert impairment.startswith("model 'm' is impaired: 1 of 2 processes do not run: its process ")
    (model,) = server.status().models
    assert model.problem is not None

    def none_runs() -> bool:
        for pid in dispatcher.process_ids("m"):  # one may run again while the other ends
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return "m" in dispatcher.problems() and dispatcher.problems()["m"].is_down

    await until(none_runs)
    assert server.impairments() == []
    (problem,) = server.readiness()
    assert problem.startswith("model 'm' has no replica: 2 of 2 processes do not run")


@pytest.mark.parametrize("what", ["raise", "sys.exit"])
async def test_what_a_model_raises_fails_its_call_alone_and_keeps_the_process(
    what: str, serving: Serving, models: Any
) -> None:
    server, _ = await serving(m=models("strange"))
    async with robot(server, "m") as model:
        before = await ask(model, state=np.zeros(2))
        with pytest.raises(ModelFailed, match="ValueError: broken" if what == "raise" else "SystemExit: 1"):
            await ask(model, state=np.zeros(2), do=what)
        assert int((await ask(model, state=np.zeros(2)))["pid"]) == int(before["pid"])


@pytest.mark.parametrize(
    ("what", "options", "text"),
    [
        ("exit", {}, "its process exited with status 7"),
        ("segfault", {}, "killed by signal 11 (SIGSEGV)"),
        ("kill", {}, "killed by signal 9 (SIGKILL)"),
        ("hang", {"call_timeout_ms": 300}, "a call took longer than call_timeout_ms (300)"),
        ("hold", {"memory_limit_mb": 200}, "memory_limit_mb is 200"),
    ],
)
async def test_a_process_that_ends_fails_the_call_it_ran_and_other_models_never_notice(
    what: str, options: dict[str, Any], text: str, serving: Serving, models: Any
) -> None:
    server, dispatcher = await serving(bad=models("strange", **options), good=models("echo"))
    async with load(server, "good") as ends, robot(server, "bad") as model:
        first = await ask(model, state=np.zeros(2))
        with pytest.raises(ModelFailed) as failure:
            await ask(model, state=np.zeros(2), do=what)
        assert text in str(failure.value)
        await server.model_ready("bad")
        again = await ask(model, state=np.zeros(2))
        assert int(again["pid"]) != int(first["pid"])
        assert not dispatcher.problems()
        answered = ends["answered"]
        await until(lambda: ends["answered"] > answered + 20)
    assert ends["asked"] == ends["answered"]


async def test_a_server_ends_although_a_model_that_was_removed_runs_a_call_that_does_not_end(
    serving: Serving, models: Any, finish: Any
) -> None:
    config = InferentialConfig.model_validate({"server": {"drain_timeout_s": 0.0}})
    server, dispatcher = await serving(config, m=models("strange"))
    async with robot(server, "m") as model:
        await model.observe(state=np.zeros(2), do="hang")
        await until(lambda: server.status().in_flight == 1)
        dispatcher.unregister_model("m")
        await finish(server.shutdown())


async def test_calls_that_had_not_begun_are_run_by_the_next_process(serving: Serving, models: Any) -> None:
    server, _ = await serving(m=models("strange"))
    async with load(server, "m", robots=4, gain=0.0) as ends, robot(server, "m") as model:
        for _ in range(3):
            answered = ends["answered"]
            await until(lambda: ends["answered"] > answered + 50)  # noqa: B023 (it is awaited here)
            with pytest.raises(ModelFailed):
                await ask(model, state=np.zeros(2), do="exit")
    assert ends["asked"] == ends["answered"] + ends["RequestExpired"]
    assert ends["ModelFailed"] == 0


async def test_a_killed_replica_costs_no_request_where_there_is_another(serving: Serving, models: Any) -> None:
    server, dispatcher = await serving(m=models("Slow", args={"seconds": 0.01}, replicas=2))
    async with load(server, "m", robots=6, gain=2.0) as ends:
        await until(lambda: ends["answered"] > 20)
        victim = dispatcher.process_ids("m")[0]
        os.kill(victim, signal.SIGKILL)
        await until(lambda: victim not in dispatcher.process_ids("m"))
        assert "1 of 2 processes do not run" in dispatcher.problems()["m"].reason
        await until(lambda: not dispatcher.problems())
        answered = ends["answered"]
        await until(lambda: ends["answered"] > answered + 20)
    assert ends["asked"] == ends["answered"]


async def test_an_observation_that_ends_two_processes_is_refused_and_harms_no_other(
    serving: Serving, models: Any
) -> None:
    server, dispatcher = await serving(m=models("Slow", args={"seconds": 0.005}, replicas=3))
    async with load(server, "m", robots=6, gain=2.0) as ends, robot(server, "m") as model:
        await until(lambda: ends["answered"] > 20)
        before = set(dispatcher.process_ids("m"))
        with pytest.raises(ModelFailed, match="2 processes ended while they ran this observation"):
            await ask(model, state=np.full(4, 13, np.float32))
        assert len(before & set(dispatcher.process_ids("m"))) == 1
        answered = ends["answered"]
        await until(lambda: ends["answered"] > answered + 20)
    assert ends["asked"] == ends["answered"]


async def test_rows_of_a_batch_that_failed_are_tried_alone_on_what_the_robots_sent(
    serving: Serving, models: Any
) -> None:
    server, _ = await serving(m=models("Slow", args={"seconds": 0.05}))
    for size in (4, 100_000):  # over the stream, and in shared memory

        async def one(number: float, size: int = size) -> Any:
            async with robot(server, "m", f"r{number}") as model:
                return await ask(model, state=np.full(size, number, np.float32))

        async with load(server, "m", robots=1, gain=2.0):
            results = await asyncio.gather(*map(one, (1, 2, -1, 3)), return_exceptions=True)
        assert isinstance(results[2], ModelFailed)
        assert [float(results[at]["actions"][0]) for at in (0, 1, 3)] == [2.0, 4.0, 6.0]


@pytest.mark.parametrize("size", [1000, 100_000])
async def test_rows_that_are_tried_alone_are_what_the_robots_sent_at_any_size(
    size: int, serving: Serving, models: Any
) -> None:
    server, _ = await serving(m=models("Slow", args={"seconds": 0.01}))

    async def ask_for(number: int) -> Any:
        async with robot(server, "m", f"robot-{number}") as model:
            sent = np.full(size, number, np.float64)
            return [await asyncio.gather(ask(model, state=sent), return_exceptions=True) for _ in range(5)]

    for number, answers in zip(range(-1, 3), await asyncio.gather(*map(ask_for, range(-1, 3))), strict=True):
        for (answer,) in answers:
            if number < 0:
                assert isinstance(answer, ModelFailed)
            else:
                assert set(answer["actions"].ravel().tolist()) == {2.0 * number}


async def test_a_retry_sees_what_the_robot_sent(serving: Serving, models: Any) -> None:
    config = InferentialConfig.model_validate({"scheduling": {"max_retries": 1}})

    class FailsOnce:
        calls = 0

        def infer(self, observation: dict[str, Any]) -> Any:
            observation["state"] *= 2
            state = observation.pop("state")
            self.calls += 1
            if self.calls % 2:
                raise ValueError("the first time")
            return state

    server, _ = await serving(config, m=FailsOnce())
    async with robot(server, "m") as model:
        for size in (4, 200_000):
            assert (await ask(model, state=np.ones(size, np.float32)))["actions"][0] == 2.0


async def test_a_thread_that_hangs_takes_its_slot_alone_and_other_models_never_notice(
    serving: Serving, models: Any
) -> None:
    release = threading.Event()

    def hangs(observation: dict[str, Any]) -> Any:
        if "hang" in observation:
            release.wait(60)
        return observation["state"]

    server, dispatcher = await serving(bad=ModelThread(hangs, call_timeout_ms=100), good=models("echo"))
    async with load(server, "good") as ends, robot(server, "bad") as model:
        with pytest.raises(ModelFailed, match="the call took longer than call_timeout_ms"):
            await ask(model, state=np.zeros(2), hang="yes")
        assert "bad" in dispatcher.problems()
        with pytest.raises(InferenceError, match="is hung"):  # its only slot is lost
            await ask(model, state=np.ones(2))
        answered = ends["answered"]
        await until(lambda: ends["answered"] > answered + 20)
        release.set()
        await until(lambda: not dispatcher.problems())
        await server.model_ready("bad")
        assert (await ask(model, state=np.ones(2)))["actions"].tolist() == [1.0, 1.0]
    assert ends["asked"] == ends["answered"]


async def test_a_model_may_be_replaced_by_one_in_another_process_while_it_serves(serving: Serving, models: Any) -> None:
    server, dispatcher = await serving(m=models("echo"))
    async with load(server, "m") as ends:
        await until(lambda: ends["answered"] > 20)
        (before,) = dispatcher.process_ids("m")
        dispatcher.register_model("m", models("echo"))
        await until(lambda: dispatcher.process_ids("m") not in ([], [before]))
        answered = ends["answered"]
        await until(lambda: ends["answered"] > answered + 20)
    assert ends["asked"] == ends["answered"]


async def test_environment_and_replicas_are_as_given(serving: Serving, models: Any) -> None:
    server, _ = await serving(m=models("environment", env={"WORKER_TEST": "x"}))
    async with robot(server, "m") as model:
        result = await ask(model, state=np.zeros(1))
        assert result["value"] == "x"
        assert result["waits"] == "PASSIVE"  # threads of OpenMP do not spin on cores that others need


async def test_how_openmp_waits_may_be_set(serving: Serving, models: Any) -> None:
    server, _ = await serving(m=models("environment", env={"OMP_WAIT_POLICY": "ACTIVE"}))
    async with robot(server, "m") as model:
        assert (await ask(model, state=np.zeros(1)))["waits"] == "ACTIVE"


@pytest.mark.parametrize(
    ("what", "options", "text"),
    [
        ("nothing", {}, "has no 'nothing'"),
        ("NoWeights", {"args": {"path": "w.safetensors"}}, "FileNotFoundError: w.safetensors"),
        ("NeverLoads", {"load_timeout_s": 0.5}, r"loading took longer than load_timeout_s \(0.5\)"),
        ("Unsayable", {}, "metadata: 'lock': expected a value that JSON can hold: got lock"),
        ("echo", {"python": "/nowhere/python"}, "its interpreter /nowhere/python cannot be started"),
    ],
)
async def test_a_model_that_cannot_be_loaded_keeps_the_server_from_starting_and_says_why(
    what: str, options: dict[str, Any], text: str, models: Any
) -> None:
    dispatcher = LocalDispatcher({"m": models(what, **options), "n": models("echo")})
    with pytest.raises(ModelLoadError, match=rf"^model 'm', target '.*': .*{text}"):
        await dispatcher.start()
    assert dispatcher.process_ids("n") == []


async def test_a_model_whose_restart_fails_fails_its_requests_at_once(
    serving: Serving, models: Any, module: Path
) -> None:
    server, dispatcher = await serving(m=models("strange"))
    async with robot(server, "m") as model:
        write(module, "raise RuntimeError('no GPU')")
        with pytest.raises(ModelFailed):
            await ask(model, state=np.zeros(2), do="exit")
        await until(lambda: "no GPU" in str(dispatcher.problems().get("m")))
        with pytest.raises(ModelFailing, match="RuntimeError: no GPU"):
            await ask(model, state=np.zeros(2))
        write(module, MODELS)
        await until(lambda: not dispatcher.problems())
        assert (await ask(model, state=np.zeros(2)))["actions"].tolist() == [0.0, 0.0]


async def test_a_broken_image_is_the_robots_fault(serving: Serving, models: Any) -> None:
    from inferential.proto import PNG
    from inferential.proto.tensors import EncodedImage

    server, _ = await serving(m=models("echo"))
    async with robot(server, "m") as model:
        image = EncodedImage(b"no png at all", np.dtype(np.uint8), (4, 4, 3), PNG)
        with pytest.raises((InvalidObservation, TypeError)):
            await ask(model, camera=image, state=np.zeros(1))


SERVER = """
import asyncio, os, sys, time
import numpy as np
from inferential import AsyncConnection, LocalDispatcher, ModelProcess, Server

async def main():
    dispatcher = LocalDispatcher({"m": ModelProcess(sys.argv[1])})
    async with Server("tcp://127.0.0.1:0", dispatcher=dispatcher) as server:
        async with AsyncConnection(server.address) as connection:
            model = connection.model("m")
            await model.observe(state=np.zeros(2), do=sys.argv[2])
            while not dispatcher.process_ids("m"):
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            print(*dispatcher.process_ids("m"), flush=True)
            if sys.argv[3] == "kill":
                os.kill(os.getpid(), 9)
            os._exit(0)
asyncio.run(main())
"""


@pytest.mark.parametrize("busy", ["", "hang", "spin"])
@pytest.mark.parametrize("end", ["kill", "exit"])
async def test_a_worker_ends_with_its_server_however_that_ends(
    busy: str, end: str, module: Path, tmp_path: Path
) -> None:
    write(
        module,
        MODELS + "\ndef spins(observation):\n    if observation.get('do') == 'spin':\n        (1 << 80_000_000) ** 3\n"
        "    return strange(observation)\n",
    )
    program = tmp_path / "server_program.py"
    program.write_text(SERVER)
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(program), f"{module.stem}:spins", busy, end, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    pid = int(output)

    def is_gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    await until(is_gone, 5.0)


PYTHONS = Path.home() / ".pyenv" / "versions"


@pytest.fixture
def worker_python(request: pytest.FixtureRequest) -> Path:
    """An interpreter with numpy 1.26 and protobuf, and nothing else, of the version that the test asks for."""
    python = PYTHONS / request.param / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{python} is not there")
    packages = ["numpy==1.26.4", "protobuf>=6.31.1,<8"]
    return made(f"worker-{request.param}", *packages, interpreter=str(python))


@pytest.mark.slow
@pytest.mark.parametrize("worker_python", ["3.10.13", "3.12.1"], indirect=True)
async def test_a_worker_runs_in_another_python_with_another_numpy(
    worker_python: Path, serving: Serving, models: Any
) -> None:
    server, _ = await serving(m=models("environment", python=worker_python), n=models("environment"))
    async with robot(server, "m") as model, robot(server, "n", "other") as beside:
        result = await ask(model, state=np.zeros(20_000))
        assert result["python"] in str(worker_python)
        assert result["numpy"] == "1.26.4"
        assert (await ask(beside, state=np.zeros(1)))["numpy"] == np.__version__


@pytest.mark.parametrize(
    ("version", "text"),
    [
        ("3.8.18", "needs Python 3.10 or newer, this is 3.8"),
        ("3.10.13", "needs numpy 1.26 and protobuf 6.31.1 or newer: No module named"),
    ],
)
async def test_an_environment_that_lacks_what_a_worker_needs_is_reported(version: str, text: str, models: Any) -> None:
    python = PYTHONS / version / "bin" / "python"
    if not os.path.exists(python):  # noqa: ASYNC240 (once, before anything runs)
        pytest.skip(f"{python} is not there")
    dispatcher = LocalDispatcher({"m": models("echo", python=python)})
    with pytest.raises(ModelLoadError, match=text):
        await dispatcher.start()


async def test_an_idle_process_is_never_woken(serving: Serving, models: Any) -> None:
    server, dispatcher = await serving(m=models("echo", call_timeout_ms=1000, memory_limit_mb=2000))
    (pid,) = dispatcher.process_ids("m")

    def wakeups() -> list[str]:
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        return [line for line in status if "ctxt_switches" in line]

    async with robot(server, "m") as model:
        for _ in range(20):
            await ask(model, state=np.zeros(2))
        for _ in range(20):  # until it has got to where it waits, on a busy machine
            before = wakeups()
            await asyncio.sleep(0.3)
            if wakeups() == before:
                return
    pytest.fail("it wakes up although there is nothing to do")


async def test_a_process_takes_little_beside_what_its_model_imports(
    serving: Serving, models: Any, module: Path
) -> None:
    _, dispatcher = await serving(m=models("echo"))
    (worker,) = dispatcher.workers()
    program = f"import {module.stem}, time; print(open('/proc/self/status').read())"
    bare = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    output, _ = await bare.communicate()
    resident_kb = next(int(line.split()[1]) for line in output.decode().splitlines() if line.startswith("VmRSS"))
    assert worker.memory_mb - resident_kb * 1024 / 1e6 < 15


async def test_large_observations_of_a_model_whose_calls_are_short_are_handed_over_alone(
    serving: Serving, models: Any
) -> None:
    server, dispatcher = await serving(m=models("echo"))
    async with robot(server, "m") as model:
        async with asyncio.timeout(60):
            while dispatcher.max_batch_size("m") == 1:
                await ask(model, state=np.zeros(4))
        await ask(model, state=np.zeros(2_000_000, np.uint8))
        for _ in range(10):
            assert (dispatcher.max_batch_size("m"), dispatcher.max_inflight("m")) == (1, 1)
            await ask(model, state=np.zeros(4))


async def test_a_model_whose_calls_are_long_gives_way_to_others(serving: Serving, models: Any) -> None:
    waits = models("Slow", args={"seconds": 0.003})  # for a core or an accelerator: it takes no core from anyone
    server, dispatcher = await serving(long=models("Computes"), waits=waits, short=models("echo"))
    for name in ("long", "waits", "short"):
        async with robot(server, name, name) as asked:
            for _ in range(16):
                await ask(asked, state=np.ones(2))
    own = os.getpriority(os.PRIO_PROCESS, 0)
    nice = {name: os.getpriority(os.PRIO_PROCESS, *dispatcher.process_ids(name)) for name in ("long", "waits", "short")}
    assert nice == {"long": min(own + 5, 19), "waits": own, "short": own}


async def test_a_model_in_the_background_runs_on_time_that_nothing_else_wants(serving: Serving, models: Any) -> None:
    server, dispatcher = await serving(m=models("echo", background=True, spare=True), n=models("echo"))
    async with robot(server, "m") as model:
        await ask(model, state=np.ones(2))
    policies = {name: os.sched_getscheduler(*dispatcher.process_ids(name)) for name in ("m", "n")}
    assert policies == {"m": os.SCHED_IDLE, "n": os.sched_getscheduler(0)}


async def test_where_a_model_cannot_run_in_the_background_it_runs_as_others_do_and_a_line_says_so(
    serving: Serving, models: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(os, "SCHED_IDLE")
    server, _ = await serving(m=models("echo", background=True))
    async with robot(server, "m") as model:
        assert (await ask(model, state=np.ones(2))) is not None
    assert len([one for one in caplog.messages if "cannot run in the background here" in one]) == 1
