"""What a failed call was given is free once it is answered: else payloads stay until the garbage collector comes."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from tests.uncollected import without_collections

from inferential.dispatch import LocalDispatcher
from inferential.replica.spec import ModelInline
from inferential.scheduler.request import InferenceRequest

Serve = Callable[..., LocalDispatcher]
MakeRequest = Callable[..., InferenceRequest]
given: list[weakref.ref[Any]] = []


def note(observation: dict[str, Any]) -> None:
    given.append(weakref.ref(observation["state"]))


def fails(observation: dict[str, Any]) -> Any:
    note(observation)
    raise ValueError("no cup")


async def fails_on_the_loop(observation: dict[str, Any]) -> Any:
    fails(observation)


def exits(observation: dict[str, Any]) -> Any:
    note(observation)
    raise SystemExit(3)


def gives_no_array(observation: dict[str, Any]) -> Any:
    note(observation)
    return {"actions": object()}


class FailsBatches:
    def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
        for one in observations:
            note(one)
        raise ValueError("no cup")


class FailsBatchesOnTheLoop:
    async def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
        return FailsBatches().infer_batch(observations)


class ReturnsWhatWasRaised:
    def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
        return [self._one(one) for one in observations]

    def _one(self, observation: dict[str, Any]) -> Any:
        try:
            fails(observation)
        except ValueError as error:
            return error


MODELS = {
    "a function": fails,
    "a coroutine": fails_on_the_loop,
    "inline": ModelInline(fails),
    "exit": exits,
    "no array": gives_no_array,
    "batches": FailsBatches(),
    "batches by a coroutine": FailsBatchesOnTheLoop(),
    "errors in a batch": ReturnsWhatWasRaised(),
}


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
async def test_what_a_failed_call_was_given_is_free(
    model: Any, rows: int, serve: Serve, request_of: MakeRequest
) -> None:
    dispatcher = serve(m=model)
    for _ in range(2):  # the first is logged with the traceback
        given.clear()
        with without_collections():
            results = await dispatcher.dispatch([request_of(client_id=f"robot-{number}") for number in range(rows)])
            assert [result.success for result in results] == [False] * rows
            assert len(given) >= rows
            async with asyncio.timeout(60):
                while any(one() is not None for one in given):  # noqa: ASYNC110 (its thread has yet to let go of it)
                    await asyncio.sleep(0.001)
