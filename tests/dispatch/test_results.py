"""Results in other forms than arrays and strings by key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest

from inferential import LocalDispatcher
from inferential.proto.structure import STRUCTURE_KEY, restore
from inferential.replica.structured import rows_of
from inferential.replica.values import as_values


def test_a_map_of_stacked_arrays_is_one_result_for_each_observation() -> None:
    stacked = {
        "actions": np.arange(6).reshape(2, 3),
        "words": ["a", "b"],
        "policy_timing": {"infer_ms": 3.0, "by_row": np.array([1, 2]), "steps": [1, 2, 3]},
        "scale": np.float32(2),
        "note": None,
        "name": "pi0",
    }
    first, second = rows_of(stacked, 2)
    assert (first["actions"].tolist(), second["actions"].tolist()) == ([0, 1, 2], [3, 4, 5])
    assert (first["words"], second["words"]) == ("a", "b")
    assert second["policy_timing"] == {"infer_ms": 3.0, "by_row": 2, "steps": [1, 2, 3]}
    assert (second["scale"], second["note"], second["name"]) == (2, None, "pi0")


def test_results_in_order_stay_what_they_are() -> None:
    assert rows_of(({"a": 1}, {"a": 2}), 2) == [{"a": 1}, {"a": 2}]
    assert [row.tolist() for row in rows_of(np.zeros((2, 1)), 2)] == [[0.0], [0.0]]


@pytest.mark.parametrize("results", [None, 1.0, "text"])
def test_what_is_no_row_for_each_observation_is_said(results: Any) -> None:
    with pytest.raises(TypeError, match="infer_batch: expected 2 results, one for each observation, got"):
        rows_of(results, 2)


class Named(NamedTuple):
    actions: Any
    value: float


@dataclass
class Fields:
    actions: Any
    value: float


@pytest.mark.parametrize("form", [Named, Fields])
def test_fields_of_a_named_tuple_or_a_dataclass_are_keys(form: Any) -> None:
    values = as_values(form(np.arange(2), 0.5))
    assert {key: value.tolist() for key, value in values.items()} == {"actions": [0, 1], "value": 0.5}


def test_an_array_that_is_a_dataclass_stays_an_array() -> None:
    @dataclass
    class Pose:
        x: float

        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return np.array([self.x])

    assert as_values(Pose(2.0))["actions"].tolist() == [2.0]


@pytest.mark.parametrize("rows", [1, 3])
def test_an_array_without_a_row_for_each_observation_is_named(rows: int) -> None:
    with pytest.raises(ValueError, match=f"actions: expected 2 rows, one for each observation, got {rows}"):
        rows_of({"actions": np.zeros((rows, 7))}, 2)


def test_maps_none_and_strings_have_their_structure_beside_them() -> None:
    result = {"actions": np.zeros(2), "timing": {"ms": 1.5}, "note": None, "tags": ["a"], 7: "x", "model_id": "mine"}
    values = as_values(result)
    assert all(isinstance(value, np.ndarray | str) for value in values.values())
    assert "model_id" not in values  # what a client's result has of its own
    back = restore(values)
    assert back.pop("actions") is result["actions"]
    assert back == {"timing": {"ms": 1.5}, "note": None, "tags": ["a"], "7": "x", "model_id": "mine"}


def test_plain_results_have_none() -> None:
    assert STRUCTURE_KEY not in as_values({"actions": np.zeros(2), "steps": [1, 2], "text": "x"})


async def test_metadata_is_a_map_or_a_function_of_either_kind() -> None:
    class Model:
        def __init__(self, metadata: Any) -> None:
            self.metadata = metadata

        def infer(self, observation: dict[str, Any]) -> Any:
            return 1.0

    async def later() -> dict[str, Any]:
        return {"a": 1}

    for metadata in ({"a": 1}, lambda: {"a": 1}, later):
        assert await LocalDispatcher({"m": Model(metadata)}).model_metadata("m") == {"a": 1}
    assert await LocalDispatcher({"m": Model("text")}).model_metadata("m") == {}
    assert await LocalDispatcher({"m": lambda observation: 1.0}).model_metadata("m") == {}
    assert await LocalDispatcher({}).model_metadata("other") == {}
