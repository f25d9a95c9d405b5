"""Draws docs/images/chunks.png: how a robot plays chunks, step by step, and what it does while it has none.

The steps are those of a `ChunkRuntime`, with a made-up clock and a made-up network that is away for a while.

.venv/bin/python scripts/draw_chunks.py
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import pi, sin
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from inferential.client.chunks import ChunkRuntime
from inferential.sim.figures import COLOURS, new_figure, save_figure

IMAGES = Path(__file__).parents[1] / "docs" / "images"
RATE_HZ = 20.0
PERIOD_S = 1 / RATE_HZ
STEPS = 124
HORIZON = 20
HOLD_MS = 250.0
ROUND_TRIP_S = 0.2
AWAY_S = 1.75, 4.1
"""When the network is away: what is sent then is lost, but for the newest observation, which the link holds."""
_FOUND_S = 0.08  # until the robot knows that it is back
_HEARTBEAT_S = 1.0
_NOTHING = 1e-6


@dataclass(slots=True)
class Chunk:
    """A chunk that was played.

    Attributes:
        actions: its velocities.
        asked_at, came_at: when it was observed, and when it came, in seconds.
        played_from: the first action of it that was played.
    """

    actions: Any
    asked_at: float
    came_at: float
    played_from: int = 0

    def at(self, number: int) -> float:
        """Returns when an action is played, or would be."""
        return self.came_at + (number - self.played_from) * PERIOD_S


@dataclass(slots=True)
class Story:
    """What happened.

    Attributes:
        times, played: of each control step with an action.
        chunk_of: the number of the chunk in force, at each of them.
        kinds: "chunk", "blended" (in), "held" or "stopped", at each of them.
        chunks: in the order in which they came.
        lost_at, refreshed_at: when observations were made whose answer did not come.
    """

    times: list[float] = field(default_factory=list)
    played: list[float] = field(default_factory=list)
    chunk_of: list[int] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    lost_at: list[float] = field(default_factory=list)
    refreshed_at: list[float] = field(default_factory=list)

    def add(self, now: float, action: Any, kind: str) -> None:
        """Notes what was played in a control step."""
        velocity, place = map(float, action)
        chunk = self.chunks[-1]
        if kind == "chunk" and place.is_integer() and abs(velocity - chunk.actions[int(place)]) < _NOTHING:
            chunk.played_from = int(place) - round((now - chunk.came_at) / PERIOD_S)
        elif kind == "chunk":
            kind = "blended"
        self.times.append(now)
        self.played.append(velocity)
        self.chunk_of.append(len(self.chunks) - 1)
        self.kinds.append(kind)


class Answer(dict[str, Any]):
    """A result as far as a runtime looks at it."""

    execution_horizon = None
    made_by = ""
    timing = None  # of a server that does not say what it took: nothing is known of the network

    def __init__(self, request_id: int, actions: Any) -> None:
        super().__init__(actions=actions)
        self.request_id = request_id

    def applied(self) -> None:
        """The robot's figures are no part of the picture."""


class Policy:
    """A handle whose model gives a second of velocities, over the made-up network; what a runtime needs of `Model`."""

    model_id = "policy"
    serve_interval_ms = 0.0

    def __init__(self, story: Story) -> None:
        self.now = 0.0
        self._story = story
        self._asked: dict[int, float] = {}
        self._coming: list[tuple[float, int]] = []
        self._held = 0  # the newest request that the link holds

    @property
    def is_away(self) -> bool:
        """Whether the network is."""
        return AWAY_S[0] <= self.now < AWAY_S[1]

    def observe(self, **_: Any) -> int:
        """Sends an observation."""
        request_id = len(self._asked) + 1
        self._asked[request_id] = self.now
        comes_at = self.now + ROUND_TRIP_S
        if self.is_away:
            self._story.refreshed_at.append(self.now)
            self._held = request_id
        elif self.now < AWAY_S[0] < comes_at:
            self._story.lost_at.append(self.now)
        else:
            self._coming.append((comes_at, request_id))
        return request_id

    def get_result(self, timeout_ms: float) -> Answer | None:
        """Returns an answer that has come; None where there is none."""
        if self._held and not self.is_away:
            self._coming.append((AWAY_S[1] + _FOUND_S + ROUND_TRIP_S, self._held))
            self._story.refreshed_at.remove(self._asked[self._held])
            self._held = 0
        if not self._coming or self._coming[0][0] > self.now + 1e-9:
            return None
        _, request_id = self._coming.pop(0)
        asked_at = self._asked[request_id]
        offset = 0.06 * (-1) ** len(self._story.chunks)  # policies do not repeat themselves
        velocities = [0.55 + offset + 0.25 * sin(2 * pi * (asked_at + n * PERIOD_S) / 3) for n in range(HORIZON)]
        self._story.chunks.append(Chunk(velocities, asked_at, self.now))
        return Answer(request_id, np.stack([velocities, np.arange(HORIZON)], axis=1))  # and its number with each

    def heard_s_ago(self) -> float:
        """Returns for how long nothing was heard: the server gives a sign of life each second."""
        heard_at = AWAY_S[0] if self.is_away else self.now
        return self.now - heard_at // _HEARTBEAT_S * _HEARTBEAT_S

    def awaits(self, request_id: int) -> bool:
        """Returns that each answer may still come."""
        return True

    def nudge(self) -> None:
        """Nothing that the picture shows."""

    def never_wait(self) -> None:
        """It never does."""


def play() -> Story:
    """Returns what a runtime did."""
    story = Story()
    policy = Policy(story)
    model: Any = policy
    runtime = ChunkRuntime(model, RATE_HZ, hold_ms=HOLD_MS, on_starved="zero")
    stats = runtime.stats
    with mock.patch.object(time, "monotonic", side_effect=lambda: policy.now):
        for step in range(STEPS):
            policy.now = step * PERIOD_S
            starved, stopped = stats.starved_steps, stats.stopped_steps
            action = runtime.step({})
            if action is None:
                continue
            kind = "stopped" if stats.stopped_steps > stopped else "held" if stats.starved_steps > starved else "chunk"
            story.add(policy.now, action, kind)
    return story


def draw(story: Story, paths: Sequence[Path]) -> None:
    """Draws what was played above what was requested."""
    figure = new_figure(13, 6.2)
    actions, requests = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1.1))
    _draw_actions(story, actions)
    _draw_requests(story, requests)
    for axes in (actions, requests):
        axes.axvspan(*AWAY_S, color="#eeeeee", zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
    requests.set_xlim(-0.1, STEPS * PERIOD_S)
    save_figure(figure, paths)


def _colour(number: int) -> str:
    return COLOURS[number % 4]


def _draw_actions(story: Story, axes: Any) -> None:
    for number, chunk in enumerate(story.chunks):
        ends = story.chunks[number + 1].came_at if number + 1 < len(story.chunks) else STEPS * PERIOD_S
        left = [place for place in range(HORIZON) if place < chunk.played_from or chunk.at(place) > ends - _NOTHING]
        times = [chunk.at(place) for place in range(HORIZON)]
        axes.plot(times, chunk.actions, color=_colour(number), linewidth=0.8, alpha=0.5)
        hollow = [times[place] for place in left], [chunk.actions[place] for place in left]
        axes.plot(*hollow, "o", markersize=4, markerfacecolor="white", color=_colour(number), alpha=0.6)
    marks = {"chunk": ("o", 5), "blended": ("D", 4.5), "held": ("s", 5), "stopped": ("s", 5)}
    colours = {"held": "#777777", "stopped": "#000000"}
    for at, velocity, number, kind in zip(story.times, story.played, story.chunk_of, story.kinds, strict=True):
        mark, size = marks[kind]
        axes.plot(at, velocity, mark, markersize=size, color=colours.get(kind, _colour(number)))
    axes.set_ylabel("velocity of a joint, one action each step")
    axes.set_ylim(-0.18, 1.12)
    _explain(story, axes)


def _explain(story: Story, axes: Any) -> None:
    first, second, third, fourth = story.chunks[:4]

    def of(kind: str, later: int) -> tuple[float, float]:
        number = story.kinds.index(kind) + later
        return story.times[number], story.played[number]

    texts = (
        ("skipped: the chunk before was\nplayed in their steps", second.at(1), second.actions[1], 0.05, 0.45),
        ("left over: a newer chunk\nhas this step", first.at(HORIZON - 1), first.actions[-1], 1.22, 1.04),
        (f"no action left: the last one\nis held for hold_ms={HOLD_MS:g}", *of("held", 2), 2.25, 0.5),
        ('then on_starved="zero" stops the robot', *of("stopped", 5), 2.65, 0.14),
        ("blended in from where\nthe robot is", *of("blended", 1), 3.55, 0.5),
        ("none skipped: the robot has stood\nsince it was observed", third.came_at, third.actions[0], 3.2, 1.0),
        ("left over", fourth.at(HORIZON - 2), fourth.actions[-2], 5.92, 0.1),
    )
    for text, x, y, at_x, at_y in texts:
        style = {"arrowstyle": "-", "color": "#555555", "linewidth": 0.8}
        axes.annotate(text, (x, y), (at_x, at_y), fontsize=9, color="#333333", arrowprops=style, va="center")


def _draw_requests(story: Story, axes: Any) -> None:
    for number, chunk in enumerate(story.chunks):
        axes.barh(1, chunk.came_at - chunk.asked_at, left=chunk.asked_at, height=0.5, color=_colour(number))
    for at in story.lost_at:
        axes.barh(1, AWAY_S[0] - at, left=at, height=0.5, color="#bbbbbb")
    axes.plot(story.refreshed_at, [1] * len(story.refreshed_at), "|", color="#777777", markersize=12)
    texts = (
        ("from the observation to its chunk: 4 steps", 0.0, 1.5),
        ("lost", story.lost_at[0] - 0.02, 0.3),
        ("network away: nothing is heard", AWAY_S[0] + 0.03, 1.5),
        ("observed anew, ten times a second: the newest leaves when it is back", story.refreshed_at[0] - 0.02, 0.3),
        ("requested as early as a round trip needs", 4.65, 1.5),
    )
    for text, x, y in texts:
        axes.text(x, y, text, fontsize=9, color="#333333")
    axes.set_ylim(0.1, 2.0)
    axes.set_yticks([1], ["requests"])
    axes.set_xlabel(f"seconds; {RATE_HZ:g} control steps each, chunks of {HORIZON} actions")


if __name__ == "__main__":
    draw(play(), [IMAGES / "chunks.png"])
