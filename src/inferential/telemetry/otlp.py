"""Exports traces and metrics of a running server to OpenTelemetry, by OTLP over HTTP.

`traces` makes the spans, `prometheus` counts. What the SDK reads from the environment
(OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER, OTEL_BSP_*, certificates) applies here too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import ClassVar

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import export as otel
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import Metric

from inferential.config.services import OtlpConfig, ServiceConfig
from inferential.server import Server
from inferential.server.service import Service
from inferential.telemetry.prometheus import Exporter
from inferential.telemetry.traces import RequestTracer

_TIMEOUT_S = 3.0  # of one export; what a collector that is away may hold up the end of the server
_UNITS = {"_seconds": "s", "_bytes": "By"}


class Telemetry(Service):
    """Exports a server's traces and metrics while it is entered; a context manager.

    Args:
        server: a running server, on the event loop that starts this.
        config: where to export to, and what.
        spans: takes spans in place of the exporter that `config` asks for.
        metrics: takes metrics in place of the exporter that `config` asks for.
    """

    Config: ClassVar[type[ServiceConfig]] = OtlpConfig
    outlives_server: ClassVar[bool] = True  # the last requests are exported too

    def __init__(
        self,
        server: Server,
        config: OtlpConfig,
        spans: SpanExporter | None = None,
        metrics: otel.MetricExporter | None = None,
    ) -> None:
        super().__init__(server, config)
        resource = Resource.create(
            {
                "service.name": config.service_name,
                "service.version": version("inferential"),
                "service.instance.id": f"{os.uname().nodename}:{os.getpid()}",
            }
        )
        headers = {name: value.get_secret_value() for name, value in config.headers.items()}
        base = config.endpoint.rstrip("/")
        if spans is None and config.traces:
            spans = OTLPSpanExporter(f"{base}/v1/traces", headers=headers, timeout=_TIMEOUT_S)
        if metrics is None and config.metrics:
            metrics = OTLPMetricExporter(f"{base}/v1/metrics", headers=headers, timeout=_TIMEOUT_S)
        self._provider: TracerProvider | None = None
        if spans is not None:
            # OTEL_TRACES_SAMPLER outranks the ratio: the SDK reads it where it is given no sampler.
            from_environment = "OTEL_TRACES_SAMPLER" in os.environ
            sampler = None if from_environment else ParentBased(TraceIdRatioBased(config.sample_ratio))
            self._provider = TracerProvider(sampler, resource, shutdown_on_exit=False)
            self._provider.add_span_processor(BatchSpanProcessor(spans))
            RequestTracer(server, self._provider)
        self._metrics = None if metrics is None else _MetricsExport(server, resource, metrics)
        self._exporting: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """The collector's URL."""
        return str(self._config.endpoint)

    def announcement(self) -> str:
        """Returns where it exports to."""
        return f"traces and metrics to {self.address}"

    async def start(self) -> None:
        """Starts to export metrics; traces are recorded from the constructor on."""
        if self._metrics is not None:
            self._exporting = asyncio.create_task(self._metrics.run(self._config.metrics_interval_s))

    async def stop(self) -> None:
        """Exports what is left; takes some seconds where the collector is away."""
        if self._exporting is not None:
            self._exporting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._exporting
        ends = [] if self._metrics is None else [self._metrics.close()]
        if self._provider is not None:
            ends.append(asyncio.to_thread(self._provider.shutdown))
        await asyncio.gather(*ends)


class _MetricsExport:
    """Hands the families that Prometheus would scrape to an exporter of the SDK, at an interval.

    The SDK's own instruments would cost each request tens of microseconds; these are counted already.
    """

    def __init__(self, server: Server, resource: Resource, exporter: otel.MetricExporter) -> None:
        self._families = Exporter(server)
        self._resource = resource
        self._exporter = exporter
        self._started_ns = time.time_ns()

    async def run(self, interval_s: float) -> None:
        """Exports until it is cancelled. The exporter logs its failures, and what it missed is in the next: sums are
        cumulative."""
        while True:
            await asyncio.sleep(interval_s)
            await self._export()

    async def close(self) -> None:
        """Exports once more, and no more."""
        await self._export()
        await asyncio.to_thread(self._exporter.shutdown)

    async def _export(self) -> None:
        metrics = list(converted(self._families.families(), self._started_ns, time.time_ns()))
        scope = otel.ScopeMetrics(InstrumentationScope("inferential", version("inferential")), metrics, "")
        data = otel.MetricsData([otel.ResourceMetrics(self._resource, [scope], "")])
        await asyncio.to_thread(self._exporter.export, data)


def converted(families: Iterable[Metric], started_ns: int, now_ns: int) -> Iterator[otel.Metric]:
    """Yields families of Prometheus as metrics of OpenTelemetry, by the same names (OpenTelemetry specification,
    "Prometheus and OpenMetrics Compatibility")."""
    for family in families:
        unit = next((unit for suffix, unit in _UNITS.items() if family.name.endswith(suffix)), "1")
        points: otel.Sum | otel.Gauge | otel.Histogram
        if family.type == "histogram":
            points = otel.Histogram(list(_histograms(family, started_ns, now_ns)), _CUMULATIVE)
        else:
            numbers = [
                otel.NumberDataPoint(sample.labels, started_ns, now_ns, float(sample.value))
                for sample in family.samples
            ]
            points = otel.Sum(numbers, _CUMULATIVE, True) if family.type == "counter" else otel.Gauge(numbers)
        if points.data_points:
            yield otel.Metric(family.name, family.documentation, unit, points)


_CUMULATIVE = otel.AggregationTemporality.CUMULATIVE


def _histograms(family: Metric, started_ns: int, now_ns: int) -> Iterator[otel.HistogramDataPoint]:
    """Yields a family's histograms; its samples come one histogram after another: buckets, count and sum."""
    bounds: list[float] = []
    counts: list[int] = []
    for sample in family.samples:
        if sample.name.endswith("_bucket"):
            bounds.append(float(sample.labels["le"]))
            counts.append(int(sample.value))
        elif sample.name.endswith("_sum"):
            each = [count - before for before, count in zip([0, *counts], counts, strict=False)]
            yield otel.HistogramDataPoint(
                attributes=sample.labels,
                start_time_unix_nano=started_ns,
                time_unix_nano=now_ns,
                count=counts[-1],
                sum=sample.value,
                bucket_counts=each,
                explicit_bounds=bounds[:-1],
                min=float("nan"),
                max=float("nan"),
            )
            bounds, counts = [], []
