"""Episodes: what `model.reset()` drops on the robot, and what the server learns of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from inferential import RequestSuperseded, Result

WAIT_MS = 60_000
Connect = Callable[..., Any]


def test_nothing_of_the_last_episode_is_answered_in_the_next(talk: Any) -> None:
    mailbox = talk.mailbox(queue="all")
    read_too_late, on_its_way = talk.observe(mailbox, 1), talk.observe(mailbox, 2)
    talk.answer(read_too_late)
    talk.session.reset("m")
    talk.answer(on_its_way)
    assert mailbox.take() is None
    talk.answer(talk.observe(mailbox, 3))
    outcome = mailbox.take()
    assert isinstance(outcome, Result)
    assert int(outcome["actions"]) == 3
    assert talk.session.stats.unmatched == 1


def test_each_observation_states_its_episode(talk: Any) -> None:
    mailbox = talk.mailbox()
    assert talk.observe(mailbox).message.episode == 0
    for episode in (1, 2):
        talk.session.reset("m")
        assert [talk.observe(mailbox).message.episode for _ in range(2)] == [episode, episode]


def test_all_handles_of_a_model_are_in_one_episode_and_those_of_others_are_not(talk: Any) -> None:
    before, other = talk.mailbox(), talk.mailbox("other")
    talk.session.reset("m")
    after = talk.mailbox(queue="all")
    assert [talk.observe(mailbox).message.episode for mailbox in (before, after, other)] == [1, 1, 0]


def test_an_observation_that_waits_to_be_sent_is_not_sent_after_its_episode(talk: Any) -> None:
    mailbox = talk.mailbox()
    talk.hold(mailbox, 1)
    talk.session.reset("m")
    assert not talk.session.has_unsent()
    kept = talk.hold(mailbox, 2)
    assert talk.session.next_unsent(0.0)[0] == kept.request_id


def test_a_kept_request_ends_superseded(talk: Any) -> None:
    mailbox = talk.mailbox()
    seen = talk.observe(mailbox, keep=True)
    talk.session.reset("m")
    outcome = mailbox.take_kept(seen.request_id)
    assert isinstance(outcome, RequestSuperseded)
    assert (outcome.request_id, outcome.model_id) == (seen.request_id, "m")
    assert "episode" in outcome.reason


def test_a_robot_that_resets_often_holds_no_more_than_another(talk: Any) -> None:
    mailbox = talk.mailbox(queue="all")
    for _ in range(50):
        talk.observe(mailbox, 1)
        talk.hold(mailbox, 2)
        talk.session.reset("m")
    sizes = talk.session.sizes()
    assert (sizes.open_requests, sizes.unsent, len(mailbox.open), len(mailbox.unread)) == (0, 0, 0, 0)


@pytest.mark.usefixtures("patient")
async def test_a_reset_reaches_the_server_and_ends_an_infer_that_waits(
    connect: Connect, peer: Any, result_for: Any
) -> None:
    model = connect().model("m")
    waiting = asyncio.create_task(model.infer(WAIT_MS, n=np.array(1)))
    old = await peer.next()
    await model.reset()
    with pytest.raises(RequestSuperseded, match="episode"):
        await waiting
    await model.observe(n=np.array(2))
    new = await peer.next()
    peer.send(old, result_for(old))
    peer.send(new, result_for(new))
    assert int((await model.get_result(WAIT_MS))["actions"]) == 2
    assert (old.message.episode, new.message.episode) == (0, 1)
