#!/usr/bin/env bash
# lerobot 0.4.4: quantiles in a dataset's stats.json are means of its episodes' quantiles. 0.6.1 and lerobot-dataset 0.5.0
# have the same rule (datasets/compute_stats.py, aggregate_feature_stats).
# One would guess: q01 and q99, by which quantile normalization scales what a policy sees, enclose 98 % of the frames.
# Seen: of two episodes that stay near 0 and near 10, q01 is 5.00 and q99 is 5.10: no frame lies between them, and the
# scale is 0.1 where the data spans 10. min, max, mean and std are those of all frames.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check lerobot==0.4.4
HF_HUB_OFFLINE=1 HOME="$work" venv/bin/python - 2>log <<'PYTHON' || { cat log; exit 1; }
import json
import sys

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

feature = {"dtype": "float32", "shape": (2,), "names": ["place", "step"]}
dataset = LeRobotDataset.create(
    "local/set", fps=10, root="set", use_videos=False, features={"observation.state": feature, "action": feature}
)
frames = []
for episode in range(2):
    for step in range(100):
        state = np.array([10 * episode + step / 1000, step], np.float32)
        frames.append(state)
        dataset.add_frame({"observation.state": state, "action": state, "task": "go"})
    dataset.save_episode()
dataset.finalize()
stats = json.load(open("set/meta/stats.json"))["observation.state"]
place = np.stack(frames)[:, 0]
low, high = stats["q01"][0], stats["q99"][0]
inside = float(((place >= low) & (place <= high)).mean())
print(f"of all frames: q01 {np.quantile(place, 0.01):.2f}, q99 {np.quantile(place, 0.99):.2f}")
print(f"stats.json:    q01 {low:.2f}, q99 {high:.2f}; share of frames between them: {inside:.0%}")
sys.exit(not (4.9 < low < high < 5.2 and inside == 0))
PYTHON
