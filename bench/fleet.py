"""Robots that play chunks over real sockets, in real time, beside the same robots in the simulator.

20 `ChunkRuntime`s at 20 Hz with chunks of 12 actions; a server in a process of its own with two replicas of a model
that takes 73 to 317 ms for 1 to 8 rows. Both count the control steps without an action. What live calls took longer
than they should, simulated ones take longer too, they vary as much, as does the network, and replicas stand as long
between two calls.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench.harness import serving
from inferential import Connection, Model
from inferential.client import Result
from inferential.client.chunks import ChunkRuntime
from inferential.sim.accelerator import AcceleratedModel, Accelerator, MeasuredCost
from inferential.sim.virtual import generate
from inferential.sim.virtual.fleet_file import Fleet
from inferential.sim.virtual.simulation import simulate
from inferential.sim.virtual.starvation import play_of
from inferential.sim.virtual.world import ChunkedRobot

BY_ROWS_MS = (73.0, 110.0, 142.0, 178.0, 211.0, 245.0, 280.0, 317.0)
REPLICAS = 2
ROBOTS = 20
RATE_HZ = 20
HORIZON_STEPS = 12
ALONE = 25
"""Round trips of one client alone, from which the simulated network's delay is taken."""
STRATEGIES = ("deadline_aware", "round_robin", "slo_aware")
SECONDS = 20.0
AGREEMENT = 0.10
"""How far live and simulated `starved` may be from each other, of the larger."""


@dataclass(frozen=True, slots=True)
class Row:
    """One strategy, live or simulated: shares of control steps without an action, and executed actions a second.

    Attributes:
        observations_per_chunk: how many observations the robots sent for each chunk that they were sent.
    """

    strategy: str
    starved: float
    starved_worst: float
    longest_gap_s: float
    executed_per_s: float
    chunks_per_s: float
    observations_per_chunk: float


@dataclass(frozen=True, slots=True)
class Overhead:
    """What live robots meet that a fleet file does not say, in milliseconds.

    Attributes:
        in_call_ms: that calls take longer than they should.
        spread: by which share of their time calls vary, as one standard deviation.
        around_ms: of a round trip beside its call.
        jitter_ms: by how much that varies, as one standard deviation.
        turnaround_ms: from the end of a call to the beginning of the next on the same replica, the median.
    """

    in_call_ms: float = 0.0
    spread: float = 0.0
    around_ms: float = 0.0
    jitter_ms: float = 0.0
    turnaround_ms: float = 0.0


NONE = Overhead()


class Chunks:
    """Answers each observation with a chunk of zeros."""

    max_batch_size = len(BY_ROWS_MS)

    def infer_batch(self, observations: Sequence[Any]) -> list[Any]:
        return [{"actions": np.zeros((HORIZON_STEPS, 7), np.float32)} for _ in observations]


class Replica(AcceleratedModel):
    """Says in each of its results which it is, and when the call began, in seconds of its process's clock."""

    def __init__(self, number: int) -> None:
        super().__init__(Chunks(), Accelerator(MeasuredCost(BY_ROWS_MS)))
        self._number = number

    def infer_batch(self, observations: Sequence[Any]) -> list[Any]:
        call = np.array([self._number, time.monotonic()])
        return [result | {"call": call} for result in super().infer_batch(observations)]


def models() -> dict[str, Any]:
    """One model on two accelerators."""
    return {"policy": [Replica(number) for number in range(REPLICAS)]}


def fleet(overhead: Overhead = NONE) -> Fleet:
    """The same as in a fleet file."""
    profile = [{"batch_size": rows, "median_ms": ms + overhead.in_call_ms} for rows, ms in enumerate(BY_ROWS_MS, 1)]
    robots = {
        "model": "policy",
        "count": ROBOTS,
        "kind": "chunked",
        "rate_hz": RATE_HZ,
        "horizon_steps": HORIZON_STEPS,
        "delay_ms": overhead.around_ms / 2,
        "jitter_ms": overhead.jitter_ms / 2**0.5,  # each way
    }
    described = {
        "models": {
            "policy": {
                "profile": profile,
                "replicas": REPLICAS,
                "spread": overhead.spread,
                "turnaround_ms": overhead.turnaround_ms,
            }
        },
        "robots": {"arm": robots},
    }
    return Fleet.model_validate(described)


def run(seconds: float = 5.0) -> dict[str, Any]:
    """Runs every strategy live, then simulated, for `SECONDS` or `seconds` if that is more."""
    return _compared(STRATEGIES, max(seconds, SECONDS))


def run_quick(seconds: float = 5.0) -> dict[str, Any]:
    """Runs the default strategy only."""
    return _compared(STRATEGIES[:1], 10.0)


def _compared(strategies: Sequence[str], seconds: float) -> dict[str, Any]:
    rows = []
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in ("strategy", "", "starved", "worst", "gap s", "actions/s", "chunks/s", "sent", "apart"):
        table.add_column(title, justify="left" if title in ("strategy", "") else "right")
    for strategy in strategies:
        live, overhead = run_live(strategy, seconds)
        simulated = run_simulated(strategy, seconds, overhead)
        apart = abs(live.starved - simulated.starved) / max(live.starved, simulated.starved)
        table.add_row(strategy, "live", *_cells(live), f"{apart:.1%}")
        table.add_row("", "simulated", *_cells(simulated))
        rows.append(
            {
                "live": asdict(live),
                "overhead": {name: round(value, 4) for name, value in asdict(overhead).items()},
                "simulated": asdict(simulated),
                "apart": round(apart, 4),
                "agrees": apart <= AGREEMENT,
            }
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return {"seconds": seconds, "robots": ROBOTS, "rows": rows}


def _cells(row: Row) -> list[str]:
    return [
        f"{row.starved:.1%}",
        f"{row.starved_worst:.1%}",
        f"{row.longest_gap_s:.2f}",
        f"{row.executed_per_s:.0f}",
        f"{row.chunks_per_s:.1f}",
        f"{row.observations_per_chunk:.1f}",
    ]


class _Robot(threading.Thread):
    """One robot: counts its steps from the first action on."""

    def __init__(self, robot: ChunkedRobot, address: str, begins_at: float, seconds: float) -> None:
        super().__init__(name=robot.client_id)
        self._robot = robot
        self._address = address
        self._begins_at = begins_at
        self._seconds = seconds
        self.steps = self.starved = self.longest_starved = self.chunks = self.asked = 0
        self.calls: list[tuple[int, float]] = []  # of each answer, the rows of its call and how long it took, in ms
        self.began: list[tuple[int, float, float]] = []  # its replica, when it began, and how long it took, in ms

    def run(self) -> None:
        robot = self._robot
        state = {"state": np.zeros(7, np.float32)}
        with Connection(self._address, robot.client_id) as connection:
            model = connection.model(robot.model_id, control_rate_hz=1 / robot.period_s)
            self._note_calls(model)
            runtime = ChunkRuntime(model, 1 / robot.period_s)
            time.sleep(max(self._begins_at + robot.starts_at - time.monotonic(), 0.0))
            runtime.run(lambda: state, self._act, seconds=self._seconds - robot.starts_at)
        self.starved = runtime.stats.starved_steps
        self.longest_starved = runtime.stats.longest_starved_steps
        self.chunks, self.asked = runtime.stats.chunks, runtime.stats.asked
        if not self.steps:
            self.steps = self.starved = self.longest_starved = runtime.stats.steps

    def _act(self, action: Any) -> None:
        self.steps += action is not None

    def _note_calls(self, model: Model) -> None:
        """Has each answer that is read add what is known of its call to `calls` and `began`."""
        read = model.get_result

        def get_result(timeout_ms: float = 100) -> Result | None:
            result = read(timeout_ms)
            if result is not None and result.timing is not None:
                self.calls.append((result.timing.batch_size, result.timing.inference_ms))
                number, began_s = result["call"]
                self.began.append((int(number), float(began_s) * 1e3, result.timing.inference_ms))
            return result

        model.get_result = get_result  # type: ignore[method-assign]


def in_call_ms(calls: Sequence[tuple[int, float]]) -> float:
    """Returns what calls took longer than they should, on average; each is there as often as it had rows."""
    longer_ms = sum((took_ms - BY_ROWS_MS[rows - 1]) / rows for rows, took_ms in calls)
    return max(longer_ms / sum(1 / rows for rows, _ in calls), 0.0)


def spread(calls: Sequence[tuple[int, float]]) -> float:
    """Returns by which share of their time calls vary, as one standard deviation; those that were held up aside."""
    longer = [np.log(max(took_ms, 1e-3) / BY_ROWS_MS[rows - 1]) for rows, took_ms in calls]
    return min(_deviation(longer), 1.0)


def turnaround_ms(began: Iterable[tuple[int, float, float]]) -> float:
    """Returns what a replica takes from the end of a call to the beginning of the next, if that waits: the median.

    Args:
        began: replica, beginning and duration of calls, in milliseconds; the same call any number of times.
    """
    calls = sorted(set(began))
    between = [
        following[1] - begin - took
        for (replica, begin, took), following in pairwise(calls)
        if following[0] == replica and following[1] > begin
    ]
    return max(float(np.median(between)), 0.0) if between else 0.0


def _deviation(values: Sequence[float]) -> float:
    """Returns half of what the middle two thirds span: a standard deviation, whatever a few of the values are."""
    low, high = np.percentile(values, [16, 84])
    return float(high - low) / 2


def _around_ms(address: str) -> tuple[float, float]:
    """Returns what the round trip of one client alone takes around its call, on average, and how much that varies."""
    with Connection(address, "alone") as connection:
        model = connection.model("policy")
        state = np.zeros(7, np.float32)
        around_ms = []
        for _ in range(ALONE):
            began = time.perf_counter()
            result = model.infer(timeout_ms=5000, state=state)
            trip_ms = (time.perf_counter() - began) * 1e3
            assert result is not None
            assert result.timing is not None
            around_ms.append(trip_ms - result.timing.inference_ms)
    return max(float(np.mean(around_ms[1:])), 0.0), _deviation(around_ms[1:])


def run_live(strategy: str, seconds: float) -> tuple[Row, Overhead]:
    with serving(models, scheduling={"strategy": strategy}) as address:
        around_ms, jitter_ms = _around_ms(address)
        begins_at = time.monotonic() + 0.5
        robots = [_Robot(robot, address, begins_at, seconds) for robot in generate.chunked_robots(fleet(), seed=0)]
        for robot in robots:
            robot.start()
        for robot in robots:
            robot.join()
    steps, starved = sum(robot.steps for robot in robots), sum(robot.starved for robot in robots)
    chunks = sum(robot.chunks for robot in robots)
    row = Row(
        strategy,
        starved=round(starved / steps, 4),
        starved_worst=round(max(robot.starved / robot.steps for robot in robots), 4),
        longest_gap_s=round(max(robot.longest_starved for robot in robots) / RATE_HZ, 3),
        executed_per_s=round((steps - starved) / seconds, 1),
        chunks_per_s=round(chunks / seconds, 1),
        observations_per_chunk=round(sum(robot.asked for robot in robots) / max(chunks, 1), 2),
    )
    calls = [call for robot in robots for call in robot.calls]
    began = [call for robot in robots for call in robot.began]
    return row, Overhead(in_call_ms(calls), spread(calls), around_ms, jitter_ms, turnaround_ms(began))


def run_simulated(strategy: str, seconds: float, overhead: Overhead) -> Row:
    described = fleet(overhead)
    done = simulate(
        generate.models(described),
        [],
        strategy,
        seconds=seconds,
        seed=0,
        robots=generate.chunked_robots(described, seed=0),
    )
    play = play_of(done)
    assert play is not None
    rows = sum(call.rows for call in done.calls)
    return Row(
        strategy,
        starved=round(play.starved, 4),
        starved_worst=round(play.starved_worst, 4),
        longest_gap_s=round(play.longest_gap_s, 3),
        executed_per_s=round(play.executed_per_s, 1),
        chunks_per_s=round(rows / seconds, 1),
        observations_per_chunk=round(len(done.outcomes) / rows, 2),
    )
