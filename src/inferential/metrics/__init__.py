"""What happened, in numbers: recorded by the server, asked for by people and programs."""

from inferential.metrics.callbacks import CallbackRegistry, MetricCallback
from inferential.metrics.collector import MetricsCollector, MetricSnapshot
from inferential.metrics.store import MetricPoint, MetricSeries, MetricStats

__all__ = [
    "CallbackRegistry",
    "MetricCallback",
    "MetricPoint",
    "MetricSeries",
    "MetricSnapshot",
    "MetricStats",
    "MetricsCollector",
]
