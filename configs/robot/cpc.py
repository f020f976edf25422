"""CPC on robot video of one camera: what has been seen predicts what comes.

Data and tasks are those of time_contrastive.py.
"""

import time_contrastive as arm

from jaxcl import augment, encoders, methods, training


def config() -> training.Experiment:
    return training.Experiment(
        data=arm.windows("train", 16),
        views=augment.Views((arm.frames(),), fields="video_0"),
        method=methods.CPC(
            encoders.OnFrames(arm.frame_encoder(16), "none"),
            context=encoders.Recurrence(128),
            steps=4,
            negatives="times",
        ),
        optimizer=arm.OPTIMIZER,
        train=training.Train(batch_size=16, epochs=60),
        run=training.Run(devices=1),
        tasks=arm.measured(),
    )
