"""SimCLR on single frames of robot video, of one camera: without time.

Data and tasks are those of time_contrastive.py.
"""

import time_contrastive as arm

from jaxcl import augment, encoders, methods, training


def config() -> training.Experiment:
    crop = augment.RandomResizedCrop(48, scale=(0.6, 1.0), ratio=(0.9, 1.1))
    view = augment.Compose((crop, augment.ColorJitter(0.3, 0.3, 0.3, 0.1)))
    return training.Experiment(
        data=arm.windows("train", None),
        views=augment.Views((view, view), fields="video_0"),
        method=methods.SimCLR(arm.frame_encoder(), encoders.MLP((128, 64))),
        optimizer=arm.OPTIMIZER,
        train=training.Train(batch_size=192, epochs=10),
        run=training.Run(devices=1),
        tasks=arm.measured(),
    )
