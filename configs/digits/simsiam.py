"""SimSiam on the handwritten digits inside scikit-learn.

Reached with seed 0, in 70 seconds of one core of an Intel Xeon: 20-NN 96.3 %, linear 97.0 %,
1, 5, 10 labels a class 63.6, 82.9, 86.0 %.
"""

from jaxcl import augment, data, encoders, methods, training


def config() -> training.Experiment:
    return training.Experiment(
        data=data.Digits(split="train"),
        views=augment.crops(8, (0.6, 1.0), degrees=15.0, brightness=0.4, noise=0.1),
        method=methods.SimSiam(
            encoder=encoders.SmallCNN((32, 64, 128)),
            projector=encoders.simsiam_projector(128),
            predictor=encoders.simsiam_predictor(128, hidden=32),
        ),
        optimizer=training.SGD(learning_rate=0.06, weight_decay=5e-4, constant=("predictor",)),
        train=training.Train(batch_size=128, epochs=100),
        run=training.Run(devices=1, checkpoint_every=500),
        evaluate=training.Evaluate(
            train=data.Digits(split="train"), test=data.Digits(split="test")
        ),
    )
