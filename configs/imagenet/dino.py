"""DINO, ViT-S/16, 100 epochs of ImageNet as published (69.3 % 20-NN, 74.0 % linear); not run
here.
"""

from jaxcl import augment, data, encoders, methods, training

IMAGENET = "tensorflow_datasets/imagenet2012/5.1.0"


def config() -> training.Experiment:
    return training.Experiment(
        data=data.TFDS(IMAGENET, size=256),
        views=augment.multi_crop(
            augment.byol(224),
            96,
            crops=8,
            full_scale=(0.4, 1.0),
            small_scale=(0.05, 0.4),
            blur=0.5,
            solarize=False,
        ),
        method=methods.DINO(
            encoder=encoders.ViT("small", patch=16, drop_path=0.1),
            projector=encoders.dino_projector(),
            target_temperature=methods.Linear(0.04, 0.07, until=30 / 100),
            frozen=1 / 100,
        ),
        optimizer=training.AdamW(
            learning_rate=5e-4,
            weight_decay=0.04,
            final_weight_decay=0.4,
            clip_norm=3.0,
            clip="each",
        ),
        schedule=training.Schedule(warmup_epochs=10, final=5e-4),
        train=training.Train(batch_size=1024, epochs=100),
        run=training.Run(workers=12, checkpoint_every=2000),
        evaluate=training.Evaluate(
            test=data.TFDS(IMAGENET, split="validation", size=256), neighbours=20
        ),
    )
