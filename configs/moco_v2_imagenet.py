"""MoCo v2, ResNet-50, 200 epochs of ImageNet as published (67.7 % linear); not run here.

On 8 devices: 32 pictures each, batch statistics of each device for itself, keys shuffled.
"""

from jaxcl import augment, data, encoders, methods, training


def config() -> training.Experiment:
    return training.Experiment(
        data=data.TFDS("tensorflow_datasets/imagenet2012/5.1.0", size=256),
        views=augment.moco_v2(224),
        method=methods.MoCo(
            encoder=encoders.ResNet(50, zero_init_residual=False, batch_norm_groups=1),
            projector=encoders.moco_v2_projector(128),
            temperature=0.2,
            queue_size=65536,
            momentum=0.999,
        ),
        optimizer=training.SGD(learning_rate=0.03, weight_decay=1e-4),
        train=training.Train(batch_size=256, epochs=200),
        run=training.Run(workers=12, checkpoint_every=5000),
        evaluate=training.Evaluate(
            test=data.TFDS("tensorflow_datasets/imagenet2012/5.1.0", split="validation", size=256),
            neighbours=200,
            temperature=0.1,
        ),
    )
