"""W-MSE of two views, ResNet-18, 240 epochs: the authors' hyper-parameters for a hundred classes of
ImageNet; not run here.

Their code whitens random halves of the batch, here the whole batch; it adds the decay to Adam's
gradients, here it is decoupled.
"""

from jaxcl import augment, data, encoders, methods, training

IMAGENET = "tensorflow_datasets/imagenet2012/5.1.0"


def config() -> training.Experiment:
    return training.Experiment(
        data=data.TFDS(IMAGENET, size=256),
        views=augment.simclr(224),
        method=methods.JointEmbedding(
            encoder=encoders.ResNet(18),
            projector=encoders.byol_projector(128, hidden=1024),
            criterion=methods.criteria.WMSE(),
        ),
        optimizer=training.AdamW(learning_rate=2e-3, scaling="none", weight_decay=1e-6),
        schedule=training.Schedule(
            warmup_epochs=0.2, decay="steps", milestones=(190 / 240, 215 / 240), factor=0.2
        ),
        train=training.Train(batch_size=512, epochs=240),
        run=training.Run(workers=12, checkpoint_every=2000),
        evaluate=training.Evaluate(
            test=data.TFDS(IMAGENET, split="validation", size=256), neighbours=20
        ),
    )
