"""SimSiam, ResNet-50, 100 epochs of ImageNet (published: 68.1 % linear); not run here."""

from jaxcl import augment, data, encoders, methods, training

IMAGENET = "tensorflow_datasets/imagenet2012/5.1.0"


def config() -> training.Experiment:
    return training.Experiment(
        data=data.TFDS(IMAGENET, size=256),
        views=augment.moco_v2(224),
        method=methods.SimSiam(
            encoder=encoders.ResNet(50),
            projector=encoders.simsiam_projector(),
            predictor=encoders.simsiam_predictor(),
        ),
        optimizer=training.SGD(learning_rate=0.05, weight_decay=1e-4, constant=("predictor",)),
        schedule=training.Schedule(),
        train=training.Train(batch_size=512, epochs=100),
        run=training.Run(workers=12, checkpoint_every=2000),
        evaluate=training.Evaluate(
            test=data.TFDS(IMAGENET, split="validation", size=256), neighbours=20
        ),
    )
