"""The server's envelope cache and the slow path decode the same."""

from __future__ import annotations

import re
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferential.client.encoding import EncodingRules
from inferential.client.handle import Handle
from inferential.client.session import Session
from inferential.config import ObservationConfig
from inferential.observation import DecodedObservation, ObservationAssembler, ObservationError
from inferential.proto import FLOAT32, RAW, Client, Observation, Tensor
from inferential.proto.cache import CacheCounts
from inferential.proto.cache.envelopes import CachedEnvelope
from inferential.proto.messages import content_of
from inferential.proto.tensors import whole

ARRAYS = {
    "one": {"state": np.zeros(7, np.float32)},
    "none": {},
    "several": {
        "left": np.zeros((4, 5, 3), np.uint8),
        "state": np.zeros((), np.float64),
        "right": np.ones(3, np.int16),
    },
}
NEWS = st.fixed_dictionaries(
    {
        "urgency": st.floats(0, 1, width=32),
        "steps_remaining": st.none() | st.integers(0, 2**32 - 1),
        "priority": st.none() | st.integers(0, 2**32 - 1),
    }
)
TEXTS = st.dictionaries(st.sampled_from(["task", "note"]), st.text(max_size=20), max_size=2)


class Robot:
    """What a robot sends, as frames."""

    def __init__(self, client_id: str = "arm", model_id: str = "policy", queue: Any = "latest") -> None:
        self._session = Session(client_id, "franka")
        self._mailbox = self._session.mailbox(Handle(model_id, 50.0, 3, queue, EncodingRules(None)))

    def frames(self, values: dict[str, Any], **news: Any) -> tuple[bytes, bytes]:
        inputs = {"urgency": 0.0, "steps_remaining": None, "priority": None, **news}
        _, (_, envelope, payload) = self._session.observe(
            self._mailbox,
            content_of(values),
            inputs,
            now=0.0,
            timestamp_ns=time.time_ns(),
        )
        return envelope, bytes(whole(payload))


def assembler(**limits: Any) -> ObservationAssembler:
    return ObservationAssembler(ObservationConfig(**limits))


def alike(first: DecodedObservation, second: DecodedObservation) -> bool:
    first.staleness_ms = second.staleness_ms = 0.0  # by the clock at reading
    return first == second


@given(form=st.sampled_from(sorted(ARRAYS)), talk=st.lists(st.tuples(NEWS, TEXTS), min_size=2, max_size=6))
def test_the_cache_and_the_slow_path_decode_the_same(form: str, talk: list[tuple[Any, Any]]) -> None:
    robot, used = Robot(), assembler()
    for news, texts in talk:
        envelope, payload = robot.frames({**ARRAYS[form], **texts}, **news)
        fresh = assembler().decode(envelope, payload, 1.0)
        assert alike(used.decode(envelope, payload, 1.0), fresh)
    # Strings change the order of the fields in no observation: all but the first are served by the cache.
    assert used.cache_counts == CacheCounts(hits=len(talk) - 1, misses=1)


def test_the_second_observation_of_a_robot_is_served_by_the_cache_beside_others() -> None:
    used = assembler()
    robots = [Robot(), Robot("leg"), Robot(model_id="other"), Robot(queue="all")]
    for robot in robots:
        used.decode(*robot.frames(ARRAYS["several"]), 1.0)
    for robot in robots:
        assert used.lookup(*robot.frames(ARRAYS["several"], urgency=0.5)) is not None
    assert used.lookup(*Robot("stranger").frames(ARRAYS["several"])) is None


def test_images_that_are_compressed_are_read_whole_each_time() -> None:
    used = assembler()
    message = Observation(client=Client(id="arm"), model_id="policy", timestamp_ns=time.time_ns(), protocol_version=2)
    message.tensors.add(key="image", dtype=5, shape=[1, 1, 3], byte_length=3, encoding=1, timestamp_ns=7)
    envelope = message.SerializeToString()
    used.decode(envelope, bytes(3), 1.0)
    assert used.lookup(envelope, bytes(3)) is None


@given(cut=st.integers(0, 400), junk=st.binary(max_size=12))
def test_a_cached_envelope_that_was_tampered_with_is_read_as_without_the_cache(cut: int, junk: bytes) -> None:
    robot, used = Robot(), assembler()
    used.decode(*robot.frames(ARRAYS["one"]), 1.0)
    envelope, payload = robot.frames(ARRAYS["one"], steps_remaining=3)
    for tampered in (envelope[:cut] + junk + envelope[cut:], envelope[:cut], envelope + junk, envelope[:cut] + junk):
        assert outcome(used, tampered, payload) == outcome(assembler(), tampered, payload)


def outcome(reader: ObservationAssembler, envelope: bytes, payload: bytes) -> Any:
    try:
        decoded = reader.decode(envelope, payload, 1.0)
    except ObservationError as error:
        reason = re.sub(r"\d+ ms", "so many ms", error.reason)  # by the clock, which goes on
        return reason, error.client_id, error.model_id, error.request_id
    decoded.staleness_ms = 0.0
    return decoded


@pytest.mark.parametrize(
    ("other", "limits", "payload_bytes"),
    [
        ({}, {}, 4),  # a payload that is too short
        ({}, {"max_payload_bytes": 30}, 60),
        ({"urgency": float("inf")}, {}, 28),
        ({"state": "a string of the tensor's key"}, {}, 28),
        ({"note": "x" * 100}, {"max_metadata_bytes": 50}, 28),
    ],
)
def test_varying_fields_that_break_a_rule_are_refused_as_without_the_cache(
    other: dict[str, Any], limits: Any, payload_bytes: int
) -> None:
    robot, used = Robot(), assembler(**limits)
    used.decode(*robot.frames(ARRAYS["one"]), 1.0)
    envelope, _ = robot.frames(ARRAYS["one"])
    message = Observation.FromString(envelope)
    known_size = len(envelope) - len(news_of(envelope))
    news = Observation(request_id=message.request_id, timestamp_ns=message.timestamp_ns, priority=3)
    for key, value in other.items():
        if isinstance(value, str):
            news.metadata[key] = value
        else:
            setattr(news, key, value)
    stamp = Observation(timestamp_ns=message.timestamp_ns).SerializeToString()[1:]
    new_stamp = Observation(timestamp_ns=news.timestamp_ns).SerializeToString()[1:]
    broken = envelope[:known_size].replace(stamp, new_stamp) + news.SerializeToString()
    assert used.lookup(broken, bytes(payload_bytes)) is None
    with pytest.raises(ObservationError) as raised:
        used.decode(broken, bytes(payload_bytes), 1.0)
    assert (raised.value.client_id, raised.value.request_id) == ("arm", message.request_id)


def news_of(envelope: bytes) -> bytes:
    """Its end, from the last timestamp on."""
    stamp = Observation(timestamp_ns=Observation.FromString(envelope).timestamp_ns).SerializeToString()
    return envelope[envelope.rindex(stamp) :]


def test_a_cached_envelope_does_not_keep_images_in_memory() -> None:
    robot, reader = Robot(), assembler()
    envelope, payload = robot.frames(ARRAYS["several"])
    decoded = reader.decode(envelope, payload, 1.0)
    cached = CachedEnvelope.of(envelope, Observation.FromString(envelope), decoded.constant, decoded.slots)
    assert cached is not None
    held = [getattr(cached, name) for name in CachedEnvelope.__slots__]
    assert not any(part is payload or part is envelope for part in held)


def varint(number: int) -> bytes:
    return Observation(timestamp_ns=number).SerializeToString()[1:]


LATE_REFUSE_FIELD = Observation(late=2).SerializeToString()
ENTRY_WITHOUT_VALUE = b"\x3a\x03\x0a\x01"  # and its key, of one byte: its canonical form is two bytes longer


@pytest.mark.parametrize(
    "smuggled",
    [
        LATE_REFUSE_FIELD * 2 + b"".join(ENTRY_WITHOUT_VALUE + key for key in (b"a", b"b", b"c")),
        b"\x2a\x06policz" + b"".join(ENTRY_WITHOUT_VALUE + key for key in (b"a", b"b", b"c", b"d")),
        Observation(timestamp_ns=time.time_ns() - 10**9).SerializeToString()
        + b"".join(ENTRY_WITHOUT_VALUE + key for key in (b"a", b"b", b"c", b"d", b"e")),
    ],
    ids=["late", "model", "timestamp"],
)
def test_a_constant_field_is_not_overlooked_among_varying_fields_of_the_same_length(smuggled: bytes) -> None:
    robot, used = Robot(), assembler()
    used.decode(*robot.frames(ARRAYS["one"]), 1.0)
    envelope, payload = robot.frames(ARRAYS["one"])
    tampered = envelope + smuggled
    assert outcome(used, tampered, payload) == outcome(assembler(), tampered, payload)


def test_a_timestamp_of_another_length_is_not_served_by_the_cache() -> None:
    robot, used = Robot(), assembler()
    used.decode(*robot.frames(ARRAYS["several"]), 1.0)
    envelope, payload = robot.frames(ARRAYS["several"])
    stamp = varint(Observation.FromString(envelope).timestamp_ns)
    tampered = envelope.replace(stamp, varint(2**50)[:8] + b"\x1d")  # the tag of urgency, whose value follows
    head, news = tampered[: -len(news_of(envelope))], news_of(envelope)
    tampered = head + b"\x10" + varint(2**50) + b"\x1d\x00\x00\x80\x3e" + news[10:]
    assert outcome(used, tampered, payload) == outcome(assembler(), tampered, payload)


def long_varint(number: int) -> bytes:
    """As no library writes it, with a byte too many."""
    short = varint(number)
    return short[:-1] + bytes((short[-1] | 0x80, 0))


def test_a_stamp_within_an_unknown_field_ends_no_envelope() -> None:
    timestamp_ns = time.time_ns()
    who = Observation(client=Client(id="arm"), model_id="policy", protocol_version=2).SerializeToString()
    unknown = b"\xa2\x06\x0a\x10" + varint(timestamp_ns)
    envelope = who + b"\x10" + long_varint(timestamp_ns) + unknown
    assert assembler().decode(envelope, b"", 1.0).timestamp_ns == timestamp_ns


def test_a_stamp_within_a_text_is_text() -> None:
    payload, used = bytes(4), assembler()
    first_ns, later_ns = spelt("éééé"), spelt("êééé")

    def envelope(at: int) -> bytes:
        """The key of its tensor ends with the bytes of its stamp, of which the last is the tag of the shape."""
        key = b"\x0a\x08" + varint(at)[:-1]
        rest = Tensor(dtype=FLOAT32, byte_length=4, encoding=RAW).SerializeToString()
        body = key + b"\x18\x01" + rest + b"\x30" + long_varint(first_ns)
        who = Observation(client=Client(id="arm"), model_id="policy", protocol_version=2).SerializeToString()
        return who + b"\x22" + bytes((len(body),)) + body + Observation(timestamp_ns=at).SerializeToString()

    assert [slot.key for slot in used.decode(envelope(first_ns), payload, 1.0).slots] == ["éééé"]
    assert outcome(used, envelope(later_ns), payload) == outcome(assembler(), envelope(later_ns), payload)


def spelt(text: str) -> int:
    """A time in 2024 to 2027 whose varint begins with a text of eight bytes."""
    return sum((byte & 0x7F) << 7 * at for at, byte in enumerate([*text.encode(), 24]))


def test_varying_fields_are_not_read_of_an_envelope_larger_than_the_limits_allow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    robot, used = Robot(), assembler(max_metadata_bytes=100)
    envelope, payload = robot.frames(ARRAYS["one"])
    used.decode(envelope, payload, 1.0)
    read: list[bytes] = []
    monkeypatch.setattr(CachedEnvelope, "varying", lambda _cached, envelope: read.append(envelope))
    assert used.lookup(envelope + Observation(metadata={"note": "x" * 10**6}).SerializeToString(), payload) is None
    assert not read


def test_the_size_of_the_cache_is_bounded_for_any_number_of_clients() -> None:
    reader = assembler()
    arrays = {f"{number}": np.zeros(1, np.uint8) for number in range(40)}
    for number in range(3000):
        reader.decode(*Robot(f"robot-{number}").frames(arrays), 1.0)
    assert 0 < reader.cache_bytes() < 4 * 2**20
