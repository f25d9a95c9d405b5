"""What there should be of each model, as the configuration says. No I/O but the stamp of a model's code."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from inferential.models.guard import Limits
from inferential.models.routing import Trial
from inferential.policies import KINDS

if TYPE_CHECKING:
    from inferential.config.schema import ModelConfig, ModelsConfig

_OF_THE_MODEL = (
    "target", "args", "run", "python", "env", "replicas", "load_timeout_s", "call_timeout_ms", "memory_limit_mb",
    "spare", "background", "warm_up", "timeout_ms", "options",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wanted:
    """One version as it should be: its settings, and what differs when it must be loaded anew."""

    settings: ModelConfig
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Plan:
    """One model as it should be.

    Attributes:
        versions: those that are to be loaded, by name; "" of a model without versions.
        active: the one that answers.
        trials: which robots try others.
        shadow: the one whose answers are compared.
        in_place: whether the old one ends before the new one is loaded.
        limits: when a trial is taken back; None: never.
        fallback: the model that answers while this one fails.
        listed: every version that the configuration names.
    """

    versions: Mapping[str, Wanted]
    active: str = ""
    trials: Mapping[str, Trial] = field(default_factory=dict)
    shadow: str | None = None
    in_place: bool = False
    limits: Limits | None = None
    fallback: str | None = None
    listed: tuple[str, ...] = ()

    def without(self, versions: Sequence[str]) -> Plan:
        """Returns the plan without trials of some versions, which were taken back."""
        if not versions:
            return self
        gone = [version for version in versions if version != self.active]
        return replace(
            self,
            versions={version: wanted for version, wanted in self.versions.items() if version not in gone},
            trials={version: trial for version, trial in self.trials.items() if version not in gone},
            shadow=None if self.shadow in gone else self.shadow,
        )


def plan_of(config: ModelConfig) -> Plan | None:
    """Returns the plan of a model; None where it has settings alone."""
    if config.wanted_target() is None:
        return None
    shared = {
        "in_place": config.swap == "in_place",
        "fallback": config.fallback,
    }
    if config.active is None:
        return Plan({"": _wanted(config)}, **shared)  # type: ignore[arg-type]
    used = dict.fromkeys([config.active, *config.rollout, *([config.shadow] if config.shadow else [])])
    abort = config.abort
    return Plan(
        {version: _wanted(config.of_version(version)) for version in used},
        config.active,
        {
            version: Trial(one.share, frozenset(one.clients), frozenset(one.client_types))
            for version, one in config.rollout.items()
        },
        config.shadow,
        limits=None
        if abort is None
        else Limits(abort.error_rate, abort.deadline_misses, abort.latency_ratio, abort.min_requests),
        listed=tuple(config.versions),
        **shared,  # type: ignore[arg-type]
    )


def plans_of(config: ModelsConfig) -> dict[str, Plan]:
    """Returns the plans of all models that have a target."""
    plans = {model_id: plan_of(model) for model_id, model in config.known.items()}
    return {model_id: plan for model_id, plan in plans.items() if plan is not None}


def _wanted(settings: ModelConfig) -> Wanted:
    said = {name: getattr(settings, name) for name in _OF_THE_MODEL}
    secret = None if settings.api_key is None else settings.api_key.get_secret_value()
    text = json.dumps({**said, "api_key": secret, "code": code_stamp(settings.target or "")}, default=str)
    return Wanted(settings, text)


def code_stamp(target: str) -> list[tuple[str, int, int]]:
    """Returns name, size and time of change of each file of a target's module, or of its package; imports nothing.

    Empty where its files are not found, as those of an interpreter of its own.
    """
    module, colon, rest = target.partition(":")
    if module in KINDS:
        files = [Path(rest)] if Path(rest).is_file() else sorted(Path(rest).rglob("*"))
        return _stamps(files)
    top = module.partition(".")[0]
    if not colon or not top.isidentifier() or target.partition("://")[1] or module == "ray":
        return []
    try:
        known = sys.modules.get(top)
        spec = getattr(known, "__spec__", None) or importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    here = Path(f"{top}.py")
    origin = Path(spec.origin) if spec is not None and spec.origin and os.path.exists(spec.origin) else here
    files = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
    return _stamps(files)


def _stamps(files: Sequence[Path]) -> list[tuple[str, int, int]]:
    found = []
    for file in files[:1000]:
        try:
            status = file.stat()
        except OSError:
            continue
        # Absolute: the same file is found by its module's absolute path once that is imported, and by its name before.
        found.append((os.path.abspath(file), status.st_size, status.st_mtime_ns))
    return found
