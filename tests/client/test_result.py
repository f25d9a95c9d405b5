"""Results."""

from __future__ import annotations

import copy
import pickle
from weakref import ref

import numpy as np
import pytest

from inferential.client.result import Result
from inferential.proto.messages import ResponseTiming, read_response, write_response

TIMING = ResponseTiming(queue_ms=1.0, inference_ms=2.0, server_ms=4.0, batch_size=3)


@pytest.fixture
def result() -> Result:
    response = write_response(
        client_id="robot",
        model_id="m",
        response_id="r",
        timestamp_ns=1,
        request_id=7,
        values={"actions": np.arange(3.0), "note": "ok"},
        timing=TIMING,
        serve_interval_ms=20.0,
        model_version="v2",
        execution_horizon=12,
    )
    return Result(read_response(*response), 7, 5.0)


def test_a_result_is_its_values_and_what_belongs_to_it(result: Result) -> None:
    assert np.array_equal(result.pop("actions"), np.arange(3.0))
    assert result == {"note": "ok", "response_id": "r", "model_id": "m", "inference_latency_ms": 2.0}
    assert (result.request_id, result.age_ms, result.timing) == (7, 5.0, TIMING)
    assert (result.serve_interval_ms, result.model_version, result.execution_horizon) == (20.0, "v2", 12)


def test_what_is_taken_out_of_a_result_is_freed(result: Result) -> None:
    array = ref(result.pop("actions"))
    assert array() is None
    assert (copy.deepcopy(result).timing, "actions" in pickle.loads(pickle.dumps(result))) == (TIMING, False)


def test_a_result_can_be_copied_and_sent_to_another_process(result: Result) -> None:
    for twin in (copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert np.array_equal(twin["actions"], result["actions"])
        assert (twin.request_id, twin.age_ms, twin.timing) == (7, 5.0, TIMING)
        assert (twin.serve_interval_ms, twin.model_version) == (20.0, "v2")
