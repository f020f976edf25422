"""MoCo v2 on a folder of pictures, no labels: jaxcl train configs/folder.py --data.path PICTURES

What it reaches depends on the pictures: nothing is measured, for want of labels.
"""

from jaxcl import augment, data, encoders, methods, training


def config() -> training.Experiment:
    return training.Experiment(
        data=data.Folder("pictures", size=64),
        views=augment.moco_v2(64),
        method=methods.MoCo(
            encoder=encoders.ResNet(18, stem="cifar", width=32, batch_norm_groups=8),
            projector=encoders.moco_v2_projector(128),
            queue_size=4096,
            momentum=0.99,
        ),
        optimizer=training.SGD(learning_rate=0.06, weight_decay=5e-4),
        train=training.Train(batch_size=128, epochs=200),
    )
