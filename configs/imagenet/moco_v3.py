"""MoCo v3, ResNet-50, 300 epochs of ImageNet as published (72.8 % linear); not run here."""

from jaxcl import augment, data, encoders, methods, training

IMAGENET = "tensorflow_datasets/imagenet2012/5.1.0"


def config() -> training.Experiment:
    return training.Experiment(
        data=data.TFDS(IMAGENET, size=256),
        views=augment.byol(224, min_scale=0.2),
        method=methods.MoCoV3(
            encoder=encoders.ResNet(50),
            projector=encoders.moco_v3_projector(),
            predictor=encoders.moco_v3_predictor(),
            temperature=1.0,
        ),
        optimizer=training.LARS(learning_rate=0.3, weight_decay=1e-6),
        schedule=training.Schedule(warmup_epochs=10),
        train=training.Train(batch_size=4096, epochs=300),
        run=training.Run(workers=12, checkpoint_every=2000),
        evaluate=training.Evaluate(
            test=data.TFDS(IMAGENET, split="validation", size=256), neighbours=20
        ),
    )
