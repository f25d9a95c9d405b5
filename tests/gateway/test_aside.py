"""Large messages of JSON are read and written in a process of their own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator

import numpy as np
import pytest

from inferential.errors import InvalidObservation
from inferential.gateway.act_messages import Form, read, write
from inferential.gateway.aside import Aside, size_of
from inferential.gateway.refusals import RequestRefused
from inferential.policies.tensors import TensorSpec
from inferential.proto.open_inference import read_infer
from inferential.proto.value_limits import SMALL_BYTES

LARGE = json.dumps({"picture": [[[1, 2, 3]] * 640] * 20, "instruction": "pick"}).encode()


@pytest.fixture
async def aside() -> AsyncIterator[Aside]:
    made = Aside()
    yield made
    await made.close()


def own_process() -> int:
    """Returns the process that this is called in."""
    return os.getpid()


async def test_a_small_message_is_read_here_and_a_large_one_elsewhere(aside: Aside) -> None:
    assert await aside.call(2, own_process) == os.getpid()
    assert await aside.call(SMALL_BYTES + 1, own_process) != os.getpid()


async def test_what_is_read_is_the_same(aside: Aside) -> None:
    here, there = read(LARGE, ()), await aside.call(len(LARGE), read, LARGE, ())
    assert there.form == here.form == Form(doubled=False, plain=True)
    np.testing.assert_array_equal(there.observation["picture"], here.observation["picture"])
    body = json.dumps({"inputs": [{"name": "x", "datatype": "INT64", "shape": [30_000], "data": [1] * 30_000}]})
    message = await aside.call(len(body), read_infer, body.encode(), None, "inputs")
    assert message.tensors["x"].dtype == np.int64
    answer = {"mask": np.linspace(0, 1, 40_000, dtype=np.float32)}
    assert size_of(answer) > SMALL_BYTES
    assert await aside.call(size_of(answer), write, answer, here.form) == write(answer, here.form)


async def test_an_error_is_the_same_and_costs_no_other(aside: Aside) -> None:
    with pytest.raises(ValueError, match="expected JSON"):
        await aside.call(len(LARGE), read, LARGE[:-1], ())
    spec = TensorSpec("picture", "float32", (2, 2))
    with pytest.raises(InvalidObservation, match="picture"):
        await aside.call(len(LARGE), read, LARGE, [spec])
    assert (await aside.call(len(LARGE), read, LARGE, ())).form.plain


async def test_one_whose_client_leaves_gives_no_other_its_answer(aside: Aside) -> None:
    left = asyncio.ensure_future(aside.call(len(LARGE), read, LARGE, ()))
    await asyncio.sleep(0)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    assert await aside.call(SMALL_BYTES + 1, own_process) != os.getpid()


async def test_a_process_that_is_killed_costs_its_message_and_is_started_again(aside: Aside) -> None:
    process = await aside.call(SMALL_BYTES + 1, own_process)
    os.kill(process, signal.SIGKILL)
    with pytest.raises(RequestRefused, match="ended with this request"):
        await aside.call(len(LARGE), read, LARGE, ())
    assert await aside.call(SMALL_BYTES + 1, own_process) not in (process, os.getpid())


async def test_none_is_left_once_it_is_closed(aside: Aside) -> None:
    process = await aside.call(SMALL_BYTES + 1, own_process)
    await aside.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
