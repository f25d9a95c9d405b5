"""Request ids as they stand in responses."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from inferential.proto import ModelResponse
from inferential.proto.cache.templates import request_id_field


@given(st.integers(0, 2**64 - 1))
@example(0)
@example(2**14 - 1)
@example(2**14)
def test_a_request_id_is_written_as_protobuf_writes_it(request_id: int) -> None:
    assert request_id_field(request_id) == ModelResponse(request_id=request_id).SerializeToString()
