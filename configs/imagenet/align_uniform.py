"""Alignment and uniformity, ResNet-50, 200 epochs of ImageNet with the authors' weights; not run
here.

They reached 67.7 % linear with MoCo v2's momentum encoder, its queue of 65,536 keys among what is
spread; here a batch is spread.
"""

from jaxcl import augment, data, encoders, methods, training

IMAGENET = "tensorflow_datasets/imagenet2012/5.1.0"


def config() -> training.Experiment:
    return training.Experiment(
        data=data.TFDS(IMAGENET, size=256),
        views=augment.moco_v2(224),
        method=methods.JointEmbedding(
            encoder=encoders.ResNet(50),
            projector=encoders.moco_v2_projector(128),
            criterion=methods.criteria.AlignUniform(alignment=3.0, t=3.0),
        ),
        optimizer=training.SGD(learning_rate=0.03, weight_decay=1e-4),
        schedule=training.Schedule(),
        train=training.Train(batch_size=256, epochs=200),
        run=training.Run(workers=12, checkpoint_every=2000),
        evaluate=training.Evaluate(
            test=data.TFDS(IMAGENET, split="validation", size=256), neighbours=20
        ),
    )
