"""The memory that server and writing process share: what lies there, and when it is free again."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mcap")

from tests.recording.test_process import until
from tests.recording.test_recorder import STATE, ask, recorded, recording

from inferential import ModelInline, ModelProcess
from inferential.config.recording import RecordingConfig
from inferential.recording.memory import RecordersMemory, WritersMemory

PAYLOAD = np.random.default_rng(4).bytes(100_000)
NOISE = np.random.default_rng(5).integers(0, 256, 50_000, np.uint8)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="worker processes are watched by pidfd")


def spoiling(observation: dict[str, Any]) -> Any:
    for key in ("noise", "state", "camera"):
        observation[key][...] = 0
    return observation["state"]


class Batched:
    max_batch_size = 4

    def infer_batch(self, observations: Sequence[dict[str, Any]]) -> list[Any]:
        return [spoiling(observation) for observation in observations]


def test_the_process_sees_what_the_server_has_put_there() -> None:
    ours = RecordersMemory(1_000_000)
    theirs = WritersMemory(ours.fd)
    first, second = ours.put(PAYLOAD), ours.put(PAYLOAD[::-1])
    assert first is not None
    assert second is not None
    assert (bytes(theirs.view(first)), bytes(theirs.view(second))) == (PAYLOAD, PAYLOAD[::-1])
    theirs.note_done(7)
    assert ours.done == 7
    ours.close()


@pytest.mark.parametrize(("size", "payload"), [(1_000_000, b"small"), (50_000, PAYLOAD), (0, PAYLOAD)])
def test_what_is_small_or_finds_no_room_is_to_be_sent(size: int, payload: bytes) -> None:
    assert RecordersMemory(size).put(payload) is None


def test_however_much_may_wait_there_is_memory() -> None:
    memory = RecordersMemory(10**15)
    place = memory.put(PAYLOAD)
    assert place is not None
    assert bytes(WritersMemory(memory.fd).view(place)) == PAYLOAD
    memory.close()


def test_a_place_that_is_given_back_is_taken_again() -> None:
    memory = RecordersMemory(150_000)
    place = memory.put(PAYLOAD)
    assert place is not None
    assert memory.put(PAYLOAD) is None
    memory.give(place)
    assert memory.put(PAYLOAD) == place


async def test_payloads_are_recorded_whether_they_find_room_or_not(tmp_path: Path) -> None:
    async with recording(tmp_path, queue_mb=0.1) as (server, found):
        new = server.config.model_copy(deep=True)
        new.recording = RecordingConfig(path=str(tmp_path))  # more may wait, and the memory stays as it is
        server.reconfigure(new)
        for number in range(30):
            await ask(server, times=1, noise=NOISE + np.uint8(number))
    assert found.dropped == 0
    for number, one in enumerate(recorded(tmp_path)):
        assert one.observation is not None
        np.testing.assert_array_equal(one.observation["noise"], NOISE + np.uint8(number))


@pytest.mark.parametrize("fields", [{"only": "late"}, {"only": "failed"}, {}])
async def test_nothing_is_held_of_what_is_written_or_not_wanted(fields: dict[str, Any], tmp_path: Path) -> None:
    async with recording(tmp_path, **fields) as (server, found):
        await ask(server, times=5, noise=NOISE)
        await ask(server, times=5, noise=NOISE, prompt="fail")
    assert found.sizes() == {"running": 0, "unsaid": 0, "waiting": 0, "places": 0}


async def test_of_what_a_model_gets_a_copy_of_none_is_made_before_its_answer(tmp_path: Path) -> None:
    copied, began = [], asyncio.Event()

    class Policy:
        max_batch_size = 4

        async def infer_batch(self, observations: Sequence[dict[str, Any]]) -> list[Any]:
            copied.append((len(observations), found.sizes()["places"] - found.sizes()["waiting"]))
            if len(observations) == 1:
                began.set()
                await until(lambda: server.status().models[0].waiting == 4)
            return [observation["state"] for observation in observations]

    async with recording(tmp_path, {"pi0": Policy()}) as (server, found):
        first = asyncio.create_task(ask(server, times=1, noise=NOISE))
        await began.wait()
        await asyncio.gather(first, *(ask(server, f"arm-{number}", times=1, noise=NOISE) for number in range(4)))
    assert copied == [(1, 1), (4, 0)]


@pytest.mark.parametrize(
    "model",
    [spoiling, ModelInline(spoiling), Batched(), pytest.param(ModelProcess(f"{__name__}:spoiling"), marks=LINUX)],
    ids=["thread", "inline", "batch", "process"],
)
async def test_what_was_sent_is_recorded_wherever_a_model_writes_into_it(model: Any, tmp_path: Path) -> None:
    async with recording(tmp_path, {"pi0": model}) as (server, _):
        await asyncio.gather(*(ask(server, f"arm-{number}", times=2, noise=NOISE) for number in range(4)))
    found = recorded(tmp_path)
    assert [one.end for one in found] == ["answered"] * 8
    for one in found:
        assert one.observation is not None
        np.testing.assert_array_equal(one.observation["noise"], NOISE)
        np.testing.assert_array_equal(one.observation["state"], STATE)
