"""What models in processes may do to themselves and to their process: each harms its own calls alone."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.dispatch.conftest import Serving, in_time, load, make_request, models_of, robot, until
from tests.dispatch.conftest import ask_robot as ask

from inferential import LocalDispatcher, ModelFailed, ModelProcess, ModelThread, Server
from inferential.replica import process
from inferential.replica.outcomes import ModelLoadError
from inferential.replica.spawn import spawn

if sys.platform != "linux":
    pytest.skip("worker processes are watched by pidfd", allow_module_level=True)

MODELS = """
import multiprocessing, os, signal, sys, threading, time
import numpy as np

class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no words")

class Base(BaseException):
    pass

class NoArray:
    def __array__(self, *args, **kwargs):
        sys.exit(3)

class Lazy(list):
    def __getitem__(self, at):
        raise RuntimeError("lazy")
    def __iter__(self):
        raise RuntimeError("lazy")

def square(number):
    return number * number

class Policy:
    version = "1"

    @property
    def model_version(self):
        if self.version is None:
            raise RuntimeError("no version")
        return self.version

    def infer(self, observation):
        what = observation.get("do", "")
        if what == "version":
            self.version = None
        if what == "version array":
            self.version = np.zeros(2)
        if what == "stdio":
            os.write(1, bytes(range(256)))
            print("noise " * 1000)
            os.close(0), os.close(1), os.close(2)
            print("more")
            sys.stdout.flush()
        if what == "stderr":
            sys.stderr.close()
            raise ValueError("broken")
        if what == "unprintable":
            raise Unprintable
        if what == "base":
            raise Base("base")
        if what == "interrupt":
            raise KeyboardInterrupt
        if what == "generator exit":
            raise GeneratorExit
        if what == "array":
            return {"actions": NoArray()}
        if what == "lock":
            return {"actions": threading.Lock()}
        if what == "recursive":
            found = {}
            found["actions"] = found
            return found
        if what == "none":
            return None
        if what == "huge":
            return np.zeros(5 << 30, np.uint8)
        if what == "large":
            return {"actions": np.zeros(2), "more": np.ones(40_000_000, np.uint8)}
        if what == "fork":
            os.fork()
        if what == "fork and wait":
            pid = os.fork()
            if not pid:
                os._exit(5)
            os.waitpid(pid, 0)
        if what == "spawn":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                return {"actions": np.array(pool.map(square, [0.0, 0.0]))}
        if what == "signals":
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGIO, signal.SIGPIPE):
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
        if what == "recursion":
            return self.infer(observation)
        if what == "input":
            input()
        if what == "close":
            os.closerange(3, 200)
        if what == "close and hang":
            os.closerange(3, 200)
            time.sleep(600)
        if what == "write":
            for fd in range(3, 200):
                try:
                    os.set_blocking(fd, False)
                    os.write(fd, b"\\xff" * 40)
                except OSError:
                    pass
            time.sleep(600)
        if what == "session":
            os.setpgid(0, 0) if os.getpgrp() != os.getpid() else None
            os.chdir("/")
            sys.path.clear()
        if what == "leave the group":
            os.setpgid(0, os.getpgid(os.getppid()))
            time.sleep(600)
        if what == "clock":
            time.perf_counter = time.monotonic = time.time = lambda: 0.0
            time.perf_counter_ns = time.monotonic_ns = time.time_ns = lambda: 0
        if what == "thread exits":
            threading.Thread(target=sys.exit).start()
        return {"actions": np.zeros(2), "pid": os.getpid()}

def slow(observation):
    time.sleep(float(observation["state"][0]))
    return observation["state"]

class Batch:
    max_batch_size = 4
    def infer_batch(self, observations):
        if any(observation.get("do") == "lazy" for observation in observations):
            return Lazy([1] * len(observations))
        if any(observation.get("do") == "text" for observation in observations):
            return "x" * len(observations)
        return [np.zeros(2)] * len(observations)

class ExitsWhileLoading:
    def __init__(self):
        os._exit(9)

class TakesMemory:
    def __init__(self):
        self.kept = np.ones(40_000_000)
        time.sleep(600)

class Unprintably:
    def __init__(self):
        raise Unprintable

class Raises:
    def __init__(self):
        raise Base("loading")

sys_exit = None
"""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModelProcess]:
    """`models("name", ...)`: a ModelProcess of a module that only workers import."""
    return models_of(MODELS, "faulty", tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("stdio", "OSError"),
        ("stderr", "ValueError: broken"),
        ("unprintable", "Unprintable"),
        ("base", "Base: base"),
        ("interrupt", "KeyboardInterrupt"),
        ("generator exit", "GeneratorExit"),
        ("array", "SystemExit: 3"),
        ("lock", "result 'actions'"),
        ("recursive", "RecursionError"),
        ("none", "result 'actions'"),
        ("huge", "5368709120 bytes"),
        ("large", None),
        ("fork", None),
        ("fork and wait", None),
        ("spawn", None),
        ("signals", None),
        ("recursion", "RecursionError"),
        ("input", "EOFError"),
        ("version", "RuntimeError: no version"),
        ("version array", None),
        ("session", None),
        ("thread exits", None),
        ("clock", None),
    ],
)
async def test_what_a_model_does_to_itself_costs_its_own_call_at_most(
    what: str, text: str | None, serving: Serving, models: Any
) -> None:
    server, dispatcher = await serving(bad=models("Policy"), good=models("Batch"))
    async with load(server, "good", robots=2, gain=0.0) as ends, robot(server, "bad") as model:
        first = await ask(model, state=np.zeros(2))
        if text is None:
            assert (await ask(model, state=np.zeros(2), do=what))["actions"].tolist() == [0.0, 0.0]
        else:
            with pytest.raises(ModelFailed, match=text):
                await ask(model, state=np.zeros(2), do=what)
        if "version" not in what:
            for _ in range(3):
                assert int((await ask(model, state=np.zeros(2)))["pid"]) == int(first["pid"])
        assert not dispatcher.problems()
        answered = ends["answered"]
        await until(lambda: ends["answered"] > answered + 5)
    assert ends["asked"] == ends["answered"]


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("close", "its process"),
        ("close and hang", "closed its connection to the server"),
        ("write", "speaks another protocol|exited"),
    ],
)
async def test_a_model_that_breaks_the_connection_to_its_server_is_started_again(
    what: str, text: str, serving: Serving, models: Any
) -> None:
    server, dispatcher = await serving(bad=models("Policy"), good=models("Batch"))
    async with load(server, "good", robots=2, gain=0.0) as ends, robot(server, "bad") as model:
        first = await ask(model, state=np.zeros(2))
        with pytest.raises(ModelFailed, match=text):
            await ask(model, state=np.zeros(2), do=what)
        assert int((await ask(model, state=np.zeros(2)))["pid"]) != int(first["pid"])
        assert not dispatcher.problems()
    assert ends["asked"] == ends["answered"]


async def test_a_model_that_has_left_its_process_group_is_ended_all_the_same(serving: Serving, models: Any) -> None:
    server, dispatcher = await serving(bad=models("Policy", call_timeout_ms=300.0))
    async with robot(server, "bad") as model:
        (pid,) = dispatcher.process_ids("bad")
        with pytest.raises(ModelFailed, match="call_timeout_ms"):
            await ask(model, state=np.zeros(2), do="leave the group")
        assert (await ask(model, state=np.zeros(2)))["pid"] != pid


async def test_results_that_fail_when_they_are_looked_at_fail_their_call(serving: Serving, models: Any) -> None:
    server, dispatcher = await serving(m=models("Batch"))
    async with robot(server, "m") as model:
        (before,) = dispatcher.process_ids("m")
        with pytest.raises(ModelFailed, match="RuntimeError: lazy"):
            await ask(model, state=np.zeros(2), do="lazy")
        with pytest.raises(ModelFailed, match="expected 1 results, one for each observation, got str"):
            await ask(model, state=np.zeros(2), do="text")
        await ask(model, state=np.zeros(2))
        assert dispatcher.process_ids("m") == [before]


@pytest.mark.parametrize(
    ("what", "options", "text"),
    [
        ("ExitsWhileLoading", {}, "its process exited with status 9"),
        ("TakesMemory", {"memory_limit_mb": 200}, "memory_limit_mb is 200"),
        ("Unprintably", {}, "Unprintable"),
        ("Raises", {}, "Base: loading"),
        ("sys_exit", {}, "NoneType"),
        ("Policy", {"python": "/"}, "its interpreter / cannot be started: it is a folder; name the interpreter in it"),
        ("Policy", {"python": "~/no/python"}, "its interpreter ~/no/python cannot be started: No such file"),
        ("Policy", {"python": "/bin/true"}, "its process exited with status 0"),
    ],
)
async def test_a_model_that_cannot_be_loaded_says_why(
    what: str, options: dict[str, Any], text: str, models: Any
) -> None:
    dispatcher = LocalDispatcher({"m": models(what, **options)})
    with pytest.raises(ModelLoadError, match=text):
        await dispatcher.start()


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't start new thread")])
async def test_a_process_is_started_again_that_the_machine_had_no_room_for(
    error: Exception, models: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    errors = [error]

    async def start(*args: Any) -> Any:
        if errors:
            raise errors.pop()
        return await spawn(*args)

    monkeypatch.setattr(process, "spawn", start)
    replica = process.WorkerProcess("m", "", models("Policy"), {}, lambda: None)
    replica.begin()
    await until(lambda: replica.up)
    await replica.close()
    assert "cannot be started: " + (str(error) or "no memory is left") in caplog.text


async def test_a_model_that_is_never_loaded_is_tried_again_and_is_an_error_of_the_log_once(
    models: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "inferential.replica")

    def logged() -> list[tuple[int, str]]:
        return [(one.levelno, one.getMessage()) for one in caplog.records if "started again" in one.getMessage()]

    dispatcher = LocalDispatcher({"m": models("Raises"), "n": models("Policy")})
    async with Server("tcp://127.0.0.1:0", dispatcher=dispatcher):
        await until(lambda: len(logged()) >= 3)
    assert [level for level, _ in logged()[:3]] == [logging.ERROR, logging.INFO, logging.INFO]
    assert all("lost" not in text for _, text in logged())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"env": {"GPU": 0}}, r"env: 'GPU': expected text, got int"),
        ({"env": ["GPU=0"]}, r"env: expected a map"),
        ({"env": {"A": "x\0y"}}, r"env: 'A'"),
        ({"env": {"": "x"}}, r"env: ''"),
        ({"env": {"A=B": "x"}}, r"env: 'A=B'"),
        ({"replicas": [{"GPU": 1}]}, r"replicas\[0\]: 'GPU': expected text, got int"),
        ({"replicas": ["GPU=1"]}, r"replicas\[0\]: expected a map"),
        ({"replicas": "2"}, r"replicas: expected"),
        ({"replicas": True}, r"replicas: expected"),
        ({"replicas": 1.5}, r"replicas: expected"),
        ({"args": [1]}, r"args: expected a map"),
        ({"args": {1: 2}}, r"args: 1: expected"),
        ({"python": 3}, r"python: expected"),
        ({"call_timeout_ms": "5"}, r"call_timeout_ms: expected a number above 0, got '5'"),
        ({"call_timeout_ms": True}, r"call_timeout_ms: expected a number above 0, got True"),
        ({"memory_limit_mb": float("nan")}, r"memory_limit_mb: expected"),
        ({"load_timeout_s": None}, r"load_timeout_s: expected"),
    ],
)
def test_arguments_that_cannot_be_are_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=text):
        ModelProcess("a:b", **options)


def test_a_time_limit_of_a_thread_must_be_a_number() -> None:
    with pytest.raises((TypeError, ValueError), match="call_timeout_ms: expected a number above 0, got '5'"):
        ModelThread(len, call_timeout_ms="5")  # type: ignore[arg-type]


async def test_rows_that_go_over_together_have_the_time_of_a_call_each(models: Any) -> None:
    dispatcher = LocalDispatcher({"m": models("slow", call_timeout_ms=1000.0)})
    await dispatcher.start()
    try:
        requests = [make_request(values={"state": np.full(1, seconds)}) for seconds in (0.4, 0.4, 0.4, 600.0, 0.0)]
        results = await in_time(dispatcher.dispatch(requests))
        causes = [None if one.refusal is None else one.refusal.cause for one in results]
    finally:
        await dispatcher.close()
    # The one that took too long ends the process, and with it what was not sent yet: that is run again.
    assert causes == ["ReplicaLost"] * 3 + ["CallTimeout", "ReplicaLost"]
