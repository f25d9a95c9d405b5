"""Addresses of several servers; that they serve is tested where Ray runs, in tests/dispatch/ray."""

from __future__ import annotations

import pytest

pytest.importorskip("ray")

from inferential.cluster import Servers
from inferential.config import InferentialConfig


def servers(bind: str, count: int) -> Servers:
    return Servers(InferentialConfig(transport={"bind": bind}), {"m": "m"}, count)


def test_ports_follow_each_other() -> None:
    assert servers("tcp://*:5555", 3)._binds == ["tcp://*:5555", "tcp://*:5556", "tcp://*:5557"]


def test_port_0_gives_each_a_free_one() -> None:
    assert len(set(servers("tcp://127.0.0.1:0", 4)._binds)) == 4


@pytest.mark.parametrize(("bind", "count"), [("ipc:///tmp/robots", 2), ("tcp://*:65535", 2), ("tcp://*:5555", 0)])
def test_what_cannot_be_is_refused(bind: str, count: int) -> None:
    with pytest.raises(ValueError, match=r"transport\.bind|servers"):
        servers(bind, count)
