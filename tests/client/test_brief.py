"""What `print(connection.stats)` and `print(runtime.stats)` show."""

from __future__ import annotations

from collections import Counter

from inferential.client.brief import brief
from inferential.client.chunks.stats import ChunkStats
from inferential.client.result import ClientStats
from inferential.proto.cache import CacheCounts


def test_statistics_are_a_line_of_what_is_not_as_it_began() -> None:
    stats = ChunkStats(steps=250, asked=13, refused=Counter({"ModelFailed": 2}), round_trip_p50_ms=59.99880699982896)
    assert str(stats) == "steps=250, asked=13, refused={'ModelFailed': 2}, round_trip_p50_ms=60.0"
    assert "lost=0" in repr(stats)
    assert str(ChunkStats()) == "nothing yet"


def test_what_is_counted_within_is_a_line_too() -> None:
    stats = ClientStats(results=3, link_round_trip_ms=0.0, response_cache=CacheCounts(hits=2, misses=1))
    assert brief(stats) == str(stats) == "results=3, link_round_trip_ms=0.0, response_cache=(hits=2, misses=1)"
