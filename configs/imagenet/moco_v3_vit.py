"""MoCo v3, ViT-S/16, 300 epochs of ImageNet as published (73.2 % linear); not run here."""

from jaxcl import augment, data, encoders, methods, training

IMAGENET = "tensorflow_datasets/imagenet2012/5.1.0"


def config() -> training.Experiment:
    return training.Experiment(
        data=data.TFDS(IMAGENET, size=256),
        views=augment.byol(224),
        method=methods.MoCoV3(
            encoder=encoders.ViT(
                "small", patch=16, heads=12, positions="sincos", frozen_patch_embedding=True
            ),
            projector=encoders.moco_v3_projector(layers=3),
            predictor=encoders.moco_v3_predictor(output_norm=True),
            temperature=0.2,
        ),
        optimizer=training.AdamW(learning_rate=1.5e-4, weight_decay=0.1),
        schedule=training.Schedule(warmup_epochs=40),
        train=training.Train(batch_size=4096, epochs=300),
        run=training.Run(workers=12, checkpoint_every=2000),
        evaluate=training.Evaluate(
            test=data.TFDS(IMAGENET, split="validation", size=256), neighbours=20
        ),
    )
