"""Runs on sound, from files to figures: any devices, any stop."""

import dataclasses
import json

import numpy as np
import pytest
import soundfile
from rich.console import Console
from small_runs import stop_after

from jaxcl import augment, data, encoders, methods, training
from jaxcl.cli import main
from jaxcl.data.source import inputs_of
from jaxcl.evaluation import tasks
from jaxcl.evaluation.fields import NotCounted, mean_spectra
from jaxcl.evaluation.knn import knn_accuracy
from jaxcl.evaluation.linear import linear_probe
from jaxcl.training import RunDirectory, UserError, set_up, train

RATE = 8_000
FRONT = augment.LogMel(
    rate=RATE, size=256, window=200, hop=80, mels=16, high=4_000.0, mean=-30.0, std=20.0
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tones of two pitches, the label, over noise."""
    root = tmp_path_factory.mktemp("tones")
    random = np.random.default_rng(0)
    for number in range(24):
        path = root / ("high" if number % 2 else "low") / f"{number // 2}.wav"
        path.parent.mkdir(exist_ok=True)
        time = np.arange(2_400) / RATE
        tone = 0.3 * np.sin(2 * np.pi * (1_500 if number % 2 else 400) * time)
        soundfile.write(path, tone + 0.05 * random.normal(size=len(time)), RATE)
    return root


def experiment(folder, **changes):
    sounds = data.Sounds(str(folder), rate=RATE, seconds=0.2, labels="subfolders", same="name")
    view = augment.Compose((augment.RandomWindow(1_200), augment.RandomGain(), FRONT))
    return dataclasses.replace(
        training.Experiment(
            data=data.Split(sounds, "train", share=0.25),
            views=augment.Views((view, view), fields="sound"),
            method=methods.COLA(
                encoders.OnSpectrogram(encoders.SmallCNN((4, 8)), FRONT),
                encoders.TanhProjector(8),
            ),
            optimizer=training.AdamW(learning_rate=1e-3, scaling="none"),
            schedule=training.Schedule(warmup_epochs=0),
            train=training.Train(batch_size=8, epochs=3),
            run=training.Run(devices=1, log_every=1, checkpoint_every=3),
            tasks=(
                tasks.Classes(
                    "pitch",
                    data.Split(sounds, "train", share=0.25),
                    data.Split(sounds, "test", share=0.25),
                    "sound",
                ),
            ),
        ),
        **changes,
    )


def losses(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows]


@pytest.mark.slow
def test_pitches_are_told_by_mean_spectra_and_the_figures_are_the_definitions(folder, tmp_path):
    run = experiment(folder)
    train(run, tmp_path, console=Console(quiet=True))
    assert main(["evaluate", str(tmp_path)]) == 0
    figures = json.loads(RunDirectory(tmp_path).tasks.read_text())["tasks"]["pitch"]
    assert set(figures) == {"mean log-mel", "untrained encoder", "trained encoder"}
    assert figures["mean log-mel"] == {"kNN": 1.0, "linear": 1.0}
    parts = [run.tasks[0].train.open(), run.tasks[0].test.open()]

    def by_hand(source):
        rows = FRONT.of(np.stack([source[number]["sound"] for number in range(len(source))]))
        return np.concatenate([rows.mean(1), rows.std(1)], axis=1)

    features = mean_spectra(FRONT)
    for source in parts:
        np.testing.assert_allclose(features(source, "sound"), by_hand(source), atol=1e-3)
    of_parts = by_hand(parts[0]), parts[0].labels, by_hand(parts[1]), parts[1].labels
    found = run.tasks[0].measure(features)
    wanted = knn_accuracy(*of_parts, k=18, temperature=0.07, weights="distance")
    assert found == {"kNN": wanted, "linear": linear_probe(*of_parts).accuracy}


@pytest.mark.slow
def test_two_devices_and_a_stop_change_nothing(folder, tmp_path, monkeypatch):
    run = experiment(folder)
    train(run, tmp_path / "one", console=Console(quiet=True))
    two = dataclasses.replace(run, run=dataclasses.replace(run.run, devices=2))
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert train(two, tmp_path / "two", console=Console(quiet=True)).step == 3
    assert train(two, tmp_path / "two", console=Console(quiet=True)).finished
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-4)


def test_what_is_no_sound_has_no_spectrum():
    digits = data.Digits().open()
    assert "image" in inputs_of(digits[0])
    with pytest.raises(NotCounted, match="'image' holds no sound"):
        mean_spectra(FRONT)(digits, "image")


def test_labels_that_mean_something_else_are_refused(folder):
    task = experiment(folder).tasks[0]
    high = data.Sounds(str(folder / "high"), rate=RATE, seconds=0.2)
    (folder / "high" / "table.csv").write_text("sound,label\n0.wav,other\n1.wav,low\n")
    other = dataclasses.replace(high, path=str(folder / "high" / "table.csv"), label="label")
    with pytest.raises(ValueError, match="a label has to mean the same in both"):
        dataclasses.replace(task, test=other).check(experiment(folder))


def test_records_without_a_file_are_no_examples_of_a_method_that_counts_all(folder):
    rows = ["sound", *(f"low/{number}.wav" for number in range(9)), '""']
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    sounds = data.Sounds(str(folder / "table.csv"), rate=RATE, seconds=0.2)
    with pytest.raises(UserError, match="some records have no 'sound', and COLA counts every one"):
        set_up(experiment(folder, data=sounds, tasks=()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"field": "voice"}, "task 'pitch': records have no field 'voice': they have sound"),
        ({"test": "unlabelled"}, "task 'pitch': the test records have no labels"),
    ],
)
def test_a_task_that_cannot_be_measured_is_said_at_once(folder, change, words):
    run = experiment(folder)
    if change.get("test") == "unlabelled":
        change = {"test": data.Sounds(str(folder), rate=RATE, seconds=0.2)}
    task = dataclasses.replace(run.tasks[0], **change)
    with pytest.raises(UserError, match=words):
        set_up(dataclasses.replace(run, tasks=(task,)))


def test_windows_longer_than_the_data_are_said_at_once(folder):
    view = augment.Compose((augment.RandomWindow(2_000), FRONT))
    run = experiment(folder, views=augment.Views((view, view), fields="sound"))
    with pytest.raises(UserError, match="a clip of 1600 samples is shorter; set the data's"):
        set_up(run)


def test_an_encoder_that_takes_spectrograms_alone_is_said_at_once(folder):
    run = experiment(folder)
    method = methods.COLA(encoders.SmallCNN((4, 8)), encoders.TanhProjector(8))
    with pytest.raises(UserError, match=r"SmallCNN takes no samples of .sound.*OnSpectrogram"):
        set_up(dataclasses.replace(run, method=method))
