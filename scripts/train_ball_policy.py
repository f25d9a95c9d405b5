"""Trains the network that finds the ball, and writes src/inferential/sim/ball_policy.npz.

    python scripts/train_ball_policy.py [--steps 4000] [--seed 0]

Numpy only; under a minute. The same seed gives the same weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.progress import track

from inferential.sim import camera
from inferential.sim.policies import FILTER, attention, locate, patches

OUT = Path(__file__).parent.parent / "src" / "inferential" / "sim" / "ball_policy.npz"
BATCH = 64
IMAGES = 4096
RATES = {"filter": 2e-2, "scale": 1e-4, "offset": 1e-4}


def sample(count: int, chance: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Random positions on the plate, in metres, and their images."""
    positions = chance.uniform(-1, 1, (count, 2)) * camera.HALF_WIDTH_M
    return positions, np.stack([camera.draw(position, chance) for position in positions])


def train(steps: int, seed: int) -> dict[str, np.ndarray]:
    """Least squares by Adam (Kingma and Ba, 2015), the learning rate falling to nothing."""
    chance = np.random.default_rng(seed)
    positions, images = sample(IMAGES, chance)
    targets = positions.astype(np.float32)
    weights = {
        "filter": chance.normal(0, 0.05, FILTER * FILTER).astype(np.float32),
        "scale": np.full(2, camera.HALF_WIDTH_M, np.float32),
        "offset": np.zeros(2, np.float32),
    }
    first = {name: np.zeros_like(weight) for name, weight in weights.items()}
    second = {name: np.zeros_like(weight) for name, weight in weights.items()}
    for step in track(range(1, steps + 1), description="training"):
        chosen = chance.integers(0, IMAGES, BATCH)
        windows = patches(images[chosen])
        chances, places = attention(windows, weights)
        expected = chances @ places
        error = (expected * weights["scale"] + weights["offset"] - targets[chosen]) / BATCH
        # Of the softmax: d expected / d score = chance * (place - expected).
        pull = np.einsum("nd,npd->np", error * weights["scale"], places[None] - expected[:, None]) * chances
        gradients = {
            "filter": np.einsum("np,npf->f", pull, windows, optimize=True),
            "scale": (error * expected).sum(0),
            "offset": error.sum(0),
        }
        for name, gradient in gradients.items():
            first[name] += 0.1 * (gradient - first[name])
            second[name] += 0.001 * (gradient**2 - second[name])
            mean, power = first[name] / (1 - 0.9**step), second[name] / (1 - 0.999**step)
            rate = RATES[name] * (1 - step / steps)
            weights[name] -= (rate * mean / (np.sqrt(power) + 1e-12)).astype(np.float32)
    return weights


def main() -> None:
    """Trains, tells the error on new images, and writes the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    weights = train(args.steps, args.seed)
    positions, images = sample(2000, np.random.default_rng(args.seed + 1))
    error = np.linalg.norm(locate(images, weights) - positions, axis=1)
    print(f"error on new images: mean {error.mean() * 1e3:.2f} mm, 99% below {np.percentile(error, 99) * 1e3:.2f} mm")
    np.savez_compressed(OUT, **weights)
    print(f"{OUT}: {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
