"""NNCLR, ResNet-50, 1000 epochs of ImageNet (published: 75.4 % linear, and 75.6 % with
multi-crop, which this has not); not run here."""

from jaxcl import augment, data, encoders, methods, training

IMAGENET = "tensorflow_datasets/imagenet2012/5.1.0"


def config() -> training.Experiment:
    return training.Experiment(
        data=data.TFDS(IMAGENET, size=256),
        views=augment.byol(224),
        method=methods.NNCLR(
            encoder=encoders.ResNet(50),
            projector=encoders.nnclr_projector(),
            predictor=encoders.byol_projector(),
        ),
        optimizer=training.LARS(learning_rate=0.3, weight_decay=1e-6),
        schedule=training.Schedule(warmup_epochs=10),
        train=training.Train(batch_size=4096, epochs=1000),
        run=training.Run(workers=12, checkpoint_every=2000),
        evaluate=training.Evaluate(
            test=data.TFDS(IMAGENET, split="validation", size=256), neighbours=20
        ),
    )
