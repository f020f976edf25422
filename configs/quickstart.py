"""MoCo on the handwritten digits inside scikit-learn: a first run, with no download.

Reached with seed 0, in a minute of two cores: 20-NN 98.0 %, linear 100.0 %,
1, 5, 10 labels a class 70.4, 90.8, 93.6 %.
"""

from jaxcl import augment, data, encoders, methods, training


def config() -> training.Experiment:
    return training.Experiment(
        data=data.Digits(split="train"),
        views=augment.crops(8, (0.6, 1.0), degrees=15.0, brightness=0.4, noise=0.1),
        method=methods.MoCo(
            encoder=encoders.SmallCNN((32, 64, 128), batch_norm_groups=4),
            projector=encoders.moco_v2_projector(64),
            temperature=0.2,
            queue_size=1024,
            momentum=0.99,
        ),
        optimizer=training.SGD(learning_rate=0.06, weight_decay=5e-4),
        train=training.Train(batch_size=128, epochs=100),
        run=training.Run(devices=1, checkpoint_every=200),
        evaluate=training.Evaluate(
            train=data.Digits(split="train"), test=data.Digits(split="test")
        ),
    )
