"""LeJEPA, ViT-S/16, 100 epochs of ImageNet with lightly's hyper-parameters (64.0 % linear there,
before a mended loss); not run here.

The authors' views are all blurred and solarized alike; here the full-size ones are BYOL's.
"""

from jaxcl import augment, data, encoders, methods, training

IMAGENET = "tensorflow_datasets/imagenet2012/5.1.0"


def config() -> training.Experiment:
    return training.Experiment(
        data=data.TFDS(IMAGENET, size=256),
        views=augment.multi_crop(
            augment.byol(224),
            96,
            full_scale=(0.3, 1.0),
            small_scale=(0.05, 0.3),
            blur=0.5,
            solarize=False,
        ),
        method=methods.JointEmbedding(
            encoder=encoders.ViT("small", patch=16, drop_path=0.1),
            projector=encoders.MLP((2048, 2048, 64), batch_norm=True),
            criterion=methods.criteria.SIGReg(directions=1024),
        ),
        optimizer=training.AdamW(learning_rate=5e-4, scaling="none", weight_decay=0.05),
        schedule=training.Schedule(warmup_epochs=1, final=0.001),
        train=training.Train(batch_size=512, epochs=100),
        run=training.Run(workers=12, checkpoint_every=2000),
        evaluate=training.Evaluate(
            test=data.TFDS(IMAGENET, split="validation", size=256), neighbours=20
        ),
    )
