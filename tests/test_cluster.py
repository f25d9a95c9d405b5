"""Addresses of several servers; that they serve is tested where Ray runs, in tests/dispatch/ray."""

from __future__ import annotations

import pytest

pytest.importorskip("ray")

from inferential.cluster import ServerGroup, binds_for, config_of_one, reachable_address
from inferential.config import InferentialConfig


def servers(bind: str, count: int) -> ServerGroup:
    return ServerGroup(InferentialConfig(transport={"bind": bind}), {"m": "m"}, count)


@pytest.mark.parametrize(("http", "ports"), [(8080, [8080, 8081, 8082]), (0, [0, 0, 0])])
def test_each_has_a_page_of_its_own_and_no_gateway(http: int, ports: list[int]) -> None:
    sections = {"http": {"port": http, "token": "secret"}, "gateways": {"openpi": {"model": "m"}}}
    config = InferentialConfig.model_validate(sections)
    each = [config_of_one(config, f"tcp://*:{number}", number) for number in range(3)]
    assert [one.http.port for one in each if one.http is not None] == ports
    assert [one.transport.bind for one in each] == ["tcp://*:0", "tcp://*:1", "tcp://*:2"]
    assert {one.http.token.get_secret_value() for one in each if one.http and one.http.token} == {"secret"}
    assert all(one.gateways.openpi is None for one in each)
    assert config.gateways.openpi is not None


def test_robots_get_the_host_of_a_server_that_listens_on_every_interface() -> None:
    assert reachable_address("tcp://0.0.0.0:5555", "10.0.0.7") == "tcp://10.0.0.7:5555"
    assert reachable_address("tcp://127.0.0.1:5555", "10.0.0.7") == "tcp://127.0.0.1:5555"


def test_pages_need_ports_too() -> None:
    config = InferentialConfig.model_validate({"http": {"port": 65535}})
    with pytest.raises(ValueError, match=r"http\.port: 2 servers need 2 ports"):
        ServerGroup(config, {"m": "m"}, 2)


def test_ports_follow_each_other() -> None:
    assert binds_for("tcp://*:5555", 3) == ["tcp://*:5555", "tcp://*:5556", "tcp://*:5557"]


def test_port_0_gives_each_a_free_one() -> None:
    assert len(set(binds_for("tcp://127.0.0.1:0", 4))) == 4


@pytest.mark.parametrize(("bind", "count"), [("ipc:///tmp/robots", 2), ("tcp://*:65535", 2), ("tcp://*:5555", 0)])
def test_what_cannot_be_is_refused(bind: str, count: int) -> None:
    with pytest.raises(ValueError, match=r"transport\.bind|servers"):
        servers(bind, count)
