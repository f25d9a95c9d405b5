"""Runs a fleet and its server in processes of their own, in real time; their reports come by pipes.

`cli.demo` shows them.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from multiprocessing.resource_tracker import ensure_running
from typing import Any

from inferential.sim.driver import RobotReport
from inferential.sim.link import INFERENTIAL, Software

REPORT_S = 0.25
ROBOTS_PER_PROCESS = 12
_READY_S = 60.0  # for a process to start and import
_CONNECT_S = 0.3  # from the order to drive until the first observation: time to make connections
_spawn = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run: how many robots of which task, against which strategy, under which load, for how long."""

    task: str = "balance"
    robots: int = 12
    seconds: float = 20.0
    load: float = 0.7
    strategy: str = "deadline_aware"
    seed: int = 0


@dataclass(slots=True)
class ServerReport:
    """What the server did since it began.

    Attributes:
        queue_depth: requests that wait now.
        batches: batch sizes since the last report.
        counts: by metric name (responses_served, requests_superseded, ...), how many.
        page: address of its live page, where it has one.
    """

    queue_depth: int = 0
    batches: list[int] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    page: str | None = None


Report = list[RobotReport] | ServerReport


def run(plan: Plan, software: Software = INFERENTIAL) -> Generator[list[Report], None, None]:
    """Runs a plan; yields reports as they come, until the robots' time is over.

    Args:
        plan: what is run.
        software: what serves, and what connects the robots to it.

    Raises:
        RuntimeError: a process died, or an address cannot be listened on.
    """
    with ExitStack() as processes:
        server = processes.enter_context(_process(_serve, plan, software))
        workers = [processes.enter_context(_process(_drive, plan, software, numbers)) for numbers in _shares(plan)]
        address = _first(server)
        for worker in workers:
            _first(worker)
        start = time.monotonic() + _CONNECT_S  # one clock for all processes of a machine
        for worker in workers:
            worker.send((address, start))
        running = set(workers)
        while running:
            reports: list[Report] = []
            for pipe in wait([server, *running]):
                assert isinstance(pipe, Pipe)
                message = _receive(pipe)
                if message is None:
                    running.discard(pipe)
                else:
                    reports.append(message)
            yield reports


def robot_names(plan: Plan) -> list[str]:
    """Returns the robots' names, which are their client ids, by number."""
    from inferential.sim.tasks import TASKS

    task = TASKS[plan.task]
    return [f"{task.kind_of(number).kind}-{number:02d}" for number in range(plan.robots)]


def _shares(plan: Plan) -> list[list[int]]:
    """Returns the numbers of the robots that each process drives."""
    workers = -(-plan.robots // ROBOTS_PER_PROCESS)
    return [list(range(first, plan.robots, workers)) for first in range(workers)]


def _first(pipe: Pipe) -> Any:
    """Returns what a process sends when it is ready."""
    if not pipe.poll(_READY_S):
        raise RuntimeError(f"a process of the demo was not ready within {_READY_S:g} s")
    return _receive(pipe)


def _receive(pipe: Pipe) -> Any:
    try:
        message = pipe.recv()
    except (EOFError, ConnectionResetError):
        raise RuntimeError("a process of the demo died; its error is above") from None
    if isinstance(message, OSError):
        raise RuntimeError(message.strerror or str(message))
    return message


@contextmanager
def _process(target: object, *args: object) -> Iterator[Pipe]:
    """Starts a process and returns it with our end of its pipe; it ends when that end is closed."""
    ours, theirs = _spawn.Pipe()
    process = _spawn.Process(target=target, args=(*args, theirs), daemon=True)  # type: ignore[arg-type]
    # Ctrl-C reaches every process of the terminal; only this one acts on it, and closes the pipes. Processes begin
    # with the signals blocked that are blocked where they are started; the first start would start the resource
    # tracker as well, which unblocks them.
    ensure_running()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        process.join(5)
        if process.is_alive():
            process.kill()
            process.join()


def _serve(plan: Plan, software: Software, pipe: Pipe) -> None:
    from inferential.sim.accelerator import AcceleratedModel, Accelerator, cost_for_load
    from inferential.sim.tasks import TASKS

    task = TASKS[plan.task]
    robots_by_rate_hz = Counter(task.kind_of(number).control_rate_hz for number in range(plan.robots))
    accelerator = Accelerator(cost_for_load(plan.load, robots_by_rate_hz))
    models = {model_id: AcceleratedModel(policy(), accelerator) for model_id, policy in task.policies.items()}

    async def main() -> None:
        async with software.serve(plan.strategy, models) as (address, served):
            _tell(pipe, address)
            closed = asyncio.Event()
            asyncio.get_running_loop().add_reader(pipe.fileno(), closed.set)
            while not closed.is_set():
                await _sleep_or(closed, REPORT_S)
                _tell(pipe, ServerReport(served.waiting(), list(served.batches), dict(served.counts), served.page))
                served.batches.clear()

    try:
        asyncio.run(main())
    except OSError as error:  # as an address that is taken: what the user can mend
        _tell(pipe, error)


def _drive(plan: Plan, software: Software, numbers: list[int], pipe: Pipe) -> None:
    from inferential.sim.driver import Driver
    from inferential.sim.tasks import TASKS

    task = TASKS[plan.task]
    robots = {number: task.kind_of(number)(seed=plan.seed * 1000 + number) for number in numbers}
    _tell(pipe, "ready")
    try:
        address, start = pipe.recv()
    except (EOFError, ConnectionResetError):
        return  # given up before it began

    async def main() -> None:
        names = robot_names(plan)
        drivers = [
            Driver(robot, names[number], software.link(robot, names[number], address))
            for number, robot in robots.items()
        ]
        closed = asyncio.Event()
        asyncio.get_running_loop().add_reader(pipe.fileno(), closed.set)
        driving = asyncio.gather(*(driver.run(start, plan.seconds) for driver in drivers))
        try:
            while not driving.done() and not closed.is_set():
                await _sleep_or(closed, REPORT_S)
                _tell(pipe, [driver.report() for driver in drivers])
            if driving.done():
                await driving
                _tell(pipe, [driver.report() for driver in drivers])
                _tell(pipe, None)
                await closed.wait()
        finally:
            driving.cancel()
            await asyncio.gather(driving, return_exceptions=True)

    asyncio.run(main())


async def _sleep_or(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def _tell(pipe: Pipe, message: Report | str | OSError | None) -> None:
    try:
        pipe.send(message)
    except (BrokenPipeError, ConnectionResetError):
        return  # the parent is gone; the closed pipe ends the loop
