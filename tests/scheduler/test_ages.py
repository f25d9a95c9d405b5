"""Ages against a sorted list."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferential.scheduler import InferenceRequest
from inferential.scheduler.ages import Ages

MakeRequest = Callable[..., InferenceRequest]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(0, 9), st.floats(-2, 2)),
        st.tuples(st.just("discard"), st.integers(0, 9), st.just(0.0)),
        st.tuples(st.just("discard_all"), st.integers(0, 9), st.just(0.0)),
    ),
    max_size=60,
)


@given(steps=STEPS)
def test_the_oldest_is_first_whatever_came_and_went(steps: list[tuple[str, int, float]]) -> None:
    requests = [InferenceRequest(str(n), "m", b"", b"", b"", 0.0, 0.0, None, 0.1, 50.0, 1) for n in range(10)]
    ages, expected = Ages(), dict[InferenceRequest, float]()
    now = 0.0
    for what, number, seconds in steps:
        request, now = requests[number], now + max(seconds, 0.0)  # most come in order, some do not
        if what == "push" and request not in expected:
            expected[request] = now + min(seconds, 0.0)
            ages.push(request, expected[request])
        elif what == "discard":
            assert ages.discard(request) == (expected.pop(request, None) is not None)
        elif what == "discard_all":
            ages.discard_all(requests[number : number + 3])
            for gone in requests[number : number + 3]:
                expected.pop(gone, None)
        assert len(ages) == len(expected)
        assert set(ages) == expected.keys()
        assert all(one in ages for one in expected)
        if expected:
            oldest = min(expected, key=lambda one: (expected[one], one.arrival))
            assert ages.top() == (expected[oldest], oldest)


@pytest.mark.parametrize("others", [0, 1])
def test_a_request_is_in_it_once(make_request: MakeRequest, others: int) -> None:
    ages, request = Ages(), make_request("a")
    if others:
        ages.push(make_request("b"), 5.0)
    ages.push(request, 1.0)
    with pytest.raises(ValueError, match="already queued"):
        ages.push(request, 2.0)


def test_nothing_is_the_oldest_where_nothing_waits() -> None:
    with pytest.raises(IndexError):
        Ages().top()
