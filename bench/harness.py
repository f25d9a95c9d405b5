"""What the benchmarks share: servers in processes of their own, percentiles, and where results go.

A benchmark is a module with `run(seconds: float) -> dict` and a first docstring line; `python -m bench` finds it by
its name.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, str | int]:
    """Where the figures come from."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "cpus": os.cpu_count() or 1,
        "machine": platform.machine(),
        **{name: version(name) for name in ("inferential", "pyzmq", "protobuf", "numpy")},
    }


def percentiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p99 and maximum in milliseconds, and how many there were."""
    p50, p99, most = np.percentile(seconds, [50, 99, 100]) * 1e3
    return {"p50_ms": round(p50, 3), "p99_ms": round(p99, 3), "max_ms": round(most, 3), "count": len(seconds)}


def save(name: str, result: dict[str, Any], *, keep_others: bool = False) -> Path:
    """Writes a result, with the machine it is from, to bench/results.

    Args:
        name: of the file.
        result: figures by case.
        keep_others: whether cases of the former result that are not in this one stay.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    former = json.loads(path.read_text()) if keep_others and path.exists() else {}
    path.write_text(json.dumps({**former, "machine": machine(), **result}, indent=2) + "\n")
    return path


@contextmanager
def serving(models: Callable[[], dict[str, Any]], ready_s: float = 30.0, **config: Any) -> Iterator[str]:
    """The address of a server in a process of its own, with the models that `models` makes there."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(models, config, theirs), daemon=True)
    process.start()
    try:
        if not ours.poll(ready_s):
            raise TimeoutError(f"the server did not start within {ready_s:g} s")
        yield ours.recv()
    finally:
        ours.close()
        process.join(10)
        if process.is_alive():
            process.kill()
            process.join()


def _serve(models: Callable[[], dict[str, Any]], config: dict[str, Any], pipe: Pipe) -> None:
    from inferential import LocalDispatcher, Server
    from inferential.config import InferentialConfig

    async def main() -> None:
        dispatcher = LocalDispatcher(models())
        server = Server("tcp://127.0.0.1:0", config=InferentialConfig(**config), dispatcher=dispatcher)
        async with server:
            for model_id in dispatcher.model_ids():
                await server.model_ready(model_id)
            pipe.send(server.address)
            closed = asyncio.Event()
            asyncio.get_running_loop().add_reader(pipe.fileno(), closed.set)  # readable when the parent closes
            await closed.wait()

    asyncio.run(main())
