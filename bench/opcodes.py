"""How many bytecodes codec, scheduler and a whole server run for one request: exact where wall time is noise.

The counts are the same in every run of one Python release; they see what Python runs, not what C does.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np

from bench.served import served
from inferential.client.encoding import EncodingRules
from inferential.client.handle import Handle
from inferential.client.session import Session
from inferential.config import InferentialConfig
from inferential.observation import ObservationAssembler
from inferential.proto.cache.response_reader import ResponseReader
from inferential.proto.messages import ResponseTiming, content_of, write_response
from inferential.scheduler import create_scheduler
from inferential.scheduler.engine import Capacity, Engine
from inferential.scheduler.request import InferenceRequest

_STATE = np.zeros(16, dtype=np.float32)
_TIMING = ResponseTiming(0.1, 1.0, 1.2, 8)


def run(seconds: float) -> dict[str, Any]:
    """Bytecodes of each step; `seconds` is not asked for."""
    counts = {"observe": _observe(), "decode": _decode(), "write_response": _write(), "read_response": _read()}
    for strategy in ("deadline_aware", "batch_optimized", "slo_aware"):
        counts[f"straight, {strategy}"] = _schedule(strategy, waiting=0)
        counts[f"queued behind 1,000, {strategy}"] = _schedule(strategy, waiting=1000)
    counts |= served()
    return {"python": ".".join(platform.python_version_tuple()[:2]), "bytecodes": counts}


def bytecodes(work: Callable[[], Any]) -> int:
    """How many `work` runs, after a first time that fills what is remembered."""
    work()
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def _session() -> tuple[Session, Any]:
    session = Session("robot-1", "arm")
    return session, session.mailbox(Handle("policy", 50.0, 1, "all", EncodingRules(None)))


def _frames(session: Session, mailbox: Any) -> tuple[bytes, Any]:
    _, (_, envelope, payload) = session.observe(
        mailbox,
        content_of({"state": _STATE}),
        {},
        now=time.monotonic(),
        timestamp_ns=time.time_ns(),
    )
    return envelope, payload


def _observe() -> int:
    session, mailbox = _session()
    return bytecodes(lambda: _frames(session, mailbox))


def _decode() -> int:
    assembler = ObservationAssembler(InferentialConfig().observations)
    envelope, payload = _frames(*_session())
    return bytecodes(lambda: assembler.decode(envelope, payload, time.monotonic()))


def _response() -> tuple[bytes, Any]:
    return write_response(
        client_id="robot-1",
        model_id="policy",
        response_id="a",
        timestamp_ns=time.time_ns(),
        request_id=7,
        values={"actions": _STATE},
        timing=_TIMING,
    )


def _write() -> int:
    return bytecodes(_response)


def _read() -> int:
    envelope, payload = _response()
    reader = ResponseReader()
    return bytecodes(lambda: reader.read(envelope, payload))


def _schedule(strategy: str, waiting: int) -> int:
    """One request in and out again; those that wait are of a model that takes one call, and runs it."""
    config = InferentialConfig(scheduling={"strategy": strategy, "max_queue_size": 10_000}).scheduling
    config.batch_optimized.max_batch_size = 1
    capacity = Capacity(1, 1)
    engine = Engine(config, create_scheduler(config), lambda model_id: capacity)

    def offer(client_id: str, now: float) -> None:
        engine.offer(InferenceRequest(client_id, "policy", b"", b"", b"", now, 0.0, None, 0.0, 50.0, 1), now)

    for number in range(waiting + 1 if waiting else 0):
        offer(f"waiting-{number}", 1.0 + number * 1e-6)
    running = engine.work(2.0)

    def once() -> None:
        nonlocal running
        offer("robot-1", 2.0)
        if running:
            engine.finished(running[0], 2.0, measured=False)
        running = engine.work(2.0)
        if not waiting:
            engine.finished(running[0], 2.0, measured=False)
            running = []

    return bytecodes(once)
