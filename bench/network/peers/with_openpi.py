"""A robot with openpi's own client: `ActionChunkBroker` around `WebsocketClientPolicy`, in its control loop.

It runs in an environment of its own: python with_openpi.py HOST PORT SECONDS BYTES; it prints a line when it
begins, and when answers came and steps were due, as JSON.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy

RATE_HZ = 50.0
HORIZON = 50
AGAIN_S = 0.1


class Noting:
    """Notes when each answer came, and connects again where the connection broke."""

    def __init__(self, host: str, port: int) -> None:
        self._place = host, port
        self._policy = WebsocketClientPolicy(host, port)
        self.answers: list[tuple[float, float]] = []

    def infer(self, observation):
        """Asks, and waits."""
        while True:
            observed_at = time.monotonic()
            try:
                answer = self._policy.infer(observation)
            except (OSError, EOFError, RuntimeError) as error:
                print(error, file=sys.stderr)
            except Exception as error:  # of websockets, by whatever version
                print(error, file=sys.stderr)
                self._connect()
            else:
                self.answers.append((time.monotonic(), observed_at))
                return answer

    def reset(self) -> None:
        """Does nothing."""

    def _connect(self) -> None:
        while True:
            try:
                self._policy = WebsocketClientPolicy(*self._place)
                return
            except OSError:
                time.sleep(AGAIN_S)


def main() -> None:
    """Runs the control loop."""
    host, port, seconds, size = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    noting, steps = Noting(host, port), []
    broker = ActionChunkBroker(noting, HORIZON)
    image = np.random.default_rng(0).integers(0, 255, size, np.uint8)
    due = time.monotonic()
    until = due + seconds
    print("ready", flush=True)
    while due < until:
        broker.infer({"image": image})
        steps.append((due, True))
        due += 1 / RATE_HZ
        while due < time.monotonic():  # the control loop waited for the network
            steps.append((due, False))
            due += 1 / RATE_HZ
        time.sleep(max(due - time.monotonic(), 0.0))
    print(json.dumps({"answers": noting.answers, "steps": steps}))


if __name__ == "__main__":
    main()
