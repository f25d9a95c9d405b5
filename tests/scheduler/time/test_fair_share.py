"""The rate that each client can have: shares that fill the capacity, and no more."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferential.scheduler.time.availability import ReplicaSlot
from inferential.scheduler.time.fair_share import RISE, UTILISATION, FairShares
from inferential.scheduler.time.profile import LatencyProfile


class Models:
    """An availability: seconds of a call by model, and which of them share a device."""

    def __init__(self, latency_s: dict[str, float], shared: Sequence[str] = ()) -> None:
        self._shared = shared
        self._slots = {}
        for model_id, seconds in latency_s.items():
            profile = LatencyProfile()
            profile.load(1, seconds, seconds)
            self._slots[model_id] = [ReplicaSlot(model_id, "", 1, profile)]

    def slots(self, model_id: str) -> Sequence[ReplicaSlot]:
        return self._slots[model_id]

    def colocated_models(self, model_id: str) -> Sequence[str]:
        return self._shared if model_id in self._shared else (model_id,)


def test_clients_that_ask_less_than_the_model_carries_have_no_limit() -> None:
    shares = FairShares(Models({"m": 0.01}))
    shares.update([("a", "m", 0.1), ("b", "m", 0.1)])
    assert shares.interval_ms("a", "m") == 0.0
    assert shares.interval_ms("unknown", "m") == 0.0


def test_under_overload_all_get_the_same_but_one_that_asks_less() -> None:
    shares = FairShares(Models({"m": 0.01}))
    shares.update([("fast", "m", 0.01), ("faster", "m", 0.005), ("slow", "m", 0.1)])
    # 90 a second: 10 for the slow one, 40 for each of the others
    assert shares.interval_ms("fast", "m") == pytest.approx(25.0)
    assert shares.interval_ms("faster", "m") == pytest.approx(25.0)


def test_only_a_client_with_much_more_than_its_share_is_held_back_and_only_beside_others_that_do_not() -> None:
    shares = FairShares(Models({"m": 0.01}))
    shares.update([("flooder", "m", 1e-4), ("fast", "m", 0.02), ("slow", "m", 0.1)])
    # 90 a second: 10 for the slow one, 40 for each of the others
    assert shares.pace_s("flooder", "m") == pytest.approx(0.025)
    assert (shares.pace_s("fast", "m"), shares.pace_s("slow", "m")) == (0.0, 0.0)
    shares.update([(str(number), "m", 1e-4) for number in range(10)])
    assert all(shares.pace_s(str(number), "m") == 0.0 for number in range(10))


def test_a_share_is_weighted() -> None:
    shares = FairShares(Models({"m": 0.01}))
    shares.note("important", "m", 2.0)
    shares.update([("important", "m", 0.005), ("other", "m", 0.005)])
    assert shares.interval_ms("important", "m") == pytest.approx(1e3 / 60)
    assert shares.interval_ms("other", "m") == pytest.approx(1e3 / 30)


def test_models_of_one_device_share_its_time() -> None:
    shares = FairShares(Models({"cheap": 0.01, "dear": 0.09}, shared=("cheap", "dear")))
    shares.update([("a", "cheap", 0.001), ("b", "dear", 0.001)])
    # w * 0.01 + w * 0.09 = 0.9
    assert shares.interval_ms("a", "cheap") == pytest.approx(1e3 / 9)
    assert shares.interval_ms("b", "dear") == pytest.approx(1e3 / 9)


def test_clients_that_follow_are_let_rise_until_nothing_binds_them() -> None:
    shares = FairShares(Models({"m": 0.01}))
    shares.update([("a", "m", 0.005)])
    interval_ms = shares.interval_ms("a", "m")
    assert interval_ms == pytest.approx(1e3 / 90)
    shares.update([("a", "m", 0.02)])  # it asks less now
    assert shares.interval_ms("a", "m") == pytest.approx(interval_ms / RISE)
    for _ in range(20):
        shares.update([("a", "m", 0.1)])
    assert shares.interval_ms("a", "m") == 0.0


def test_a_following_fleet_stays_at_what_the_model_carries() -> None:
    shares = FairShares(Models({"m": 0.01}))
    wanted_s, asked_s = 0.005, 0.005
    for _ in range(50):
        shares.update([("a", "m", asked_s), ("b", "m", asked_s)])
        asked_s = max(wanted_s, shares.interval_ms("a", "m") / 1e3)
    assert 2 / asked_s * 0.01 == pytest.approx(UTILISATION, rel=0.02)


@given(
    st.lists(st.tuples(st.floats(1e-3, 10.0), st.sampled_from([0.25, 0.5, 1.0, 2.0])), min_size=1, max_size=30),
    st.floats(1e-3, 0.5),
)
def test_the_intervals_fill_the_capacity_and_no_more(clients: list[tuple[float, float]], seconds: float) -> None:
    shares = FairShares(Models({"m": seconds}))
    for number, (_, weight) in enumerate(clients):
        shares.note(str(number), "m", weight)
    shares.update((str(number), "m", period_s) for number, (period_s, _) in enumerate(clients))
    served = 0.0
    for number, (period_s, _) in enumerate(clients):
        interval_ms = shares.interval_ms(str(number), "m")
        served += min(1 / period_s, 1e3 / interval_ms if interval_ms else 1e9)
    asked = sum(1 / period_s for period_s, _ in clients)
    assert served == pytest.approx(min(asked, UTILISATION / seconds))


def test_robots_of_versions_share_the_pools_that_answer_them() -> None:
    shares = FairShares(Models({"m@a": 0.01, "m@b": 0.02}))
    pools = {"one": "m@a", "two": "m@a", "three": "m@b"}
    for client_id, pool in pools.items():
        shares.note(client_id, "m", 1.0, pool=pool)
    shares.update([(client_id, "m", 0.005) for client_id in pools])
    assert (
        shares.interval_ms("one", "m@a") == shares.model_interval_ms("one", "m") == pytest.approx(2 * 10 / UTILISATION)
    )
    assert shares.model_interval_ms("three", "m") == pytest.approx(20 / UTILISATION)


def test_what_a_flood_gets_shrinks_while_others_wait_and_comes_back() -> None:
    shares = FairShares(Models({"m": 0.01}))
    asked = [("flooder", "m", 1e-4), ("slow", "m", 0.1), ("calm", "m", 0.1)]
    shares.update(asked)
    assert shares.finds_floods
    usual_s = shares.pace_s("flooder", "m")
    for _ in range(4):
        shares.update(asked, pressed={"m"})
    assert shares.pace_s("flooder", "m") > 2 * usual_s
    assert shares.pace_s("slow", "m") == 0.0
    for _ in range(60):
        shares.update(asked, pressed={"another"})
    assert shares.pace_s("flooder", "m") == pytest.approx(usual_s)


def test_a_flood_is_held_back_where_the_model_is_too_slow_for_the_others_too() -> None:
    shares = FairShares(Models({"m": 1.0}))
    shares.update([("flooder", "m", 1e-3), *((str(number), "m", 0.2) for number in range(4))])
    assert shares.pace_s("flooder", "m") == pytest.approx(5 / UTILISATION)
    assert all(shares.pace_s(str(number), "m") == 0.0 for number in range(4))


def test_a_client_that_floods_and_is_read_less_for_that_floods_until_all_of_it_is_read() -> None:
    shares = FairShares(Models({"m": 0.005}))
    robots = [(f"robot-{number}", "m", 0.2) for number in range(10)]
    flooding, as_it_is_read = ("flooder", "m", 1e-4), ("flooder", "m", 0.011)
    shares.update([flooding, *robots])
    pace_s = shares.pace_s("flooder", "m")
    assert pace_s > 0
    for _ in range(20):
        shares.update([as_it_is_read, *robots], is_behind=lambda client_id: client_id == "flooder")
        assert shares.pace_s("flooder", "m") == pytest.approx(pace_s)
    shares.update([as_it_is_read, *robots])
    assert shares.pace_s("flooder", "m") == 0.0


def test_clients_that_ask_as_soon_as_they_are_answered_go_after_those_that_ask_for_less_than_their_share() -> None:
    shares = FairShares(Models({"m": 0.005}))
    asked = [("closed", "m", 0.011), ("other", "m", 0.011), ("robot", "m", 0.2)]
    pauses_s = {"closed": 0.0005, "other": 0.0005, "robot": 0.19}
    shares.update(asked, pause_s=lambda client_id, model_id: pauses_s[client_id])
    assert shares.sets_aside
    assert [shares.goes_aside(client_id, "m") for client_id in ("closed", "other", "robot")] == [True, True, False]
    shares.update(asked)  # where it is not known, they ask for less than a share
    assert not shares.sets_aside


def test_beside_one_that_would_ask_for_much_more_all_that_ask_for_more_than_their_share_go_after_the_others() -> None:
    shares = FairShares(Models({"m": 0.01}))
    asked = [("closed", "m", 0.02), ("fast", "m", 0.02), ("slow", "m", 0.2)]
    pauses_s = {"closed": 0.0, "fast": 0.01, "slow": 0.18}
    shares.update(asked, pause_s=lambda client_id, model_id: pauses_s[client_id])
    assert [shares.goes_aside(client_id, "m") for client_id in ("closed", "fast", "slow")] == [True, True, False]


def test_where_a_model_serves_all_that_is_asked_no_client_goes_after_others() -> None:
    shares = FairShares(Models({"m": 0.01}))
    pauses_s = {"closed": 0.01, "robot": 0.19}
    shares.update([("closed", "m", 0.02), ("robot", "m", 0.2)], pause_s=lambda client_id, model_id: pauses_s[client_id])
    assert not shares.sets_aside


def test_how_soon_a_client_asks_again_is_known_by_the_model_that_it_names_whichever_version_answers_it() -> None:
    shares = FairShares(Models({"m@2": 0.005}))
    pauses_s = {("closed", "m"): 0.0005, ("other", "m"): 0.0005, ("robot", "m"): 0.19}
    for client_id, model_id in pauses_s:
        shares.note(client_id, model_id, 1.0, pool="m@2")
    asked = [("closed", "m", 0.011), ("other", "m", 0.011), ("robot", "m", 0.2)]
    shares.update(asked, pause_s=lambda *named: pauses_s[named])
    assert [shares.goes_aside(client_id, "m@2") for client_id in ("closed", "other", "robot")] == [True, True, False]
