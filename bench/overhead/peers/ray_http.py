"""Ray Serve over HTTP: an ingress that reads the body and answers with 64 bytes; the client of the standard library."""

from __future__ import annotations

import http.client
import socket
import sys
from collections.abc import Callable
from typing import Any


def version() -> str:
    """Of Ray."""
    import ray

    return f"ray {ray.__version__}"


def serve(ready: Callable[[str], None]) -> None:
    """Serves until standard input ends."""
    import ray
    from ray import serve as ray_serve
    from starlette.requests import Request
    from starlette.responses import Response

    class Echo:
        async def __call__(self, request: Request) -> Response:
            await request.body()
            return Response(bytes(64))

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        ray_serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config={"log_level": "ERROR"})
        ray_serve.run(ray_serve.deployment(max_ongoing_requests=64)(Echo).bind())
        ready(f"127.0.0.1:{port}")
        sys.stdin.read()
    finally:
        ray_serve.shutdown()
        ray.shutdown()


def client(address: str, observation: dict[str, Any]) -> Callable[[], Any]:
    """One connection that is kept alive."""
    connection = http.client.HTTPConnection(address)
    arrays = list(observation.values())

    def ask() -> Any:
        body = b"".join(array.data.cast("B") for array in (each.reshape(-1) for each in arrays))
        connection.request("POST", "/", body)
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise RuntimeError(f"HTTP {response.status}: {answer[:200]!r}")
        return answer

    return ask
