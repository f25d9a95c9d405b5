"""`POST /act` in plain JSON: lists of numbers in place of arrays, as a device sends that speaks HTTP alone."""

from __future__ import annotations

import json
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tests.gateway.conftest import Open, Recorder
from tests.gateway.test_act import open_connection, packed, post

INPUTS = {
    "state": {"dtype": "float64", "shape": [3]},
    "image": {"dtype": "uint8", "shape": [-1, 2], "optional": True},
    "goal": {"dtype": "string", "shape": [], "optional": True},
}


def declared(model: Any) -> dict[str, Any]:
    """Sections of a configuration in which the model of the gateway declares what it takes."""
    return {"models": {"known": {"vla": {"inputs": INPUTS}}}}


async def test_a_list_of_numbers_is_an_array_and_the_answer_is_a_list(act: Open) -> None:
    async with act(lambda one: {"actions": -0.5 * one["state"]}) as (_, gateway):
        assert await post(gateway, {"state": [1, 2, 3]}) == (200, [-0.5, -1.0, -1.5])
        assert await post(gateway, {"state": [0.1, 0.2]}) == (200, [-0.05, -0.1])


async def test_whole_numbers_and_others_are_of_one_dtype(act: Open) -> None:
    model = Recorder()
    async with act(model) as (_, gateway):
        for state in ([0, 1], [0.5, 1], [], [[0, 1], [2, 3]]):
            assert (await post(gateway, {"state": state}))[0] == 200
            np.testing.assert_array_equal(model.seen["state"], np.array(state, np.float32), strict=True)


async def test_what_is_no_array_arrives_as_it_was_sent(act: Open) -> None:
    others = {
        "lives": 3,
        "score": 0.5,
        "alive": True,
        "goal": "the cup",
        "none": None,
        "names": ["a", "b"],
        "enemies": [{"x": 1}, {"x": 2}],
        "paths": [[1, 2], [3]],
        "mixed": [1, "a"],
    }
    model = Recorder()
    async with act(model) as (_, gateway):
        status, answer = await post(gateway, {**others, "seen": [True, False], "map": {"cells": [1, 2]}})
    assert (status, answer) == (200, [[0.0]])
    np.testing.assert_array_equal(model.seen.pop("seen"), np.array([True, False]), strict=True)
    np.testing.assert_array_equal(model.seen.pop("map")["cells"], np.array([1, 2], np.float32), strict=True)
    assert model.seen == others


async def test_declared_inputs_have_their_dtype(act: Open) -> None:
    model = Recorder()
    body = {"state": [1, 2, 3], "image": [[0, 255]], "goal": "cup", "more": [1]}
    async with act(model, declared(model)) as (_, gateway):
        assert (await post(gateway, body))[0] == 200
    dtypes = {key: getattr(value, "dtype", type(value)) for key, value in model.seen.items()}
    assert dtypes == {"state": np.float64, "image": np.uint8, "goal": str, "more": np.float32}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"stat": [1, 2, 3]}, "'state' is missing: expected float64 [3], got stat; did you mean 'state' by 'stat'?"),
        ({"state": [1, 2]}, "'state': expected float64 [3], got int64 [2]"),
        ({"state": [[1], [2, 3]]}, "'state': expected float64 [3], got lists of unequal lengths"),
        ({"state": [1, 2, 3], "image": [[1, 256]]}, "'image': expected uint8 [*, 2], got the value 256"),
        ({"state": "up"}, "'state': expected float64 [3], got string []"),
    ],
)
async def test_what_does_not_fit_the_declared_inputs_is_named(act: Open, body: Any, text: str) -> None:
    async with act(Recorder(), declared(Recorder())) as (_, gateway):
        assert await post(gateway, body) == (400, {"error": f"InvalidObservation: {text}"})


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"state": [1e300, 2]}, "state: expected numbers that fit float32, got 1e+300"),
        ({"arm": {"state": [-1e39]}}, "arm/state: expected numbers that fit float32, got 1e+39"),
        (b'{"a": ' * 900 + b"1" + b"}" * 900, "nested"),
        (b"{'state': [1]}", 'expected JSON, as {"state": [1, 2, 3]}: '),
        (b"", 'expected JSON, as {"state": [1, 2, 3]}: '),
        ([1, 2, 3], 'expected a map of observations, as {"state": [1, 2, 3]}, got a list'),
    ],
)
async def test_what_cannot_be_an_observation_is_named(act: Open, body: Any, text: str) -> None:
    async with act(Recorder()) as (_, gateway):
        status, answer = await post(gateway, body)
        assert (status, text in answer["error"]) == (400, True), answer
        assert (await post(gateway, {"state": [1]}))[0] == 200


async def test_an_answer_without_actions_is_all_that_the_model_gave(act: Open) -> None:
    answer = {"move": "left", "odds": np.array([0.25, 0.75], np.float32), "n": 3, "why": {"depth": np.int32(2)}}
    async with act(Recorder(answer)) as (_, gateway):
        found = await post(gateway, {"board": [0, 1]})
    assert found == (200, {"move": "left", "odds": [0.25, 0.75], "n": 3, "why": {"depth": 2}})


async def test_a_request_with_num_steps_gets_a_map_of_lists(act: Open) -> None:
    async with act(Recorder({"actions": np.ones((2, 1), ml_dtypes.bfloat16)}), dt_ms=20.0) as (_, gateway):
        found = await post(gateway, {"state": [1], "num_steps": 2})
    assert found == (200, {"actions": [[1.0], [1.0]], "dt_ms": 20.0})


async def test_plain_json_in_json_is_answered_likewise(act: Open) -> None:
    async with act(lambda one: 2 * one["state"]) as (_, gateway):
        assert await post(gateway, {"encoded": json.dumps({"state": [1]})}) == (200, "[2.0]")


async def test_lists_beside_an_array_stay_lists(act: Open) -> None:
    model = Recorder()
    async with act(model, declared(model)) as (_, gateway):
        status, answer = await post(gateway, {"image": packed(np.zeros(2)), "state": [1, 2, 3]})
    assert (status, model.seen["state"]) == (200, [1, 2, 3])
    assert "__numpy__" in answer


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (np.array([1.0, np.nan]), "model 'vla': actions: NaN and infinite numbers have no form in JSON"),
        ({"odds": np.float32("inf")}, "model 'vla': odds: NaN and infinite numbers have no form in JSON"),
    ],
)
async def test_numbers_that_json_has_not_are_an_error(act: Open, result: Any, text: str) -> None:
    async with act(Recorder(result)) as (_, gateway):
        assert await post(gateway, {"state": [1]}) == (500, {"error": text})


async def test_wrong_paths_and_methods_are_answered_in_json(act: Open) -> None:
    async with act(Recorder()) as (_, gateway):
        wrong = {"error": "nothing is served at /predict; there is: /act, /healthz"}
        assert await post(gateway, {}, "/predict") == (404, wrong)
        reader, writer = await open_connection(gateway)
        writer.write(b"GET /act HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert b'{"error": "/act is asked by POST, not by GET"}' in await reader.read()
        writer.close()
