"""Bad input to the command line: one clear error each, before anything is trained."""

import re
from pathlib import Path

import numpy as np
import pytest
from short_runs import CONFIG, QUICK, write_pictures

from jaxcl.cli import main


def folder_config(tmp_path, folder, extra=""):
    path = tmp_path / "config.py"
    path.write_text(
        "from jaxcl import augment, data, encoders, methods, training\n"
        "def config():\n"
        "    return training.Experiment(\n"
        f"        data=data.Folder({str(folder)!r}),\n"
        "        views=augment.simclr(8),\n"
        "        method=methods.SimCLR(encoders.SmallCNN((4,))),\n"
        "        train=training.Train(batch_size=4, epochs=1),\n"
        f"        run=training.Run(devices=1), {extra})\n"
    )
    return str(path)


def missing_folder(tmp_path):
    return ["train", folder_config(tmp_path, tmp_path / "nowhere")]


def empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    return ["train", folder_config(tmp_path, tmp_path / "empty")]


def other_sizes(tmp_path):
    write_pictures(tmp_path / "pictures", [(9, 9)] * 4 + [(9, 10)] * 4, "RGB")
    return ["train", folder_config(tmp_path, tmp_path / "pictures")]


def only_corrupt_images(tmp_path):
    (tmp_path / "pictures").mkdir()
    for number in range(8):
        (tmp_path / "pictures" / f"{number}.png").write_bytes(b"nothing")
    return ["train", folder_config(tmp_path, tmp_path / "pictures")]


def no_labels(tmp_path):
    np.savez(tmp_path / "data.npz", image=np.zeros((8, 9, 9, 3), np.uint8))
    path = str(tmp_path / "data.npz")
    extra = f"evaluate=training.Evaluate(test=data.Arrays({path!r}, label='label'))"
    write_pictures(tmp_path / "pictures", [(9, 9)] * 8, "RGB")
    return ["train", folder_config(tmp_path, tmp_path / "pictures", extra)]


def floats_above_1(tmp_path):
    images = np.full((8, 9, 9, 3), 255.0, np.float32)
    images[0] = 0
    np.savez(tmp_path / "data.npz", image=images)
    config = Path(folder_config(tmp_path, tmp_path))
    config.write_text(
        config.read_text()
        .replace("Folder", "Arrays")
        .replace(repr(str(tmp_path)), repr(str(tmp_path / "data.npz")))
    )
    return ["train", str(config)]


def out_is_a_file(tmp_path):
    (tmp_path / "o").touch()
    return quick()(tmp_path)


def no_experiment(tmp_path):
    (tmp_path / "c.py").write_text("x = 1\n")
    return ["train", str(tmp_path / "c.py")]


def not_a_run(tmp_path):
    return ["train", str(tmp_path)]


def quick(*options):
    return lambda tmp_path: ["train", CONFIG, *QUICK, *options]


@pytest.mark.slow
def test_a_corrupt_image_is_named_and_the_run_goes_on(tmp_path, capsys):
    write_pictures(tmp_path / "pictures", [(9, 9)] * 8, "RGB")
    (tmp_path / "pictures" / "3.png").write_bytes(b"nothing")
    config = folder_config(tmp_path, tmp_path / "pictures")
    assert main(["train", config, "--out", str(tmp_path / "run")]) == 0
    assert "3.png cannot be read: the next one" in " ".join(capsys.readouterr().err.split())


def edited_run(tmp_path):
    (tmp_path / "o").mkdir()
    text = '{"class": "jaxcl.training.experiment.Train", "batch_size": "many"}'
    (tmp_path / "o" / "config.json").write_text(text)
    return ["evaluate", str(tmp_path / "o")]


def failing_config(tmp_path):
    (tmp_path / "c.py").write_text("def config():\n    return nonsense\n")
    return ["train", str(tmp_path / "c.py")]


BAD_INPUT = {
    "missing folder": (missing_folder, "nowhere"),
    "empty folder": (empty_folder, "no image"),
    "images of other sizes": (other_sizes, "9 x 10|10 x 9|9x10|10x9"),
    "only corrupt images": (only_corrupt_images, "0.png"),
    "no label where one is needed": (no_labels, "label"),
    "config without config()": (no_experiment, "defines no function config"),
    "directory that is no run": (not_a_run, "not a run directory"),
    "config of a wrong type": (edited_run, "Train.batch_size is 'many', expected int"),
    "config that fails": (failing_config, r"c\.py, line 2: NameError: name 'nonsense'"),
    "config that fails, from its folder": (
        lambda folder: ["train", Path(failing_config(folder)[1]).name],
        r"c\.py, line 2: NameError: name 'nonsense'",
    ),
    "an option cut short": (quick("--pop", "x"), "pop"),
    "config that does not exist": (lambda _: ["train", "missing.py"], "missing.py is neither"),
    "unknown option": (
        quick("--method.temprature", "0.1"),
        r"Perhaps you meant --method\.temperature$",
    ),
    "value of another type": (quick("--method.temperature", "warm"), "method.temperature.*'warm'"),
    "temperature 0": (quick("--method.temperature", "0"), "temperature must be positive, got 0"),
    "temperature below 0": (quick("--method.temperature", "-1"), "temperature must be positive"),
    "batch that does not divide": (
        quick("--train.batch_size", "100", "--run.devices", "8"),
        "batch_size 100 does not divide over 8 devices: use 96 or 104",
    ),
    "batch larger than the data": (
        quick("--train.batch_size", "4096", "--method.queue_size", "4096"),
        "4096 is larger than the data set of 1500",
    ),
    "queue smaller than a batch": (
        quick("--method.queue_size", "10"),
        "queue_size 10 is smaller than batch_size 64",
    ),
    "more devices than there are": (quick("--run.devices", "9"), "run.devices is 9"),
    "groups that do not divide": (
        quick("--method.encoder.batch_norm_groups", "7"),
        "7 groups do not divide a device's batch of 64",
    ),
    "warm-up longer than training": (
        quick("--schedule.warmup_epochs", "5"),
        "shorten the warm-up",
    ),
    "seed below 0": (quick("--train.seed", "-1"), "train.seed must be from 0 to "),
    "workers below 0": (quick("--run.workers", "-1"), "run.workers must not be negative"),
    "type that is none": (quick("--method.encoder.dtype", "float17"), "float17.*bfloat16"),
    "layer without width": (quick("--method.encoder.widths", "0"), "SmallCNN widths are"),
    "momentum above 1": (quick("--method.momentum", "2"), "momentum must be 0 to 1, got 2"),
    "negative clipping": (quick("--optimizer.clip_norm", "-1"), "clip_norm must be positive"),
    "test examples that are not there": (
        lambda tmp_path: [
            "train",
            folder_config(
                write_pictures(tmp_path / "pictures", [(9, 9)] * 8, "RGB") or tmp_path,
                tmp_path / "pictures",
                "evaluate=training.Evaluate(test=data.Arrays('missing.npz'))",
            ),
        ],
        "missing.npz",
    ),
    "floats above 1": (floats_above_1, "floats from 0 to 255: expected 0 to 1"),
    "out is a file": (
        out_is_a_file,
        "o is not a directory: choose another --out",
    ),
    "evaluation of no run": (lambda tmp_path: ["evaluate", str(tmp_path)], "not a run directory"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_one_clear_error(name, tmp_path, monkeypatch, capsys):
    arguments, message = BAD_INPUT[name]
    arguments = arguments(tmp_path)
    monkeypatch.chdir(tmp_path)
    out = [] if arguments[0] == "evaluate" or name == "directory that is no run" else ["--out", "o"]
    assert main([*arguments, *out]) == 2
    complaint = capsys.readouterr().err
    (line,) = [line for line in complaint.splitlines() if line.startswith("jaxcl: error: ")]
    assert re.search(message, line), line
    assert "Traceback" not in complaint
    assert not (tmp_path / "o" / "checkpoints").exists()  # before any training


@pytest.mark.slow
def test_a_queue_larger_than_the_data_is_said(tmp_path, capsys):
    options = ["--method.queue_size", "2000", "--evaluate.neighbours", "5"]
    assert main(["train", CONFIG, "--out", str(tmp_path / "run"), *QUICK, *options]) == 0
    assert "larger than the data set (1500 examples)" in " ".join(capsys.readouterr().err.split())
