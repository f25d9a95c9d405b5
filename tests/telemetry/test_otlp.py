"""Traces and metrics that leave the server, read by OpenTelemetry's own definitions at a real HTTP receiver."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from inferential import AsyncConnection, LocalDispatcher, ModelFailed, RequestRejected, Server
from inferential.client.tracing import TracedAsyncModel
from inferential.config import InferentialConfig
from inferential.config.services import OtlpConfig
from inferential.telemetry import otlp
from inferential.telemetry.otlp import Telemetry, converted
from inferential.telemetry.prometheus import Exporter
from inferential.telemetry.traces import RequestTracer


class Collector:
    """Takes OTLP over HTTP, as a collector does."""

    def __init__(self) -> None:
        self.traces: list[ExportTraceServiceRequest] = []
        self.metrics: list[ExportMetricsServiceRequest] = []
        self.headers: dict[str, str] = {}
        taken = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                taken.headers = {name.lower(): value for name, value in self.headers.items()}
                if self.path == "/v1/traces":
                    taken.traces.append(ExportTraceServiceRequest.FromString(body))
                else:
                    assert self.path == "/v1/metrics"
                    taken.metrics.append(ExportMetricsServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                """Keeps quiet."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def spans(self) -> list[Any]:
        return [
            span
            for reported in self.traces
            for resource in reported.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@pytest.fixture
def collector() -> Iterator[Collector]:
    taking = Collector()
    yield taking
    taking.close()


class Memory:
    """A provider of spans, and the spans that ended."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]


class Arm:
    """Batches; fails where the test says so, the first time or always."""

    max_batch_size = 4

    def __init__(self) -> None:
        self.failures = 0

    def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
        if any("fail" in observation for observation in observations):
            self.failures += 1
            if self.failures == 1 or any(observation["fail"] == "always" for observation in observations):
                raise ValueError("no cup")
        return [observation["state"] for observation in observations]


@asynccontextmanager
async def serving(**scheduling: Any) -> AsyncIterator[Server]:
    config = InferentialConfig(server={"drain_timeout_s": 0.0}, scheduling=scheduling)
    async with Server("tcp://127.0.0.1:0", config=config, dispatcher=LocalDispatcher({"arm": Arm()})) as server:
        yield server


def parent_of(span: ReadableSpan) -> int:
    assert span.parent is not None
    return span.parent.span_id


def id_of(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.span_id


async def test_a_request_is_one_trace_from_the_robot_to_the_model_and_back() -> None:
    robot, fleet = Memory(), Memory()
    async with serving() as server, AsyncConnection(server.address) as connection:
        RequestTracer(server, fleet.provider)
        arm = TracedAsyncModel(connection.model("arm"), robot.provider)
        result = await arm.infer(60_000, state=np.zeros(3, np.float32))
        assert result is not None
    [observe] = robot.named("observe arm")
    [infer], [queue] = fleet.named("infer arm"), fleet.named("queue")
    [batch], [model] = fleet.named("batch arm"), fleet.named("model arm")
    assert len({span.get_span_context().trace_id for span in (observe, infer, queue, batch, model)}) == 1
    assert parent_of(infer) == id_of(observe)
    assert parent_of(queue) == parent_of(batch) == id_of(infer)
    assert parent_of(model) == id_of(batch)
    assert infer.attributes is not None
    assert infer.attributes["inferential.outcome"] == "answered"
    assert infer.attributes["inferential.deadline_met"] is True
    assert infer.attributes["inferential.request.id"] == str(result.request_id)
    assert infer.attributes["inferential.client.id"] == connection.client_id
    assert observe.start_time <= infer.start_time <= batch.start_time <= model.start_time
    assert model.end_time <= batch.end_time
    assert infer.end_time <= observe.end_time


async def test_rows_of_one_batch_have_its_id_and_linked_to_the_first() -> None:
    fleet = Memory()
    async with serving(
        strategy="batch_optimized", batch_optimized={"max_batch_size": 3, "max_wait_ms": 5000}
    ) as server:
        RequestTracer(server, fleet.provider)
        async with AsyncConnection(server.address) as connection:
            handles = [connection.model("arm", queue="all") for _ in range(3)]
            state = np.zeros(3, np.float32)
            results = await asyncio.gather(*(handle.infer(60_000, state=state) for handle in handles))
            assert all(result is not None for result in results)
    batches = fleet.named("batch arm")
    assert [span.attributes["inferential.batch.size"] for span in batches if span.attributes] == [3, 3, 3]
    assert {span.attributes["inferential.batch.id"] for span in batches if span.attributes} == {
        f"{id_of(batches[0]):016x}"
    }
    assert [[link.context.span_id for link in span.links] for span in batches] == [
        [],
        [id_of(batches[0])],
        [id_of(batches[0])],
    ]


async def test_each_attempt_of_a_request_has_its_span() -> None:
    fleet = Memory()
    async with serving(max_retries=1) as server, AsyncConnection(server.address) as connection:
        RequestTracer(server, fleet.provider)
        assert await connection.model("arm").infer(60_000, state=np.zeros(1), fail="once") is not None
    first, second = fleet.named("batch arm")
    [infer] = fleet.named("infer arm")
    assert parent_of(first) == parent_of(second) == id_of(infer)
    assert first.end_time <= second.start_time
    assert (first.status.status_code, second.status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)
    assert infer.attributes is not None
    assert infer.attributes["inferential.retries"] == 1
    assert len(fleet.named("model arm")) == 1


async def test_what_failed_or_was_never_run_says_why() -> None:
    robot, fleet = Memory(), Memory()
    async with serving() as server, AsyncConnection(server.address) as connection:
        RequestTracer(server, fleet.provider)
        arm = TracedAsyncModel(connection.model("arm"), robot.provider)
        await arm.observe(state=np.zeros(1), fail="always")
        with pytest.raises(ModelFailed):
            await arm.get_result(60_000)
        await server.drain()
        with pytest.raises(RequestRejected):
            await arm.infer(60_000, state=np.zeros(1))
    failed, rejected = fleet.named("infer arm")
    assert failed.status.status_code is rejected.status.status_code is StatusCode.ERROR
    assert "no cup" in str(failed.status.description)
    assert rejected.status.description == "the server is draining"
    assert rejected.attributes is not None
    assert rejected.attributes["inferential.outcome"] == "rejected"
    queues = fleet.named("queue")
    assert [parent_of(span) for span in queues] == [id_of(failed), id_of(rejected)]
    assert len(fleet.named("batch arm")) == 1
    assert [span.status.status_code for span in robot.named("observe arm")] == [StatusCode.ERROR] * 2


async def test_a_robot_that_is_not_sampled_costs_no_spans() -> None:
    fleet = Memory()
    async with serving() as server, AsyncConnection(server.address) as connection:
        RequestTracer(server, fleet.provider)
        not_sampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
        await connection.model("arm").infer(60_000, state=np.zeros(1), traceparent=not_sampled)
    assert fleet.exporter.get_finished_spans() == ()


async def test_what_no_robot_took_ends_with_the_next_that_is_taken() -> None:
    robot = Memory()
    async with serving() as server, AsyncConnection(server.address) as connection:
        arm = TracedAsyncModel(connection.model("arm"), robot.provider)
        for _ in range(3):
            last = await arm.observe(state=np.zeros(1))
        while (result := await arm.get_result(60_000)) is not None and result.request_id != last:
            pass
        assert result is not None
        assert len(robot.named("observe arm")) == 3
        await arm.observe(state=np.zeros(1))
        arm.close()
    assert len(robot.named("observe arm")) == 4
    with pytest.raises(ConnectionError):
        await arm.observe(state=np.zeros(1))
    assert robot.named("observe arm")[-1].status.status_code is StatusCode.ERROR


async def test_a_collector_gets_traces_and_metrics(collector: Collector) -> None:
    config = OtlpConfig(endpoint=collector.endpoint, headers={"api-key": "s3cret"}, service_name="lab")
    async with serving() as server, Telemetry(server, config), AsyncConnection(server.address) as connection:
        for _ in range(5):
            await connection.model("arm").infer(60_000, state=np.zeros(3, np.float32))
    assert collector.headers["api-key"] == "s3cret"
    assert sorted(span.name for span in collector.spans()) == sorted(
        ["infer arm", "queue", "batch arm", "model arm"] * 5
    )
    resource = collector.traces[0].resource_spans[0].resource
    reported = {one.key: one.value.string_value for one in resource.attributes}
    assert reported["service.name"] == "lab"
    [metrics] = collector.metrics
    by_name = {one.name: one for one in metrics.resource_metrics[0].scope_metrics[0].metrics}
    [served] = by_name["inferential_responses_served"].sum.data_points
    assert served.as_double == 5
    [latency] = by_name["inferential_e2e_latency_seconds"].histogram.data_points
    assert by_name["inferential_e2e_latency_seconds"].unit == "s"
    assert latency.count == 5 == sum(latency.bucket_counts)
    assert len(latency.explicit_bounds) + 1 == len(latency.bucket_counts)
    assert {one.key: one.value.string_value for one in latency.attributes} == {"model": "arm"}
    assert by_name["inferential_clients"].gauge.data_points


async def test_metrics_are_sent_again_and_again(collector: Collector) -> None:
    config = OtlpConfig(endpoint=collector.endpoint, traces=False, metrics_interval_s=0.05)
    async with serving() as server, Telemetry(server, config):
        async with asyncio.timeout(60):
            while len(collector.metrics) < 3:  # noqa: ASYNC110 (nothing tells of it)
                await asyncio.sleep(0.02)
    assert collector.traces == []


async def test_a_collector_that_is_away_harms_no_request(caplog: pytest.LogCaptureFixture) -> None:
    nowhere = OtlpConfig(endpoint="http://127.0.0.1:9")
    async with (
        serving() as server,
        AsyncConnection(server.address) as connection,
        Telemetry(server, nowhere),
    ):
        assert await connection.model("arm").infer(60_000, state=np.zeros(1)) is not None
    assert any("opentelemetry" in record.name for record in caplog.records)


async def test_a_collector_that_never_answers_holds_up_the_end_for_a_while_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = threading.Event()

    class Silent(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            answers.wait(60)
            return SpanExportResult.FAILURE

    monkeypatch.setattr(otlp, "END_S", 0.05)
    config = OtlpConfig(endpoint="http://127.0.0.1:9", metrics=False)
    async with serving() as server, AsyncConnection(server.address) as connection:
        async with Telemetry(server, config, spans=Silent()):
            assert await connection.model("arm").infer(60_000, state=np.zeros(1)) is not None
        assert not answers.is_set()
    answers.set()
    assert "does not answer: the newest traces and metrics are lost" in caplog.text


async def test_all_that_prometheus_sees_is_converted() -> None:
    async with serving() as server, AsyncConnection(server.address) as connection:
        exporter = Exporter(server)
        await connection.model("arm").infer(60_000, state=np.zeros(1))
        families = list(exporter.families())
        metrics = list(converted(families, 1, 2))
    assert [one.name for one in metrics] == [family.name for family in families if family.samples]
    points = sum(len(metric.data.data_points) for metric in metrics)
    assert points == sum(
        not sample.name.endswith(("_bucket", "_count")) for family in families for sample in family.samples
    )


async def test_the_command_line_exports_what_it_served_until_its_end(collector: Collector, tmp_path: Path) -> None:
    (tmp_path / "policies.py").write_text("def echo(observation):\n    return observation\n")
    options = ("--model", "echo=policies:echo", "--bind", "tcp://127.0.0.1:0", "--otlp", collector.endpoint)
    serve = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "inferential.cli.main", "serve", *options, cwd=tmp_path, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert serve.stdout is not None
        address = (await serve.stdout.readline()).decode().split()[2].rstrip(",")
        assert (await serve.stdout.readline()).decode() == f"traces and metrics to {collector.endpoint}\n"
        async with AsyncConnection(address) as connection:
            assert await connection.model("echo").infer(60_000, state=np.zeros(1)) is not None
        serve.send_signal(signal.SIGINT)
        assert await serve.wait() == 0
    finally:
        if serve.returncode is None:
            serve.kill()
    assert sorted(span.name for span in collector.spans()) == ["batch echo", "infer echo", "model echo", "queue"]
    assert collector.metrics


def test_an_endpoint_is_a_url() -> None:
    with pytest.raises(ValueError, match="endpoint"):
        OtlpConfig(endpoint="localhost:4318")
