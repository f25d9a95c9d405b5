"""The sans-I/O state of ZMTP: messages and commands from bytes cut anywhere; ProtocolError for invalid bytes."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
from fuzz.subjects import feed
from hypothesis import given
from hypothesis import strategies as st

from inferential.zmtp import ProtocolError
from inferential.zmtp import protocol as p
from inferential.zmtp import reader as reader_module
from inferential.zmtp.reader import Reader

SIZES = [0, 1, 2, 254, 255, 256, 257, 2046, 2047, 2048, 2049, 8192, 20_000]
sizes = st.sampled_from(SIZES)


def frame(body: bytes, *, more: bool = False, long: bool = False) -> bytes:
    """As another implementation would write it."""
    flags = more | (2 if long or len(body) > 255 else 0)
    return bytes((flags,)) + (len(body).to_bytes(8) if flags & 2 else bytes((len(body),))) + body


def wire(*frames: bytes, long: bool = False) -> bytes:
    return b"".join(frame(body, more=n < len(frames) - 1, long=long) for n, body in enumerate(frames))


def read_all(data: bytes, cuts: list[int], max_frame_bytes: int | None = None, max_frames: int = 3) -> list[Any]:
    """What a reader gives of `data` that comes in pieces, as `Stream` would read it."""
    reader = Reader(max_frame_bytes, max_frames)
    found: list[Any] = []
    at = 0
    edges = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    for edge in edges:
        piece = data[at:edge]
        at = edge
        for _ in feed(reader, piece):
            while (one := reader.next()) is not None:
                found.append(one)
    return found


@given(
    st.lists(st.tuples(st.integers(0, 270), st.sampled_from([0, 5, 40, 300, 5000])), max_size=8),
    st.integers(1, 4096),
)
def test_a_burst_is_what_the_reader_would_return_one_by_one(sizes: list[tuple[int, int]], cut: int) -> None:
    data = b"".join(wire(b"", body_of(envelope, 1), body_of(payload, 2)) for envelope, payload in sizes)
    expected = plain(read_all(data, [cut]))
    reader, found = Reader(None, 3), []
    for piece in (data[:cut], data[cut:]):
        for _ in feed(reader, piece):
            while True:
                found += [[b"", each[0], bytes(each[1][each[2] : each[3]])] for each in reader.burst()]
                one = reader.next()
                if one is None:
                    break
                found += plain([one])
    assert found == expected


def test_a_burst_ends_before_a_message_of_which_only_the_first_bytes_are_there() -> None:
    reader, rest = Reader(None, 3), wire(b"", b"envelope", b"payload")[:3]
    assert not reader.buffered
    reader.feed(wire(b"", b"envelope", b"") * 2)
    assert len(reader.burst()) == 2  # the payload of the last one is empty
    assert not reader.buffered
    reader.feed(wire(b"", b"envelope", b"payload") + rest)
    assert len(reader.burst()) == 1
    assert (reader.rest(), reader.buffered) == (rest, True)


def plain(found: list[Any]) -> list[Any]:
    return [[bytes(one) for one in item] if isinstance(item, list) else item for item in found]


def body_of(size: int, seed: int) -> bytes:
    return bytes((seed + n * 7) % 256 for n in range(min(size, 512))).ljust(size, b"\xa5")


messages = st.lists(sizes, min_size=1, max_size=3).flatmap(
    lambda chosen: st.integers(0, 255).map(lambda seed: [body_of(size, seed + n) for n, size in enumerate(chosen)])
)
usual = st.tuples(st.sampled_from([1, 40, 254, 255]), st.sampled_from([0, 7, 255])).map(
    lambda chosen: [b"", body_of(chosen[0], 1), body_of(chosen[1], 2)]
)
commands = st.sampled_from([p.PING + b"\0\0", p.PONG, p.PING + b"\0\1context", b"\7UNKNOWN" + bytes(900)])


# Frames


@given(
    inputs=st.lists(st.one_of(usual, messages, commands), max_size=6),
    cuts=st.lists(st.integers(0, 70_000), max_size=12),
)
def test_messages_and_commands_come_out_whole_and_in_order_however_they_are_cut(
    inputs: list[Any], cuts: list[int]
) -> None:
    data = b"".join(p.command(one) if isinstance(one, bytes) else wire(*one) for one in inputs)
    assert plain(read_all(data, cuts)) == inputs


@pytest.mark.parametrize(
    "message", [[b"", b"e" * 40, b"p" * 9], [b"", b"e" * 300, b""], [b"x"], [b"", b"", b"p" * 300]]
)
def test_a_message_comes_out_whole_though_every_byte_comes_by_itself(message: list[bytes]) -> None:
    data = wire(*message) + p.command(p.PONG) + wire(*message)
    assert plain(read_all(data, list(range(len(data))))) == [message, p.PONG, message]


@pytest.mark.parametrize("size", SIZES)
def test_a_message_may_be_cut_at_every_boundary_of_its_frames(size: int) -> None:
    message = [b"", body_of(size, 1), body_of(size, 2)]
    data = wire(*message)
    for edge in {0, 1, 2, 3, 4, 11, 12, 13, len(data) - size, len(data) - 1, len(data) - size - 1}:
        assert plain(read_all(data, [edge])) == [message]


def test_commands_may_stand_between_the_frames_of_a_message() -> None:
    data = frame(b"", more=True) + p.ping() + frame(b"e", more=True) + p.command(p.PONG) + frame(b"p")
    assert plain(read_all(data, [])) == [p.PING + b"\0\0", p.PONG, [b"", b"e", b"p"]]


def test_a_short_frame_may_tell_its_size_in_eight_bytes() -> None:
    assert plain(read_all(wire(b"", b"e", b"p", long=True), [])) == [[b"", b"e", b"p"]]


@given(
    envelope=sizes,
    payload=sizes,
    keep=st.integers(0, 600),
    limit=st.sampled_from([None, 0, 254, 255, 256]),
    max_frames=st.integers(1, 4),
)
def test_the_fast_path_gives_what_the_long_way_gives(
    envelope: int, payload: int, keep: int, limit: int | None, max_frames: int
) -> None:
    data = wire(b"", body_of(envelope, 3), body_of(payload, 4))
    data = data[: len(data) - keep % (len(data) + 1)] if keep else data

    def inputs(fast: bool) -> Any:
        with patch.object(reader_module, "HEAD_FRAMES", 2 if fast else max_frames):  # else no message is a common one
            reader = Reader(limit, max_frames)
        reader.feed(data)
        try:
            found = reader.next()
        except ProtocolError as error:
            return str(error)
        return found, [type(one) for one in found] if isinstance(found, list) else None, reader.buffered

    assert inputs(True) == inputs(False)


@given(
    before=st.tuples(sizes, sizes),
    message=st.tuples(sizes, sizes),
    begun=st.integers(0, 8),
    changed=st.tuples(st.integers(0, 600), st.integers(0, 255)),
    missing=st.integers(0, 3),
)
def test_a_message_is_read_as_if_none_had_come_before(
    before: tuple[int, int], message: tuple[int, int], begun: int, changed: tuple[int, int], missing: int
) -> None:
    data = bytearray(wire(b"", body_of(message[0], 3), body_of(message[1], 4)))
    data[changed[0] % len(data)] = changed[1]
    whole = (frame(b"", more=True) * begun + bytes(data))[: -missing or None]

    def outcome(reader: Reader) -> Any:
        try:
            found = reader.next()
        except ProtocolError as error:
            return str(error)
        return found, [type(one) for one in found] if isinstance(found, list) else None, reader.buffered, reader.rest()

    def read(*, warm: bool) -> Any:
        reader = Reader(None, 3)
        if warm:
            reader.feed(wire(b"", body_of(before[0], 1), body_of(before[1], 2)))
            assert reader.next() is not None
        found = []
        for part in (whole[: 2 * begun], whole[2 * begun :]):
            reader.feed(part)
            found.append(outcome(reader))
        return found

    assert read(warm=True) == read(warm=False)


@pytest.mark.parametrize("size", [8, 255, 300, 9000])
def test_payload_can_be_written_to_and_heads_are_bytes(size: int) -> None:
    (found,) = read_all(wire(b"", bytes(size), bytes(size)), [20])
    assert [type(one) for one in found[:2]] == [bytes, bytes]
    assert not memoryview(found[2]).readonly


def test_a_head_that_no_envelope_is_as_large_as_is_returned_without_a_copy() -> None:
    reader = Reader(None, 3)
    reader.feed(frame(b"", more=True) + frame(bytes(p.HEAD_BYTES + 1), more=True)[:4096])
    assert reader.next() is None
    space = reader.space
    assert space is not None
    memory = space.obj
    reader.filled(len(space))
    reader.feed(frame(b""))
    message = reader.next()
    assert isinstance(message, list)
    assert isinstance(message[1], memoryview)
    assert (len(message[1]), message[1].obj) == (p.HEAD_BYTES + 1, memory)


@given(message=messages, join_below=st.sampled_from([0, 1, 256, 9000, 100_000]))
def test_what_is_written_is_what_another_implementation_would_write(message: list[bytes], join_below: int) -> None:
    assert b"".join(p.message(message, join_below)) == wire(*message)


def test_large_frames_are_written_from_their_own_memory() -> None:
    payload = bytes(1000)
    assert p.message([b"", b"e", payload], join_below=1000)[-1] is payload


@given(count=st.integers(4, 300), cuts=st.lists(st.integers(0, 900), max_size=5))
def test_a_message_of_too_many_frames_is_thrown_away_and_the_next_one_is_whole(count: int, cuts: list[int]) -> None:
    found = read_all(wire(*[b"x"] * count) + wire(b"", b"e", b"p"), cuts)
    assert plain(found)[-1] == [b"", b"e", b"p"]
    assert found[-2] is p.Discarded.MESSAGE
    assert set(found[:-2]) <= {p.Discarded.PART}


@given(pieces=st.lists(sizes, max_size=5), join_below=st.sampled_from([1, 256, 9000, 100_000]))
def test_a_frame_of_several_pieces_is_written_as_one_and_no_part_is_empty(pieces: list[int], join_below: int) -> None:
    payload: list[p.Buffer] = [body_of(size, number) for number, size in enumerate(pieces)]
    parts = p.message([b"", b"e", payload], join_below)
    assert b"".join(parts) == wire(b"", b"e", b"".join(payload))
    assert all(parts)


# What is no ZMTP


@pytest.mark.parametrize("flags", [5, 7, 8, 9, 12, 0x10, 0x80, 0xFF])
def test_flags_that_are_reserved_are_an_error(flags: int) -> None:
    with pytest.raises(ProtocolError, match=rf"invalid flags {flags:#04x}"):
        read_all(bytes((flags,)) + bytes(8), [])


@pytest.mark.parametrize("limit", [0, 100, 1000])
def test_a_frame_above_the_limit_is_an_error_before_its_body_has_come(limit: int) -> None:
    head = frame(bytes(limit + 1))[: 2 if limit < 255 else 9]
    with pytest.raises(ProtocolError, match=f"frame of {limit + 1} bytes; at most {limit} are allowed"):
        read_all(head, [], max_frame_bytes=limit)
    assert plain(read_all(wire(bytes(limit)), [], max_frame_bytes=limit)) == [[bytes(limit)]]


@pytest.mark.parametrize("size", [2**46, 2**62, 2**63, 2**64 - 1])
def test_a_size_for_which_there_is_no_memory_is_an_error(size: int) -> None:
    with pytest.raises(ProtocolError, match="no memory"):
        read_all(b"\2" + size.to_bytes(8), [])


def test_a_command_that_is_too_long_is_an_error_though_frames_may_be_longer() -> None:
    with pytest.raises(ProtocolError):
        read_all(p.command(bytes(1025)), [])


def test_commands_may_be_longer_than_the_frames_of_messages() -> None:
    assert read_all(p.command(p.READY + bytes(50)), [], max_frame_bytes=10) == [p.READY + bytes(50)]


@given(data=st.binary(max_size=400), cuts=st.lists(st.integers(0, 400), max_size=6), limit=st.sampled_from([None, 300]))
def test_random_bytes_are_messages_or_a_protocol_error_and_nothing_else(
    data: bytes, cuts: list[int], limit: int | None
) -> None:
    try:
        found = read_all(data, cuts, limit)
    except ProtocolError:
        return
    assert all(isinstance(one, bytes | list | p.Discarded) for one in found)


# Greeting and READY


def greet(**change: Any) -> bytes:
    data = bytearray(p.greeting())
    for at, value in change.items():
        data[int(at[1:])] = value
    return bytes(data)


def test_the_greeting_is_that_of_version_3_1_with_the_null_mechanism() -> None:
    assert p.greeting() == b"\xff\0\0\0\0\0\0\0\0\x7f\x03\x01NULL" + bytes(48)


@pytest.mark.parametrize("length", range(65))
def test_a_greeting_may_come_in_pieces(length: int) -> None:
    p.check_greeting(p.greeting()[:length])


def test_a_minor_version_to_come_is_no_hindrance() -> None:
    p.check_greeting(greet(b11=7, b10=4))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1", "does not speak ZMTP"),
        (b"\x05\0robot", "does not speak ZMTP"),  # ZMTP 1.0: an identity as a frame
        (greet(b9=0)[:10], "does not speak ZMTP"),
        (greet(b10=1)[:11], "ZMTP 1; version 3 is supported"),  # 2.0 calls itself so
        (b"GET / HTTP/1.1", "it speaks HTTP"),
        (b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n", "a header of its own"),
        (b"\x16\x03\x01\x02\x00", "it speaks TLS"),
        (b"\x05\0robot", "perhaps ZMTP 1"),
        (greet(b10=0)[:11], "ZMTP 0; version 3 is supported"),
    ],
)
def test_another_greeting_is_an_error_that_names_the_difference(data: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        p.check_greeting(data)


@pytest.mark.parametrize("name", ["NULL", "PLAIN", "CURVE"])
def test_a_greeting_names_its_mechanism(name: str) -> None:
    assert p.mechanism_of(p.greeting(name)) == name


def test_only_the_mechanism_and_the_role_differ_between_greetings() -> None:
    secure = p.greeting("CURVE", as_server=True)
    assert len(secure) == p.GREETING_BYTES
    assert secure[: p.VERSION_BYTES] == p.greeting()[: p.VERSION_BYTES]
    assert secure[32] == 1


def ready_body(socket_type: bytes = b"DEALER", identity: bytes = b"robot") -> bytes:
    return p.ready(socket_type, identity)[2 if len(socket_type) + len(identity) < 200 else 9 :]


def test_ready_carries_the_socket_type_and_the_identity() -> None:
    assert p.read_ready(ready_body(), b"ROUTER") == p.Ready(b"DEALER", b"robot")


def test_names_of_properties_may_be_written_in_any_case_and_others_are_skipped() -> None:
    body = p.READY + b"\x0bsocket-TYPE\0\0\0\6DEALER" + b"\6X-Note\0\0\0\1n"
    assert p.read_ready(body, b"ROUTER") == p.Ready(b"DEALER", b"")


@pytest.mark.parametrize("cut", set(range(1, len(ready_body()))) - {18})  # 18: the whole second property
def test_a_ready_that_is_cut_short_is_an_error(cut: int) -> None:
    with pytest.raises(ProtocolError):
        p.read_ready(ready_body()[:-cut], b"ROUTER")


@given(data=st.one_of(st.binary(max_size=80), st.binary(max_size=80).map(lambda tail: p.READY + tail)))
def test_random_properties_are_read_or_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):  # none tells a socket's type by chance
        p.read_ready(data, b"ROUTER")


def test_an_error_command_gives_the_reason_of_the_peer() -> None:
    with pytest.raises(ProtocolError, match="refused the connection: not today"):
        p.read_ready(p.ERROR + b"\x09not today", b"DEALER")


@pytest.mark.parametrize("body", [b"", p.PING + b"\0\0", b"\5HELLO"])
def test_another_command_than_ready_is_an_error(body: bytes) -> None:
    with pytest.raises(ProtocolError, match="expected the READY command"):
        p.read_ready(body, b"ROUTER")


@pytest.mark.parametrize("other", [b"PUB", b"SUB", b"PULL", b"REP", b"", b"\xff"])
def test_a_socket_that_has_nothing_to_say_to_ours_is_an_error(other: bytes) -> None:
    with pytest.raises(ProtocolError, match="which cannot connect to a ROUTER"):
        p.read_ready(ready_body(other), b"ROUTER")


@pytest.mark.parametrize("other", [b"DEALER", b"REQ", b"ROUTER"])
def test_a_router_speaks_to_those_that_the_rfc_names(other: bytes) -> None:
    assert p.read_ready(ready_body(other), b"ROUTER").socket_type == other


def test_a_robot_does_not_speak_to_a_publisher() -> None:
    with pytest.raises(ProtocolError, match="a PUB socket, which cannot connect to a DEALER"):
        p.read_ready(ready_body(b"PUB"), b"DEALER")


def test_an_identity_has_at_most_255_bytes() -> None:
    assert p.read_ready(ready_body(identity=b"x" * 255), b"ROUTER").identity == b"x" * 255
    with pytest.raises(ProtocolError, match="identity of 256 bytes"):
        p.read_ready(ready_body(identity=b"x" * 256), b"ROUTER")


# Heartbeats


@pytest.mark.parametrize(
    ("ping", "context"),
    [(b"\0\0", b""), (b"\0\1", b""), (b"\0\1abc", b"abc"), (b"", b""), (b"\0\0" + b"c" * 40, b"c" * 16)],
)
def test_a_heartbeat_is_answered_with_its_context(ping: bytes, context: bytes) -> None:
    assert p.pong(p.PING + ping) == p.command(p.PONG + context)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 9000])
def test_messages_without_payload_are_written_as_others_are(size: int) -> None:
    envelopes = [bytes(size), b"envelope"]
    expected = [part for one in envelopes for part in p.message((b"", one, b""), 10_000)]
    assert b"".join(p.messages_without_payload(envelopes, p.message)) == b"".join(expected)


def test_messages_without_payload_of_a_connection_with_keys_are_written_by_its_own_function() -> None:
    written: list[Any] = []

    def write(frames: Any, join_below: int) -> list[p.Buffer]:
        written.append(frames)
        return [b"sealed"]

    assert p.messages_without_payload([b"1", b"2"], write) == [b"sealed"] * 2
    assert written == [(b"", b"1", b""), (b"", b"2", b"")]
