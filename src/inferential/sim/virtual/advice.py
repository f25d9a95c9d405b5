"""Says which strategy fits what a server was asked, how many more robots it carries, and what else would help."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from inferential.sim.virtual.asked import asked_in, asking_at_once
from inferential.sim.virtual.happened import Happened, busy_before, models_of, run_of
from inferential.sim.virtual.measures import Measures, measure
from inferential.sim.virtual.simulation import simulate
from inferential.sim.virtual.world import Arrival, ModelSpec, Run

LOADS: Final = (1.0, 1.5, 2.0)
"""How many times as many robots are simulated, for the table."""
_FURTHER: Final = (3.0, 4.0, 6.0, 8.0)
GOOD: Final = 0.98
"""Share of the observations answered in time with which robots are carried."""
_FAILED: Final = frozenset(
    {"model_failed", "model_failing", "model_loading", "batch_failed", "invalid_observation", "unknown_model"}
)
_MUCH = 0.01  # difference of shares that is worth a change
_FAR = 0.1  # what was simulated is not what happened, if it is so far from what the server gave


@dataclass(frozen=True, slots=True)
class Advice:
    """What was found.

    Attributes:
        robots, requests, seconds: what there was.
        was: share of the observations that the server answered in time, of those that did not fail.
        robots_at: how many robots there are at each of LOADS.
        shares: by strategy, that share at each of LOADS.
        in_force: the strategy that the server goes by; None: not known.
        best: the strategy to take: the one in force unless another is better by more than 1 %.
        carried: robots that `best` carries with GOOD of the answers in time; 0: not even those that there were.
        busiest: the model whose replicas are busy most, and which share of the time.
        with_more: the share in time of `best` at load 1 if that model ran one more call at once; None: not needed.
        left_out: clients that ask again as soon as they are answered, which are no load of a size.
        robots_waiting: how many robots wait for each answer before they ask again, and are simulated so.
        too_slow: where more observations than GOOD allows are due before a call of their model alone has ended: the
            model with most of them, the median milliseconds of its calls, and which share of all observations that is.
        failed: requests that ended for a reason that no strategy changes, as their model failed.
    """

    robots: int
    requests: int
    seconds: float
    was: float
    robots_at: tuple[int, ...]
    shares: dict[str, tuple[float, ...]]
    in_force: str | None
    best: str
    carried: int
    busiest: tuple[str, float]
    with_more: float | None
    left_out: tuple[str, ...] = ()
    robots_waiting: int = 0
    too_slow: tuple[str, float, float] | None = None
    failed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Returns plain values, for JSON; `advice` is the sentence."""
        return {**asdict(self), "loads": LOADS, "advice": self.sentence()}

    def sentence(self) -> str:
        """Returns what to do, in words."""
        text = f"{self._which()}; {self._how_many()}{self._doubt()}"
        if self.failed:
            requests = "1 request" if self.failed == 1 else f"{self.failed} requests"
            text += f"; {requests} failed, which no strategy changes"
        if not self.left_out:
            return text
        more = f" and {len(self.left_out) - 1} more" if len(self.left_out) > 1 else ""
        return f"{text}; without {self.left_out[0]}{more}, which asked again as soon as it was answered"

    def _doubt(self) -> str:
        """Returns what speaks against the figures: that they are far from what the server gave."""
        if self.was - max(shares[0] for shares in self.shares.values()) > _FAR:
            why = (
                "which of them share a call is a matter of less than a millisecond"
                if self.robots_waiting
                else "robots are repeated here at the times at which they asked, whatever they are answered"
            )
            return f"; but the server gave {self.was:.1%}: {why}, so believe the differences alone"
        in_force = self.shares.get(self.in_force or "")
        if in_force is not None and in_force[0] - self.was > _FAR:
            return (
                f"; but the server gave {self.was:.1%} with {self.in_force}: a call is taken to be as long as those of "
                "as many rows usually are, and some were far longer"
            )
        return ""

    def _which(self) -> str:
        shares, what = self.shares[self.best], "of the observations in time"
        if self.in_force is None and shares[0] - self.was <= _MUCH:
            return f"no strategy answers more {what} than the server gave, {self.was:.1%}"
        if self.in_force is None:
            return f"{self.best} answers {shares[0]:.1%} {what}, where the server gave {self.was:.1%}"
        if self.best == self.in_force:
            return f"{self.best}, which is in force, answers {shares[0]:.1%} {what}, and none more"
        before = self.shares[self.in_force]
        gains = [share - was for share, was in zip(shares, before, strict=True)]
        at = 0 if gains[0] > _MUCH else gains.index(max(gains))  # with the robots of now, if it helps there
        when = f" with {self.robots_at[at]} robots" if at else ""
        return (
            f"set scheduling.strategy: {self.best}: it answers {shares[at]:.1%} {what}{when}, and "
            f"{self.in_force}, which is in force, {before[at]:.1%}"
        )

    def _how_many(self) -> str:
        model, busy = self.busiest
        if self.carried:
            more = self.carried - self.robots
            return f"{GOOD:.0%} hold up to about {robots_text(self.carried)}, {more or 'no'} more than now"
        out_of_reach = f"{GOOD:.0%} are out of reach for {robots_text(self.robots)}"
        if self.too_slow is not None:
            slow, takes_ms, share = self.too_slow
            return f"{out_of_reach}: a call of {slow} takes {takes_ms:.3g} ms, and {share:.0%} are due before that"
        fewer = f"{out_of_reach}: {model} is busy {busy:.0%} of the time"
        if self.with_more is None:
            return fewer
        return f"{fewer}, and with one more replica {self.with_more:.1%} would be in time"


def robots_text(count: int) -> str:
    """Returns a number of robots in words."""
    return "1 robot" if count == 1 else f"{count} robots"


def advise(
    happened: Sequence[Happened],
    strategies: Sequence[str],
    in_force: str | None = None,
    *,
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> Advice:
    """Returns advice from what a server had to do.

    Args:
        happened: its requests over some time.
        strategies: those to try, with the one in force.
        in_force: the one that it went by; None: not known.
        seed: of the latencies.
        advance: called after each of the simulations, `simulations(...)` at most.

    Raises:
        ValueError: nothing was answered, or none but clients asked that ask again as soon as they are answered.
    """
    models, left_out = models_of(happened), asking_at_once(run_of(happened))
    run = run_of([one for one in happened if one.client_id not in left_out])
    if not models:
        raise ValueError("nothing was answered")
    if not run.outcomes:
        raise ValueError("nothing to advise on: every client asks again as soon as it is answered, as a benchmark does")
    trial = _Trial(models, run, seed, advance)
    measured = {strategy: [trial.measured(strategy, load) for load in LOADS] for strategy in strategies}
    shares = {name: tuple(in_time(one) for one in found) for name, found in measured.items()}
    best = _best(strategies, shares, in_force)
    use = measured[best][0].utilisation
    busiest = max(use.items(), key=lambda item: item[1], default=(models[0].model_id, 0.0))
    carried = _carried(best, shares[best], trial)
    ended_well = [one for one in run.outcomes if one.end not in _FAILED]
    return Advice(
        trial.asked.robots(),
        len(trial.run.outcomes),
        run.seconds,
        in_time(measure(replace(run, outcomes=ended_well))),
        tuple(trial.asked.robots(load) for load in LOADS),
        shares,
        in_force,
        best,
        carried,
        busiest,
        None if carried else in_time(trial.measured(best, 1.0, more_of=busiest[0])),
        tuple(sorted(left_out)),
        trial.asked.robots_waiting(),
        _too_slow(models, [outcome.arrival for outcome in trial.run.outcomes]),
        len(run.outcomes) - len(ended_well),
    )


class _Trial:
    """Simulates what was asked of the models that answered.

    Args:
        models: those.
        run: what was asked, and what became of it.
        seed: of the latencies.
        advance: called after each simulation.
    """

    def __init__(self, models: Sequence[ModelSpec], run: Run, seed: int, advance: Callable[[], None]) -> None:
        served = {model.model_id for model in models}
        self.run = replace(run, outcomes=[one for one in run.outcomes if one.arrival.model_id in served])
        self.asked = asked_in(self.run)
        self._models, self._seed, self._advance = models, seed, advance
        self._busy = busy_before(run)

    def measured(self, strategy: str, load: float, more_of: str = "") -> Measures:
        """Returns what comes of a strategy with `load` times as many robots, and one more replica of a model."""
        specs = [
            replace(one, max_inflight=one.max_inflight + 1) if one.model_id == more_of else one for one in self._models
        ]
        asked = self.asked.times(load)
        found = simulate(
            specs,
            asked.arrivals,
            strategy,
            seconds=asked.seconds,
            seed=self._seed,
            waiting=asked.waiting,
            profiled=True,
            busy=self._busy,
        )
        self._advance()
        return measure(found, {model.model_id: model.max_inflight for model in specs})


def _best(strategies: Sequence[str], shares: dict[str, tuple[float, ...]], in_force: str | None) -> str:
    """Returns the strategy that answers most in time; the one in force where no other is worth a change."""
    best = max(strategies, key=lambda name: (round(shares[name][0], 2), sum(shares[name])))
    if (
        in_force in shares
        and shares[best][0] - shares[in_force][0] <= _MUCH
        and sum(shares[best]) - sum(shares[in_force]) <= _MUCH * len(LOADS)
    ):
        return in_force
    return best


def simulations(strategies: int) -> int:
    """Returns how many simulations `advise` runs at most, for a progress bar."""
    return strategies * len(LOADS) + len(_FURTHER) + _HALVINGS


_HALVINGS = 3


def _too_slow(models: Sequence[ModelSpec], arrivals: Sequence[Arrival]) -> tuple[str, float, float] | None:
    alone_s = {model.model_id: model.latency_s[0] for model in models}
    hopeless = Counter(one.model_id for one in arrivals if one.deadline - one.at < alone_s[one.model_id])
    if hopeless.total() <= (1 - GOOD) * len(arrivals):
        return None
    ((model_id, count),) = hopeless.most_common(1)
    return model_id, alone_s[model_id] * 1e3, count / len(arrivals)


def in_time(measures: Measures) -> float:
    """Returns the share of the observations that were answered in time: one that gave way to a newer one was not."""
    group = measures.overall
    due = group.offered - group.ends.get("open", 0)
    return group.in_time / due if due else 1.0


def _carried(best: str, shares: tuple[float, ...], trial: _Trial) -> int:
    """Returns how many robots a strategy carries with GOOD of their answers in time; 0: not those that there are."""
    if shares[0] < GOOD:
        return 0
    holds, fails = 1.0, 0.0
    for load, share in zip(LOADS, shares, strict=True):
        if share < GOOD:
            fails = load
            break
        holds = load
    if not fails:
        for load in _FURTHER:
            if in_time(trial.measured(best, load)) < GOOD:
                fails = load
                break
            holds = load
    for _ in range(_HALVINGS if fails else 0):
        middle = (holds + fails) / 2
        if in_time(trial.measured(best, middle)) >= GOOD:
            holds = middle
        else:
            fails = middle
    return int(trial.asked.robots() * holds + 1e-9)
