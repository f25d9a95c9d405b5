"""Exports traces and metrics of a running server to OpenTelemetry, by OTLP over HTTP.

`traces` makes the spans, `prometheus` counts. What the SDK reads from the environment
(OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER, OTEL_BSP_*, certificates) applies here too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from inferential.wall_clock import wall_ns

logger: logging.Logger = logging.getLogger("inferential.telemetry")

_TIMEOUT_S = 3.0  # of one export
END_S = 4.0
"""What a collector that does not answer may hold up the end of the server."""
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
        """Exports what is left, for `END_S` at most; then what a collector has not taken is dropped, and logged."""
        if self._exporting is not None:
            self._exporting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._exporting
        ends = [] if self._metrics is None else [self._metrics.last()]
        if self._provider is not None:
            ends.append(self._provider.shutdown)
        if not all(await asyncio.gather(*map(_done_in_time, ends))):
            logger.warning("%s does not answer: the newest traces and metrics are lost", self.address)


class _MetricsExport:
    """Hands the families that Prometheus would scrape to an exporter of the SDK, at an interval.

    The SDK's own instruments would cost each request tens of microseconds; these are counted already.
    """

    def __init__(self, server: Server, resource: Resource, exporter: otel.MetricExporter) -> None:
        self._families = Exporter(server)
        self._resource = resource
        self._exporter = exporter
        self._started_ns = wall_ns()

    async def run(self, interval_s: float) -> None:
        """Exports until it is cancelled. The exporter logs its failures, and what it missed is in the next: sums are
        cumulative."""
        while True:
            await asyncio.sleep(interval_s)
            await self._export()

    def last(self) -> Callable[[], None]:
        """Returns what exports the present state, and nothing after it; it may be called in any thread."""
        data = self._data(list(self._converted()))

        def export() -> None:
            self._exporter.export(data)
            self._exporter.shutdown()

        return export

    async def _export(self) -> None:
        metrics = []
        for metric in self._converted():
            metrics.append(metric)
            await asyncio.sleep(0)  # robots are served between one and the next
        await asyncio.to_thread(self._exporter.export, self._data(metrics))

    def _converted(self) -> Iterator[otel.Metric]:
        return converted(self._families.families(), self._started_ns, wall_ns())

    def _data(self, metrics: Sequence[otel.Metric]) -> otel.MetricsData:
        scope = otel.ScopeMetrics(InstrumentationScope("inferential", version("inferential")), metrics, "")
        return otel.MetricsData([otel.ResourceMetrics(self._resource, [scope], "")])


async def _done_in_time(work: Callable[[], object]) -> bool:
    """Runs work in a thread that does not hold up the process's end; returns whether it was done within `END_S`."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def run() -> None:
        try:
            work()
        finally:
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="otlp-end", daemon=True).start()
    try:
        async with asyncio.timeout(END_S):
            await done.wait()
    except TimeoutError:
        return False
    return True


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
