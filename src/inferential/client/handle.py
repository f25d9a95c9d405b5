"""The arguments of a model handle, and the fields that all its observations have because of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar
from weakref import ref

from inferential.client.adaptive import Auto
from inferential.client.captured import CAPTURE_ARGUMENTS, captured_of
from inferential.client.encoding import EncodingRules
from inferential.client.result import ClientStats
from inferential.proto.fields import CONSTANT, DEFAULT_BUDGET_MS, VARYING, ConstantFields, arguments
from inferential.proto.messages import PROTOCOL_VERSION, Content

QueueChoice = Literal["latest", "all"]
LateChoice = Literal["serve", "refuse"]
ObservationHints = dict[str, Any]
"""The varying fields that a user gives with one observation, by their arguments' names; None: the default."""

_CHECKED = [row.argument for row in (*CONSTANT.values(), VARYING["priority"]) if row.argument is not None]
_SIGNATURE = ("urgency", "steps_remaining", "priority")
"""The hints that the signature of `observe` names."""
_MORE_HINTS = (frozenset(arguments(VARYING)) | CAPTURE_ARGUMENTS) - frozenset(_SIGNATURE)
"""Hints that it does not, of the table and of when things were seen: they come among the values."""

ModelT = TypeVar("ModelT")


@dataclass(frozen=True, slots=True)
class Handle:
    """The arguments of one model handle, see `Connection.model`.

    Raises:
        TypeError, ValueError: naming an argument, its value and what is expected.
    """

    model_id: str
    latency_budget_ms: float
    priority: int
    queue: QueueChoice
    rules: EncodingRules
    control_rate_hz: float | None = None
    late: LateChoice | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model_id, str) or not self.model_id or not self.model_id.isprintable():
            raise ValueError(f"model_id: expected the id of a model, got {self.model_id!r}")
        for argument in _CHECKED:
            argument.check(getattr(self, argument.name))

    def constant_fields(self, client_id: str, client_type: str) -> ConstantFields:
        """Returns the fields that all observations of the handle have, as they stand on the wire."""
        values: dict[str, Any] = dict.fromkeys(CONSTANT)
        values.update(
            client_id=client_id, client_type=client_type, model_id=self.model_id, protocol_version=PROTOCOL_VERSION
        )
        for name, row in CONSTANT.items():
            if row.argument is not None:
                value = getattr(self, row.argument.name)
                values[name] = 0 if value is None else row.argument.to_wire(value)
        return ConstantFields(**values)

    def content(self, values: Mapping[str, Any], hints: ObservationHints) -> Content:
        """Returns what an observation carries: images compressed where a rule or a wrapper says so.

        Args:
            values: what the user gave by name: tensors, strings, and hints that the signature does not name.
            hints: gets those hints, and as `captured` how old the values are once images are compressed.

        Raises:
            TypeError, ValueError: as `EncodingRules.apply` and `captured_of`.
        """
        more = values.get("observation")
        if isinstance(more, Mapping) or not _MORE_HINTS.isdisjoint(values):
            return self._hinted_content(values, more if isinstance(more, Mapping) else None, hints)
        return self.rules.apply(values)

    def _hinted_content(
        self, values: Mapping[str, Any], more: Mapping[str, Any] | None, hints: ObservationHints
    ) -> Content:
        """Returns the content of values that hold hints, or `observation=`: hints are taken from the others alone."""
        taken = _MORE_HINTS & values.keys()
        captured = {name: values[name] for name in taken & CAPTURE_ARGUMENTS}
        if any(value is not None for value in captured.values()) and "clock" in values:
            captured["clock"] = values["clock"]
        hints.update({name: values[name] for name in taken - CAPTURE_ARGUMENTS})
        rest = {key: value for key, value in values.items() if key not in taken and key not in captured}
        if more is not None:
            del rest["observation"]
            if twice := rest.keys() & more.keys():
                raise ValueError(f"observation: the key {min(twice)!r} is given beside it too; give it once")
        content = self.rules.apply(rest) if more is None else self.rules.apply_to_nested(rest, more)
        keys = rest.keys() | content[0].keys() | (more or {}).keys()
        found = captured_of(captured, keys) if captured else None
        if found is not None:
            hints["captured"] = found
        return content


class ModelFactory(ABC, Generic[ModelT]):
    """A connection's `model`, the same for threads and for asyncio."""

    def model(
        self,
        model_id: str,
        latency_budget_ms: float = DEFAULT_BUDGET_MS,
        priority: int = 1,
        *,
        queue: QueueChoice = "latest",
        encode: Mapping[str, str | Auto] | None = None,
        control_rate_hz: float | None = None,
        late: LateChoice | None = None,
    ) -> ModelT:
        """Returns a handle to one model of the server.

        Args:
            model_id: the model's id.
            latency_budget_ms: how old an action may be when it arrives, in milliseconds. Where it is not given, the
                server goes by the moment at which the robot's actions run out, or by the robot's cadence.
            priority: 0 is the highest.
            queue: "latest": a newer observation replaces one that still waits, and `get_result` returns the newest
                result; "all": every observation is answered, in the order in which the answers arrive.
            encode: images to compress, by patterns on their keys: {"camera/*": "jpeg", "wrist": "jpeg:70",
                "depth": "png"}; the first match applies. "auto" (or `Auto` with limits) is JPEG of a quality that
                follows the link, so that answers fit the latency budget.
            control_rate_hz: actions that the robot plays per second; with `steps_remaining` the server knows when they
                run out.
            late: what happens to a request that cannot be answered in time: "serve": it is answered nevertheless,
                after those that can be in time; "refuse": it ends in RequestExpired as soon as that is known. None: as
                the server's configuration says for the model.

        Raises:
            TypeError, ValueError: naming an argument, its value and what is expected.
            ConnectionError: after `close`.
        """
        reference = ref(self)  # what waits to be sent keeps no connection

        def stats() -> ClientStats | None:
            connection = reference()
            return None if connection is None else connection.stats

        rules = EncodingRules(encode, latency_budget_ms, stats)
        return self._open_model(Handle(model_id, latency_budget_ms, priority, queue, rules, control_rate_hz, late))

    @property
    @abstractmethod
    def stats(self) -> ClientStats:
        """What became of the observations, and what is known of the link."""

    @abstractmethod
    def _open_model(self, handle: Handle) -> ModelT:
        """Returns a model of a new mailbox.

        Raises:
            ConnectionError: the connection is closed.
        """
