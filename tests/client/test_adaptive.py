"""Images as good as the link carries them in time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferential import AsyncConnection, Auto, LocalDispatcher, Server
from inferential.client.adaptive import QualityControl
from inferential.client.encoding import EncodingRules
from inferential.client.result import ClientStats
from inferential.sim.network import EmulatedNetwork, NetworkProfile

PICTURE = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)


@given(
    scales=st.booleans(),
    slopes=st.tuples(st.floats(0.5, 4.0), st.floats(0.5, 4.0)),
    best_bytes=st.integers(20_000, 2_000_000),
    others=st.integers(0, 10_000),
    rate=st.floats(1e5, 1e8),
    trip_ms=st.floats(0.1, 60.0),
    model_ms=st.floats(0.0, 60.0),
    budget_ms=st.floats(20.0, 500.0),
)
def test_answers_come_within_the_budget_or_images_are_as_small_as_they_may_be(
    scales: bool,
    slopes: tuple[float, float],
    best_bytes: int,
    others: int,
    rate: float,
    trip_ms: float,
    model_ms: float,
    budget_ms: float,
) -> None:
    control = QualityControl(budget_ms, scales)
    lowest = 0.0 if scales else 1.0

    def size(level: float) -> int:
        below = slopes[0] * min(2.0 - level, 1.0) + slopes[1] * max(1.0 - level, 0.0)
        return max(round(best_bytes * math.exp(-below)), 1)

    def age_ms(level: float) -> float:
        return (size(level) + others) / rate * 1e3 + trip_ms + model_ms

    for _ in range(400):
        control.follow(rate, trip_ms)
        assert lowest <= control.level <= 2.0
        control.sent(size(control.level), others)
        control.answered(age_ms(control.level))
    assert age_ms(control.level) <= 1.05 * budget_ms or control.level == lowest
    if control.level < 2.0:  # no worse than it must be
        assert age_ms(min(control.level + 0.2, 2.0)) >= 0.9 * budget_ms


@given(st.lists(st.one_of(st.none(), st.tuples(st.floats(1.0, 1e9), st.floats(0.0, 1e5), st.floats(0.0, 1e9)))))
def test_whatever_the_link_tells_the_limits_hold(reported: list[tuple[float, float, float] | None]) -> None:
    control = QualityControl(50.0, scales=True)
    auto = Auto(quality=(30, 80), scale=(0.25, 0.75))
    for seen in reported:
        control.follow(*((None, None) if seen is None else seen[:2]))
        quality, scale = auto.at(control.level)
        assert 30 <= quality <= 80
        assert 0.25 <= scale <= 0.75
        control.sent(50_000, 100)
        control.answered(math.nan if seen is None else seen[2])


def test_quality_falls_before_size() -> None:
    auto = Auto(quality=(40, 90), scale=(0.5, 1.0))
    assert [auto.at(level) for level in (2.0, 1.5, 1.0, 0.5, 0.0)] == [
        (90, 1.0),
        (65, 1.0),
        (40, 1.0),
        (40, 0.75),
        (40, 0.5),
    ]


def test_a_thin_link_makes_images_smaller_and_a_good_one_better_again() -> None:
    stats = ClientStats()
    rules = EncodingRules({"camera/*": Auto(scale=(0.5, 1.0)), "depth": "png"}, 50.0, lambda: stats)
    values = {"camera/front": PICTURE, "depth": PICTURE[:, :, 0], "state": np.zeros(7)}

    def sent() -> Any:
        tensors, _, _ = rules.apply(values)
        return dict(tensors)["camera/front"]

    best = sent()
    assert stats.image_quality == {"camera/front": 95}
    assert best.shape == PICTURE.shape
    stats.link_bytes_s, stats.link_round_trip_ms = 2e6, 10.0
    smallest = [sent() for _ in range(40)][-1]
    assert len(smallest.data) < len(best.data) / 3
    assert stats.image_quality == {"camera/front": 40}
    assert smallest.shape[0] == round(240 * stats.image_scale["camera/front"]) < 240
    stats.link_bytes_s = 1e9
    again = [sent() for _ in range(80)][-1]
    assert again.data == best.data
    assert stats.image_scale == {"camera/front": 1.0}


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"quality": (0, 90)}, ValueError, r"quality: .*from 1 to 100.*got \(0, 90\)"),
        ({"quality": (90, 40)}, ValueError, "quality: "),
        ({"quality": (40.0, 90)}, TypeError, "quality: "),
        ({"quality": 90}, TypeError, "quality: "),
        ({"scale": (0, 1)}, ValueError, "scale: "),
        ({"scale": (0.5, 1.5)}, ValueError, "scale: "),
        ({"scale": (0.5, math.nan)}, ValueError, "scale: "),
        ({"scale": "half"}, TypeError, "scale: "),
    ],
)
def test_limits_that_cannot_be_name_the_argument(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Auto(**arguments)


async def test_over_a_real_link_the_quality_follows_what_it_carries() -> None:
    shapes = []

    def policy(seen: dict[str, Any]) -> dict[str, Any]:
        shapes.append(seen["camera/front"].shape)
        return {"actions": np.zeros(1, np.float32)}

    thin = NetworkProfile(rate_bytes_s=1e6)
    async with (
        Server("tcp://127.0.0.1:*", dispatcher=LocalDispatcher({"policy": policy})) as server,
        EmulatedNetwork(server.address, thin) as network,
        AsyncConnection(network.address) as connection,
    ):
        model = connection.model("policy", latency_budget_ms=20.0, encode={"camera/*": "auto"}, late="serve")
        for _ in range(20):
            assert await model.infer(timeout_ms=60_000, **{"camera/front": PICTURE}) is not None
        assert connection.stats.link_bytes_s is not None
        assert connection.stats.image_quality == {"camera/front": 40}
    assert set(shapes) == {PICTURE.shape}
