"""Instance discrimination by noise-contrastive estimation on the handwritten digits inside
scikit-learn.

Reached with seed 0, in 50 seconds of one core of an Intel Xeon: 20-NN 98.3 %, linear 98.7 %,
1, 5, 10 labels a class 66.0, 87.3, 90.5 %.

With one linear layer as projector, as published, the embeddings collapsed: BatchNorm keeps them
apart.
"""

from jaxcl import augment, data, encoders, methods, training


def config() -> training.Experiment:
    return training.Experiment(
        data=data.Digits(split="train"),
        views=augment.crops(8, (0.6, 1.0), degrees=15.0, brightness=0.4, noise=0.1),
        method=methods.InstanceDiscrimination(
            encoder=encoders.SmallCNN((32, 64, 128)),
            projector=encoders.simclr_v1_projector(64),
            bank_size=1500,
            temperature=0.1,
            contrast="nce",
            negatives=512,
        ),
        optimizer=training.SGD(learning_rate=0.01, weight_decay=5e-4),
        train=training.Train(batch_size=128, epochs=100),
        run=training.Run(devices=1, checkpoint_every=500),
        evaluate=training.Evaluate(
            train=data.Digits(split="train"), test=data.Digits(split="test")
        ),
    )
