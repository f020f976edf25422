"""DenseCL, ResNet-50, 200 epochs of ImageNet, after the paper and its code (63.5 % linear in
mmpretrain's table; it is meant for detection and segmentation); not run here.

On 8 devices: 32 pictures each, batch statistics of each device for itself, keys shuffled; maps are
7x7.
"""

from jaxcl import augment, data, encoders, methods, training

IMAGENET = "tensorflow_datasets/imagenet2012/5.1.0"


def config() -> training.Experiment:
    return training.Experiment(
        data=data.TFDS(IMAGENET, size=256),
        views=augment.moco_v2(224),
        method=methods.DenseCL(
            encoder=encoders.ResNet(50, zero_init_residual=False, batch_norm_groups=1),
            projector=encoders.moco_v2_projector(128),
            dense_projector=encoders.moco_v2_projector(128),
            dense_weight=0.5,
            temperature=0.2,
            queue_size=65536,
            momentum=0.999,
        ),
        optimizer=training.SGD(learning_rate=0.03, weight_decay=1e-4),
        train=training.Train(batch_size=256, epochs=200),
        run=training.Run(workers=12, checkpoint_every=5000),
        evaluate=training.Evaluate(
            test=data.TFDS(IMAGENET, split="validation", size=256),
            neighbours=200,
            temperature=0.1,
        ),
    )
