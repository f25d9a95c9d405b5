"""What a replica, a version or a model is at: one state, since when, and why."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

HUNG_AFTER_S = 60.0
"""A call of a model without `call_timeout_ms` that runs for so long makes it count as hung."""


class ModelState(enum.Enum):
    """The states, from the most to the least that can be expected of a model in it."""

    READY = "ready"
    """It answers."""
    WARMING = "warming"
    """It is loaded, and runs its warm-up."""
    LOADING = "loading"
    """It is being imported and made."""
    HUNG = "hung"
    """A call took, or takes, too long."""
    FAILING = "failing"
    """It could not be loaded, its process ended, or it fails with every request."""
    STOPPED = "stopped"
    """It was ended, and is not started again by itself."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A state with its reason.

    Attributes:
        state: what it is at.
        since: when it came to that, in seconds of `time.monotonic()`.
        why: in words; "" where the state says enough.
        logged: whether the replica has logged how it came to that.
        hopeless: its model cannot be loaded: it is tried again, but waiting for it is of little use.
    """

    state: ModelState
    since: float
    why: str = ""
    logged: bool = field(default=False, compare=False)
    hopeless: bool = False

    @property
    def answers(self) -> bool:
        """Whether it answers requests."""
        return self.state is ModelState.READY

    @property
    def starts(self) -> bool:
        """Whether it is on its way to answer."""
        return self.state in (ModelState.LOADING, ModelState.WARMING)

    def because(self, why: str) -> Condition:
        """Returns the same state with another reason."""
        return replace(self, why=why)

    @property
    def brief(self) -> str:
        """The state and why: "it is failing: no weights"."""
        return f"it is {self.state.value}" + (f": {self.why}" if self.why else "")

    def since_unix(self, now: float, now_unix: float) -> float | None:
        """Returns since when, in seconds since 1970 to a tenth, so that it is the same each time; None: since the
        server started.

        Args:
            now: seconds of `time.monotonic()`.
            now_unix: the same moment, in seconds since 1970.
        """
        return round(now_unix - (now - self.since), 1) if math.isfinite(self.since) else None

    def in_words(self, now: float) -> str:
        """Returns the state, for how long, and why: "loading for 12 s: its process was killed"."""
        text = f"{self.state.value} for {max(now - self.since, 0.0):.0f} s"
        return f"{text}: {self.why}" if self.why else text


UNKNOWN = Condition(ModelState.READY, -math.inf)
"""Of a model whose backend does not say, which is taken to answer."""

_ORDER = list(ModelState)


def best_of(conditions: Iterable[Condition]) -> Condition:
    """Returns the condition of a whole from those of its replicas: the best state, since it was first reached.

    Nothing at all is stopped.
    """
    found = sorted(conditions, key=lambda one: (_ORDER.index(one.state), one.hopeless, one.since))
    return found[0] if found else Condition(ModelState.STOPPED, -math.inf, "it has no replica")
