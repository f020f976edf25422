"""BYOL on the handwritten digits inside scikit-learn.

Reached with seed 0, in 80 seconds of one core of an Intel Xeon: 20-NN 97.3 %, linear 99.0 %,
1, 5, 10 labels a class 69.0, 86.7, 88.9 %.
"""

from jaxcl import augment, data, encoders, methods, training


def config() -> training.Experiment:
    return training.Experiment(
        data=data.Digits(split="train"),
        views=augment.crops(8, (0.6, 1.0), degrees=15.0, brightness=0.4, noise=0.1),
        method=methods.BYOL(
            encoder=encoders.SmallCNN((32, 64, 128)),
            projector=encoders.byol_projector(64, hidden=256),
            predictor=encoders.byol_projector(64, hidden=256),
            momentum=methods.Cosine(0.98, 1.0),
        ),
        optimizer=training.SGD(learning_rate=0.06, weight_decay=5e-4),
        train=training.Train(batch_size=128, epochs=100),
        run=training.Run(devices=1, checkpoint_every=500),
        evaluate=training.Evaluate(
            train=data.Digits(split="train"), test=data.Digits(split="test")
        ),
    )
