"""How clients ask: closed and open loop, with plain threads. Run in peers' environments: the standard library alone.

A client is a function that asks once and returns when it has its answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

Ask = Callable[[], Any]
WARM_UP_S = 0.2


def measure(asks: list[Ask], rate_hz: float | None, start: float, seconds: float, first: int, of: int) -> list[float]:
    """Latencies of these clients in seconds, in no order.

    Args:
        asks: the clients.
        rate_hz: how often each asks, open loop; None: closed loop.
        start: when to begin, in seconds of `time.monotonic()`, which all processes of a machine share.
        seconds: how long to measure, after WARM_UP_S.
        first, of: number of the first of these clients, and how many there are in all processes: open loops are
            spread over the period.
    """
    latencies: list[list[float]] = [[] for _ in asks]
    errors: list[BaseException] = []
    began = start + WARM_UP_S
    until = began + seconds

    def work(number: int) -> None:
        ask, found = asks[number], latencies[number]
        try:
            time.sleep(max(start - time.monotonic(), 0))
            if rate_hz is None:
                while (asked := time.monotonic()) < until:
                    ask()
                    if asked >= began:
                        found.append(time.monotonic() - asked)
                return
            due = start + (first + number) / of / rate_hz
            while due < until:
                time.sleep(max(due - time.monotonic(), 0))
                ask()
                if due >= began:
                    found.append(time.monotonic() - due)
                due += 1 / rate_hz
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(asks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [latency for found in latencies for latency in found]
