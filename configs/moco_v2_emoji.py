"""MoCo v2 on emoji that two studios drew, 32x32: unlabelled pictures, judged across the studios.

The .npz holds `google` and `twitter`, uint8 [1911, 64, 64, 3], row i of both the same emoji, and
`subcategory` [1911]. Reached with seed 0: R@1 from google to twitter 0.233 (0.208 without
centring), subcategory by 5-NN 0.301; untrained 0.055 (0.049) and 0.184. A projector without
BatchNorm, as published, ended at 0.147 and 0.242 (queue 2048, no warm-up).

Of a queue larger than the data set (3,822 pictures) each picture's own old keys are negatives,
unless `mask_own_keys`. Seed 0, R@1, R@5 and 5-NN: queue 4096 as published 0.214, 0.358, 0.306,
masked 0.220, 0.368, 0.311; queue 1024, which holds few own keys, R@1 0.233 both ways, 5-NN 0.301
and 0.322. All of this was run while a permutation of the whole batch still shuffled the keys; since
then each group of batch statistics deals its keys out in equal shares.
"""

from jaxcl import augment, data, encoders, methods, training

EMOJI = "data/emoji.npz"


def config() -> training.Experiment:
    return training.Experiment(
        data=data.Arrays(EMOJI, image=("google", "twitter"), size=32),
        views=augment.simclr(32, strength=0.5, blur=False, mean=None),
        method=methods.MoCo(
            encoder=encoders.ResNet(18, stem="cifar", width=16, batch_norm_groups=8),
            projector=encoders.MLP(
                (0, 128), batch_norm=True, output_norm="affine", batch_norm_groups=8
            ),
            temperature=0.2,
            queue_size=1024,
            momentum=0.99,
        ),
        optimizer=training.SGD(learning_rate=0.12, weight_decay=5e-4),
        schedule=training.Schedule(warmup_epochs=2),
        train=training.Train(batch_size=256, epochs=40),
        run=training.Run(devices=1),
        evaluate=training.Evaluate(
            train=data.Arrays(EMOJI, image="google", label="subcategory", size=32),
            test=data.Arrays(EMOJI, image="twitter", label="subcategory", size=32),
            neighbours=5,
            weights="uniform",
            paired=True,
        ),
    )
