"""What a server makes of a robot that plays chunks: what an answer adds, by the way in which it plays them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from inferential.proto import PROTOCOL_VERSION
from inferential.scheduler import InferenceRequest
from inferential.scheduler.time.robot_time import ChunkTime
from inferential.server.chunk_times import adds_s, chunk_time
from inferential.server.ingress import IncomingRequest
from inferential.tracking.action_horizon import ActionHorizonTracker

NOW = 50.0


@pytest.fixture
def ask() -> Callable[..., InferenceRequest]:
    """Returns the request of a robot with so many steps left, of chunks of 25 actions at 50 Hz."""
    queues = ActionHorizonTracker()
    queues.on_answer("other", "m", 25, 0.0)

    def made(steps: int, *, renews: bool | None = True, plays_by_time: bool = False) -> InferenceRequest:
        queues.on_request("a", "m", steps, 0.02, NOW)
        request = InferenceRequest("a", "m", b"", b"", b"", NOW, 0.0, steps, 0.1, 50.0, 1)
        request.protocol_version = PROTOCOL_VERSION
        incoming = IncomingRequest(request, 0.0, None, None, renews, plays_by_time=plays_by_time)
        request.chunk = chunk_time(queues, incoming)
        return request

    return made


def chunk_of(request: InferenceRequest) -> ChunkTime:
    assert request.chunk is not None
    return request.chunk


def test_by_time_the_actions_of_a_chunk_end_whenever_it_comes(ask: Callable[..., InferenceRequest]) -> None:
    request = ask(10, plays_by_time=True)
    chunk = chunk_of(request)
    assert (chunk.covers_until, chunk.most_s) == (pytest.approx(NOW + 0.5), math.inf)
    assert adds_s(request) is None
    assert chunk.plays_until(NOW + 0.4) == pytest.approx(NOW + 0.5)


def test_a_robot_that_goes_on_plays_what_it_has_not_executed_however_late(ask: Callable[..., InferenceRequest]) -> None:
    request = ask(10)
    chunk = chunk_of(request)
    assert (chunk.covers_until, chunk.most_s) == (math.inf, pytest.approx(0.3))
    assert chunk.gained_s(NOW + 7.0) == pytest.approx(0.3)
    assert adds_s(request) == pytest.approx(0.3)
    assert chunk.plays_until(NOW + 0.4) == pytest.approx(NOW + 0.7)
    assert chunk.plays_until(NOW + 0.1) == pytest.approx(NOW + 0.5)


def test_of_a_robot_that_does_not_say_how_it_plays_chunks_nothing_is_taken_for_certain(
    ask: Callable[..., InferenceRequest],
) -> None:
    request = ask(10, renews=None)
    chunk = chunk_of(request)
    assert (chunk.covers_until, chunk.renews, chunk.step_s) == (math.inf, False, 0.0)
    assert adds_s(request) is None
