"""The configuration: its schema, how it is loaded, and how it is watched."""

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
    TieredConfig,
    TransportConfig,
)

__all__ = [
    "BatchConfig",
    "ClientDefaults",
    "ClientEntry",
    "ClientsConfig",
    "DeadlineAwareConfig",
    "InferentialConfig",
    "MetricsConfig",
    "ModelConfig",
    "ModelsConfig",
    "ObservationConfig",
    "ResponseTrackingConfig",
    "SchedulingConfig",
    "ServerConfig",
    "TieredConfig",
    "TransportConfig",
]
