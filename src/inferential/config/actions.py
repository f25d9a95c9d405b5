"""Declares what a model's actions must be, and what becomes of others."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from inferential.config.section import Count, Expected, Section
from inferential.proto.actions import ActionSpec, ActionSpecs

_Number = Annotated[float, Field(allow_inf_nan=False)]
Bound = Annotated[_Number | list[_Number] | None, Expected("a number, or one for each value of an action")]


class ActionLimits(Section):
    """What the actions of one key must be."""

    shape: Annotated[list[Count] | None, Expected("the sizes of one action, such as [7]")] = None
    """Shape of one action, such as [7]; any by default."""
    low: Bound = None
    """The least value, one number or one for each; any by default."""
    high: Bound = None
    """The greatest value, one number or one for each; any by default."""
    max_change: Bound = None
    """How much a value may differ from that of the step before, one number or one for each; any by default."""

    @property
    def limits_any(self) -> bool:
        """Whether a field is set."""
        return any(value is not None for value in (self.shape, self.low, self.high, self.max_change))

    def spec(self) -> ActionSpec:
        """Returns it as robots have it.

        Raises:
            ValueError: naming the field that is wrong.
        """
        shape = None if self.shape is None else tuple(self.shape)
        return ActionSpec(shape, self.low, self.high, self.max_change)

    @model_validator(mode="after")
    def _check_spec(self) -> Self:
        try:
            self.spec()
        except ValueError as error:
            raise ValueError(str(error).removeprefix("action_spec.")) from error
        return self


class ActionsConfig(ActionLimits):
    """What a model's actions must be; they are checked where any of it is set, and must be finite then."""

    keys: dict[str, ActionLimits] = Field(default_factory=dict)
    """The same by key, for chunks that are spread over several keys of a result."""
    on_bad: Literal["fail", "clip"] = "fail"
    """What becomes of a result beyond the limits: its robot gets ModelFailed, or it is clipped. What has the wrong
    shape, or is not finite, always fails."""

    def specs(self) -> ActionSpecs | None:
        """Returns the specs that results are checked by; None where nothing is set."""
        if self.keys:
            return ActionSpecs({key: limits.spec() for key, limits in self.keys.items()})
        return ActionSpecs(self.spec()) if self.limits_any else None

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        if self.keys and self.limits_any:
            raise ValueError("give shape, low, high and max_change either for all keys, or under keys for each")
        return self
