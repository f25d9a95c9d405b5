"""`python -m bench.fleet_rules.foresight`: for how many robots a schedule would do that knows the future.

Robots in open loop on one replica, each of whose requests is to be answered within the same time. The search knows when
each will come and how long each call will take, which no rule does; so what it finds is beyond what rules can reach. It
takes requests in order of arrival, as all have the same time, and leaves out what it likes; of schedules that have
handled the same requests with the same number of calls it keeps the few best.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from bench.fleet_rules import SECONDS, SEEDS
from bench.fleet_rules.cells import ATTAINMENT, CELLS
from inferential.sim.virtual import generate

_LEFT_OUT = 3  # requests in a row that a call may leave out
_KEPT = 6
_RULES_CARRY = 16  # robots, of every seed


def most_in_time(
    arrives_at: Sequence[float], within_s: float, latency_s: Sequence[float], factors: Sequence[float]
) -> int:
    """Returns how many requests a schedule answers in time that knows what comes.

    Args:
        arrives_at: of each request, in order.
        within_s: the time of each.
        latency_s: of a call of 1, 2, ... rows.
        factors: of each call in turn, by which it takes longer.
    """
    most = 0
    reached: dict[int, list[tuple[float, int]]] = {0: [(-math.inf, 0)]}  # by requests handled: free from, answered
    for factor in factors:
        following: dict[int, list[tuple[float, int]]] = {}
        for handled, found in reached.items():
            for free_at, answered in found:
                for first in range(handled, min(handled + _LEFT_OUT + 1, len(arrives_at))):
                    for rows, takes_s in enumerate(latency_s, 1):
                        if first + rows > len(arrives_at):
                            break
                        ends_at = max(free_at, arrives_at[first + rows - 1]) + takes_s * factor
                        if ends_at > arrives_at[first] + within_s + 1e-9:
                            break
                        following.setdefault(first + rows, []).append((ends_at, answered + rows))
                        most = max(most, answered + rows)
        reached = {handled: _best(found) for handled, found in following.items()}
    return most


def _best(found: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """Returns those of which no other is free sooner with as many answers; a few, those with the most answers."""
    kept: list[tuple[float, int]] = []
    for ends_at, answered in sorted(found, key=lambda one: (one[0], -one[1])):
        if not kept or answered > kept[-1][1]:
            kept.append((ends_at, answered))
    return kept[-_KEPT:]


def main() -> None:
    """Prints the most robots for each seed of the comparison."""
    (cell,) = (cell for cell in CELLS if cell.measure == "robots at 98 %")
    (model,) = generate.models(cell.fleet)
    (robots,) = cell.fleet.robots.values()
    found = []
    for seed in SEEDS:
        count = _RULES_CARRY
        while True:
            arrivals = generate.arrivals(cell.fleet, seconds=SECONDS, seed=seed, load=float(count + 1))
            chance = random.Random(seed)  # as the simulator draws them
            factors = [math.exp(chance.gauss(0.0, model.spread)) for _ in arrivals]
            times = [arrival.at for arrival in arrivals if arrival.deadline <= SECONDS]
            if most_in_time(times, robots.time_s, model.latency_s, factors) < ATTAINMENT * len(times):
                break
            count += 1
        found.append(count)
        print(f"{cell.name}, seed {seed}: {count} robots", flush=True)
    print(f"mean: {sum(found) / len(found):.1f} robots")


if __name__ == "__main__":
    main()
