"""MoCo v2+, ResNet-50, 100 epochs of ImageNet with MoCo v2's optimizer; not run here.

Solo-learn reports 66.8 % linear for these epochs, with an optimizer of its own. On 8 devices: 32
pictures each, batch statistics of each device for itself, keys shuffled.
"""

from jaxcl import augment, data, encoders, methods, training

IMAGENET = "tensorflow_datasets/imagenet2012/5.1.0"


def config() -> training.Experiment:
    return training.Experiment(
        data=data.TFDS(IMAGENET, size=256),
        views=augment.moco_v2(224),
        method=methods.MoCoV2Plus(
            encoder=encoders.ResNet(50, zero_init_residual=False, batch_norm_groups=1),
            projector=encoders.moco_v2_projector(128),
            temperature=0.2,
            queue_size=65536,
            momentum=methods.Cosine(0.99, 0.999),
        ),
        optimizer=training.SGD(learning_rate=0.03, weight_decay=1e-4),
        train=training.Train(batch_size=256, epochs=100),
        run=training.Run(workers=12, checkpoint_every=5000),
        evaluate=training.Evaluate(
            test=data.TFDS(IMAGENET, split="validation", size=256), neighbours=20
        ),
    )
