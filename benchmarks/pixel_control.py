"""Writes episodes of a control task as a camera sees it: gymnasium's Pendulum, moved at random.

    pip install gymnasium pygame
    python benchmarks/pixel_control.py data/pendulum.npz

Arrays [episodes, frames, ...]: `frames` uint8 [64, 64, 3], grey pictures of the last three moments;
and `state`, cosine and sine of the pendulum's angle, and how fast it turns (rad/s).
"""

import argparse
from pathlib import Path

import gymnasium
import numpy as np
from PIL import Image

SIDE, STACK = 64, 3


def seen(environment: gymnasium.Env) -> np.ndarray:
    """What the camera sees, [SIDE, SIDE] uint8."""
    picture = Image.fromarray(environment.render()).convert("L")
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX))


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes episodes of Pendulum as pictures.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--episodes", type=int, default=150)
    parser.add_argument("--frames", type=int, default=30, help="of an episode")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    environment = gymnasium.make("Pendulum-v1", render_mode="rgb_array")
    frames = np.zeros((given.episodes, given.frames, SIDE, SIDE, STACK), np.uint8)
    state = np.zeros((given.episodes, given.frames, 3), np.float32)
    environment.action_space.seed(given.seed)
    for episode in range(given.episodes):
        observed, _ = environment.reset(seed=given.seed + episode)
        stack = [seen(environment)] * STACK
        for time in range(given.frames):
            frames[episode, time] = np.stack(stack, axis=-1)
            state[episode, time] = observed
            observed, *_ = environment.step(environment.action_space.sample())
            stack = [*stack[1:], seen(environment)]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(given.out, frames=frames, state=state)
    print(f"{frames.shape[0] * frames.shape[1]} frames of {len(frames)} episodes: {given.out}")


if __name__ == "__main__":
    main()
