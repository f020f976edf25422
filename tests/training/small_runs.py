"""Small experiments on real digits, for every test of training."""

import dataclasses
import os
import signal

from jaxcl import augment, data, encoders, methods, training


def make_experiment(**changes):
    """MoCo with cross-device batch statistics: 12 steps of 64 digits; `changes` of its fields."""
    base = training.Experiment(
        data=data.Digits(),
        views=augment.crops(8),
        method=methods.MoCo(
            encoder=encoders.SmallCNN((4, 8)),
            projector=encoders.moco_v2_projector(16),
            queue_size=200,
            momentum=0.9,
        ),
        optimizer=training.SGD(learning_rate=0.1),
        train=training.Train(batch_size=64, epochs=12 / 23),
        run=training.Run(devices=1, log_every=1, checkpoint_every=100),
    )
    return dataclasses.replace(base, **changes)


def make_plain_experiment(**changes):
    """As `make_experiment`, of what compiles in no time, where any method will do."""
    plain = make_experiment(
        views=augment.Views((augment.RandomHorizontalFlip(),) * 2),
        method=methods.SimCLR(encoders.MLP((8,)), temperature=0.2),
    )
    return dataclasses.replace(plain, **changes)


def stop_after(monkeypatch, step):
    """Sends this process a SIGTERM as soon as the loop has done `step` steps."""
    from jaxcl.training.observers import ProgressBar

    advance = ProgressBar.advance

    def advance_and_stop(self, done):
        advance(self, done)
        if done == step - 1:  # the step under way when the signal comes is still done
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ProgressBar, "advance", advance_and_stop)
