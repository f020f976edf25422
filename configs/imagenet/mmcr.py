"""MMCR, ResNet-50, 100 epochs of ImageNet with the authors' hyper-parameters; not run here.

Their code averages a momentum network's centroids with the network's own; here those are alone.
"""

from jaxcl import augment, data, encoders, methods, training

IMAGENET = "tensorflow_datasets/imagenet2012/5.1.0"


def config() -> training.Experiment:
    return training.Experiment(
        data=data.TFDS(IMAGENET, size=256),
        views=augment.byol(224),
        method=methods.JointEmbedding(
            encoder=encoders.ResNet(50, zero_init_residual=True),
            projector=encoders.barlow_twins_projector(512),
            criterion=methods.criteria.MMCR(),
        ),
        optimizer=training.LARS(learning_rate=0.6, weight_decay=1e-6),
        schedule=training.Schedule(warmup_epochs=10, final=0.001),
        train=training.Train(batch_size=2048, epochs=100),
        run=training.Run(workers=12, checkpoint_every=2000),
        evaluate=training.Evaluate(
            test=data.TFDS(IMAGENET, split="validation", size=256), neighbours=20
        ),
    )
