"""Time-contrastive networks on robot video: what two cameras see at one time is alike (see
arm.py)."""

import arm

from jaxcl import augment, encoders, methods, training


def config() -> training.Experiment:
    return training.Experiment(
        data=arm.windows("train", 12, stride=3),
        views=augment.Views((arm.frames(), arm.frames()), fields=arm.CAMERAS),
        method=methods.TimeContrastive(
            arm.frame_encoder(), encoders.MLP((128, 32)), contrast="info_nce"
        ),
        optimizer=arm.OPTIMIZER,
        train=training.Train(batch_size=16, epochs=60),
        run=training.Run(devices=1),
        tasks=arm.measured(),
    )
