"""A peer's process: `NAME serve` prints its address and serves until its input ends; `NAME ask ADDRESS` takes jobs.

What follows a colon in NAME is given to the peer's `serve`: which of its models.

Jobs are lines of JSON: {"observation": ..., "clients": ...} to get ready, and with "rate_hz", "start", "seconds",
"first" and "of" (see `loops`) to measure; each is answered by a line with the latencies.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

HERE = Path(__file__).parent


def load(path: Path) -> ModuleType:
    """A module by its file: the environments of peers do not have this repository's packages."""
    spec = importlib.util.spec_from_file_location(f"overhead_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Runs one side of one peer."""
    sys.path.pop(0)  # this folder, whose modules are called like the packages that they are about
    name, side, *rest = sys.argv[1:]
    name, _, model = name.partition(":")
    peer = load(HERE / f"{name}.py")
    if side == "serve":
        models = (model,) if model else ()
        peer.serve(lambda address: print(json.dumps([address, peer.version()]), flush=True), *models)
        return
    cases, loops = load(HERE.parent / "cases.py"), load(HERE.parent / "loops.py")
    clients: dict[str, list[Any]] = {}
    for line in sys.stdin:
        job = json.loads(line)
        asks = clients.setdefault(job["observation"], [])
        shapes = cases.OBSERVATIONS[job["observation"]]
        while len(asks) < job["clients"]:
            observation = {name: np.zeros(shape, dtype=dtype) for name, (dtype, shape) in shapes.items()}
            asks.append(peer.client(rest[0], observation))
        if "start" not in job:  # to get ready
            for ask in asks:
                ask()
            print("[]", flush=True)
            continue
        plan = (job["rate_hz"], job["start"], job["seconds"], job["first"], job["of"])
        print(json.dumps(loops.measure(asks[: job["clients"]], *plan)), flush=True)


if __name__ == "__main__":
    main()
