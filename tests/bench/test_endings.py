"""A few seconds of everything that may happen to requests; `python -m bench.soak.endings` has more of it."""

from __future__ import annotations

import sys

import pytest
from bench.soak.endings import drive


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's signals")
def test_each_request_ends_once_whatever_happens_to_robots_workers_and_the_server() -> None:
    found, counted = drive(4.0, seed=26)
    assert [one for one in found if not one.holds] == []
    assert counted["ends"]["OK"] > 0
