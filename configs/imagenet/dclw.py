"""SimCLR with the decoupled loss and weighted positives (DCLW), ResNet-50, 100 epochs of ImageNet
with lightly's hyper-parameters (64.5 % linear there, 65.1 with DCL); not run here.
"""

from jaxcl import augment, data, encoders, methods, training

IMAGENET = "tensorflow_datasets/imagenet2012/5.1.0"


def config() -> training.Experiment:
    return training.Experiment(
        data=data.TFDS(IMAGENET, size=256),
        views=augment.simclr(224),
        method=methods.SimCLR(
            encoder=encoders.ResNet(50),
            projector=encoders.simclr_v1_projector(128),
            contrast="dclw",
        ),
        optimizer=training.LARS(learning_rate=1.2, scaling="sqrt", weight_decay=1e-6),
        schedule=training.Schedule(warmup_epochs=10),
        train=training.Train(batch_size=256, epochs=100),
        run=training.Run(workers=12, checkpoint_every=2000),
        evaluate=training.Evaluate(
            test=data.TFDS(IMAGENET, split="validation", size=256), neighbours=20
        ),
    )
