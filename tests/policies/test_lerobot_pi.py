"""Policies of the pi0 family with the real lerobot: its networks, made small by a patch, untrained.

Their smallest has 2 billion parameters and a tokenizer that is downloaded; a patch of LeRobot gives both a size for
tests. What runs is LeRobot's own code, its processors and its real-time chunking.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.policies import peers

from inferential import AsyncConnection, InvalidObservation, LocalDispatcher, ModelProcess, Server

TINY = """
import importlib

def shrink():
    for kind in ("pi0", "pi05"):
        modeling = importlib.import_module(f"lerobot.policies.{kind}.modeling_{kind}")
        make_vlm, make_expert = modeling.PaliGemmaForConditionalGenerationWithPiGemma, modeling.PiGemmaForCausalLM

        def vlm(config, make=make_vlm):
            config.image_token_index = 1023
            config.text_config.vocab_size = 1024
            seen = config.vision_config
            seen.projection_dim = config.text_config.hidden_size
            seen.hidden_size, seen.intermediate_size = 32, 32
            seen.num_hidden_layers, seen.num_attention_heads = 1, 2
            return make(config=config)

        def expert(config, make=make_expert):
            config.vocab_size = 1024
            return make(config=config)

        modeling.PaliGemmaForConditionalGenerationWithPiGemma, modeling.PiGemmaForCausalLM = vlm, expert
        modeling.get_gemma_config = lambda variant, sizes=modeling.GemmaConfig: sizes(
            width=64, depth=2, mlp_dim=64, num_heads=2, num_kv_heads=1, head_dim=32
        )

def open_tiny(path, **options):
    from inferential.policies.lerobot import open_lerobot
    shrink()
    return open_lerobot(path, **options)
"""

SAVE = (
    TINY
    + """
import sys, torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.policies.pi0.configuration_pi0 import PI0Config
from lerobot.policies.pi05.configuration_pi05 import PI05Config

shrink()
words = ["<unk>", "<pad>", "Task:", "State:", "Action:", "pick", "place", "pick,", "place,"]
words += [f"{number}{end}" for number in range(-1, 256) for end in ("", ";")]
tokens = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
PreTrainedTokenizerFast(tokenizer_object=tokens, unk_token="<unk>", pad_token="<pad>").save_pretrained(
    sys.argv[1] + "/tokenizer"
)
for kind, make in (("pi0", PI0Config), ("pi05", PI05Config)):
    processors = importlib.import_module(f"lerobot.policies.{kind}.processor_{kind}")
    step = processors.TokenizerProcessorStep
    local = {"tokenizer_name": sys.argv[1] + "/tokenizer"}
    processors.TokenizerProcessorStep = lambda step=step, **options: step(**{**options, **local})
    config = make(
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (6,)),
            "observation.images.top": PolicyFeature(FeatureType.VISUAL, (3, 56, 56)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (6,))},
        device="cpu", chunk_size=20, n_action_steps=20, num_inference_steps=3, image_resolution=(56, 56),
        max_state_dim=8, max_action_dim=8, empty_cameras=1, tokenizer_max_length=24,
    )
    moments = {"mean": torch.ones(6), "std": torch.full((6,), 2.0)}
    moments |= {"q01": -torch.ones(6), "q99": torch.full((6,), 3.0)}
    torch.manual_seed(0)
    policy = get_policy_class(config.type)(config)
    stats = {"observation.state": moments, "action": moments}
    for one in (policy, *make_pre_post_processors(config, dataset_stats=stats)):
        one.save_pretrained(f"{sys.argv[1]}/{kind}")
print("true")
"""
)

COMPARE = (
    TINY
    + peers.GUIDED
    + """
ours = open_tiny(sys.argv[1], device="cpu", rtc={"execution_horizon": HORIZON})
first, second = ([seen("pick", 56), seen("place", 56)] for _ in range(2))
run = Guided(ours, sys.argv[1], first, second)
moved = {**second[0], "observation.state": second[0]["observation.state"] + 1}
print(json.dumps({
    **run.found,
    "shape": list(run.guided[0]["actions"].shape),
    "inputs": [one["name"] for one in ours.metadata["inputs"]],
    "moved": run.farthest(ours.infer_batch([moved]), run.unguided[:1]),
}))
"""
)

REFUSED = (
    TINY
    + """
import json
from pathlib import Path
from safetensors.torch import load_file, save_file

folder = Path(sys.argv[1])
file = folder / "model.safetensors"
whole, weights = file.read_bytes(), {name: one.clone() for name, one in load_file(file).items()}
found = []

def refused():
    try:
        open_tiny(str(folder), device="cpu")
    except ValueError as error:
        found.append(str(error))

file.write_bytes(whole[: len(whole) // 2])
refused()
save_file({name: one for name, one in weights.items() if "action_out_proj" not in name}, file)
refused()
save_file({**weights, "model.action_out_proj.bias": weights["model.action_out_proj.bias"][:5].clone()}, file)
refused()
file.unlink()
refused()
(folder / "adapter_config.json").write_text("{}")
refused()
print(json.dumps(found))
"""
)


pytestmark = pytest.mark.timeout(600)  # importing lerobot alone takes half a minute on a slow machine


@pytest.fixture(scope="module")
def python() -> str:
    return peers.vla_interpreter("pi")


@pytest.fixture(scope="module")
def saved(python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    peers.run(python, SAVE, str(folder))
    return folder


@pytest.mark.parametrize("kind", ["pi0", "pi05"])
def test_a_batch_of_robots_gets_what_each_would_get_alone_and_guided_from_lerobot(
    python: str, saved: Path, kind: str
) -> None:
    found = peers.run(python, COMPARE, str(saved / kind))
    assert found["shape"] == [20, 6]
    assert found["first"] < 1e-4
    assert found["guided"] < 1e-4
    assert found["unguided"] > 1e-2
    assert found["moved"] > 1e-4
    # The camera that the policy has beside those of any robot is none that a robot sends.
    assert found["inputs"][:3] == ["observation.state", "observation.images.top", "task"]


def test_a_policy_whose_weights_lerobot_would_make_up_is_refused(python: str, saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved / "pi0", tmp_path / "pi0")
    cut, lacking, shape, none, adapter = peers.run(python, REFUSED, str(folder))
    assert cut.startswith(f"LeRobot cannot load {folder}: SafetensorError: ")
    assert lacking.startswith(f"{folder}/model.safetensors lacks 2 of the policy's ")
    assert lacking.endswith("model.action_out_proj.weight, model.action_out_proj.bias")
    assert shape.startswith(f"{folder}/model.safetensors lacks 1 of the policy's ")
    assert none == f"{folder} has no model.safetensors"
    assert adapter == f"{folder} has no model.safetensors beside its adapter: merge the adapter into the policy"


async def test_it_is_served_from_its_own_environment(python: str, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny_pi.py").write_text(TINY)
    model = ModelProcess(
        "tiny_pi:open_tiny",
        args={"path": str(saved / "pi0")},
        python=python,
        env={"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(tmp_path)},
    )
    async with (
        Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"vla": model})) as server,
        AsyncConnection(server.address) as connection,
    ):
        await server.model_ready("vla")
        vla = connection.model("vla")
        image = np.zeros((48, 64, 3), np.uint8)
        result = await vla.infer(60_000, state=np.zeros(6), top=image, task="pick")
        assert result is not None
        assert result["actions"].shape == (20, 6)
        with pytest.raises(InvalidObservation, match=r"'observation.images.top' is missing: expected an image"):
            await vla.infer(60_000, state=np.zeros(6), task="pick")
