"""The fast path of stacked rows: the same outcomes as row by row, and used where it should be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from inferential.policies.tensors import TensorSpec
from inferential.proto import inferential_pb2 as pb
from inferential.proto.tensors import pack
from inferential.replica.failures import FailurePlaces
from inferential.replica.outcomes import Answer
from inferential.replica.results import ResultWriter
from inferential.replica.rows import RowReader, read_outcomes
from inferential.replica.stacked import StackedRows

SPECS = [TensorSpec("state", "float32", (3,)), TensorSpec("image", "uint8", (2, 2))]
STATE = np.arange(3, dtype=np.float32)
IMAGE = np.arange(4, dtype=np.uint8).reshape(2, 2)


def row(values: Mapping[str, Any], **strings: str) -> tuple[bytes, bytes]:
    message = pb.Observation(metadata=strings)
    payload = bytes(pack(message.tensors, values))
    return message.SerializeToString(), payload


def read(rows: Sequence[tuple[bytes, bytes]], specs: Sequence[TensorSpec] = SPECS) -> dict[str, Any] | None:
    return StackedRows(specs, RowReader(pb.Observation)).read(*zip(*rows, strict=True))


def test_inputs_of_all_rows_become_one_array_each() -> None:
    arrays = read([row({"image": IMAGE + at, "state": STATE + at, "more": STATE}, task="pick") for at in range(3)])
    assert arrays is not None
    assert list(arrays) == ["state", "image"]
    np.testing.assert_array_equal(arrays["state"], [STATE, STATE + 1, STATE + 2])
    np.testing.assert_array_equal(arrays["image"], [IMAGE, IMAGE + 1, IMAGE + 2])
    assert arrays["state"].dtype == np.float32
    assert all(array.flags.writeable and array.flags.c_contiguous for array in arrays.values())


BOTH = {"state": STATE, "image": IMAGE}


@pytest.mark.parametrize(
    "rows",
    [
        [row(BOTH), row({"state": STATE})],  # no one description
        [row({"state": STATE.astype(np.float64), "image": IMAGE})] * 2,  # is cast
        [row({"state": STATE[None], "image": IMAGE})] * 2,  # its axis is taken off
        [row({"state": STATE[:2], "image": IMAGE})] * 2,  # is refused
        [row({"state": STATE})] * 2,
        [row({"image": IMAGE}, state="open")] * 2,
        [row(BOTH, state="open")] * 2,  # the string is what the model would see
        [(row(BOTH)[0], b"")] * 2,
        [(row(BOTH)[0], row(BOTH)[1]), (row(BOTH)[0], row(BOTH)[1][:-8])],
        [(b"\xff", b"")] * 2,
    ],
)
def test_rows_that_must_be_looked_at_are_left(rows: list[tuple[bytes, bytes]]) -> None:
    assert read(rows) is None


def test_an_optional_input_may_be_missing_in_all_rows() -> None:
    specs = [SPECS[0], TensorSpec("guide", "float32", (None,), optional=True)]
    without, with_it = row({"state": STATE}), row({"state": STATE, "guide": STATE[:2]})
    assert list(read([without] * 2, specs) or ()) == ["state"]
    assert list(read([with_it] * 2, specs) or ()) == ["state", "guide"]
    assert read([without, with_it], specs) is None
    assert read([row({"state": STATE}, guide="left")] * 2, specs) is None


@pytest.mark.parametrize(
    "action",
    [np.arange(6.0).reshape(3, 2), np.arange(12, dtype=np.int8).reshape(3, 2, 2), np.array([True, False, True])],
)
def test_results_are_what_rows_alone_would_be(action: Any) -> None:
    frames = StackedRows(SPECS, RowReader(pb.Observation)).write({"actions": action}, 3)
    assert frames is not None
    outcomes = read_outcomes(RowReader(pb.ModelResponse), [b"", b"", b"", *frames])
    writer = ResultWriter(FailurePlaces())
    alone = [frame for one in action for frame in writer.write({"actions": one})]
    assert [bytes(frame) for frame in frames] == [bytes(frame) for frame in alone]
    for outcome, one in zip(outcomes, action, strict=True):
        assert isinstance(outcome, Answer)
        np.testing.assert_array_equal(outcome.values["actions"], one)


@pytest.mark.parametrize(
    "outputs",
    [
        {"actions": np.ones((2, 3)), "value": np.ones(2)},
        {"actions": np.array(["left", "right"], object)},
        {"actions": np.ones((2, 3), ">f4")},
        {"actions": np.ones((2, 0))},
    ],
)
def test_results_in_other_forms_are_left(outputs: dict[str, Any]) -> None:
    assert StackedRows(SPECS, RowReader(pb.Observation)).write(outputs, 2) is None


def test_it_counts_the_calls_that_it_reads() -> None:
    rows = StackedRows(SPECS, RowReader(pb.Observation))
    for each in ([row(BOTH)] * 3, [row({"state": STATE})] * 3, [row(BOTH)] * 2):
        rows.read(*zip(*each, strict=True))
    assert rows.calls == 2
