"""Policies saved by LeRobot as models, with the real lerobot: ACT, diffusion and VQ-BeT, small and untrained."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.policies import peers

from inferential import AsyncConnection, InvalidObservation, LocalDispatcher, ModelProcess, Server

SAVE = """
import json, sys, torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.policies.vqbet.configuration_vqbet import VQBeTConfig

features = {
    "input_features": {
        "observation.state": PolicyFeature(FeatureType.STATE, (6,)),
        "observation.images.top": PolicyFeature(FeatureType.VISUAL, (3, 64, 96)),
    },
    "output_features": {"action": PolicyFeature(FeatureType.ACTION, (6,))},
}
moments = {"mean": torch.ones(6), "std": torch.full((6,), 2.0), "min": -torch.ones(6), "max": torch.ones(6) * 3}
stats = {
    "observation.state": moments,
    "observation.images.top": {"mean": torch.full((3, 1, 1), 0.5), "std": torch.full((3, 1, 1), 0.25)},
    "action": moments,
}
small = {"dim_model": 32, "n_heads": 2, "dim_feedforward": 64, "n_encoder_layers": 1, "use_vae": False}
common = {**features, "pretrained_backbone_weights": None, "device": "cpu"}
configs = [
    ACTConfig(**common, **small, chunk_size=12, n_action_steps=12),
    VQBeTConfig(
        **common, crop_shape=(48, 80), n_obs_steps=3, gpt_n_layer=1, gpt_n_head=2, gpt_hidden_dim=32, gpt_input_dim=32,
        gpt_output_dim=32, vqvae_embedding_dim=16, vqvae_enc_hidden_dim=16,
    ),
]
try:
    import diffusers
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
    configs.append(
        DiffusionConfig(
            **common, crop_shape=(48, 80), down_dims=(16, 32, 64),
            num_train_timesteps=10, num_inference_steps=2, n_obs_steps=2, noise_scheduler_type="DDIM",
        )
    )
except ImportError:
    pass
torch.manual_seed(0)
for config in configs:
    policy = get_policy_class(config.type)(config)
    for one in (policy, *make_pre_post_processors(config, dataset_stats=stats)):
        one.save_pretrained(f"{sys.argv[1]}/{config.type}")
print(json.dumps([config.type for config in configs]))
"""

BOTH = (
    peers.LEROBOTS_OWN
    + """
from inferential.policies.lerobot import open_lerobot

class Session:
    def __init__(self):
        self.state = None

theirs, before, after = lerobots_own(sys.argv[1])
ours = open_lerobot(sys.argv[1], device="cpu")
chance = np.random.default_rng(1)
"""
)

COMPARE = (
    BOTH
    + """
kind = sys.argv[2]
robots, steps = 3, 3
sessions = [Session() for _ in range(robots)]
seen = [
    [
        {
            "observation.state": chance.normal(size=6).astype(np.float32),
            "observation.images.top": chance.integers(0, 256, (64, 96, 3), dtype=np.uint8),
            "task": "pick",
        }
        for _ in range(robots)
    ]
    for _ in range(steps)
]
for observations in seen:
    torch.manual_seed(5)
    answers = ours.infer_batch(observations, sessions) if kind == "diffusion" else ours.infer_batch(observations)
widest = 0.0
for robot in range(robots):
    theirs.reset()
    for step, observations in enumerate(seen):
        one = observations[robot]
        batch = lerobots_batch([one["observation.state"]], [one["observation.images.top"]], ["pick"])
        ready = before(batch)
        if kind == "diffusion":
            # As its select_action fills the queues, which it does even where it has actions left.
            from lerobot.policies.utils import populate_queues
            ready = {key: value for key, value in ready.items() if key in theirs._queues and key != "action"}
            ready["observation.images"] = torch.stack([before(batch)["observation.images.top"]], dim=-4)
            theirs._queues = populate_queues(theirs._queues, ready)
    noise = {}
    if kind == "diffusion":
        torch.manual_seed(5)
        drawn = torch.randn(robots, theirs.config.horizon, 6)
        noise = {"noise": drawn[robot : robot + 1]}
    with torch.inference_mode():
        chunk = after(theirs.predict_action_chunk(ready, **noise)).numpy()[0]
    widest = max(widest, float(np.abs(chunk - answers[robot]["actions"]).max()))

def alone(session, observation):
    torch.manual_seed(5)
    return ours.answers([observation], [session])[0]["actions"]

older, fresh = Session(), Session()
alone(older, seen[0][0])
of_history = alone(older, seen[1][0]) - alone(fresh, seen[1][0])
older.state = None  # its episode begins anew
of_reset = alone(older, seen[1][0]) - alone(Session(), seen[1][0])
differences = [float(np.abs(one).max()) for one in (of_history, of_reset)]
print(json.dumps([widest, list(answers[0]["actions"].shape), differences]))
"""
)

COMPARE_QUEUED = (
    BOTH
    + """
from lerobot.policies.utils import populate_queues

seen = [
    [
        {"state": chance.uniform(-1, 3, 6).astype(np.float32), "top": chance.integers(0, 256, (64, 96, 3), np.uint8)}
        for _ in range(3)
    ]
    for _ in range(4)
]
sessions = [Session() for _ in range(3)]
for observations in seen:
    torch.manual_seed(5)
    answers = ours.infer_batch(observations, sessions)
    states, images = ([one[key] for one in observations] for key in ("state", "top"))
    ready = before(lerobots_batch(states, images, [""] * 3))
    ready["observation.images"] = torch.stack([ready["observation.images.top"]], dim=-4)
    ready = {key: value for key, value in ready.items() if key in theirs._queues and key != "action"}
    theirs._queues = populate_queues(theirs._queues, ready)
torch.manual_seed(5)
chunks = after(theirs.predict_action_chunk(ready)).numpy()
torch.manual_seed(5)
fresh = ours.infer_batch(seen[-1], [Session() for _ in range(3)])
print(json.dumps([
    float(np.abs(np.stack([one["actions"] for one in answers]) - chunks).max()),
    float(np.abs(np.stack([one["actions"] for one in fresh]) - chunks).max()),
    list(answers[0]["actions"].shape),
]))
"""
)

REFUSED = """
import json
from pathlib import Path
from inferential.policies.lerobot import open_lerobot

folder = Path(sys.argv[1])
config = json.loads((folder / "config.json").read_text())
weights = (folder / "model.safetensors").read_bytes()

def refused(**options):
    try:
        open_lerobot(str(folder), **{"device": "cpu", **options})
    except ValueError as error:
        return str(error)

found = [refused(rtc={"execution_horizon": 5}), refused(device="cuda:99"), refused(overrides={"stepz": 1})]
(folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
found.append(refused())
for text in (json.dumps({**config, "type": "levitation"}), json.dumps({**config, "stepz": 1}), "{"):
    (folder / "config.json").write_text(text)
    found.append(refused())
(folder / "model.safetensors").write_bytes(weights)
(folder / "config.json").write_text(json.dumps({**config, "n_decoder_layers": 3}))
found.append(refused())
print(json.dumps(found))
"""

ODD = """
import json, logging, numpy as np
from inferential.errors import InvalidObservation
from inferential.policies.lerobot import open_lerobot
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import make_pre_post_processors

path = sys.argv[1]
said = []
class Said(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())
logging.getLogger("inferential.policies").addHandler(Said())
policy = open_lerobot(path, device="cpu")
found = [len(said)]
image = np.zeros((64, 96, 3), np.uint8)
odd = [{"top": image + np.float32(255)}, {"top": image.astype(np.uint16)}, {"top": image - np.float32(1)}]
odd += [{"top": np.full((64, 96, 3), np.nan)}, {"top": image[:0]}, {"task": ["pick", "place"]}, {"task": 5}]
for changed in odd:
    try:
        policy.infer({"state": np.zeros(6), "top": image, **changed})
    except InvalidObservation as error:
        found.append(error.reason)
config = PreTrainedConfig.from_pretrained(path)
for one in make_pre_post_processors(config, dataset_stats=None):
    one.save_pretrained(path)
open_lerobot(path, device="cpu")
print(json.dumps([*found, said]))
"""


pytestmark = pytest.mark.timeout(600)  # importing lerobot alone takes half a minute on a slow machine


@pytest.fixture(scope="module")
def python() -> str:
    return peers.interpreter("lerobot")


@pytest.fixture(scope="module")
def saved(python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    peers.run(python, SAVE, str(folder))
    return folder


@pytest.mark.parametrize("kind", ["act", "diffusion"])
def test_a_batch_of_robots_gets_what_each_would_get_alone_from_lerobot(python: str, saved: Path, kind: str) -> None:
    if not (saved / kind).exists():
        pytest.skip(f"the interpreter lacks what a {kind} policy needs")
    widest, shape, (of_history, of_reset) = peers.run(python, COMPARE, str(saved / kind), kind)
    assert widest < 1e-3
    assert shape[1] == 6
    assert (of_history > 1e-3) == (kind == "diffusion")
    assert of_reset == 0


def test_a_policy_of_queues_gets_the_steps_of_each_robot(python: str, saved: Path) -> None:
    widest, of_history, shape = peers.run(python, COMPARE_QUEUED, str(saved / "vqbet"))
    assert shape == [5, 6]
    assert widest < 1e-4 < of_history


def test_what_cannot_be_loaded_is_named(python: str, saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved / "act", tmp_path / "act")
    found = peers.run(python, REFUSED, str(folder))
    assert found[0] == "rtc: policies of type act have no real-time chunking"
    assert found[1].startswith("device: 'cuda:99': ")
    assert found[2] == "overrides: ACTConfig has no field 'stepz'"
    for one in found[3:-1]:
        assert one.startswith(f"LeRobot cannot load {folder}: ")
    assert "levitation" in found[4]
    assert found[-1].startswith(f"{folder}/model.safetensors lacks ")
    assert "model.decoder.layers.1." in found[-1]


def test_what_would_mislead_the_policy_is_refused_or_said(python: str, saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved / "act", tmp_path / "act")
    before, *refused, said = peers.run(python, ODD, str(folder))
    assert before == 0
    floats = "'observation.images.top': expected an image of floats from 0 to 1, got the value "
    images = "'observation.images.top': expected an image, uint8 [64, 96, 3], got "
    assert refused == [
        *(f"{floats}255", f"{images}uint16 [64, 96, 3]", f"{floats}-1", f"{floats}nan", f"{images}uint8 [0, 96, 3]"),
        *("'task': expected one string, got ['pick', 'place']", "'task': expected one string, got 5"),
    ]
    assert said == [
        f"{folder} has no statistics of observation.state, observation.images.top, action, which are not normalized"
    ]


async def test_it_is_served_from_its_own_environment(python: str, saved: Path) -> None:
    model = ModelProcess(f"lerobot:{saved}/act", python=python, env={"HF_HUB_OFFLINE": "1"})
    async with (
        Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"act": model})) as server,
        AsyncConnection(server.address) as connection,
    ):
        await server.model_ready("act")
        act = connection.model("act")
        image = np.zeros((120, 160, 3), np.uint8)
        result = await act.infer(60_000, state=np.zeros(6), top=image, task="pick")
        assert result is not None
        assert result["actions"].shape == (12, 6)
        with pytest.raises(InvalidObservation, match=r"'observation.state': expected float32 \[6\], got float64 \[5\]"):
            await act.infer(60_000, state=np.zeros(5), top=image)
        assert (await server.model_metadata("act"))["policy_type"] == "act"


async def test_each_robot_has_its_own_history(python: str, saved: Path) -> None:
    if not (saved / "diffusion").exists():
        pytest.skip("the interpreter lacks what a diffusion policy needs")
    model = ModelProcess(f"lerobot:{saved}/diffusion", python=python, env={"HF_HUB_OFFLINE": "1"})
    image = np.zeros((64, 96, 3), np.uint8)
    async with Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"policy": model})) as server:
        await server.model_ready("policy")
        for robot in ("arm-01", "arm-02"):
            async with AsyncConnection(server.address, robot) as connection:
                handle = connection.model("policy")
                for _ in range(2):
                    result = await handle.infer(60_000, state=np.zeros(6), top=image, task="pick")
                    assert result is not None
                    assert result["actions"].shape[1] == 6
                await handle.reset()
