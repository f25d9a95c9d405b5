"""Ray's own metrics: a page as an agent with two GPUs writes it, and that of a real one, which has none."""

from __future__ import annotations

from typing import Any

import pytest

from inferential.dispatch.base import GpuUse
from inferential.dispatch.ray.nodes import Nodes, parse, read

PAGE = """\
# HELP ray_node_cpu_utilization Total CPU usage on a ray node
# TYPE ray_node_cpu_utilization gauge
ray_node_cpu_utilization{IsHeadNode="true",ip="10.0.0.1"} 37.5
ray_node_mem_used{IsHeadNode="true",ip="10.0.0.1"} 1.048576e+09
ray_node_mem_used_host{IsHeadNode="true",ip="10.0.0.1"} 9e+09
ray_node_gpus_utilization{GpuDeviceName="H200",GpuIndex="1",ip="10.0.0.1"} 12.0
ray_node_gpus_utilization{GpuDeviceName="H200",GpuIndex="0",ip="10.0.0.1"} 96.0
ray_node_gram_used{GpuDeviceName="H200",GpuIndex="0",ip="10.0.0.1"} 71234.0
"""


def test_the_page_of_a_node_with_gpus() -> None:
    node = parse("n1", "10.0.0.1", PAGE.splitlines())
    assert (node.node_id, node.cpu_percent, node.memory_used_mb) == ("n1", 37.5, 1000.0)
    assert node.gpus == (GpuUse(0, "H200", 96.0, 71234.0), GpuUse(1, "H200", 12.0, None))


def test_what_a_page_does_not_tell_is_not_known() -> None:
    node = parse("n1", "10.0.0.1", ["ray_other 1"])
    assert (node.cpu_percent, node.memory_used_mb, node.gpus) == (None, None, ())


def test_it_is_read_while_it_is_asked_for_and_not_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    node = parse("n1", "10.0.0.1", PAGE.splitlines())
    reads: list[Any] = []
    nodes = Nodes(lambda work, take: reads.append((work, take)))
    assert nodes.use() == []
    assert nodes.use() == []
    ((work, take),) = reads
    assert work is read
    take([node])
    assert nodes.use() == [node]
    now += 6
    assert nodes.use() == [node]
    assert len(reads) == 2


@pytest.mark.slow
def test_a_real_cluster_tells_of_its_nodes(cluster: Any) -> None:
    for node in read():  # none where Ray's agent is not installed
        assert node.node_id
        assert node.cpu_percent is None or 0 <= node.cpu_percent <= 100
        assert node.gpus == ()
