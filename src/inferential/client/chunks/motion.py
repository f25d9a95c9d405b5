"""What a robot moves by: the actions of its chunks, what it does where none is left, and how it resumes.

No clock and no I/O; the player says for each control step whether there is an action.

Without an action the robot repeats its last one, or what `starved` says, for `hold_ms`; then `on_starved` stops it.
Where a chunk then begins farther from there than it moves itself in a step, its first actions are blended in, over as
many steps as the robot was without, less one, and at most `BLEND_S`: from where it stands towards what the chunk has
for each step; booleans alone are not. With `max_change` no value ever changes by more in one step.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from inferential.client.chunks.arguments import check_choice, check_number, check_stop_action
from inferential.client.chunks.stats import ChunkStats
from inferential.proto.actions import Array, BadActions, is_finite, of_dtype
from inferential.proto.layout import Layout, promoted

Action = Any
"""An array, or arrays by key where a chunk is spread over several keys."""
Starved = Literal["hold", "stop"] | Callable[[Action, int], Action]
"""What is played at first where no action is left: the last one again, the stop action, or what a function returns for
the last action and the number of steps starved; None: the last one."""
OnStarved = Literal["hold", "zero"] | Callable[..., Any]
"""What is played once no action was left for `hold_ms`: the last one on and on, zeros, or what a function returns for
the last action and the number of steps starved. A function of the number of steps alone is called at every starved
step; what it returns is played after `hold_ms`, unless that is None."""

OnRaised = Callable[[str, Exception], object]
"""Is called with the name of the argument whose function raised, and what it raised."""

BLEND_S = 0.2
LEAST_HOLD_S = 0.2
_HOLD_STEPS = 2


class Motion:
    """The actions that a robot plays, one each control step; the arguments are those of `ChunkRuntime`.

    Raises:
        TypeError, ValueError: naming the argument that is wrong.
    """

    def __init__(
        self,
        period_s: float,
        stats: ChunkStats,
        starved: Starved = "hold",
        stop_action: Action | None = None,
        on_starved: OnStarved | None = None,
        hold_ms: float | None = None,
        on_raised: OnRaised = lambda name, error: None,
    ) -> None:
        check_choice("starved", starved, "hold", "stop")
        if on_starved is not None:
            check_choice("on_starved", on_starved, "hold", "zero")
        if hold_ms is not None:
            check_number("hold_ms", hold_ms, "a number of 0 or more, or None", lambda ms: ms >= 0)
        if stop_action is not None:
            check_stop_action(stop_action)
        self.layout: Layout | None = None
        """How an action's values lie side by side; None before the first chunk."""
        self.max_change: Array | None = None
        """How much each value may change in one step; None: any."""
        self._stats = stats
        self._starved = starved
        self._stop_action = None if stop_action is None else _copied(stop_action)
        self._on_starved = on_starved
        self._on_raised = on_raised
        self._takes_steps_alone = callable(on_starved) and _arguments(on_starved) == 1
        hold_s = max(_HOLD_STEPS * period_s, LEAST_HOLD_S) if hold_ms is None else hold_ms / 1e3
        self._hold_steps = hold_s / period_s + 1e-9
        self._most_blended = max(math.ceil(BLEND_S / period_s - 1e-9), 1)
        self._last: Array | None = None  # of a chunk
        self._output: Array | None = None  # whatever was played last
        self._stands_at_stop = False  # before the first chunk
        self._starved_steps = self._missed_steps = 0
        self._blended = self._to_blend = 0
        self._blends_from: Array | None = None
        self._own_change: Array | None = None

    def reset(self) -> None:
        """Forgets what was played: the next chunk is the first."""
        self.layout = self.max_change = self._last = self._output = self._blends_from = self._own_change = None
        self._starved_steps = self._missed_steps = self._blended = self._to_blend = 0
        self._stands_at_stop = False

    def layout_of(self, chunk: Mapping[str, Array], *, is_spread: bool) -> Layout:
        """Returns how the values of a chunk lie side by side: as before, or by its keys where it is the first.

        Raises:
            BadActions: it is the first, and its actions are of another form than the stop action.
        """
        if self.layout is not None:
            return self.layout
        layout, stop = Layout(chunk, is_spread=is_spread), self._stop_action
        if stop is None:
            return layout
        try:
            layout.flat(stop)
        except BadActions:
            shapes = (
                {key: np.shape(value) for key, value in stop.items()} if isinstance(stop, Mapping) else np.shape(stop)
            )
            raise BadActions(
                f"result: expected actions as stop_action, of shape {shapes}, got {layout.shapes}"
            ) from None
        return layout

    def resumes_with(self, actions: Array) -> None:
        """Notes the actions [T, N] with which a robot that has none resumes, to see whether they go on where it is."""
        if self._starved_steps and len(actions) > 1:
            self._own_change = np.abs(np.diff(actions.astype(np.float64), axis=0)).max(axis=0)

    def hold(self, action: Array) -> None:
        """Makes an action [N] of a chunk that came too late the one to hold."""
        self._last = action

    def play(self, action: Array) -> Action:
        """Returns what to play where a chunk has an action [N] for this step."""
        if self._starved_steps:
            self._to_blend = min(self._starved_steps - 1, self._most_blended)
            self._blended, self._blends_from = 0, None if self._goes_on(action) else self._output
            self._starved_steps, self._own_change = 0, None
        self._missed_steps = 0
        if self._stands_at_stop:
            assert self.layout is not None
            self._output, self._stands_at_stop = self.layout.flat(self._stop_action), False
        output = self._limited(self._blend(action))
        self._last, self._output = action, output
        return self._copy(output)

    def _goes_on(self, action: Array) -> bool:
        own, before = self._own_change, self._output
        if action.dtype == bool:
            return True  # there is nothing between the two
        if own is None or before is None:
            return False
        return bool((np.abs(action.astype(np.float64) - before) <= own * 1.001).all())

    def _blend(self, action: Array) -> Array:
        begin = self._blends_from
        if begin is None:
            return action
        self._blended += 1
        if self._blended > self._to_blend:
            self._blends_from = None
            return action
        share = self._blended / (self._to_blend + 1)
        blended = of_dtype(np.asarray((1 - share) * begin + share * action), action.dtype)
        return np.where(self._whole(blended), np.rint(blended), blended).astype(action.dtype)

    def _limited(self, action: Array) -> Array:
        """Returns an action [N] that differs from what was played last by no more than `max_change`.

        Whole numbers stay whole where one is within reach: that next to the limit, towards what was played last.
        """
        before, most = self._output, self.max_change
        if most is None or before is None:
            return action
        before = before.astype(np.float64)
        limited = np.clip(action.astype(np.float64), before - most, before + most)
        towards = np.where(limited > before, np.floor(limited), np.ceil(limited))
        limited = np.where(self._whole(action) & (np.abs(towards - before) <= most), towards, limited)
        is_exact = action.dtype.kind not in "biu" or (limited == np.rint(limited)).all()
        return limited.astype(action.dtype) if is_exact else limited

    def _whole(self, action: Array) -> Array:
        """Returns which values of an action [N] are whole numbers or booleans, [N]."""
        assert self.layout is not None
        return self.layout.whole if self.layout.is_spread else np.full(action.shape, action.dtype.kind in "biu")

    def miss(self, steps: int) -> None:
        """Notes steps without an action in which the control loop played nothing: the robot held what it had."""
        self._missed_steps += steps

    def play_none(self) -> Action | None:
        """Returns what to play where there is no action for this step.

        Before the first chunk that is the stop action, or None where it is not given.
        """
        last = self._last
        if last is None:
            self._stands_at_stop = self._stop_action is not None
            return None if self._stop_action is None else _copied(self._stop_action)
        stats = self._stats
        self._starved_steps += 1
        steps = self._starved_steps
        stats.starved_steps += 1
        stats.starved_episodes += steps == 1
        stats.longest_starved_steps = max(stats.longest_starved_steps, steps)
        is_stopped = steps + self._missed_steps > self._hold_steps
        stats.stopped_steps += is_stopped
        layout = self.layout
        assert layout is not None
        output = self._starved_action(last, steps, is_stopped)
        if self.layout is not layout:  # a function of the user has begun a new episode
            return output
        try:
            flat = layout.flat(output)
            flat = flat.astype(promoted(flat.dtype, last.dtype))  # whole numbers for an action of floats are floats
            is_action = is_finite(flat)
        except Exception:  # of another shape, or no numbers: a user's object may raise anything when it is looked at
            is_action = False
        if not is_action:  # of a function: it is the user's to know what to play
            self._output = None
            return output
        self._output = self._limited(flat)
        return output if self._output is flat else self._copy(self._output)

    def _starved_action(self, last: Array, steps: int, is_stopped: bool) -> Action:
        layout = self.layout  # a function of the user may begin a new episode
        assert layout is not None
        held = layout.split(last.copy())
        if self._takes_steps_alone:
            assert callable(self._on_starved)
            chosen = self._ask("on_starved", self._on_starved, steps)
            if is_stopped and chosen is not None:
                return chosen
        elif is_stopped and self._on_starved is not None:
            if callable(self._on_starved):
                chosen = self._ask("on_starved", self._on_starved, layout.split(last.copy()), steps)
                return held if chosen is None else chosen
            return held if self._on_starved == "hold" else layout.split(np.zeros_like(last))
        if self._starved == "hold":
            return held
        if self._starved == "stop":
            return layout.split(np.zeros_like(last)) if self._stop_action is None else _copied(self._stop_action)
        assert callable(self._starved)
        chosen = self._ask("starved", self._starved, layout.split(last.copy()), steps)
        return held if chosen is None else chosen

    def _ask(self, name: str, function: Callable[..., Any], *arguments: Any) -> Action | None:
        """Returns what a user's function chooses to play; the stop action, if there is one, where it raises."""
        try:
            return function(*arguments)
        except Exception as error:
            self._on_raised(name, error)
            return None if self._stop_action is None else _copied(self._stop_action)

    def _copy(self, action: Array) -> Action:
        """Returns an action [N] in the form that it came in, which its owner may change."""
        assert self.layout is not None
        return self.layout.split(action.copy())


def _copied(action: Action) -> Action:
    """Returns arrays of their own for an action that a user gave."""
    return {key: np.array(value) for key, value in action.items()} if isinstance(action, Mapping) else np.array(action)


def _arguments(function: Callable[..., Any]) -> int:
    """Returns how many arguments a function is to be called with, 1 or 2."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 1
    if any(one.kind is one.VAR_POSITIONAL for one in parameters):
        return 2
    return min(sum(one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) for one in parameters), 2)
