"""SimCLR with debiased and hard negatives, ResNet-50, 200 epochs of ImageNet; not run here.

The authors trained on STL-10 (ResNet-50, Adam, batch 256, temperature 0.5, 400 epochs: 80.2 %
linear with plain negatives, 84.3 debiased, 87.4 with hard ones too). The loss is theirs, the rest
SimCLR's; beta 0 only debiases.
"""

from jaxcl import augment, data, encoders, methods, training

IMAGENET = "tensorflow_datasets/imagenet2012/5.1.0"


def config() -> training.Experiment:
    return training.Experiment(
        data=data.TFDS(IMAGENET, size=256),
        views=augment.simclr(224),
        method=methods.SimCLR(
            encoder=encoders.ResNet(50),
            projector=encoders.simclr_v1_projector(128),
            temperature=0.5,
            contrast="hard_nt_xent",
            tau_plus=0.1,
            beta=1.0,
        ),
        optimizer=training.LARS(learning_rate=0.3, weight_decay=1e-6, velocity="updates"),
        schedule=training.Schedule(warmup_epochs=10),
        train=training.Train(batch_size=4096, epochs=200),
        run=training.Run(workers=12, checkpoint_every=2000),
        evaluate=training.Evaluate(
            test=data.TFDS(IMAGENET, split="validation", size=256), neighbours=20
        ),
    )
