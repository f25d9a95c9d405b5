"""What the configuration says of models: where each is found, how it runs, and how it changes."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails

from inferential.config.actions import ActionsConfig
from inferential.config.backends import backend_options, check_scheme
from inferential.config.section import Count, Expected, Positive, Secret, Section
from inferential.config.tensors import TensorConfig
from inferential.config.versions import AbortConfig, BreakerConfig, Target, TrialConfig, VersionConfig, WarmUp

RESERVED = frozenset("@#%")
"""In the name of a pool, before a version, its generation, and a replica."""
_RESERVED_TEXT = ", ".join(sorted(RESERVED))
_ROUNDING = 1e-9


class ModelConfig(Section):
    """What is known of one model."""

    target: Target | None = None
    """Where `inferential serve` finds it, as module:object: a model, or a class or a function that makes one; or a
    policy in a file, as onnx:FILE, torchscript:FILE or lerobot:FOLDER."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments that a class or a function which makes the model is called with; options of a policy's file."""
    run: Literal["process", "thread", "inline"] = "process"
    """Where a target of the form module:object runs: in processes of its own; in threads of the server; or on its event
    loop, which everything else waits for."""
    python: str | None = None
    """Interpreter of the model's processes, of 3.10 or newer with numpy and protobuf; the server's own by default."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables that are added for the model's processes."""
    replicas: Annotated[Count | list[dict[str, str]], Expected("a whole number of at least 1, or a list of maps")] = 1
    """How many processes the model has; or, for each of them, environment variables that are added."""
    load_timeout_s: Positive = 600.0
    """How long a process may take to import and make the model."""
    call_timeout_ms: Positive | None = None
    """How long one call may take. Then its robot gets an error, and a process is replaced; a thread cannot be ended,
    and its slot is lost until the call returns."""
    memory_limit_mb: Positive | None = None
    """Resident memory from which on a process of the model is replaced; what the model starts is not counted."""
    spare: bool = False
    """Whether a process more waits beside each of the model's, its modules imported, to follow it if it ends: robots
    then wait only as long as making the model takes."""
    background: bool = False
    """Whether the model's processes run on time alone that nothing else on their cores wants: where cores are few,
    robots of other models notice less of it; where other programs keep all cores busy, it hardly runs."""
    max_inflight: Count | None = None
    """Calls of the model that may run at once; models.default_max_inflight by default."""
    max_batch_size: Count | None = None
    """Rows in one call of infer_batch; the model's own max_batch_size, else 8, by default."""
    device: Annotated[str, Field(min_length=1)] | None = None
    """What it runs on, by any name: models of one device run one call at a time among them."""
    warm_up: WarmUp | None = None
    """What a model runs before it answers: observations of a file, those that a function returns, or the last one that
    a robot sent. Its latencies are what the schedulers begin with."""
    inputs: dict[str, TensorConfig] = Field(default_factory=dict)
    """What an observation has, by key, for clients of the Open Inference Protocol; else what the model says itself."""
    outputs: dict[str, TensorConfig] = Field(default_factory=dict)
    """What a result has, by key, for clients of the Open Inference Protocol; else what the model says itself."""
    timeout_ms: Positive | None = None
    """How long a call of an openpi:// target may take, its slow first call included; 120000 where it is not set."""
    api_key: Secret | None = None
    """Sent to an openpi:// target as Authorization: Api-Key KEY."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Settings of the backend of another package that serves the target; the backend declares and checks them."""
    swap: Literal["beside", "in_place"] = "beside"
    """How a changed model takes over while the server runs: the new one is loaded beside the old, or, where memory has
    no room for two, the old one ends first."""
    versions: dict[str, VersionConfig] = Field(default_factory=dict)
    """The versions of the model by name; `active` answers, and others as `rollout` and `shadow` say."""
    active: str | None = None
    """The version that answers all robots which try no other."""
    rollout: dict[str, TrialConfig] = Field(default_factory=dict)
    """Which robots try which other versions."""
    shadow: str | None = None
    """A version that gets copies of observations when there is room, for half a percent of the time; its answers are
    compared, and never sent."""
    abort: AbortConfig | None = None
    """When a version on trial is taken back by the server itself; never by default."""
    every_observation: bool = False
    """Whether the model must see each observation of a robot, in order: then a newer one supersedes none that waits."""
    breaker: BreakerConfig = Field(default_factory=BreakerConfig)
    """When the model is not asked for a while, as it fails."""
    fallback: str | None = None
    """The model that answers while this one fails or cannot be reached, or that one's own fallback where it cannot
    either; results say which (`result.fallback`)."""
    late: Literal["serve", "refuse"] = "serve"
    """What becomes of a request that slo_aware cannot answer in time, where the client does not say: it is answered
    after those that can be, or refused as soon as that is known."""
    actions: ActionsConfig = Field(default_factory=ActionsConfig)
    """What its actions must be; any by default."""

    @field_validator("target")
    @classmethod
    def _check_scheme(cls, target: str | None) -> str | None:
        if target is not None:
            check_scheme(target)
        return target

    @model_validator(mode="after")
    def _check_versions(self) -> Self:
        named = [("active", self.active), ("shadow", self.shadow), *(("rollout", one) for one in self.rollout)]
        for field, version in named:
            if version is not None and version not in self.versions:
                known = ", ".join(self.versions) or "none"
                raise ValueError(f"{field}: expected one of versions ({known}), got {version!r}")
        if self.versions and self.active is None:
            raise ValueError(f"active: expected the version that answers, one of {', '.join(self.versions)}")
        for name, version_config in self.versions.items():
            if not name or not name.isprintable() or set(name) & RESERVED:
                raise ValueError(f"versions: expected a name in one line without any of {_RESERVED_TEXT}, got {name!r}")
            if version_config.target is None and self.target is None:
                raise ValueError(f"versions.{name}.target: expected a target, as the model itself has none")
        if self.active in self.rollout or (self.shadow is not None and self.shadow == self.active):
            raise ValueError(f"active: {self.active!r} answers already; leave it out of rollout and shadow")
        if math.fsum(trial.share for trial in self.rollout.values()) > 1 + _ROUNDING:
            raise ValueError("rollout: expected shares of at most 1 in all")
        return self

    def of_version(self, version: str) -> ModelConfig:
        """Returns the settings of one version: the model's own, and over them what the version sets."""
        own = self.versions[version]
        changed = {name: getattr(own, name) for name in type(own).model_fields if getattr(own, name) is not None}
        plain = self.model_copy(update={**changed, "versions": {}, "active": None, "rollout": {}, "shadow": None})
        object.__setattr__(plain, "__pydantic_fields_set__", self.model_fields_set | changed.keys())
        return plain

    def wanted_target(self) -> str | None:
        """Returns the target of the version that answers; None where the model has only settings."""
        return self.target if self.active is None else (self.versions[self.active].target or self.target)

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        if self.options:
            backend_options(self.target, self.options)
        return self


class ModelsConfig(Section):
    """The models and how much each takes at once."""

    known: dict[str, ModelConfig] = Field(default_factory=dict)
    """Settings by model id."""
    default_max_inflight: Count = 1
    """Calls of one model that may run at once."""
    profiles: str | None = None
    """File of latencies by model and batch size, as `inferential profile` writes it: what slo_aware begins with."""

    @model_validator(mode="after")
    def _check_ids(self) -> Self:
        served = {model_id for model_id, model in self.known.items() if model.wanted_target() is not None}
        problems: list[InitErrorDetails] = []
        for model_id, model in self.known.items():
            if model.fallback is not None and model.fallback not in served - {model_id}:
                text = f"expected the id of another model that has a target, got {model.fallback!r}"
                problems.append(_wrong(("known", model_id, "fallback"), text, model.fallback))
            if model_id in served and set(model_id) & RESERVED:
                text = f"expected an id without any of {_RESERVED_TEXT}, got {model_id!r}"
                problems.append(_wrong(("known", model_id), text, model_id))
        if problems:
            raise ValidationError.from_exception_data("models", problems)
        return self


def _wrong(place: tuple[str, ...], text: str, value: object) -> InitErrorDetails:
    return {"type": "value_error", "loc": place, "input": value, "ctx": {"error": ValueError(text)}}
