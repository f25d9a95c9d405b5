"""A real Ray with Serve, one for all tests of this folder; it is always shut down."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of a change to come

ray = pytest.importorskip("ray")
pytest.importorskip("ray.serve")
CPUS = 2


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """Ray and Serve on 2 CPUs, with neither dashboard nor HTTP proxy; nodes can be added to it."""
    from ray import serve
    from ray.cluster_utils import Cluster

    settings = {
        "health_check_period_ms": 500
    }  # as often a node is asked that has gone; one that is slow has 10 s to answer
    head = {"num_cpus": CPUS, "include_dashboard": False, "_system_config": settings}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        ray.init(address=cluster.address, log_to_driver=False, namespace="tests")
        serve.start(proxy_location="Disabled")
        yield cluster
        serve.shutdown()
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def run(cluster: Any) -> Iterator[Any]:
    """Deploys an application and waits until it is up; it is deleted after the test, which nothing waits for."""
    from ray import serve

    names: list[str] = []

    def _run(deployment: Any, name: str) -> Any:
        if name not in names:
            names.append(name)
        return serve.run(deployment, name=name, route_prefix=None)

    yield _run
    for name in names:
        serve.delete(name, _blocking=False)
