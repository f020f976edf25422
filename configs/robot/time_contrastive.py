"""Time-contrastive networks on robot video: what two cameras see at one time is alike.

ARM is an .npz with `video` [episodes, frames, 2 cameras, H, W, 3], `joints` and `object`
[episodes, frames, ...], measured at each frame: change it here, for training and tasks read it. A
fifth of the episodes is held out. The other configs of robot video take their data and tasks from
here.
"""

from jaxcl import augment, data, encoders, methods, training
from jaxcl.evaluation import tasks

ARM = "data/robot.npz"
CAMERAS = ("video_0", "video_1")
OPTIMIZER = training.AdamW(learning_rate=1e-3, scaling="none")


def windows(part: str, window: int | None, *, stride: int = 1) -> data.SourceConfig:
    """Windows of the training or the test part, both cameras; None: single frames, with all that
    was measured then."""
    fields = ("joints", "object") if window is None else ()
    episodes = data.Episodes(
        ARM,
        fields=(*fields, "video"),
        cameras=("video",),
        window=window,
        stride=stride,
        every=1 if window is None else None,
    )
    return data.Split(episodes, part)  # type: ignore[arg-type]


def measured() -> tuple[training.Task, ...]:
    """Joints and object from frames of the first camera; one camera's frames in the other's."""
    train, test = windows("train", None), windows("test", None)
    return (
        tasks.Regression("joints", train, test, "video_0", "joints"),
        tasks.Regression("object", train, test, "video_0", "object"),
        tasks.Cameras("cameras", test, *CAMERAS),
    )


def frame_encoder(last: int = 64) -> encoders.SmallCNN:
    """Features keep where things are."""
    return encoders.SmallCNN((16, 32, 64, last), pool=False)


def frames() -> augment.Compose:
    """Of a video: one crop, and one change of colour, for all frames."""
    crop = augment.RandomResizedCrop(48, scale=(0.8, 1.0), ratio=(0.95, 1.05))
    colour = augment.ColorJitter(0.2, 0.2, 0.2, 0.0)
    return augment.Compose((augment.EachFrame(crop), augment.EachFrame(colour)))


def config() -> training.Experiment:
    return training.Experiment(
        data=windows("train", 12, stride=3),
        views=augment.Views((frames(), frames()), fields=CAMERAS),
        method=methods.TimeContrastive(
            frame_encoder(), encoders.MLP((128, 32)), contrast="info_nce"
        ),
        optimizer=OPTIMIZER,
        train=training.Train(batch_size=16, epochs=60),
        run=training.Run(devices=1),
        tasks=measured(),
    )
