"""Messages come out of a stream as they went in, however it is cut."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferential.replica.stream import ANNOUNCEMENT, Frame, MessageReader, write_message

MESSAGES = st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=5), max_size=6)


@given(messages=MESSAGES, cuts=st.lists(st.integers(1, 50), max_size=20))
def test_messages_come_out_as_they_went_in_however_the_stream_is_cut(
    messages: list[list[bytes]], cuts: list[int]
) -> None:
    stream = b"".join(bytes(buffer) for message in messages for buffer in write_message(message))
    assert _taken_in_pieces(MessageReader(), stream, cuts) == messages


def _taken_in_pieces(reader: MessageReader, stream: bytes, cuts: Sequence[int]) -> list[list[Frame]]:
    found, at = [], 0
    for size in [*cuts, len(stream) + 1]:
        reader.feed(stream[at : at + size])
        at += size
        found += reader.take()
    return found


@given(messages=MESSAGES, cuts=st.lists(st.integers(1, 50), max_size=20))
def test_messages_that_come_alone_are_the_same_between_others_however_these_are_cut(
    messages: list[list[bytes]], cuts: list[int]
) -> None:
    reader, found = MessageReader(), []
    for message in messages:
        whole = b"".join(map(bytes, write_message(message)))
        for _ in range(3):  # alone, and then in pieces
            reader.feed(whole)
            found += reader.take()
        found += _taken_in_pieces(reader, whole, cuts)
    assert found == [message for message in messages for _ in range(4)]
    assert reader.usual_messages >= 2 * len(messages)


@given(messages=MESSAGES, cuts=st.lists(st.integers(1, 50), max_size=20))
def test_announcements_are_no_messages_however_the_stream_is_cut(messages: list[list[bytes]], cuts: list[int]) -> None:
    parts = [ANNOUNCEMENT + b"".join(map(bytes, write_message(message))) for message in messages]
    stream = b"".join([*parts, ANNOUNCEMENT])
    reader = MessageReader()
    assert _taken_in_pieces(reader, stream, cuts) == messages
    assert reader.announced


def test_any_number_of_announcements_may_come_together() -> None:
    reader = MessageReader()
    reader.feed(10_000 * ANNOUNCEMENT)
    assert reader.take() == []
    assert reader.announced


def test_a_message_is_announced_until_it_is_there_and_usual_all_the_same() -> None:
    message = [b"1", b"C", b"head", b"observation"]
    whole = b"".join(map(bytes, write_message(message)))
    reader = MessageReader()
    reader.feed(whole)
    assert reader.take() == [message]
    reader.feed(ANNOUNCEMENT)
    assert reader.take() == []
    assert reader.announced
    reader.announced = False
    reader.feed(ANNOUNCEMENT + whole)
    assert reader.take() == [message]
    assert not reader.announced
    assert reader.usual_messages == 1


def test_large_frames_are_not_joined() -> None:
    frames = [b"head", bytes(300_000)]
    buffers = write_message(frames)
    assert len(buffers) == 3
    reader = MessageReader()
    for buffer in buffers:
        reader.feed(bytes(buffer))
    assert reader.take() == [frames]


@pytest.mark.parametrize("count", [(1 << 16) + 1, 1 << 20])
def test_what_is_no_message_is_refused(count: int) -> None:
    reader = MessageReader()
    reader.feed(struct.pack("<I", count))
    with pytest.raises(ValueError, match=f"a message of {count} frames"):
        reader.take()


def test_a_large_message_is_read_into_one_buffer_and_what_follows_is_found() -> None:
    large, small = [b"head", bytes(range(256)) * 1000, b"x"], [b"next"]
    stream = b"".join(bytes(buffer) for message in (large, small) for buffer in write_message(message))
    reader = MessageReader()
    reader.feed(stream[:100])
    assert reader.take() == []
    at = 100
    while reader.space is not None:
        size = min(len(reader.space), 70_000)
        reader.space[:size] = stream[at : at + size]
        reader.filled(size)
        at += size
    reader.feed(stream[at:])
    found = reader.take()
    assert found == [large, small]
    assert not found[0][1].readonly  # type: ignore[union-attr]


def test_a_message_that_no_worker_sends_is_refused_before_there_is_memory_for_it() -> None:
    reader = MessageReader()
    reader.feed(struct.pack("<4I", 3, 2**32 - 1, 2**32 - 1, 2**32 - 1))
    with pytest.raises(ValueError, match="a message of 12884901901 bytes"):
        reader.take()
