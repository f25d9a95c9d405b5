"""How busy the cluster's nodes and GPUs are, as Ray's own metrics tell where its agents run.

Each node's agent has a Prometheus page at the port that `ray.nodes()` names ("Collecting and monitoring metrics", Ray
documentation); what is not on it (a node without an agent, or without GPUs) is left out. Nothing is measured here.
"""

from __future__ import annotations

import logging
import time
import urllib.request
from collections.abc import Callable, Iterable
from typing import Any

from inferential.dispatch.base import GpuUse, NodeUse

logger: logging.Logger = logging.getLogger("inferential.ray")

READ_EVERY_S = 5.0  # Ray's agents look about as often
_TIMEOUT_S = 2.0
_CPU, _GPU = "ray_node_cpu_utilization", "ray_node_gpus_utilization"
_MEMORY, _GPU_MEMORY = "ray_node_mem_used", "ray_node_gram_used"
_WANTED = tuple(f"{name}{{" for name in (_CPU, _GPU, _MEMORY, _GPU_MEMORY))


class Nodes:
    """The last figures read; they are read anew, in a thread, while they are asked for.

    Args:
        run: runs a function in a thread and then calls another with its result on the event loop.
    """

    def __init__(self, run: Callable[[Callable[[], list[NodeUse]], Callable[[list[NodeUse]], None]], None]) -> None:
        self._run = run
        self._known: list[NodeUse] = []
        self._asked_at = -READ_EVERY_S

    def use(self) -> list[NodeUse]:
        """What is known now; a few seconds old at most where it is asked for all the time."""
        now = time.monotonic()
        if now - self._asked_at >= READ_EVERY_S:
            self._asked_at = now
            self._run(read, self._take)
        return self._known

    def _take(self, nodes: list[NodeUse]) -> None:
        self._known = nodes


def read() -> list[NodeUse]:
    """Asks the agents of all nodes that are alive; blocks for some milliseconds each."""
    import ray

    found = []
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    for node in nodes:
        if not node.get("Alive"):
            continue
        address = f"{node['NodeManagerAddress']}:{node.get('MetricsExportPort')}"
        try:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=_TIMEOUT_S) as page:
                found.append(parse(node["NodeID"], node["NodeManagerAddress"], page.read().decode().splitlines()))
        except OSError as error:
            logger.debug("node %s has no metrics at %s: %s", node["NodeID"], address, error)
    return found


def parse(node_id: str, address: str, page: Iterable[str]) -> NodeUse:
    """The figures of one node, from the lines of its page."""
    from prometheus_client.parser import text_string_to_metric_families

    lines = "\n".join(line for line in page if line.startswith(_WANTED)) + "\n"
    values: dict[str, float] = {}
    gpus: dict[str, dict[str, Any]] = {}
    for family in text_string_to_metric_families(lines):
        for sample in family.samples:
            index = sample.labels.get("GpuIndex")
            if index is None:
                values[sample.name] = sample.value
            else:
                gpu = gpus.setdefault(index, {"name": sample.labels.get("GpuDeviceName", "")})
                gpu[sample.name] = sample.value
    memory = values.get(_MEMORY)
    return NodeUse(
        node_id,
        address,
        cpu_percent=values.get(_CPU),
        memory_used_mb=None if memory is None else memory / 2**20,
        gpus=tuple(
            GpuUse(int(index), gpu["name"], gpu.get(_GPU), gpu.get(_GPU_MEMORY))
            for index, gpu in sorted(gpus.items(), key=lambda item: int(item[0]))
        ),
    )
