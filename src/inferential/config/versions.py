"""What the configuration says of the versions of a model: which there are, who tries one, and when it is taken back."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from inferential.config.backends import check_scheme, check_spelling
from inferential.config.section import Count, Expected, Positive, Section
from inferential.policies import KINDS

Target = Annotated[
    str,
    Field(
        pattern=r"^(ray:[^\s/]+(/[^\s/]+)?|[a-z][a-z0-9+.-]*://[^\s/]+(/\S*)?|\w+(\.\w+)*:\w+(\.\w+)*"
        rf"|({'|'.join(KINDS)}):([^/]|/[^/]).*)$"
    ),
    Expected("module:object, onnx:FILE, ray:application, or openpi://HOST:PORT"),
    BeforeValidator(check_spelling),
]
Share = Annotated[float, Field(ge=0, le=1)]
WarmUp = Annotated[
    str,
    Field(pattern=r"^(last|.+\.(npz|json)|\w+(\.\w+)*:\w+(\.\w+)*)$"),
    Expected("FILE.npz, FILE.json, module:function or last"),
]


class VersionConfig(Section):
    """One version of a model; what it does not set is as for the model."""

    target: Target | None = None
    """Where it is found, as the model's own target."""
    args: dict[str, Any] | None = None
    """Keyword arguments that the target is called with."""
    python: str | None = None
    """Interpreter of its processes."""
    env: dict[str, str] | None = None
    """Environment variables that are added for its processes."""
    replicas: Annotated[
        Count | list[dict[str, str]] | None, Expected("a whole number of at least 1, or a list of maps")
    ] = None
    """How many processes it has; or, for each of them, environment variables that are added."""
    warm_up: WarmUp | None = None
    """What it runs before it answers."""

    @model_validator(mode="after")
    def _check(self) -> VersionConfig:
        if self.target is not None:
            check_scheme(self.target)
        return self


class TrialConfig(Section):
    """Which robots try a version."""

    share: Share = 0.0
    """Share of the robots that no trial names, 0 to 1; always the same ones, and more of them where it grows."""
    clients: list[str] = Field(default_factory=list)
    """Ids of robots that try it."""
    client_types: list[str] = Field(default_factory=list)
    """Kinds of robots that try it."""


class AbortConfig(Section):
    """When a version on trial is taken back, and not tried again until the configuration changes."""

    error_rate: Share | None = 0.02
    """Share of its requests that may fail; null: any."""
    deadline_misses: Share | None = 0.05
    """Share of its answers that may come after their deadlines, if the active version does better; null: any."""
    latency_ratio: Positive | None = 1.5
    """Its median latency over that of the active version, if that is 2 ms more at least; null: any."""
    min_requests: Count = 200
    """Requests after which it is judged; before, only where these cannot change the verdict any more. One that was good
    for longer is judged by the newest so many, too, of which twice the share may not fail or be late."""


class BreakerConfig(Section):
    """When a model that fails is not asked for a while."""

    failures: Count | None = 10
    """Requests in a row that fail, of every robot that asks; null: it is always asked."""
    pause_ms: Positive = 1000.0
    """From then to the first probe, which asks the model once with the newest observation that it was to answer; twice
    as long after each probe that fails, up to 30 s."""
