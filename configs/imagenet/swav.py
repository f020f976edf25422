"""SwAV, ResNet-50, 400 epochs of ImageNet, batch 256 with a queue, as published (74.3 % linear);
not run here.
"""

from jaxcl import augment, data, encoders, methods, training

IMAGENET = "tensorflow_datasets/imagenet2012/5.1.0"


def config() -> training.Experiment:
    return training.Experiment(
        data=data.TFDS(IMAGENET, size=256),
        views=augment.multi_crop(augment.simclr(224), 96),
        method=methods.SwAV(
            encoder=encoders.ResNet(50),
            projector=encoders.swav_projector(),
            queue_size=3840,
            queue_from=15 / 400,
            frozen=1 / 400,
        ),
        optimizer=training.LARS(learning_rate=0.6, weight_decay=1e-6, decay="all"),
        schedule=training.Schedule(final=0.001),
        train=training.Train(batch_size=256, epochs=400),
        run=training.Run(workers=12, checkpoint_every=2000),
        evaluate=training.Evaluate(
            test=data.TFDS(IMAGENET, split="validation", size=256), neighbours=20
        ),
    )
