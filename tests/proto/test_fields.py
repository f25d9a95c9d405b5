"""The table of fields: the message, the client, the server and the caches follow it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferential.proto import Applied, Captured, Client, ModelResponse, Observation
from inferential.proto.fields import (
    CONSTANT,
    CONSTANT_RESPONSE,
    VARYING,
    ConstantFields,
    ConstantResponseFields,
    VaryingMessage,
    read_constant,
    read_constant_response,
    read_varying,
    write_constant,
)

ROOT = Path(__file__).parents[2]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBERS = st.integers(0, 2**31 - 1)
OBSERVATIONS = st.builds(
    Observation,
    client=st.builds(Client, id=TEXTS, type=TEXTS),
    timestamp_ns=st.integers(0, 2**64 - 1),
    urgency=st.floats(0, 1, width=32),
    model_id=TEXTS,
    steps_remaining=st.none() | NUMBERS,
    metadata=st.dictionaries(TEXTS, TEXTS, max_size=3),
    priority=NUMBERS,
    request_id=NUMBERS,
    latency_budget_ms=st.floats(0, 1000, width=32),
    protocol_version=NUMBERS,
    queue=st.integers(0, 2),
    control_period_ms=st.floats(0, 1000, width=32),
    late=st.integers(0, 2),
    episode=NUMBERS,
    applied=st.none() | st.builds(Applied, request_id=NUMBERS, age_ms=st.floats(0, 1000, width=32)),
    captured=st.none()
    | st.builds(Captured, age_ms=st.floats(0, 1e6), tensor_ages_ms=st.dictionaries(TEXTS, st.floats(0, 1e6))),
)


def test_every_field_of_an_observation_is_in_one_table() -> None:
    in_message = {field.name for field in Observation.DESCRIPTOR.fields}
    in_tables = {(row.path or name).partition(".")[0] for name, row in {**CONSTANT, **VARYING}.items()}
    assert in_tables | {"tensors"} == in_message
    assert not CONSTANT.keys() & VARYING.keys()


def test_the_message_of_varying_fields_has_their_numbers_and_types() -> None:
    assert {field.name for field in VaryingMessage.DESCRIPTOR.fields} == set(VARYING)
    for field in VaryingMessage.DESCRIPTOR.fields:
        original = Observation.DESCRIPTOR.fields_by_name[field.name]
        assert (field.number, field.type) == (original.number, original.type)
        assert (field.is_repeated, field.has_presence) == (original.is_repeated, original.has_presence)


@given(OBSERVATIONS)
def test_constant_fields_that_were_written_are_read_again(message: Observation) -> None:
    written = Observation()
    write_constant(written, read_constant(message))
    assert read_constant(written) == read_constant(message)


@given(OBSERVATIONS)
def test_varying_fields_are_read_alike_from_the_whole_message_and_from_their_own(message: Observation) -> None:
    alone = VaryingMessage.FromString(message.SerializeToString())
    assert read_varying(alone) == read_varying(message)


@given(st.tuples(TEXTS, TEXTS, NUMBERS, TEXTS))
def test_constant_fields_of_a_response_that_were_written_are_read_again(values: tuple[Any, ...]) -> None:
    message = ModelResponse()
    write_constant(message, ConstantResponseFields(*values))
    assert read_constant_response(message) == values
    assert len(CONSTANT_RESPONSE) == len(values)


@pytest.mark.parametrize(
    ("field", "value"), [("urgency", float("nan")), ("latency_budget_ms", -1.0), ("control_period_ms", float("inf"))]
)
def test_a_value_that_is_not_allowed_is_named(field: str, value: float) -> None:
    message = Observation(**{field: value})
    with pytest.raises(ValueError, match=rf"^{field}: expected a number .*, got {value}$"):
        (read_varying if field in VARYING else read_constant)(message)


def test_the_defaults_of_constant_fields_take_no_bytes() -> None:
    message = Observation()
    write_constant(message, ConstantFields("", "", "", None, 0, 0, None, 0))
    assert not message.SerializeToString()


USE_OF_A_NEW_FIELD = """
import sys
import time
import numpy as np
from inferential import Connection
from inferential.config import ObservationConfig
from inferential.observation import ObservationAssembler
from inferential.proto.tensors import whole

assembler = ObservationAssembler(ObservationConfig())
with Connection("localhost:1") as connection:
    model = connection.model("policy", **{MODEL_ARGUMENTS})
    session, mailbox = connection._session, model._mailbox
    for grip in (7, None, 8):
        hints = {}
        values = {"state": np.zeros(3)} | ({} if grip is None else {OBSERVE_ARGUMENTS})
        content = mailbox.handle.content(values, hints)
        _, (_, envelope, payload) = session.observe(mailbox, content, hints, 0.0, time.time_ns())
        observation = assembler.decode(envelope, whole(payload), 0.0)
        print(observation.GROUP.grip_force, list(content[0]))
    print(assembler.cache_counts.hits, session.stats.template_cache.hits)
"""


class Copy:
    """A copy of the package, to be changed."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.changed: set[str] = set()
        shutil.copytree(ROOT / "src" / "inferential", place / "src" / "inferential")
        shutil.copy(ROOT / "hatch_build.py", place)

    def change(self, name: str, before: str, after: str) -> None:
        path = self.place / "src" / "inferential" / name
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after, 1))
        self.changed.add(name)

    def run(self, *arguments: str) -> str:
        env = {**os.environ, "PYTHONPATH": str(self.place / "src")}
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, check=False, env=env, cwd=self.place
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def recipe(begin: str) -> str:
    """The line that CONTRIBUTING.md says to add."""
    found = re.search(rf"`({re.escape(begin)}[^`]*)`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert found is not None
    return found[1]


def test_a_new_varying_field_takes_a_line_in_the_schema_and_a_row_of_the_table(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    line, row = recipe("optional uint32 grip_force"), recipe("grip_force: Annotated")
    copy.change("proto/inferential.proto", "LateMode late = 21;", f"LateMode late = 21; {line}")
    copy.change("proto/fields.py", "    request_id: Annotated", f"    {row}\n    request_id: Annotated")
    copy.run("hatch_build.py")
    program = USE_OF_A_NEW_FIELD.replace("{MODEL_ARGUMENTS}", "{}").replace("GROUP", "varying")
    seen = copy.run("-c", program.replace("{OBSERVE_ARGUMENTS}", '{"grip_force": grip}')).splitlines()
    assert seen == ["7 ['state']", "None ['state']", "8 ['state']", "2 2"]
    assert len(copy.changed) == 2


def test_a_new_constant_field_takes_also_an_argument_of_a_handle(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    line = recipe("optional uint32 grip_force").removeprefix("optional ")
    copy.change("proto/inferential.proto", "LateMode late = 21;", f"LateMode late = 21; {line}")
    row = '    grip_force: Annotated[int, Field(Argument("grip_force", "a whole number", int))]\n'
    copy.change("proto/fields.py", "    late: Annotated", row + "    late: Annotated")
    handle = "client/handle.py"
    copy.change(
        handle, "    late: LateChoice | None = None\n", "    late: LateChoice | None = None\n    grip_force: int = 0\n"
    )
    copy.change(
        handle,
        "        late: LateChoice | None = None,\n",
        "        late: LateChoice | None = None, grip_force: int = 0\n",
    )
    copy.change(handle, "control_rate_hz, late)", "control_rate_hz, late, grip_force)")
    copy.run("hatch_build.py")
    program = USE_OF_A_NEW_FIELD.replace("{MODEL_ARGUMENTS}", '{"grip_force": 7}').replace("GROUP", "constant")
    seen = copy.run("-c", program.replace("{OBSERVE_ARGUMENTS}", "{}")).splitlines()
    assert seen == ["7 ['state']", "7 ['state']", "7 ['state']", "2 2"]
    assert len(copy.changed) == 3
