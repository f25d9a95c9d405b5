"""Policies from files behind a server: where they run, what robots get, and what is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from tests.policies import onnx_files

from inferential import AsyncConnection, InvalidObservation, LocalDispatcher, ModelFailed, ModelProcess, Server
from inferential.dispatch.outcomes import RemoteModelError
from inferential.errors import InferenceError
from inferential.replica.targets import TargetError, load_target

WAIT_MS = 60_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return onnx_files.doubling(tmp_path / "double.onnx")


def models(path: Path, run: str) -> LocalDispatcher:
    target = f"onnx:{path}"
    return LocalDispatcher({"arm": ModelProcess(target) if run == "process" else load_target(target, {})})


@pytest.mark.parametrize("run", ["process", "thread"])
async def test_robots_share_calls_and_one_that_does_not_fit_ends_alone(path: Path, run: str) -> None:
    async def ask(connection: AsyncConnection, size: int) -> object:
        try:
            result = await connection.model("arm", queue="all").infer(WAIT_MS, state=np.full(size, size, ">f8"))
        except InferenceError as error:
            return error
        assert result is not None
        return result["actions"].tolist()

    async with (
        Server("tcp://127.0.0.1:0", dispatcher=models(path, run)) as server,
        AsyncConnection(server.address, client_id="robot") as connection,
    ):
        answers = await asyncio.gather(*(ask(connection, size) for size in (3, 5, 3, 2, 3)))
        metadata = await server.model_metadata("arm")
    assert answers[0] == answers[2] == answers[4] == [6.0, 6.0, 6.0]
    for error, size in ((answers[1], 5), (answers[3], 2)):
        assert isinstance(error, InvalidObservation)
        assert error.reason == f"'state': expected float32 [3], got float64 [{size}]"
    assert metadata["inputs"] == [{"name": "state", "dtype": "float32", "shape": [3]}]


STACKED = """
import numpy as np
from inferential.policies.tensors import TensorSpec

class Named:
    \"\"\"Says with each result how it was called.\"\"\"
    max_batch_size = 8
    inputs = [TensorSpec("state", "float32", (3,))]
    model_version = "v1"

    def infer(self, observation):
        return observation["state"] + 100

    def infer_batch(self, observations):
        return [observation["state"] + 200 for observation in observations]

    def infer_stacked(self, arrays):
        if (arrays["state"] < 0).any():
            raise ValueError("a negative one")
        return {"actions": arrays["state"] + 300}
"""


async def test_a_policy_that_takes_stacked_rows_gets_those_that_are_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stacked_policy.py").write_text(STACKED)
    monkeypatch.syspath_prepend(tmp_path)
    dispatcher = LocalDispatcher({"arm": ModelProcess("stacked_policy:Named")})
    rows = [np.full(3, at, np.float32) for at in range(4)]

    async def actions(*states: object) -> list[float]:
        answers = await dispatcher.infer("arm", [{"state": state} for state in states])
        assert all(answer.model_version == "v1" for answer in answers)
        return [float(np.ravel(answer.values["actions"])[0]) for answer in answers]

    async with Server("tcp://127.0.0.1:0", dispatcher=dispatcher):
        assert await actions(*rows) == [300, 301, 302, 303]
        assert await actions(rows[1]) == [101]
        assert await actions(rows[1], rows[2].astype(np.float64)) == [201, 202]
        with pytest.raises(RemoteModelError, match="ValueError: a negative one"):
            await actions(rows[0], -rows[1])


async def test_an_onnx_file_answers_rows_of_a_call_as_each_alone(tmp_path: Path) -> None:
    files = [onnx_files.doubling(tmp_path / "one.onnx"), onnx_files.with_two_outputs(tmp_path / "two.onnx")]
    dispatcher = LocalDispatcher({path.stem: ModelProcess(f"onnx:{path}") for path in files})
    rows = [{"state": np.arange(3, dtype=np.float32) * at} for at in range(-2, 3)]
    async with Server("tcp://127.0.0.1:0", dispatcher=dispatcher):
        for name in ("one", "two"):
            together = await dispatcher.infer(name, rows)
            for one, row in zip(together, rows, strict=True):
                (alone,) = await dispatcher.infer(name, [row])
                assert one.values.keys() == alone.values.keys()
                for key, value in alone.values.items():
                    np.testing.assert_array_equal(one.values[key], value, strict=True)


MODEL = """
from inferential import InvalidObservation

def picky(observation):
    raise InvalidObservation("state: too cold")

class Batch:
    max_batch_size = 4
    def infer_batch(self, observations):
        raise InvalidObservation("state: all too cold")

def broken(observation):
    raise ValueError("no")
"""


@pytest.mark.parametrize("run", ["process", "thread"])
async def test_a_model_of_ones_own_may_refuse_an_observation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: str
) -> None:
    (tmp_path / f"picky_{run}.py").write_text(MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    names = ("picky", "Batch", "broken")
    made = {
        name: ModelProcess(f"picky_{run}:{name}") if run == "process" else load_target(f"picky_{run}:{name}", {})
        for name in names
    }
    async with (
        Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher(made)) as server,
        AsyncConnection(server.address) as connection,
    ):
        for name, kind, text, cause in (
            ("picky", InvalidObservation, "state: too cold", "model"),
            ("Batch", InvalidObservation, "state: all too cold", "model"),
            ("broken", ModelFailed, "ValueError: no", "ValueError"),
        ):
            with pytest.raises(kind) as caught:
                await connection.model(name).infer(WAIT_MS, state=np.ones(1))
            assert (caught.value.reason, caught.value.cause) == (text, cause)


@pytest.mark.parametrize(
    ("target", "args", "text"),
    [
        ("onnx:nowhere.onnx", {}, "nowhere.onnx does not exist: expected a file"),
        (
            "onnx:{path}",
            {"thread": 2},
            "got an unexpected keyword argument 'thread'; onnx:.* takes max_batch_size, threads",
        ),
        ("onnx:{path}", {"threads": 0}, "threads: expected a whole number above 0"),
        ("lerobot:{path}", {}, "is a file: expected a folder of a policy's save_pretrained"),
        ("lerobot:/nowhere/act", {}, r"^/nowhere/act does not exist: expected a folder of a .* save_pretrained\(\)$"),
        ("lerobot:{path}", {"rename": ["top"]}, r"rename: expected a map, got \['top'\]"),
        ("lerobot:{path}", {"resize_images": "no"}, "resize_images: expected true or false, got 'no'"),
        ("lerobot:someone/act", {}, "as hf download someone/act --local-dir FOLDER makes one of a policy on the Hub"),
    ],
)
def test_what_cannot_be_loaded_says_why(path: Path, target: str, args: dict[str, object], text: str) -> None:
    with pytest.raises(TargetError, match=text):
        load_target(target.format(path=path), args)


def test_the_policy_in_a_checkpoint_is_named(tmp_path: Path) -> None:
    inner = tmp_path / "checkpoints" / "last" / "pretrained_model"
    inner.mkdir(parents=True)
    (inner / "config.json").write_text("{}")
    with pytest.raises(TargetError, match=f"; there is one in {tmp_path}/checkpoints/last/pretrained_model"):
        load_target(f"lerobot:{tmp_path}", {})


def test_a_policys_weights_that_were_not_downloaded_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(TargetError, match=r"model\.safetensors is a pointer of Git LFS"):
        load_target(f"lerobot:{tmp_path}", {})
