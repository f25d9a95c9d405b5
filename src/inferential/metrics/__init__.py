"""Metrics: declared once, recorded by the server and its users, read by programs and exporters."""

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
