"""When an answer is needed: a request's deadline, from the best sign of the robot's need that there is.

It learns nothing: cadence and the end of a robot's actions are found in `tracking`.

    1. the latency budget, where the client sent one or the configuration has one for it:
           deadline = received + budget
    2. else the moment at which the robot's actions run out:
           steps sent:    deadline = received + max(steps_remaining, 1) * control period
           steps learned: deadline = received(observation of its last chunk) + horizon * control period
       with the control period that the client sent or that was learned from how its steps fall
    3. else its cadence: deadline = received + learned period, when its next observation is due
    4. else the default budget: deadline = received + clients.defaults.latency_budget_ms

A robot that has no step left is not without a deadline, nor past it: each further control period costs it one more
step, so that the next one is what can still be met.
"""

from __future__ import annotations


def deadline_of(
    received_at: float,
    *,
    explicit_budget_ms: float | None,
    runs_out_at: float | None,
    cadence_s: float | None,
    default_budget_ms: float,
) -> float:
    """Returns the deadline by the table above, in seconds of `time.monotonic()`.

    Args:
        received_at: when the observation came in.
        explicit_budget_ms: the budget from the client or its configuration; None where neither has one.
        runs_out_at: when the robot's actions run out; None where that is not known.
        cadence_s: the client's period, where it is known well enough to go by it, else None.
        default_budget_ms: the budget of clients of which nothing is known.
    """
    if explicit_budget_ms is not None:
        return received_at + explicit_budget_ms / 1e3
    if runs_out_at is not None:
        return runs_out_at
    if cadence_s is not None:
        return received_at + cadence_s
    return received_at + default_budget_ms / 1e3
