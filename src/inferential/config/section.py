"""What every table of the configuration is made of: its base class, types of values, and marks.

The tables themselves are in `schema` and `services`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_core import InitErrorDetails


class Effect(enum.Enum):
    """Says when a change of a field, and of all fields inside it, takes effect; the innermost mark counts.

    Each table of `InferentialConfig` has one. `config.changes` goes by them.
    """

    LIVE = "live"
    """At once, while the server runs."""
    ON_RESTART = "restart"
    """When the server starts next."""


@dataclass(frozen=True, slots=True)
class Expected:
    """Says in words what a value must be, where its type does not say enough."""

    text: str


NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
SocketCount = Annotated[int, Field(ge=1, le=2**31 - 1)]  # ZeroMQ keeps it in a C int
Port = Annotated[int, Field(ge=0, le=65_535)]
Secret = Annotated[SecretStr, Field(min_length=1)]  # an empty one would let every client in
HttpUrl = Annotated[str, Field(pattern=r"^https?://[^\s/]+(/\S*)?$"), Expected("a URL as http://HOST:PORT")]


class Section(BaseModel):
    """One table of the configuration: unknown keys are errors, assignments are checked.

    The string under a field is its description (`fields.descriptions`).
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid",
        validate_assignment=True,
        protected_namespaces=(),  # pydantic before 2.10 warns of `model_deadline`
    )


def details(error: ValidationError, *inside: str) -> list[InitErrorDetails]:
    """Returns the problems that pydantic found, as those of a table around it, where it is at `inside`."""
    found: list[InitErrorDetails] = []
    for one in error.errors(include_url=False):
        context: dict[str, Any] = dict(one.get("ctx", {}))
        found.append({"type": one["type"], "loc": (*inside, *one["loc"]), "input": one["input"], "ctx": context})
    return found
