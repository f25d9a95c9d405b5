"""The fields of observations and responses, declared once.

`ConstantFields` and `VaryingFields` are the table: a row is a field of the message `Observation`, with its type for a
reader, the argument of the robot SDK that sets it, and what the server makes of its value. What writes, reads, checks
and caches observations follows these rows, and so do its tests. To add a field: one line in inferential.proto, one row
here, and the code that uses it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from operator import attrgetter
from typing import Annotated, Any, NamedTuple, cast, get_type_hints

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from inferential.proto import inferential_pb2 as pb


@dataclass(frozen=True, slots=True)
class Argument:
    """The argument of the robot SDK that sets a field: of `Connection.model` for constant fields, of `Model.observe`
    for varying ones.

    Attributes:
        name: the argument's name.
        expected: what its values may be, for errors.
        kind: the type of its values; bool does not count as a number.
        accepts: whether a value of that type is in range.
        to_wire: the value as it stands in the message; 0 where the field is not to be sent.
        default: its value where it is not given; None is accepted where that is the default.
    """

    name: str
    expected: str
    kind: type = object
    accepts: Callable[[Any], bool] = lambda value: True
    to_wire: Callable[[Any], Any] = lambda value: value
    default: Any = None

    def check(self, value: object) -> None:
        """Checks a value of the argument.

        Raises:
            TypeError, ValueError: naming the argument, the value and what is expected.
        """
        if value is None and self.default is None:
            return
        text = f"{self.name}: expected {self.expected}, got {value!r}"
        if isinstance(value, bool) or not isinstance(value, self.kind):
            raise TypeError(text) if self.kind is not object else ValueError(text)
        if not self.accepts(value):
            raise ValueError(text)


@dataclass(frozen=True, slots=True)
class Field:
    """What is known of a field beside its name and type.

    Attributes:
        argument: of the robot SDK; None where the SDK sets the field by itself.
        check: on the server, returns the value to use for a value that was received; raises ValueError naming the
            field. None: every value is good.
        convert: turns the message's value into the field's type, where that is another.
        path: where the field stands in the message, if not under its own name.
    """

    argument: Argument | None = None
    check: Callable[[str, Any], Any] | None = None
    convert: Callable[[Any], Any] | None = None
    path: str = ""


class DefaultBudget(float):
    """The latency budget of a handle that was given none: not sent, so that the server applies its own."""


DEFAULT_BUDGET_MS = DefaultBudget(50.0)
"""The latency budget of a handle that was given none, in milliseconds."""

_QUEUE = {"latest": pb.QUEUE_LATEST, "all": pb.QUEUE_ALL}
_LATE = {"serve": pb.LATE_SERVE, "refuse": pb.LATE_REFUSE}


def _explicit_budget(budget_ms: float) -> float:
    return 0.0 if isinstance(budget_ms, DefaultBudget) else budget_ms


def _period_ms(rate_hz: float) -> float:
    return 1e3 / rate_hz


def _is_positive(value: float) -> bool:
    return value > 0 and math.isfinite(value)


def _fits_uint32(value: int) -> bool:
    return 0 <= value < 2**32


def _positive_or_none(name: str, value: float) -> float | None:
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{name}: expected a number above 0, got {value}")
    return value or None


def _urgency(name: str, value: float) -> float:
    if 0.0 <= value <= 1.0:
        return value
    if not math.isfinite(value):
        raise ValueError(f"{name}: expected a number from 0 to 1, got {value}")
    return 0.0 if value < 0.0 else 1.0  # 1.x clients may send more than 1, which gains them nothing


def _strings(value: Mapping[str, str]) -> dict[str, str]:
    return dict(value) if value else {}  # an empty map of protobuf is slow to copy


class ConstantFields(NamedTuple):
    """The fields that are the same in all observations of one model handle: written, read and checked once."""

    client_id: Annotated[str, Field(path="client.id")]
    """The client's id; the identity of its connection."""
    client_type: Annotated[str, Field(path="client.type")]
    """The kind of robot, for people to read; may be empty."""
    model_id: Annotated[str, Field()]
    """The model that is asked."""
    latency_budget_ms: Annotated[
        float | None,
        Field(
            Argument(
                "latency_budget_ms",
                "a finite number above 0",
                Real,
                _is_positive,
                _explicit_budget,
                DEFAULT_BUDGET_MS,
            ),
            _positive_or_none,
        ),
    ]
    """How old an action may be when it arrives, in milliseconds; None where the client did not say."""
    protocol_version: Annotated[int, Field()]
    """0 from clients of the 0.1 and 1.x lines."""
    queue: Annotated[
        int, Field(Argument("queue", "'latest' or 'all'", object, tuple(_QUEUE).__contains__, _QUEUE.get, ""))
    ]
    """A `QueueMode` of the wire."""
    control_period_ms: Annotated[
        float | None,
        Field(
            Argument("control_rate_hz", "a finite number above 0, or None", Real, _is_positive, _period_ms),
            _positive_or_none,
        ),
    ]
    """How long one action of a chunk holds, in milliseconds; None where the client did not say."""
    late: Annotated[
        int, Field(Argument("late", "'serve', 'refuse' or None", object, tuple(_LATE).__contains__, _LATE.get))
    ]
    """A `LateMode` of the wire."""
    episode: Annotated[int, Field()] = 0
    """How often the robot has begun a new episode with the model on this connection; 0 where it never said so."""


class VaryingFields(NamedTuple):
    """The fields that are new with each observation."""

    timestamp_ns: Annotated[int, Field()]
    """When the observation was made, in nanoseconds of the client's wall clock; 0 where the client did not say."""
    urgency: Annotated[float, Field(Argument("urgency", "a number from 0 to 1", default=0.0), _urgency)]
    """From 0 to 1."""
    steps_remaining: Annotated[int | None, Field(Argument("steps_remaining", "a whole number from 0 to 2**32 - 1"))]
    """Actions that the robot still has to play; None where the client did not say."""
    metadata: Annotated[dict[str, str], Field(convert=_strings)]
    """Strings by key."""
    priority: Annotated[
        int,
        Field(
            Argument("priority", "a whole number from 0 (the highest) to 2**32 - 1", Integral, _fits_uint32, default=1)
        ),
    ]
    """0 is the highest."""
    request_id: Annotated[int, Field()]
    """The client's number for the observation; 0 from the 1.x line."""
    renews: Annotated[bool | None, Field(Argument("renews", "True or False"))]
    """Whether the robot, which plays chunks, observes anew when it gets OUTDATED; None where it did not say."""
    played_id: Annotated[int | None, Field(Argument("played_id", "a whole number from 0 to 2**64 - 1"))]
    """The request id of the newest chunk of which the robot has played an action."""
    played_from: Annotated[int | None, Field(Argument("played_from", "a whole number from 0 to 2**32 - 1"))]
    """The index, in that chunk, of the first action that it played."""
    applied: Annotated[pb.Applied, Field()]
    """What became of a result that the robot has used; its request id is 0 where the robot says nothing."""
    captured: Annotated[pb.Captured, Field()]
    """How old the observation was when it was sent; its age is 0 where the robot says nothing."""
    plays_by_time: Annotated[bool, Field(Argument("plays_by_time", "True or False"))]
    """Whether a robot that plays chunks skips those actions too whose control steps passed while it stood."""


class ConstantResponseFields(NamedTuple):
    """The fields that are the same in all responses of a model to one client, its tensors' descriptions apart."""

    client_id: Annotated[str, Field(path="client.id")]
    model_id: Annotated[str, Field()]
    protocol_version: Annotated[int, Field()]
    model_version: Annotated[str, Field()]
    """Of the model that made the result; empty where the server does not know it."""


def table(fields: type[NamedTuple]) -> dict[str, Field]:
    """Returns the rows of a table by the fields' names."""
    hints = get_type_hints(fields, include_extras=True)
    return {name: hints[name].__metadata__[0] for name in fields._fields}


def arguments(rows: Mapping[str, Field]) -> dict[str, str]:
    """Returns the fields that an argument of the robot SDK sets, by the argument's name."""
    return {row.argument.name: name for name, row in rows.items() if row.argument is not None}


CONSTANT = table(ConstantFields)
VARYING = table(VaryingFields)
CONSTANT_RESPONSE = table(ConstantResponseFields)


def _getter(rows: Mapping[str, Field]) -> Callable[[Any], tuple[Any, ...]]:
    """Returns what reads the fields of a table from a message, in one call of C."""
    return attrgetter(*(row.path or name for name, row in rows.items()))


constant_values: Callable[[Any], tuple[Any, ...]] = _getter(CONSTANT)
constant_response_values: Callable[[Any], tuple[Any, ...]] = _getter(CONSTANT_RESPONSE)


def _has_presence(name: str) -> bool:
    field = pb.Observation.DESCRIPTOR.fields_by_name.get(name)
    return field is not None and field.message_type is None and field.has_presence


_CHECKED_CONSTANT = [(at, name, row.check) for at, (name, row) in enumerate(CONSTANT.items()) if row.check is not None]


def read_constant(message: pb.Observation) -> ConstantFields:
    """Returns the constant fields of an observation.

    Raises:
        ValueError: naming a field whose value is not allowed.
    """
    values = list(constant_values(message))
    for at, name, check in _CHECKED_CONSTANT:
        values[at] = check(name, values[at])
    return ConstantFields._make(values)


def _compile_read_varying() -> Callable[[pb.Observation], VaryingFields]:
    """Returns `read_varying`, one expression made from the table: a loop over its rows takes twice as long."""
    names: dict[str, Any] = {"new": tuple.__new__, "VaryingFields": VaryingFields}
    values = []
    for name, row in VARYING.items():
        value = f"message.{row.path or name}"
        if row.convert is not None:
            names[f"convert_{name}"] = row.convert
            value = f"convert_{name}({value})"
        if row.check is not None:
            names[f"check_{name}"] = row.check
            value = f"check_{name}({name!r}, {value})"
        if _has_presence(name):
            value = f"({value} if message.HasField({name!r}) else None)"
        values.append(value)
    exec(f"def read_varying(message): return new(VaryingFields, ({', '.join(values)},))", names)
    return cast(Callable[[pb.Observation], VaryingFields], names["read_varying"])


read_varying: Callable[[pb.Observation], VaryingFields] = _compile_read_varying()
"""Returns the varying fields of an observation, or of a `VaryingMessage`; ValueError names a field whose value is not
allowed."""


def read_constant_response(message: pb.ModelResponse) -> ConstantResponseFields:
    """Returns the constant fields of a response."""
    return ConstantResponseFields._make(constant_response_values(message))


_PATHS: dict[type, list[tuple[list[str], str]]] = {
    kind: [(parents, last) for *parents, last in ((row.path or name).split(".") for name, row in rows.items())]
    for kind, rows in ((ConstantFields, CONSTANT), (ConstantResponseFields, CONSTANT_RESPONSE))
}


def write_constant(message: pb.Observation | pb.ModelResponse, fields: NamedTuple) -> None:
    """Writes constant fields into a message; what is None, 0 or empty is left out, as proto3 has it."""
    for (parents, name), value in zip(_PATHS[type(fields)], fields, strict=True):
        if value:
            target: Any = message
            for parent in parents:
                target = getattr(target, parent)
            setattr(target, name, value)


def _part_of_observation(class_name: str, names: Collection[str]) -> type[pb.Observation]:
    """Returns the class of a message that has some of the fields of `Observation` alone, under the same numbers."""
    whole, part = descriptor_pb2.DescriptorProto(), descriptor_pb2.DescriptorProto(name=class_name)
    pb.Observation.DESCRIPTOR.CopyToProto(whole)
    for field in whole.field:
        if field.name not in names:
            continue
        if field.type_name:
            field.type_name = field.type_name.replace(".Observation.", f".{part.name}.")
        if field.HasField("oneof_index"):
            part.oneof_decl.add().CopyFrom(whole.oneof_decl[field.oneof_index])
            field.oneof_index = len(part.oneof_decl) - 1
        part.field.append(field)
    part.nested_type.extend(whole.nested_type)
    origin = pb.Observation.DESCRIPTOR.file
    made = descriptor_pb2.FileDescriptorProto(
        name=f"inferential_{class_name}.proto",
        package=origin.package,
        dependency=[origin.name],
        message_type=[part],
        syntax="proto3",
    )
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(made.SerializeToString())
    found = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{origin.package}.{part.name}"))
    return cast(type[pb.Observation], found)


VaryingMessage: type[pb.Observation] = _part_of_observation("VaryingMessage", VARYING)
"""A message of the varying fields: what is not in it is skipped by its reader. It is never sent."""
SenderMessage: type[pb.Observation] = _part_of_observation(
    "SenderMessage", ("client", "model_id", "request_id", "protocol_version")
)
"""A message of those fields by which an observation is answered: the same."""
