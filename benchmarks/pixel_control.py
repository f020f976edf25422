"""Writes episodes of a control task as a camera sees it: gymnasium's CartPole, moved at random.

    pip install gymnasium pygame
    python benchmarks/pixel_control.py data/cartpole.npz

Arrays [episodes, frames, ...]: `frames` uint8 [64, 64, 3], grey pictures of the last three moments;
`state`, where the cart is, how fast, the pole's angle, how fast (m, m/s, rad, rad/s); and `length`,
[episodes], how many frames of each count. About 150 frames a second.
"""

import argparse
from pathlib import Path

import gymnasium
import numpy as np
from PIL import Image

SIDE, STACK = 64, 3


def seen(environment: gymnasium.Env) -> np.ndarray:
    """The middle of what the camera sees, [SIDE, SIDE] uint8."""
    picture = Image.fromarray(environment.render()).convert("L")
    width, height = picture.size
    left = (width - height) // 2
    square = picture.crop((left, 0, left + height, height))
    return np.asarray(square.resize((SIDE, SIDE), Image.Resampling.BOX))


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes episodes of CartPole as pictures.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--frames", type=int, default=40, help="of an episode, at most")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    environment = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    frames = np.zeros((given.episodes, given.frames, SIDE, SIDE, STACK), np.uint8)
    state = np.zeros((given.episodes, given.frames, 4), np.float32)
    length = np.zeros(given.episodes, np.int64)
    environment.action_space.seed(given.seed)
    for episode in range(given.episodes):
        observed, _ = environment.reset(seed=given.seed + episode)
        stack = [seen(environment)] * STACK
        for time in range(given.frames):
            frames[episode, time] = np.stack(stack, axis=-1)
            state[episode, time] = observed
            length[episode] = time + 1
            observed, _, fallen, _, _ = environment.step(environment.action_space.sample())
            stack = [*stack[1:], seen(environment)]
            if fallen:
                break
    given.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(given.out, frames=frames, state=state, length=length)
    print(f"{length.sum()} frames of {given.episodes} episodes: {given.out}")


if __name__ == "__main__":
    main()
