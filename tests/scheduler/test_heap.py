"""LazyHeap against a sorted list."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferential.scheduler.heap import LazyHeap

ops = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(0, 20), st.integers(-3, 3)),
        st.tuples(st.just("discard"), st.integers(0, 20), st.just(0)),
        st.tuples(st.just("discard_all"), st.integers(0, 20), st.integers(0, 5)),
        st.tuples(st.just("pop"), st.just(0), st.just(0)),
    ),
    max_size=200,
)


@given(ops)
def test_it_gives_what_a_sorted_list_gives(ops: list[tuple[str, int, int]]) -> None:
    heap: LazyHeap[int] = LazyHeap()
    oracle: dict[int, tuple[int, int]] = {}
    for op, item, key in ops:
        if op == "push" and item not in oracle:
            heap.push(item, key, item)
            oracle[item] = (key, item)
        elif op == "discard":
            assert heap.discard(item) == (oracle.pop(item, None) is not None)
        elif op == "discard_all":
            heap.discard_all(range(item, item + key))
            for gone in range(item, item + key):
                oracle.pop(gone, None)
        elif op == "pop" and oracle:
            smallest = min(oracle, key=oracle.__getitem__)
            assert heap.top() == (oracle[smallest][0], smallest)
            assert heap.pop() == smallest
            del oracle[smallest]
        assert len(heap) == len(oracle)
        assert set(heap) == set(oracle)
        assert all(item in heap for item in oracle)


def test_equal_keys_are_served_in_the_order_they_came() -> None:
    heap: LazyHeap[str] = LazyHeap()
    for item in "edcba":
        heap.push(item, 1.0)
    assert [heap.pop() for _ in range(5)] == list("edcba")


def test_an_item_may_come_back_while_its_dead_entry_is_still_in() -> None:
    heap: LazyHeap[object] = LazyHeap()
    item, other = object(), object()
    heap.push(item, 1.0)
    heap.push(other, 1.0)
    heap.discard(item)
    heap.push(item, 1.0)
    assert [heap.pop(), heap.pop()] == [other, item]


def test_an_item_cannot_be_in_twice() -> None:
    heap: LazyHeap[str] = LazyHeap()
    heap.push("a", 1.0)
    with pytest.raises(ValueError, match="already queued"):
        heap.push("a", 2.0)


def test_an_empty_heap_has_no_top() -> None:
    heap: LazyHeap[str] = LazyHeap()
    heap.push("a", 1.0)
    heap.discard("a")
    with pytest.raises(IndexError):
        heap.top()
    with pytest.raises(IndexError):
        heap.pop()


@given(st.integers(0, 100), st.lists(st.integers(0, 99), min_size=1, max_size=50))
def test_memory_stays_within_twice_what_is_in_it(waiting: int, removals: list[int]) -> None:
    heap: LazyHeap[int] = LazyHeap()
    for item in range(waiting):
        heap.push(item, -item)
    for turn in range(20):
        for item in removals:
            heap.discard(item)
            assert heap.entries() <= 2 * len(heap) + 32
            heap.push(item, turn)
