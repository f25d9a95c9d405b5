"""The configuration: its schema, how it is loaded, and how it is watched.

What reads files is imported when it is first asked for: a program that makes its configuration itself needs none of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from inferential.config.schema import (
    BatchConfig,
    ClientDefaults,
    ClientEntry,
    ClientsConfig,
    DeadlineAwareConfig,
    InferentialConfig,
    MetricsConfig,
    ModelConfig,
    ModelsConfig,
    ObservationConfig,
    ResponseTrackingConfig,
    SchedulingConfig,
    ServerConfig,
    SloAwareConfig,
    TieredConfig,
    TransportConfig,
)
from inferential.config.security import SecurityConfig

if TYPE_CHECKING:
    from inferential.config.loading import load_config
    from inferential.config.problems import ConfigError
    from inferential.config.watcher import ConfigWatcher

__all__ = [
    "BatchConfig",
    "ClientDefaults",
    "ClientEntry",
    "ClientsConfig",
    "ConfigError",
    "ConfigWatcher",
    "DeadlineAwareConfig",
    "InferentialConfig",
    "MetricsConfig",
    "ModelConfig",
    "ModelsConfig",
    "ObservationConfig",
    "ResponseTrackingConfig",
    "SchedulingConfig",
    "SecurityConfig",
    "ServerConfig",
    "SloAwareConfig",
    "TieredConfig",
    "TransportConfig",
    "load_config",
]

_LATER = {
    "ConfigError": "inferential.config.problems",
    "ConfigWatcher": "inferential.config.watcher",
    "load_config": "inferential.config.loading",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'inferential.config' has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
