"""DINO on the handwritten digits inside scikit-learn.

Reached with seed 0, in 85 seconds of one core of an Intel Xeon: 20-NN 98.0 %, linear 99.0 %,
1, 5, 10 labels a class 72.4, 90.6, 92.9 %.
"""

from jaxcl import augment, data, encoders, methods, training


def config() -> training.Experiment:
    return training.Experiment(
        data=data.Digits(split="train"),
        views=augment.crops(8, (0.6, 1.0), degrees=15.0, brightness=0.4, noise=0.1),
        method=methods.DINO(
            encoder=encoders.SmallCNN((32, 64, 128)),
            projector=encoders.dino_projector(64, hidden=128),
            prototypes=256,
            momentum=methods.Cosine(0.99, 1.0),
            frozen=0.02,
        ),
        optimizer=training.AdamW(learning_rate=1e-3, scaling="none", weight_decay=0.04),
        train=training.Train(batch_size=128, epochs=100),
        run=training.Run(devices=1, checkpoint_every=500),
        evaluate=training.Evaluate(
            train=data.Digits(split="train"), test=data.Digits(split="test")
        ),
    )
