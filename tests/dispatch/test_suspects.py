"""What a lost replica means for the requests that were there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from inferential.dispatch.outcomes import RemoteModelError, ReplicaLost
from inferential.dispatch.suspects import after_loss, run_apart
from inferential.scheduler.request import InferenceRequest

MakeRequest = Callable[..., InferenceRequest]


def test_a_second_loss_under_a_request_is_the_models_failure(request_of: MakeRequest) -> None:
    request = request_of()
    error = ReplicaLost("replica a ended", ran=True)
    assert after_loss(request, error) is error
    outcome = after_loss(request, error)
    assert isinstance(outcome, RemoteModelError)
    assert outcome.cause == "ReplicaLost"


def test_a_request_that_did_not_run_there_is_not_blamed(request_of: MakeRequest) -> None:
    request = request_of()
    for _ in range(5):
        assert isinstance(after_loss(request, ReplicaLost("gone")), ReplicaLost)
    assert request.replicas_lost == 0


def test_a_request_that_a_model_with_state_may_have_begun_with_is_not_run_again(request_of: MakeRequest) -> None:
    request = request_of()
    request.keeps_state = True
    outcome = after_loss(request, ReplicaLost("replica r1 ended its connection", ran=True))
    assert isinstance(outcome, RemoteModelError)
    assert "replica r1 ended its connection while it ran this observation, which is not run again" in str(outcome)


async def test_suspects_go_alone_and_after_the_others(request_of: MakeRequest) -> None:
    requests = [request_of(request_id=number) for number in range(5)]
    requests[1].replicas_lost = requests[3].replicas_lost = 1
    calls: list[list[int]] = []

    async def run(some: Sequence[InferenceRequest]) -> Sequence[Any]:
        calls.append([request.request_id for request in some])
        return [request.request_id for request in some]

    assert await run_apart(requests, run) == [0, 1, 2, 3, 4]
    assert calls == [[0, 2, 4], [1], [3]]
    calls.clear()
    assert await run_apart(requests[:1], run) == [0]
    assert calls == [[0]]
