"""TiCo, ResNet-50, 100 epochs of ImageNet with lightly's hyper-parameters; not run here.

lightly reports 49.7 % linear at batch 256, which its maintainers take for too low.
"""

from jaxcl import augment, data, encoders, methods, training

IMAGENET = "tensorflow_datasets/imagenet2012/5.1.0"


def config() -> training.Experiment:
    return training.Experiment(
        data=data.TFDS(IMAGENET, size=256),
        views=augment.byol(224),
        method=methods.JointEmbedding(
            encoder=encoders.ResNet(50),
            projector=encoders.byol_projector(),
            criterion=methods.criteria.TiCo(),
            momentum=methods.Cosine(0.99, 1.0),
        ),
        optimizer=training.LARS(learning_rate=0.2, weight_decay=1.5e-6),
        schedule=training.Schedule(warmup_epochs=10),
        train=training.Train(batch_size=256, epochs=100),
        run=training.Run(workers=12, checkpoint_every=2000),
        evaluate=training.Evaluate(
            test=data.TFDS(IMAGENET, split="validation", size=256), neighbours=20
        ),
    )
