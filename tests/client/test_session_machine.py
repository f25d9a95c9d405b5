"""A session driven at random: each request ends at most once, in its own mailbox, and memory is bounded."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import hypothesis.strategies as st
import numpy as np
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from inferential import InferenceError, RequestSuperseded, Result
from inferential.client import mailbox as mailbox_module
from inferential.client import session as session_module
from inferential.client.encoding import EncodingRules
from inferential.client.handle import Handle
from inferential.client.mailbox import Mailbox
from inferential.client.session import Session
from inferential.proto import ModelResponse, Observation
from inferential.proto.messages import ResponseTiming, content_of, write_refusal, write_response

LIMIT = 4
TIMING = ResponseTiming(1.0, 2.0, 3.0, 1)
STATUSES = ["REJECTED", "EXPIRED", "SUPERSEDED", "UNKNOWN_MODEL", "INVALID_OBSERVATION", "MODEL_FAILED"]


class SessionMachine(RuleBasedStateMachine):
    """The server is a set of ids that it has seen; it answers any of them, at any time, as often as it likes."""

    mailboxes = Bundle("mailboxes")

    def __init__(self) -> None:
        super().__init__()
        self.limits = ExitStack()
        self.limits.enter_context(patch.multiple(session_module, MAX_OPEN=LIMIT, MAX_UNSENT=LIMIT))
        self.limits.enter_context(patch.multiple(mailbox_module, MAX_UNREAD=LIMIT))
        self.session = Session("robot", "arm")
        self.handles: list[Mailbox] = []
        self.owner: dict[int, Mailbox] = {}
        self.kept: set[int] = set()
        self.abandoned: set[int] = set()
        self.seen: list[int] = []
        self.ended: list[int] = []

    def teardown(self) -> None:
        self.limits.close()

    @initialize(target=mailboxes)
    def first(self) -> Mailbox:
        return self.another("m", "latest")

    @rule(target=mailboxes, model_id=st.sampled_from("mn"), queue=st.sampled_from(["latest", "all"]))
    def another(self, model_id: str, queue: Any) -> Mailbox:
        mailbox = self.session.mailbox(Handle(model_id, 50.0, 1, queue, EncodingRules(None)))
        self.handles.append(mailbox)
        return mailbox

    @rule(mailbox=mailboxes, keep=st.booleans(), reachable=st.booleans())
    def observe(self, mailbox: Mailbox, keep: bool, reachable: bool) -> None:
        request_id, frames = self.session.observe(
            mailbox,
            content_of({"n": np.zeros(1)}),
            {},
            now=0.0,
            timestamp_ns=1,
            keep=keep,
        )
        assert request_id not in self.owner
        self.owner[request_id] = mailbox
        if keep:
            self.kept.add(request_id)
        if reachable and not self.session.has_unsent():
            self.seen.append(request_id)
        else:
            self.session.hold(mailbox, request_id, frames)

    @rule()
    def reach_the_server(self) -> None:
        held: Counter[Any] = Counter()
        latest = {mailbox.unsent_id for mailbox in self.handles if mailbox.handle.queue == "latest"} - {0}
        while (unsent := self.session.next_unsent(0.0)) is not None:
            request_id = Observation.FromString(unsent[1][1]).request_id
            assert request_id == unsent[0]
            assert request_id not in self.seen, "sent twice"
            assert request_id not in self.abandoned, "sent although no call waits"
            assert request_id not in self.ended, "sent although it had ended"
            queue = self.owner[request_id].handle.queue
            held[queue] += 1
            if queue == "latest":
                latest.remove(request_id)  # one of a handle at most
            self.seen.append(request_id)
            self.session.sent(request_id)
        assert not self.session.has_unsent()
        assert not latest
        assert max(held.values(), default=0) <= LIMIT

    @rule(data=st.data(), status=st.sampled_from(["OK", "OK", "OK", *STATUSES]), with_id=st.booleans())
    def answer(self, data: Any, status: str, with_id: bool) -> None:
        """Of a server of this line (`with_id`), or of the 1.x line, which sends no id and no error."""
        if not self.seen:
            return
        request_id = data.draw(st.sampled_from(self.seen))
        model_id = self.owner[request_id].handle.model_id
        if status == "OK" or not with_id:
            envelope, payload = write_response(
                client_id="robot",
                model_id=model_id,
                response_id=str(request_id),
                timestamp_ns=1,
                request_id=request_id if with_id else 0,
                values={"actions": np.zeros(1)},
                timing=TIMING,
            )
        else:
            payload = b""
            envelope = write_refusal(
                client_id="robot", model_id=model_id, request_id=request_id, status=status, reason="because"
            )
        self.session.receive(envelope, payload, 0.0)

    @rule(
        request_id=st.one_of(st.integers(0, 2**64 - 1), st.just(0)), model_id=st.sampled_from(["m", "n", "other", ""])
    )
    def stray(self, request_id: int, model_id: str) -> None:
        self.session.receive(ModelResponse(request_id=request_id, model_id=model_id).SerializeToString(), b"", 0.0)

    @rule(data=st.data())
    def abandon(self, data: Any) -> None:
        if not self.kept:
            return
        request_id = data.draw(st.sampled_from(sorted(self.kept)))
        self.kept.discard(request_id)
        self.abandoned.add(request_id)
        self.session.abandon(self.owner[request_id], request_id)

    @rule(mailbox=mailboxes)
    def take(self, mailbox: Mailbox) -> None:
        outcome = mailbox.take()
        if outcome is None:
            return
        assert not isinstance(outcome, RequestSuperseded)
        assert outcome.request_id not in self.kept | self.abandoned, "that is infer's"
        self.end(mailbox, outcome)

    @rule(data=st.data())
    def take_kept(self, data: Any) -> None:
        if not self.kept:
            return
        request_id = data.draw(st.sampled_from(sorted(self.kept)))
        mailbox = self.owner[request_id]
        outcome = mailbox.take_kept(request_id)
        if outcome is not None:
            assert outcome.request_id == request_id
            self.end(mailbox, outcome)
            assert mailbox.take_kept(request_id) is None

    def end(self, mailbox: Mailbox, outcome: Any) -> None:
        assert isinstance(outcome, Result | InferenceError)
        if outcome.request_id == 0:  # a stray answer of the 1.x line
            return
        assert self.owner[outcome.request_id] is mailbox, "another's answer"
        assert outcome.request_id not in self.ended, "ended twice"
        self.ended.append(outcome.request_id)

    @invariant()
    def open_requests_have_their_owner_and_nothing_else_has(self) -> None:
        opened = {request_id: mailbox for mailbox in self.handles for request_id in mailbox.open}
        assert opened.items() <= self.owner.items()
        assert len(opened) == sum(len(mailbox.open) for mailbox in self.handles) == self.session.sizes().open_requests
        assert not set(opened) & set(self.ended)
        assert not set(opened) & self.abandoned

    @invariant()
    def nothing_grows(self) -> None:
        assert self.session.sizes().unsent <= 2 * LIMIT
        for mailbox in self.handles:
            assert len(mailbox.open) <= LIMIT
            assert len(mailbox.unread) <= LIMIT

    @invariant()
    def every_observation_and_every_answer_is_counted_once(self) -> None:
        stats = self.session.stats
        assert stats.observed == len(self.owner)
        assert stats.replaced_unsent <= stats.superseded
        assert stats.dropped_unsent <= stats.refused


TestSession = SessionMachine.TestCase
TestSession.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
