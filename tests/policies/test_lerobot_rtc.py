"""Real-time chunking with the real lerobot: SmolVLA, small and untrained, guided by what robots have left."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from tests.policies import peers

from inferential import AsyncConnection, InvalidObservation, LocalDispatcher, ModelProcess, Server
from inferential.client import AsyncChunkRuntime

SAVE = """
import json, sys, torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, SmolVLMConfig, SmolVLMImageProcessor, SmolVLMProcessor
from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig

vlm, policy_folder = sys.argv[1] + "/vlm", sys.argv[1] + "/smolvla"
words = ["<unk>", "<pad>", "<image>", "<fake>", "<global>", "<end>", "pick", "place"]
tokens = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
special = {"image": "<image>", "fake_image": "<fake>", "global_image": "<global>", "end_of_utterance": "<end>"}
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=tokens, unk_token="<unk>", pad_token="<pad>",
    extra_special_tokens={f"{name}_token": token for name, token in special.items()},
)
processor = SmolVLMProcessor(
    SmolVLMImageProcessor(), tokenizer, SmolVLMVideoProcessor(), image_seq_len=4, chat_template=""
)
processor.save_pretrained(vlm)
SmolVLMConfig(
    text_config={
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 16,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "pad_token_id": 1,
    },
    vision_config={
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 64, "patch_size": 16,
    },
    scale_factor=2, image_token_id=2, pad_token_id=1,
).save_pretrained(vlm)
config = SmolVLAConfig(
    input_features={
        "observation.state": PolicyFeature(FeatureType.STATE, (6,)),
        "observation.images.top": PolicyFeature(FeatureType.VISUAL, (3, 64, 64)),
    },
    output_features={"action": PolicyFeature(FeatureType.ACTION, (6,))},
    device="cpu", vlm_model_name=vlm, load_vlm_weights=False, num_vlm_layers=2, resize_imgs_with_padding=(64, 64),
    chunk_size=20, n_action_steps=20, num_steps=5, tokenizer_max_length=8, expert_width_multiplier=0.5,
    max_state_dim=8, max_action_dim=8,
)
moments = {"mean": torch.ones(6), "std": torch.full((6,), 2.0)}
torch.manual_seed(0)
policy = get_policy_class(config.type)(config)
stats = {"observation.state": moments, "action": moments}
for one in (policy, *make_pre_post_processors(config, dataset_stats=stats)):
    one.save_pretrained(policy_folder)
print("true")
"""

COMPARE = (
    peers.GUIDED
    + """
from inferential.policies.lerobot import open_lerobot

ours = open_lerobot(sys.argv[1], device="cpu", rtc={"execution_horizon": HORIZON})
first, second = ([seen("pick", 64), seen("pick", 64)] for _ in range(2))
run = Guided(ours, sys.argv[1], first, second)
mixed = ours.infer_batch([second[0], {**second[1], **run.left[1]}])
kept = run.left[0]["prev_chunk_left_over"][:DELAY]
print(json.dumps({
    **run.found,
    "frozen": float(np.abs(run.guided[0]["actions"][:DELAY] - kept).max()),
    "mixed": run.farthest(mixed[:1], run.unguided[:1]),
}))
"""
)


pytestmark = pytest.mark.timeout(600)  # importing lerobot alone takes half a minute on a slow machine


@pytest.fixture(scope="module")
def python() -> str:
    return peers.vla_interpreter("smolvla")


@pytest.fixture(scope="module")
def saved(python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    peers.run(python, SAVE, str(folder))
    return folder


def test_a_robots_actions_left_guide_its_chunk_as_lerobots_own_do(python: str, saved: Path) -> None:
    found = peers.run(python, COMPARE, str(saved / "smolvla"))
    assert found["first"] < 1e-4
    assert found["guided"] < 1e-4
    assert found["mixed"] < 1e-4
    assert found["frozen"] < 0.5 < found["unguided"]


async def test_the_chunk_runtime_is_served_with_real_time_chunking(python: str, saved: Path) -> None:
    model = ModelProcess(f"lerobot:{saved}/smolvla", python=python, env={"HF_HUB_OFFLINE": "1"})
    image = np.zeros((64, 64, 3), np.uint8)
    async with (
        Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"vla": model})) as server,
        AsyncConnection(server.address) as connection,
    ):
        await server.model_ready("vla")
        vla = connection.model("vla", control_rate_hz=20, latency_budget_ms=60_000)
        runtime = AsyncChunkRuntime(vla, control_rate_hz=20, rtc=True)
        for _ in range(600):
            await runtime.step(lambda: {"state": np.zeros(6, np.float32), "top": image, "task": "pick"})
            if runtime.stats.chunks >= 3:
                break
            await asyncio.sleep(0.05)  # a control period
        assert runtime.stats.chunks >= 3
        assert not runtime.stats.refused
        with pytest.raises(InvalidObservation, match=r"'prev_chunk_left_over': expected float32 \[\*, 6\], got float"):
            await connection.model("vla").infer(
                60_000, state=np.zeros(6), top=image, prev_chunk_left_over=np.zeros((4, 5))
            )
