"""Trains the law that keeps the hopper up, and writes src/inferential/sim/hopper_policy.npz.

    python scripts/train_hopper_policy.py [--iterations 40] [--seed 0]

Numpy and MuJoCo only; about a minute on two cores. The same seed gives the same weights on the same machine.

Augmented random search, version V2-t (Mania, Guy and Recht, "Simple random search of static linear policies is
competitive for reinforcement learning", 2018): a linear law on the normalised observation is moved along random
directions by the difference in return of going there and going the other way. What it is trained in is the server at
work: one call at a time, the newest observation goes into it, and the robot holds its action until the next arrives.
The return is gymnasium's without the speed: 1 for each control period in good health, less 0.001 times the torques
squared. The normalisation stays what the first iterations made it: that of a robot which stands still would shrink,
and the law would grow stiff with it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from rich.progress import track

from inferential.sim.hopper import Hopper

OUT = Path(__file__).parent.parent / "src" / "inferential" / "sim" / "hopper_policy.npz"
INPUTS, OUTPUTS = 14, 3
DIRECTIONS, BEST = 16, 8
NOISE, STEP = 0.03, 0.005
LONGEST_CALL_S = 0.07
EPISODE_S = 6.0
NORMALISED_BY = 15  # iterations
JUDGED_EVERY = 5
JUDGED_CALLS_S = (0.0, 0.02, 0.04, 0.05, 0.06, 0.07)


@dataclass(frozen=True)
class Law:
    """The law, as `sim.policies.HopperPolicy` uses it."""

    gain: np.ndarray
    mean: np.ndarray
    scale: np.ndarray

    def __call__(self, seen: np.ndarray) -> np.ndarray:
        return self.gain @ ((seen - self.mean) / self.scale)


@dataclass(frozen=True)
class Episode:
    """What came of one: return, seconds up, and the sums that the normalisation is made from."""

    reward: float
    up_s: float
    count: int
    total: np.ndarray
    squares: np.ndarray


def episode(law: Law, call_s: float, seed: int, seconds: float = EPISODE_S) -> Episode:
    """Runs a hopper, until it falls at most, with a server whose calls take `call_s`."""
    robot = Hopper(seed)
    every = round(1 / robot.control_rate_hz / robot.physics_step_s)
    call = round(call_s / robot.physics_step_s)
    waiting: np.ndarray | None = None
    coming: np.ndarray | None = None
    ready, reward = 0, 0.0
    seen = []
    for step in range(round(seconds / robot.physics_step_s)):
        if step % every == 0:
            seen_now = robot.observe()
            waiting = np.concatenate([seen_now["state"], seen_now["torque"]])
            seen.append(waiting)
            reward += 1 - 1e-3 * float(np.square(robot.data.ctrl).sum())
        if coming is not None and step >= ready:
            robot.act(coming)
            coming = None
        if coming is None and waiting is not None:
            coming, waiting, ready = law(waiting), None, step + call
        robot.step()
        if not robot.up:
            break
    all_seen = np.array(seen)
    return Episode(reward, robot.up_s, len(seen), all_seen.sum(0), np.square(all_seen).sum(0))


def train(iterations: int, seed: int) -> Law:
    """The law that stayed up longest when it was judged."""
    chance = np.random.default_rng(seed)
    law = Law(np.zeros((OUTPUTS, INPUTS)), np.zeros(INPUTS), np.ones(INPUTS))
    calls = np.linspace(0, LONGEST_CALL_S, DIRECTIONS)
    count, total, squares = 0, np.zeros(INPUTS), np.zeros(INPUTS)
    best, best_up_s = law, -1.0
    with Pool() as pool:
        for iteration in track(range(1, iterations + 1), description="training"):
            ways = chance.standard_normal((DIRECTIONS, OUTPUTS, INPUTS))
            seeds = chance.integers(1 << 30, size=DIRECTIONS)
            tries = [
                (Law(law.gain + sign * NOISE * way, law.mean, law.scale), call, int(number))
                for way, call, number in zip(ways, calls, seeds, strict=True)
                for sign in (1, -1)
            ]
            seen_now = pool.starmap(episode, tries, chunksize=1)
            rewards = np.array([one.reward for one in seen_now]).reshape(-1, 2)
            top = np.argsort(-rewards.max(axis=1), kind="stable")[:BEST]
            pull = np.einsum("n,nij->ij", rewards[top, 0] - rewards[top, 1], ways[top])
            gain = law.gain + STEP / (BEST * (rewards[top].std() + 1e-6)) * pull
            if iteration <= NORMALISED_BY:
                count += sum(one.count for one in seen_now)
                total = total + sum(one.total for one in seen_now)
                squares = squares + sum(one.squares for one in seen_now)
            mean = total / count
            law = Law(gain, mean, np.sqrt(np.maximum(squares / count - mean**2, 1e-2)))
            if iteration % JUDGED_EVERY == 0:
                judged = [(law, call, 10**9 + number, 10.0) for call in JUDGED_CALLS_S for number in range(8)]
                up_s = float(np.mean([one.up_s for one in pool.starmap(episode, judged, chunksize=1)]))
                if up_s > best_up_s:
                    best, best_up_s = law, up_s
                print(f"iteration {iteration}: mean return {rewards.mean():.0f}, judged: up {up_s:.2f} of 10 s")
    return best


def main() -> None:
    """Trains, tells how long new hoppers stay up by the time of a call, and writes the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    law = train(args.iterations, args.seed)
    with Pool() as pool:
        for call_ms in range(0, 161, 20):
            tries = [(law, call_ms / 1e3, 2 * 10**9 + number, 20.0) for number in range(8)]
            seen_now = pool.starmap(episode, tries, chunksize=1)
            print(
                f"calls of {call_ms} ms: up for {np.mean([one.up_s for one in seen_now]):.1f} of 20 s, "
                f"{sum(one.up_s > 19.99 for one in seen_now)} of {len(seen_now)} never fell, "
                f"mean return {np.mean([one.reward for one in seen_now]):.0f} of 1000"
            )
    np.savez_compressed(args.out, gain=law.gain, mean=law.mean, scale=law.scale)
    print(f"{args.out}: {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
