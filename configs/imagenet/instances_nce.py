"""Instance discrimination, ResNet-50, 200 epochs of ImageNet by noise-contrastive estimation with
4,096 draws, as published (46.8 % by neighbours); not run here.

On digits such a projector collapsed: see configs/digits/instances_nce.py.
"""

from jaxcl import augment, data, encoders, methods, training

IMAGENET = "tensorflow_datasets/imagenet2012/5.1.0"


def config() -> training.Experiment:
    return training.Experiment(
        data=data.TFDS(IMAGENET, size=256),
        views=augment.moco_v1(224),
        method=methods.InstanceDiscrimination(
            encoder=encoders.ResNet(50),
            projector=encoders.moco_v1_projector(128),
            contrast="nce",
            negatives=4096,
        ),
        optimizer=training.SGD(learning_rate=0.03, weight_decay=1e-4),
        schedule=training.Schedule(decay="steps"),
        train=training.Train(batch_size=256, epochs=200),
        run=training.Run(workers=12, checkpoint_every=2000),
        evaluate=training.Evaluate(
            test=data.TFDS(IMAGENET, split="validation", size=256), neighbours=20
        ),
    )
