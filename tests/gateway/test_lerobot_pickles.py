"""Reading pickles without loading them: what LeRobot's classes dump, and everything else, which is refused."""

from __future__ import annotations

import builtins
import collections
import os
import pickle
import subprocess
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.lerobot_robot import CONFIG, OBSERVATION, TimedAction, TimedObservation, as_lerobot, dumped

from inferential.gateway.lerobot.pickles import Record, read, write_actions

HELPERS = b"\x8c\x1flerobot.async_inference.helpers"


class Exploit:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


def inside(value: Any, protocol: int = 4) -> bytes:
    return dumped(TimedObservation(1.0, 2, {"front": value}), protocol)


def value_of(data: bytes) -> Any:
    return read(data).fields["observation"]["front"]


# What robots send


def test_recorded_messages_are_records_of_plain_values() -> None:
    config = read(CONFIG)
    assert (config.name, config.fields["actions_per_chunk"], config.fields["device"]) == (
        "RemotePolicyConfig",
        50,
        "cpu",
    )
    assert config.fields["lerobot_features"]["observation.images.front"]["shape"] == (120, 160, 3)
    one = read(OBSERVATION)
    assert (one.name, one.fields["timestep"], one.fields["must_go"]) == ("TimedObservation", 170, False)
    image = one.fields["observation"]["front"]
    np.testing.assert_array_equal(image[:, :, 0], np.tile(np.arange(64), (48, 1)))


def test_images_are_views_on_the_message() -> None:
    message = np.frombuffer(bytearray(OBSERVATION), np.uint8)
    image = read(message.data).fields["observation"]["front"]
    assert np.shares_memory(image, message)


ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "image": np.arange(24, dtype=np.uint8).reshape(2, 4, 3),
    "depth": np.arange(6, dtype=np.uint16).reshape(2, 3),
    "big endian": np.arange(6, dtype=">f4"),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "strided": np.arange(24, dtype=np.uint8).reshape(2, 4, 3)[:, ::-1, ::2],
    "empty": np.zeros((0, 3)),
    "no axes": np.array(2.5),
    "bools": np.array([True, False]),
}


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_numbers_are_read(name: str, protocol: int) -> None:
    array = ARRAYS[name]
    found = value_of(inside(array, protocol))
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@given(
    st.dictionaries(
        st.text(max_size=300),
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(-(2**200), 2**200),
            st.floats(allow_nan=False),
            st.text(max_size=300),
            st.lists(st.integers(), max_size=3),
            st.tuples(st.integers(), st.text()),
        ),
        max_size=300,
    ),
    st.sampled_from([4, 5]),
)
def test_plain_values_are_read_as_pickle_reads_them(values: dict[str, Any], protocol: int) -> None:
    found = read(dumped(TimedObservation(1.0, 2, values), protocol))
    assert found == Record(
        "TimedObservation", {"timestamp": 1.0, "timestep": 2, "observation": values, "must_go": False}
    )


@pytest.mark.parametrize("protocol", [4, 5])
def test_numpys_scalars_are_numbers(protocol: int) -> None:
    assert value_of(inside(np.float32(0.5), protocol)) == 0.5
    assert value_of(inside(np.int64(-3), protocol)) == -3


# Hostile ones


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Exploit(os.system, "touch /tmp/owned"), "posix.system"),
        (Exploit(builtins.eval, "1"), "builtins.eval"),
        (Exploit(getattr, "", "x"), "builtins.getattr"),
        (Exploit(subprocess.Popen, ["true"]), "subprocess.Popen"),
        (Exploit(np.load, "/etc/passwd"), "numpy.load"),
        (collections.OrderedDict(a=1), "collections.OrderedDict"),
        ({1, 2}, "opcode 0x8f"),
        (frozenset({1}), "opcode 0x91"),
        (1 + 2j, "builtins.complex"),
        (np.array([object()], object), "builtins.object"),
        (np.array(["2026-01-01"], "M8[D]"), "dtype 'M8'"),
        (np.array([1j]), "dtype 'c16'"),
        (np.zeros(1, [("a", "f4")]), "dtype 'V4' with fields or subarrays"),
        (np.array(["text"]), "dtype 'U4'"),
    ],
    ids=lambda one: one if isinstance(one, str) else None,
)
@pytest.mark.parametrize("protocol", [4, 5])
def test_other_names_are_refused_by_name(value: Any, name: str, protocol: int) -> None:
    with pytest.raises(ValueError, match=f"pickle: .*{name}|pickle: .*not allowed|pickle: dtype"):
        read(inside(value, protocol))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3])
def test_old_protocols_are_refused(protocol: int) -> None:
    with pytest.raises(ValueError, match="pickle: "):
        read(pickle.dumps({"a": 1}, protocol))


HOSTILE = {
    "a name that is a submodule": (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "os.system"),
    "a dotted name": (b"\x80\x04" + HELPERS + b"\x8c\x15RemotePolicyConfig.__x\x93.", "pickle: "),
    "a name made of numbers": (b"\x80\x04K\x01K\x02\x93.", "the name that is not text"),
    "GLOBAL": (b"\x80\x04cos\nsystem\n.", "opcode 0x63"),
    "INST": (b"\x80\x04(ios\nsystem\n.", "opcode 0x69"),
    "OBJ": (b"\x80\x04(o.", "opcode 0x6f"),
    "NEWOBJ_EX": (b"\x80\x04)}\x92.", "opcode 0x92"),
    "an extension": (b"\x80\x04\x82\x01.", "opcode 0x82"),
    "a persistent id": (b"\x80\x04K\x01Q.", "opcode 0x51"),
    "a large memo place": (b"\x80\x04K\x01r\xff\xff\xff\x7f.", "opcode 0x72"),
    "a memo place that is not there": (b"\x80\x04h\x05.", "truncated"),
    "NEWOBJ of numpy's array": (b"\x80\x04\x8c\x05numpy\x8c\x07ndarray\x93)\x81.", "only LeRobot's own records"),
    "a call of a record": (b"\x80\x04" + HELPERS + b"\x8c\x0bTimedAction\x93)R.", "TimedAction with arguments"),
    "a call of text": (b"\x80\x04\x8c\x01a)R.", "a call of what is no name"),
    "a state of text": (b"\x80\x04\x8c\x01a}b.", "a state for what has none"),
    "bytes longer than the message": (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "truncated"),
    "a key that is a tuple of tuples": (b"\x80\x04})" + b"\x85" * 40_000 + b"K\x01s.", "key of type tuple"),
    "more opcodes than a robot needs": (b"\x80\x04" + b"N" * 60_000 + b".", "more than 50000 opcodes"),
    "nothing": (b"", "truncated"),
    "no end": (b"\x80\x04N", "truncated"),
    "an empty stack": (b"\x80\x04.", "truncated"),
    "a mark as value": (b"\x80\x04(.", "truncated"),
    "an odd map": (b"\x80\x04}(K\x01u.", "truncated"),
    "items of a list in a map": (b"\x80\x04](\x8c\x01aK\x01u.", "truncated"),
    "text that is not UTF-8": (b"\x80\x04\x8c\x02\xff\xff.", "not UTF-8"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_opcodes_are_refused(name: str) -> None:
    data, text = HOSTILE[name]
    with pytest.raises(ValueError, match=text):
        read(data)


def test_deeply_nested_values_neither_recurse_nor_crash() -> None:
    found = read(b"\x80\x04]" + b"\x85" * 49_000 + b".")
    assert type(found) is tuple


def test_an_array_has_the_bytes_that_its_shape_says() -> None:
    image = inside(np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match=r"an array of uint8 and shape \(4, 5\) has 16 bytes"):
        read(image.replace(b"K\x04K\x04\x86", b"K\x04K\x05\x86"))
    with pytest.raises(ValueError, match="shape is not up to 16 sizes"):
        read(image.replace(b"K\x04K\x04\x86", b"\x8c\x00K\x05\x86"))


def complaint_about(data: bytes | bytearray) -> str:
    try:
        read(data)
    except ValueError as error:
        return str(error)
    return "pickle: none"


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_a_value_error(data: bytes) -> None:
    assert complaint_about(b"\x80\x04" + data).startswith("pickle: ")


@given(st.integers(0, len(OBSERVATION) - 1), st.integers(0, 255))
def test_a_changed_byte_is_a_value_or_a_value_error(place: int, byte: int) -> None:
    changed = bytearray(OBSERVATION)
    changed[place] = byte
    assert complaint_about(changed).startswith("pickle: ")


@given(st.integers(0, len(CONFIG) - 1))
def test_a_cut_message_is_a_value_error(length: int) -> None:
    with pytest.raises(ValueError, match="pickle: "):
        read(CONFIG[:length])


# The answer


@given(
    st.lists(st.lists(st.floats(width=32, allow_nan=False), min_size=3, max_size=3), min_size=1, max_size=5),
    st.integers(0, 2**53),
)
def test_answers_are_what_lerobots_client_loads(rows: list[list[float]], first: int) -> None:
    actions = np.array(rows, np.float32)
    data = write_actions(actions, [float(step) for step in range(len(rows))], first)
    with as_lerobot():
        found = pickle.loads(data)
    assert [type(one) for one in found] == [TimedAction] * len(rows)
    assert [(one.timestamp, one.timestep) for one in found] == [(float(n), first + n) for n in range(len(rows))]
    np.testing.assert_array_equal([one.action for one in found], actions)
