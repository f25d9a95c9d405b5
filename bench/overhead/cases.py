"""What is sent, how often and by how many. Plain data: peers read it in environments that have little but numpy."""

from __future__ import annotations

from dataclasses import dataclass

Shapes = dict[str, tuple[str, tuple[int, ...]]]
"""By key, dtype and shape."""

OBSERVATIONS: dict[str, Shapes] = {
    "64 B": {"state": ("float32", (16,))},
    "150 kB": {"image": ("uint8", (224, 224, 3))},
    "1 MB": {"image": ("uint8", (1_000_000,))},
    "3 cameras": {
        "left": ("uint8", (480, 640, 3)),
        "right": ("uint8", (480, 640, 3)),
        "wrist": ("uint8", (480, 640, 3)),
        "state": ("float32", (16,)),
    },
}
REPLY_BYTES = 64
"""Of the action that every server answers with: 16 float32."""


@dataclass(frozen=True, slots=True)
class Job:
    """One measurement.

    Attributes:
        name: as it is shown.
        observation: a key of OBSERVATIONS.
        clients: how many there are.
        rate_hz: how often each observes, open loop: latency counts from when an observation was due, whether or not
            the one before was answered (Tene, "How NOT to measure latency", 2013). None: closed loop.
    """

    name: str
    observation: str
    clients: int = 1
    rate_hz: float | None = None


JOBS = (
    *(Job(f"1 client, {size}", size) for size in OBSERVATIONS),
    *(Job(f"8 clients, {size}", size, clients=8) for size in ("64 B", "150 kB")),
    Job("50 robots at 50 Hz, 64 B", "64 B", clients=50, rate_hz=50.0),
    Job("1 robot at 1 kHz, 64 B", "64 B", rate_hz=1000.0),
)
