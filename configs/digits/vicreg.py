"""VICReg on the handwritten digits inside scikit-learn.

Reached with seed 0, in 75 seconds of one core of an Intel Xeon: 20-NN 98.0 %, linear 98.3 %,
1, 5, 10 labels a class 80.0, 94.4, 96.7 %.
"""

from jaxcl import augment, data, encoders, methods, training


def config() -> training.Experiment:
    return training.Experiment(
        data=data.Digits(split="train"),
        views=augment.crops(8, (0.6, 1.0), degrees=15.0, brightness=0.4, noise=0.1),
        method=methods.JointEmbedding(
            encoder=encoders.SmallCNN((32, 64, 128)),
            projector=encoders.barlow_twins_projector(256, hidden=256),
            criterion=methods.criteria.VICReg(),
        ),
        optimizer=training.SGD(learning_rate=0.06, weight_decay=5e-4),
        train=training.Train(batch_size=128, epochs=100),
        run=training.Run(devices=1, checkpoint_every=500),
        evaluate=training.Evaluate(
            train=data.Digits(split="train"), test=data.Digits(split="test")
        ),
    )
