"""CURL on pictures of a control task, moved at random: what they say of its state.

`python benchmarks/pixel_control.py data/pendulum.npz` writes them. In a loop of reinforcement
learning CURL stands beside the other losses: `docs/time.md` shows one.
"""

from jaxcl import augment, data, encoders, methods, training
from jaxcl.evaluation import tasks

EPISODES = "data/pendulum.npz"


def moments(part: str) -> data.SourceConfig:
    """Stacks of three frames, and the state at the last of them."""
    episodes = data.Episodes(EPISODES, fields=("frames", "state"), window=None, every=1)
    return data.Split(episodes, part)  # type: ignore[arg-type]


def config() -> training.Experiment:
    crop = augment.Compose((augment.RandomCrop(56),))
    return training.Experiment(
        data=moments("train"),
        views=augment.Views((crop, crop), fields="frames"),
        method=methods.CURL(
            encoders.SmallCNN((16, 32, 32), pool=False), encoders.TanhProjector(50)
        ),
        optimizer=training.AdamW(learning_rate=1e-3, scaling="none"),
        train=training.Train(batch_size=128, epochs=20),
        run=training.Run(devices=1),
        tasks=(tasks.Regression("state", moments("train"), moments("test"), "frames", "state"),),
    )
