"""What `bench.policies` serves: a policy's file of each kind, and how its own library is called in a loop.

Each is called in an interpreter of its own, one thread for the model, with batches of the same rows.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

BATCH = 8
INPUT, _ACTIONS, _WIDTH = 64, 32, 512
_WANTED_MS = 5.0
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Backend:
    """A policy in a file.

    Attributes:
        target: of it.
        python: the interpreter that has its library.
        args: of the target.
        observation: what a robot sends, by its number.
        direct: a program that calls the library: it gets the path and defines `call`, which runs a batch.
        env: of the worker.
        turns: how often it is served, fewer where its library takes seconds to import.
    """

    target: str
    python: str
    args: dict[str, Any]
    observation: Callable[[int], dict[str, Any]]
    direct: str
    env: dict[str, str] = field(default_factory=lambda: dict(_ONE_THREAD))
    turns: int = 3

    def rows_per_s(self, seconds: float, rows: int = BATCH) -> float:
        """Returns how many rows per second the library alone runs, in batches of `rows`."""
        path = self.target.partition(":")[2]
        return float(_run(self.python, self.direct + _LOOP, path, str(seconds), str(rows)))


def onnx_backend(folder: Path) -> Backend:
    """Writes a network whose batch of 8 takes about 5 ms here."""
    layers = 8
    for _ in range(3):
        path = _write_onnx(folder / f"layers-{layers}.onnx", layers)
        batch_ms = BATCH / Backend(f"onnx:{path}", sys.executable, {}, _state, _ONNX).rows_per_s(0.5) * 1e3
        layers = max(2, round(layers * _WANTED_MS / batch_ms))
    path = _write_onnx(folder / "policy.onnx", layers)
    return Backend(f"onnx:{path}", sys.executable, {"threads": 1, "max_batch_size": BATCH}, _state, _ONNX, turns=5)


def torchscript_backend(folder: Path, layers: int) -> Backend | None:
    """Writes the same network as TorchScript; None where TORCH_PYTHON names no interpreter with torch."""
    python = os.environ.get("TORCH_PYTHON")
    if python is None:
        return None
    path = folder / "policy.pt"
    _run(python, _SAVE_TORCHSCRIPT, str(path), str(layers))
    inputs = {"state": {"dtype": "float32", "shape": [INPUT]}}
    args = {"threads": 1, "max_batch_size": BATCH, "inputs": inputs}
    return Backend(f"torchscript:{path}", python, args, _state, _TORCHSCRIPT)


def lerobot_backend(folder: Path) -> Backend | None:
    """Saves a small ACT policy; None where LEROBOT_PYTHON names no interpreter with lerobot."""
    python = os.environ.get("LEROBOT_PYTHON")
    if python is None:
        return None
    path = folder / "act"
    _run(python, _SAVE_ACT, str(path))
    return Backend(f"lerobot:{path}", python, {"device": "cpu", "max_batch_size": BATCH}, _seen, _LEROBOT)


def layers_of(backend: Backend) -> int:
    """Returns how many layers the network of `onnx_backend` has."""
    import onnx

    return sum(node.op_type == "MatMul" for node in onnx.load(backend.target.partition(":")[2]).graph.node)


def _state(number: int) -> dict[str, Any]:
    return {"state": np.full(INPUT, number, np.float32)}


def _seen(number: int) -> dict[str, Any]:
    return {"state": np.full(6, number, np.float32), "top": np.full((96, 128, 3), number, np.uint8), "task": "pick"}


def _run(python: str, program: str, *args: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "program.py"  # torch.jit.script reads the source
        file.write_text(program)
        environment = {**os.environ, **_ONE_THREAD}
        environment.pop("PYTHONPATH", None)
        done = subprocess.run([python, file, *args], capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return done.stdout.splitlines()[-1]


def _write_onnx(path: Path, layers: int) -> Path:
    chance = np.random.default_rng(0)
    nodes, weights, value, size = [], [], "state", INPUT
    for number in range(layers):
        out = _ACTIONS if number == layers - 1 else _WIDTH
        weight = chance.normal(0, size**-0.5, (size, out)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{number}"))
        nodes.append(helper.make_node("MatMul", [value, f"w{number}"], [f"m{number}"]))
        nodes.append(helper.make_node("Tanh", [f"m{number}"], [f"t{number}"]))
        value, size = f"t{number}", out
    graph = helper.make_graph(
        [*nodes, helper.make_node("Identity", [value], ["actions"])],
        "policy",
        [helper.make_tensor_value_info("state", TensorProto.FLOAT, ["robots", INPUT])],
        [helper.make_tensor_value_info("actions", TensorProto.FLOAT, ["robots", _ACTIONS])],
        weights,
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


_LOOP = """
import time

for _ in range(5):
    call()
calls, began, seconds = 0, time.perf_counter(), float(sys.argv[2])
while time.perf_counter() - began < seconds:
    call()
    calls += 1
print(calls * rows / (time.perf_counter() - began))
"""

_ONNX = f"""
import sys
import numpy as np
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
rows = int(sys.argv[3])
batch = np.ones((rows, {INPUT}), np.float32)

def call():
    session.run(None, {{"state": batch}})
"""

_SAVE_TORCHSCRIPT = f"""
import sys
import torch

sizes = [{INPUT}, *[{_WIDTH}] * (int(sys.argv[2]) - 1), {_ACTIONS}]
layers = []
for size, out in zip(sizes, sizes[1:]):
    layers += [torch.nn.Linear(size, out), torch.nn.Tanh()]
torch.jit.save(torch.jit.script(torch.nn.Sequential(*layers)), sys.argv[1])
print("saved")
"""

_TORCHSCRIPT = f"""
import sys
import torch

torch.set_num_threads(1)
module = torch.jit.load(sys.argv[1]).eval()
rows = int(sys.argv[3])
batch = torch.ones(rows, {INPUT})

def call():
    with torch.inference_mode():
        return module(batch).numpy()
"""

_SAVE_ACT = """
import sys
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors

config = ACTConfig(
    input_features={
        "observation.state": PolicyFeature(FeatureType.STATE, (6,)),
        "observation.images.top": PolicyFeature(FeatureType.VISUAL, (3, 96, 128)),
    },
    output_features={"action": PolicyFeature(FeatureType.ACTION, (6,))},
    pretrained_backbone_weights=None, device="cpu", dim_model=128, n_heads=4, dim_feedforward=256,
    n_encoder_layers=2, use_vae=False, chunk_size=20, n_action_steps=20,
)
moments = {"mean": torch.zeros(6), "std": torch.ones(6)}
image = {"mean": torch.full((3, 1, 1), 0.5), "std": torch.full((3, 1, 1), 0.25)}
stats = {"observation.state": moments, "action": moments, "observation.images.top": image}
policy = get_policy_class(config.type)(config)
for one in (policy, *make_pre_post_processors(config, dataset_stats=stats)):
    one.save_pretrained(sys.argv[1])
print("saved")
"""

_LEROBOT = """
import sys
import numpy as np
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors

config = PreTrainedConfig.from_pretrained(sys.argv[1])
config.device, config.pretrained_backbone_weights = "cpu", None
policy = get_policy_class(config.type).from_pretrained(sys.argv[1], config=config).eval()
before, after = make_pre_post_processors(config, pretrained_path=sys.argv[1])
rows = int(sys.argv[3])
images = np.zeros((rows, 96, 128, 3), np.uint8)

def call():
    with torch.inference_mode():
        batch = {
            "observation.state": torch.zeros(rows, 6),
            "observation.images.top": torch.from_numpy(images).permute(0, 3, 1, 2) / 255.0,
            "task": ["pick"] * rows,
        }
        return after(policy.predict_action_chunk(before(batch))).numpy()
"""
