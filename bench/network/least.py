"""How soon an action can be back after an outage at the very least, by the network's own delays.

What TCP and the network cost, drawn as the networks of this benchmark draw it, with a client and a server that take no
time. *Emulated*, what the server said first of a fresh connection arrives as the network is back, and the newest
observation leaves by it: one round trip. Of *packets* what was sent in the outage is lost, so that a fresh connection
is the first that comes through: its SYN leaves within `every_s` of the network's return, and the observation with the
answer to that: two round trips. The action is then played at the next control step.

Each packet has jitter of its own and none overtakes another, so that of several the slowest counts. A lost packet of
data costs a round trip more at least, as TCP learns of it by what comes behind it.
"""

from __future__ import annotations

import random

from bench.network.cell import INFERENCE_S, NETWORKS
from bench.network.robots import CHUNK_HZ, chunk
from inferential.client.attempts import every_s
from inferential.sim.network import SEGMENT_BYTES, NetworkProfile

_DRAWS = 2000
_HEADER_BYTES = 52  # of IP and TCP, with timestamps
_ENVELOPE_BYTES = 125  # of an observation or an answer, with its frames


def least(kind: str, network: str) -> dict[str, float]:
    """Returns the median, the 10th and the 90th percentile of the time back in ms, and of the steps until then."""
    profile, size = NETWORKS[network]
    draws = random.Random(1)
    times = sorted(_back_s(kind, profile, size, draws) for _ in range(_DRAWS))
    found: dict[str, float] = {}
    for name, share in (("p10", 0.1), ("p50", 0.5), ("p90", 0.9)):
        at_s = times[int(share * _DRAWS)]
        found[f"back_{name}_ms"] = round(at_s * 1e3, 1)
        found[f"steps_{name}"] = round(at_s * CHUNK_HZ)
    return found


def _back_s(kind: str, profile: NetworkProfile, size: int, draws: random.Random) -> float:
    answer = chunk().nbytes + _ENVELOPE_BYTES
    observation = size + _ENVELOPE_BYTES
    if kind == "emulated":
        found_s = 0.0
        ways_s = sum(_serial_s(profile, bytes_) + profile.delay_s(bytes_, draws) for bytes_ in (observation, answer))
    else:
        found_s = draws.uniform(0.0, every_s(0.0)) + _one_way_s(profile, draws) + _one_way_s(profile, draws)
        while draws.random() < 1 - (1 - profile.loss) ** 2:  # of SYN or SYN-ACK: the next one is under way
            found_s += every_s(0.0)
        ways_s = sum(_carried_s(profile, bytes_, draws) for bytes_ in (observation, answer))
    return found_s + ways_s + INFERENCE_S + draws.uniform(0.0, 1 / CHUNK_HZ)


def _carried_s(profile: NetworkProfile, size: int, draws: random.Random) -> float:
    segments = -(-size // SEGMENT_BYTES)
    lost = any(draws.random() < profile.loss for _ in range(segments))
    slowest_s = max(_one_way_s(profile, draws) for _ in range(segments))
    return _serial_s(profile, size + segments * _HEADER_BYTES) + slowest_s + lost * profile.rtt_ms / 1e3


def _one_way_s(profile: NetworkProfile, draws: random.Random) -> float:
    return (profile.rtt_ms + draws.uniform(-profile.jitter_ms, profile.jitter_ms)) / 2e3


def _serial_s(profile: NetworkProfile, size: int) -> float:
    return 0.0 if profile.rate_bytes_s is None else size / profile.rate_bytes_s
