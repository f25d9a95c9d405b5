"""Interpreters with what a test environment cannot have: torch, and lerobot with torch, of gigabytes each."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

SOURCES = Path(__file__).parents[2] / "src"
_LEND = f"""
import importlib.util, sys
folder = {str(SOURCES / "inferential")!r}
spec = importlib.util.spec_from_file_location(
    "inferential", folder + "/__init__.py", submodule_search_locations=[folder]
)
sys.modules["inferential"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["inferential"])
"""

# Where lerobot is: a saved policy as LeRobot itself loads it, its processors, and a batch as it takes one.
LEROBOTS_OWN = """
import json, numpy as np, torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors

def lerobots_own(path):
    config = PreTrainedConfig.from_pretrained(path)
    config.device, config.pretrained_backbone_weights = "cpu", None
    policy = get_policy_class(config.type).from_pretrained(path, config=config).eval()
    return policy, *make_pre_post_processors(config, pretrained_path=path)

def lerobots_batch(states, images, tasks):
    return {
        "observation.state": torch.from_numpy(np.stack(states)),
        "observation.images.top": torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255.0,
        "task": tasks,
    }
"""
# Two robots at `first`, and then at `second`, guided by what they have left: `ours` against LeRobot's own of `path`.
GUIDED = (
    LEROBOTS_OWN
    + """
from lerobot.policies.rtc.configuration_rtc import RTCConfig

HORIZON, DELAY = 8, 3
chance, noise = np.random.default_rng(1), torch.randn(2, 20, 8)

def seen(task, size):
    image = chance.integers(0, 256, (size, size, 3), dtype=np.uint8)
    return {"observation.state": chance.normal(size=6).astype(np.float32), "top": image, "task": task}

class Guided:
    def __init__(self, ours, path, first, second):
        theirs, before, self.after = lerobots_own(path)
        theirs.config.rtc_config = RTCConfig(execution_horizon=HORIZON)
        theirs.init_rtc_processor()
        ours._policy.model.sample_noise = lambda shape, device: noise[: shape[0]]

        def chunk(robot, one, **guidance):
            batch = lerobots_batch([one["observation.state"]], [one["top"]], [one["task"]])
            return theirs.predict_action_chunk(before(batch), noise=noise[robot : robot + 1], **guidance)

        played = ours.infer_batch(first)
        raw = [chunk(robot, one) for robot, one in enumerate(first)]
        self.left = [{"prev_chunk_left_over": one["actions"][5:], "inference_delay": np.int32(DELAY)} for one in played]
        self.guided = ours.infer_batch([{**one, **of_it} for one, of_it in zip(second, self.left)])
        wanted = [
            chunk(robot, one, inference_delay=DELAY, prev_chunk_left_over=raw[robot][0, 5 : 5 + HORIZON])
            for robot, one in enumerate(second)
        ]
        self.unguided = [chunk(robot, one) for robot, one in enumerate(second)]
        self.found = {
            "first": self.farthest(played, raw),
            "guided": self.farthest(self.guided, wanted),
            "unguided": self.farthest(self.guided, self.unguided),
        }

    def farthest(self, ours, theirs):
        return max(
            float(np.abs(one["actions"] - self.after(other).numpy()[0]).max()) for one, other in zip(ours, theirs)
        )
"""
)


def interpreter(package: str) -> str:
    """Returns the interpreter that the environment names; the test is skipped where it names none."""
    variable = f"{package.upper()}_PYTHON"
    found = os.environ.get(variable)
    if not found:
        pytest.skip(f"set {variable} to an interpreter with {package}, numpy and protobuf to run it")
    return found


def vla_interpreter(extra: str) -> str:
    """Returns that of lerobot with what policies of vision and language need, which this extra of it brings."""
    found = interpreter("lerobot")
    look = "import importlib.util; print('true' if importlib.util.find_spec('transformers') else 'false')"
    if not run(found, look):
        pytest.skip(f"the interpreter lacks what such a policy needs: lerobot[{extra}]")
    return found


def run(python: str, code: str, *args: str) -> Any:
    """Runs code there, with this package as a worker has it; returns what it prints last, as JSON."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "program.py"  # torch.jit.script reads the source
        program.write_text(_LEND + code)
        done = subprocess.run(
            [python, program, *args], capture_output=True, text=True, check=False, timeout=500, env=environment
        )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
