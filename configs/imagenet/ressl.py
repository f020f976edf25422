"""ReSSL, ResNet-50, 200 epochs of ImageNet, after the paper; not run here.

The teacher sees weak views: crops and flips.
"""

from jaxcl import augment, data, encoders, methods, training

IMAGENET = "tensorflow_datasets/imagenet2012/5.1.0"


def config() -> training.Experiment:
    return training.Experiment(
        data=data.TFDS(IMAGENET, size=256),
        views=augment.Views(
            (
                augment.moco_v2(224).views[0],
                augment.Compose(
                    (
                        augment.RandomResizedCrop(224, scale=(0.2, 1.0)),
                        augment.RandomHorizontalFlip(0.5),
                        augment.Normalize(augment.IMAGENET_MEAN, augment.IMAGENET_STD),
                    )
                ),
            )
        ),
        method=methods.ReSSL(
            encoder=encoders.ResNet(50), projector=encoders.moco_v2_projector(512, hidden=4096)
        ),
        optimizer=training.SGD(learning_rate=0.05, weight_decay=1e-4),
        schedule=training.Schedule(warmup_epochs=5),
        train=training.Train(batch_size=256, epochs=200),
        run=training.Run(workers=12, checkpoint_every=2000),
        evaluate=training.Evaluate(
            test=data.TFDS(IMAGENET, split="validation", size=256), neighbours=20
        ),
    )
