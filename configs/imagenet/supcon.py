"""SupCon, ResNet-50, 350 epochs of ImageNet by AutoAugment, batch 6144 (published: 78.7 %
linear); not run here.

The weight decay is SimCLR's: no source that we read agrees on another.
"""

from jaxcl import augment, data, encoders, methods, training

IMAGENET = "tensorflow_datasets/imagenet2012/5.1.0"


def config() -> training.Experiment:
    return training.Experiment(
        data=data.TFDS(IMAGENET, size=256),
        views=augment.supcon(224),
        method=methods.SupCon(
            encoder=encoders.ResNet(50),
            projector=encoders.moco_v2_projector(128),
            temperature=0.1,
        ),
        optimizer=training.LARS(learning_rate=0.4, weight_decay=1e-4),
        schedule=training.Schedule(warmup_epochs=10),
        train=training.Train(batch_size=6144, epochs=350),
        run=training.Run(workers=12, checkpoint_every=1000),
        evaluate=training.Evaluate(
            test=data.TFDS(IMAGENET, split="validation", size=256), neighbours=20
        ),
    )
