"""Nested values on the flat wire and back, exactly as they were."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from inferential.proto import structure
from inferential.proto.structure import STRUCTURE_KEY, flatten, narrow_float_as_float32, restore


def wire(tree: dict[Any, Any]) -> dict[str, Any]:
    """What the flat wire holds of a map: arrays and strings only."""
    values, structure = flatten(tree)
    assert all(isinstance(value, np.ndarray | str) for value in values.values())
    assert all(0 < len(key.encode()) <= 255 and key.isprintable() for key in values)
    return {**values, STRUCTURE_KEY: structure}


def same(one: Any, other: Any) -> bool:
    """Whether two trees are alike in types, dtypes, shapes and values; nan equals nan."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray | np.generic):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    return one == other or (one != one and other != other)


DTYPES = st.sampled_from(["u1", "i1", "<i2", "<i4", "<i8", "<u8", "?", "<f2", "<f4", "<f8", "<U3", "S3", "<M8[ns]"])
ARRAYS = npst.arrays(DTYPES, npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=8),
    ARRAYS,
    ARRAYS.filter(lambda array: array.size and array.dtype.kind not in "US").map(lambda array: array.ravel()[0]),
)
NAMES = st.text(max_size=6) | st.sampled_from(["a", "a/b", "b", "b/c", "/", STRUCTURE_KEY, "#1", "0"])
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=12
)


@given(st.dictionaries(NAMES, TREES, max_size=4))
def test_any_tree_comes_back_as_it_was(tree: dict[str, Any]) -> None:
    assert same(restore(wire(tree)), tree)


@pytest.mark.parametrize("value", [[0, 2**63], [-1, 2**63], [[1, 2**64 - 1], [2**63, 0]], [2**63, 2**63], [2**64, 1]])
def test_whole_numbers_on_both_sides_of_int64_stay_whole(value: list[Any]) -> None:
    assert same(restore(wire({"n": value})), {"n": value})


def test_what_is_flat_needs_no_structure() -> None:
    values, structure = flatten({"observation/state": np.zeros(3), "prompt": "pick"})
    assert structure == ""
    assert list(values) == ["observation/state", "prompt"]


def test_a_literal_slash_and_nesting_are_distinguished() -> None:
    tree = {"a": {"b": np.zeros(1)}, "a/b": np.ones(1)}
    assert same(restore(wire(tree)), tree)


def test_a_text_in_lists_of_one_has_the_key_of_the_list() -> None:
    assert wire({"language": {"task": [["pick"]]}})["language/task"] == "pick"


def test_the_structure_does_not_change_with_the_values() -> None:
    def observation(step: int, text: str) -> dict[str, Any]:
        return {"state": {"arm": np.full(3, step)}, "gripper": step, "joints": [step, 1], "task": [[text]]}

    assert flatten(observation(1, "pick"))[1] == flatten(observation(2, "place it"))[1]


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        ({"a": {"b": object()}}, "a/b: expected an array, a number, .* got object"),
        ({"a": np.array([None])}, "a: expected numbers, strings, bytes or dates, got an array of object"),
        ({"a": 1j}, "a: expected an array"),
        ({"a": np.complex64(1)}, "a: expected numbers"),
        ({1: 2}, "expected keys that are strings, got 1"),
        ({"a": {1: 2}}, "expected keys that are strings, got 1 in 'a'"),
        ({"a": np.zeros(3, "i4,f8")}, "a: expected numbers"),
        ({"a": np.full(30_000, "x" * 20)}, "a: an array of strings of"),
    ],
)
def test_what_has_no_place_on_the_wire_is_named(tree: dict[Any, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        flatten(tree)


def test_an_array_of_strings_that_are_not_unicode_is_named() -> None:
    broken = np.frombuffer(np.array([0x63, 0x1000000], np.uint32).tobytes(), "U2")
    with pytest.raises(ValueError, match=r"notes: .* 0x1000000"):
        flatten({"notes": broken})


def test_a_bottomless_tree_is_refused() -> None:
    tree: dict[str, Any] = {}
    tree["a"] = tree
    with pytest.raises(ValueError, match="nested deeper than"):
        flatten(tree)
    items: list[Any] = []
    items.append(items)
    with pytest.raises(ValueError, match="nested deeper than"):
        flatten({"a": items})


@pytest.mark.parametrize(
    "structure",
    [
        "{",
        "7",
        "[]",
        '{"a":7}',
        '{"a":["value","missing"],"x":["value","x"]}',
        '{"a":["value","x"],"b":["value","x"]}',
        "{}",
        '{"a":["number","text"],"x":["value","x"]}',
        '{"a":["number","x"],"text":["value","text"]}',
        '{"a":["raw","x","O",[1]],"text":["value","text"]}',
        '{"a":["raw","x","M8[ns]",[7]],"text":["value","text"]}',
        '{"a":["raw","x","no such",[7]],"text":["value","text"]}',
        '{"a":["raw","x","S1",[-2]],"text":["value","text"]}',
        '{"a":["texts","<U100000000",[1],["x"]],"x":["value","x"],"text":["value","text"]}',
        '{"a":["texts","<U1",[2],["x"]],"x":["value","x"],"text":["value","text"]}',
        '{"a":["texts","<U1",[1],[7]],"x":["value","x"],"text":["value","text"]}',
        '{"a":' + '["list",[' * 20_000 + "]]" * 20_000 + "}",
        '{"a":' + '["list",[' * 150 + "]]" * 150 + "}",
    ],
)
def test_a_structure_that_does_not_fit_is_refused(structure: str) -> None:
    with pytest.raises(ValueError, match=STRUCTURE_KEY):
        restore({"x": np.zeros(2), "text": "t", STRUCTURE_KEY: structure})


@given(
    st.recursive(st.none() | st.integers() | st.sampled_from(["value", "x", "number", "list", "map", "<U1"]), st.lists)
)
def test_no_structure_raises_anything_else(node: Any) -> None:
    with contextlib.suppress(ValueError):
        restore({"x": np.zeros(2), STRUCTURE_KEY: json.dumps({"a": node})})


def test_what_a_caller_changes_is_not_there_the_next_time() -> None:
    values = wire({"words": ["a", "b"], "texts": np.array(["a"])})
    restore(dict(values))["words"].append("c")
    restore(dict(values))["texts"][0] = "z"
    again = restore(values)
    assert again["words"] == ["a", "b"]
    assert again["texts"].tolist() == ["a"]


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_narrow_floats_become_float32(name: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.array([0.5, 2.0], getattr(ml_dtypes, name))
    wide = narrow_float_as_float32(array)
    assert wide is not None
    assert (wide.dtype.name, wide.tolist()) == ("float32", [0.5, 2.0])
    assert narrow_float_as_float32(np.zeros(1, np.float16)) is None


def test_a_map_of_very_many_values_is_refused_as_soon_as_that_is_known() -> None:
    seen = []

    class Many(dict[str, Any]):
        def items(self) -> Any:
            for number in range(1_000_000):
                seen.append(number)
                yield f"k{number}", number

    with pytest.raises(ValueError, match="more than 4096 values: send numbers as arrays"):
        flatten({"all": Many()})
    assert len(seen) == 4097


@pytest.mark.parametrize(
    "tree", [{"text": "x" * 2000}, {"texts": ["x" * 600, ["x" * 600]]}, {"a": "x" * 600, "b": ["x" * 600]}]
)
def test_strings_above_what_a_message_may_have_are_refused_before_they_are_copied(
    tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structure, "MAX_TEXT", 1000)
    with pytest.raises(ValueError, match="characters of strings"):
        flatten(tree)
    monkeypatch.setattr(structure, "MAX_TEXT", 2000)
    assert flatten(tree)[0].keys() <= tree.keys()
