"""The command line from outside: what each verb does, and one clear error for each bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from short_runs import CONFIG, QUICK, ROOT, quickstart, write_pictures

from jaxcl.cli import main


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return quickstart(tmp_path_factory)


def test_train_evaluates_and_leaves_figures_and_a_picture(run_dir):
    figures = json.loads((run_dir / "evaluation.json").read_text())
    assert list(figures["scores"]) == ["raw input", "untrained encoder", "trained encoder"]
    for scores in figures["scores"].values():
        assert 0.1 < scores["knn"] <= 1.0
        assert [few["labels_per_class"] for few in scores["few_labels"]] == [1, 5, 10]
    assert Image.open(run_dir / "neighbours.png").size[0] > 300


@pytest.mark.slow
def test_evaluate_prints_the_table_again(run_dir, capsys):
    assert main(["evaluate", str(run_dir)]) == 0
    printed = capsys.readouterr().out
    for word in ("raw input", "untrained encoder", "trained encoder", "neighbours.png"):
        assert word in printed


@pytest.mark.slow
def test_train_on_a_finished_run_directory_has_nothing_to_do(run_dir, tmp_path, capsys):
    finished = tmp_path / "run"
    shutil.copytree(run_dir, finished)  # its config.json says 2 devices from here on
    assert main(["train", str(finished), "--run.devices", "2"]) == 0
    rows = (run_dir / "metrics.jsonl").read_text()
    assert (finished / "metrics.jsonl").read_text() == rows


def test_embed_writes_features_with_file_names(run_dir, tmp_path, capsys):
    write_pictures(tmp_path / "pictures", [(20, 30), (9, 8), (8, 8)])
    out = tmp_path / "new" / "features.npz"
    assert main(["embed", str(run_dir), str(tmp_path / "pictures"), "--out", str(out)]) == 0
    written = np.load(out)
    assert written["features"].shape == (3, 8)
    assert list(written["names"]) == ["0.png", "1.png", "2.png"]
    assert "3 x 8 features" in capsys.readouterr().out


@pytest.mark.slow
def test_embed_equals_the_method_on_the_same_images(run_dir, tmp_path):
    from jaxcl.data import Digits
    from jaxcl.training import restore_run

    images = np.stack([Digits("test").open()[i]["image"] for i in range(70)])
    np.savez(tmp_path / "digits.npz", image=images)
    out = tmp_path / "features.npz"
    arguments = ["embed", str(run_dir), str(tmp_path / "digits.npz"), "--out", str(out)]
    assert main([*arguments, "--batch-size", "32"]) == 0
    run = restore_run(run_dir)
    expected = run.experiment.method.embed(
        run.state.params, run.state.method, images.astype(np.float32) / 255
    )
    np.testing.assert_allclose(np.load(out)["features"], expected, rtol=1e-4, atol=1e-5)


def test_embed_takes_one_picture(run_dir, tmp_path):
    write_pictures(tmp_path / "pictures", [(8, 8)])
    out = tmp_path / "one.npz"
    picture = str(tmp_path / "pictures" / "0.png")
    assert main(["embed", str(run_dir), picture, "--out", str(out)]) == 0
    assert np.load(out)["features"].shape == (1, 8)


@pytest.mark.slow
def test_a_run_directory_of_another_experiment_names_what_differs(run_dir, capsys):
    options = [*QUICK, "--method.temperature", "0.7"]
    assert main(["train", CONFIG, "--out", str(run_dir), *options]) == 2
    assert "method.temperature: 0.2 there, 0.7 here" in capsys.readouterr().err


def test_features_for_images_of_other_channels_are_refused(run_dir, tmp_path, capsys):
    np.savez(tmp_path / "rgb.npz", image=np.zeros((3, 8, 8, 3), np.uint8))
    out = str(tmp_path / "f.npz")
    assert main(["embed", str(run_dir), str(tmp_path / "rgb.npz"), "--out", out]) == 2
    assert "3 channels; the run was trained on 1" in capsys.readouterr().err
    assert not Path(out).exists()


def test_features_never_replace_the_images(run_dir, tmp_path, capsys):
    path = tmp_path / "digits.npz"
    np.savez(path, image=np.zeros((3, 8, 8), np.uint8))
    before = path.read_bytes()
    assert main(["embed", str(run_dir), str(path), "--out", str(path)]) == 2
    assert "give another file" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_help_lists_each_field_with_its_default(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", CONFIG, "--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--method.temperature FLOAT Divides similarities; > 0. (default: 0.2)" in text
    assert "--population FIELD=[VALUE,...]" in text  # the verb's own, too
    assert main(["train", "--help"]) == 0


def on_a_disk_of(size, folder, commands):
    """Runs shell commands with a small file system of its own mounted at `folder`."""
    folder.mkdir()
    script = f"mount -t tmpfs -o size={size} tmpfs {folder} && {{ {commands}; }}"
    found = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )
    if "mount:" in found.stderr or "unshare" in found.stderr:
        pytest.skip("needs the right to mount a file system")
    return found


def complaint(found):
    """The one line of an error, known to be the last and without a traceback."""
    assert "Traceback" not in found.stderr, found.stderr[-3000:]
    assert found.stderr.splitlines()[-1].startswith("jaxcl: error: "), found.stderr[-3000:]
    return found.stderr.splitlines()[-1]


JAXCL = f"{sys.executable} -m jaxcl.cli"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("4k", r"No space left on device: .*/run/(lock|config|facts)\.json"),
        ("20k", r"No space left on device: .*/run/metrics\.jsonl"),
        ("60k", r"cannot write the checkpoint of step 5 .* none was kept before. Free some disk"),
        ("300k", r"cannot write the checkpoint of step 10 .*step 5 is the newest kept"),
    ],
)
def test_a_full_disk_is_one_clear_error_and_what_was_saved_goes_on(size, message, tmp_path):
    import re

    disk, kept = tmp_path / "disk", tmp_path / "kept"
    options = " ".join([*QUICK, "--train.epochs", "1", "--run.checkpoint_every", "5"])
    train = f"{JAXCL} train {CONFIG} --out {disk}/run {options}"
    found = on_a_disk_of(size, disk, f"{train}; code=$?; cp -r {disk}/run {kept}; exit $code")
    assert found.returncode == 2
    assert re.search(message, complaint(found)), complaint(found)
    if size == "300k":  # with room again, the run goes on from what was kept
        assert main(["train", str(kept)]) == 0
        rows = [json.loads(line) for line in (kept / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == list(range(1, 24))


@pytest.mark.slow
def test_a_full_disk_while_evaluating_or_embedding_leaves_what_was_there(run_dir, tmp_path):
    write_pictures(tmp_path / "pictures", [(8, 8)] * 400)
    disk = tmp_path / "disk"
    found = on_a_disk_of(
        "10m",
        disk,
        f"cp -r {run_dir} {disk}/run && dd if=/dev/zero of={disk}/full bs=1k status=none;"
        f"{JAXCL} evaluate {disk}/run; echo code $?; cmp {run_dir}/evaluation.json "
        f"{disk}/run/evaluation.json && cmp {run_dir}/neighbours.png {disk}/run/neighbours.png && "
        f"echo kept; {JAXCL} embed {disk}/run {tmp_path}/pictures --out {disk}/f.npz; "
        f"echo code $?; ls {disk}",
    )
    assert found.stdout.split() == ["code", "2", "kept", "code", "2", "full", "run"], found.stdout
    errors = [line for line in found.stderr.splitlines() if line.startswith("jaxcl: error")]
    assert "run/evaluation.json" in errors[0]
    assert "No space left on device" in errors[0]
    assert "f.npz" in errors[1]
    assert "Traceback" not in found.stderr


@pytest.mark.slow
def test_a_read_only_disk_is_said_at_once(run_dir, tmp_path):
    write_pictures(tmp_path / "pictures", [(8, 8)])
    disk = tmp_path / "disk"
    verbs = {
        "train": f"train {CONFIG} --out {disk}/new",
        "resume": f"train {disk}/run",
        "evaluate": f"evaluate {disk}/run",
        "embed": f"embed {disk}/run {tmp_path}/pictures --out {disk}/new/f.npz",
    }
    commands = "; ".join(f"{JAXCL} {arguments}; echo $?" for arguments in verbs.values())
    found = on_a_disk_of(
        "10m", disk, f"cp -r {run_dir} {disk}/run; mount -o remount,ro {disk}; {commands}"
    )
    assert found.stdout.split() == ["2"] * len(verbs), found.stderr[-3000:]
    errors = [line for line in found.stderr.splitlines() if line.startswith("jaxcl: error")]
    assert len(errors) == len(found.stderr.splitlines()) == len(verbs), found.stderr
    for line in errors:
        assert "ead-only" in line, line
        assert str(disk) in line, line


def start(arguments, tmp_path):
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # of LLVM: most of the time is compilation
    }
    return subprocess.Popen(
        [sys.executable, "-m", "jaxcl.cli", *arguments],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_rows(path, count, process):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and len(path.read_text().splitlines()) >= count:
            return
        time.sleep(0.05)
    raise AssertionError(f"no {count} rows: {process.communicate()[1][-2000:]}")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_exits_and_the_run_goes_on(number, workers, tmp_path):
    """To the whole group of processes, as a terminal's Ctrl-C and a scheduler's SIGTERM go."""
    directory = tmp_path / "run"
    options = [*QUICK, "--train.epochs", "60", "--run.workers", str(workers)]
    process = start(["train", CONFIG, "--out", str(directory), *options], tmp_path)
    wait_for_rows(directory / "metrics.jsonl", 5, process)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number, said
    assert f"jaxcl train {directory}" in said
    assert "Traceback" not in said
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    saved = max(int(path.name) for path in (directory / "checkpoints").iterdir())
    assert saved == rows[-1]["step"]
    again = start(["train", str(directory)], tmp_path)
    wait_for_rows(directory / "metrics.jsonl", len(rows) + 3, again)
    again.send_signal(signal.SIGTERM)
    assert f"resuming after step {saved}" in again.communicate(timeout=60)[1]


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path):
    directory = tmp_path / "run"
    options = [*QUICK, "--train.epochs", "60", "--run.checkpoint_every", "3"]
    process = start(["train", CONFIG, "--out", str(directory), *options], tmp_path)
    wait_for_rows(directory / "metrics.jsonl", 10, process)
    process.kill()
    process.communicate()
    again = start(["train", str(directory)], tmp_path)
    wait_for_rows(directory / "metrics.jsonl", 14, again)
    again.send_signal(signal.SIGTERM)
    assert "resuming after step" in again.communicate(timeout=60)[1]
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))


PLAIN = """
from jaxcl import augment, data, encoders, methods, training

def config():
    return training.Experiment(
        data.Digits(),
        augment.Views((augment.RandomHorizontalFlip(),) * 2),
        methods.SimCLR(encoders.MLP((4,))),
        train=training.Train(batch_size=64, epochs=0.2),
        run=training.Run(devices=1),
    )
"""


@pytest.fixture
def plain(tmp_path):
    """A config of what compiles in no time."""
    (tmp_path / "plain.py").write_text(PLAIN)
    return str(tmp_path / "plain.py")


@pytest.mark.slow
def test_a_population_trains_and_reports(plain, tmp_path, capsys):
    members = ["--population", "method.temperature=[0.1,0.5]", "--out", str(tmp_path / "p")]
    assert main(["train", plain, *members]) == 0
    said = capsys.readouterr()
    assert "trained 5 steps of each; the members are in" in said.err
    assert "method.temperature" in said.out
    for member in ("0", "1"):
        rows = (tmp_path / "p" / member / "metrics.jsonl").read_text().splitlines()
        assert json.loads(rows[-1])["step"] == 5


def test_what_does_not_go_together_is_said(plain, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "words.txt").write_text("")
    (tmp_path / "number.py").write_text("def config():\n    return 4\n")
    (tmp_path / "wrong.py").write_text("def config():\n    return (\n")
    population = ["--population", "method.temperature=[0.1,0.5]"]
    for arguments, words in (
        ([plain, *population, "--profile", "1:2"], "--profile goes with one run"),
        ([str(tmp_path / "run"), "--out", str(tmp_path)], "a run directory resumes in place"),
        ([str(tmp_path / "words.txt")], "a config ends in .py"),
        ([str(tmp_path / "number.py")], "config() returned 4, not a training.Experiment"),
        ([str(tmp_path / "wrong.py")], "wrong.py, line 2: SyntaxError"),
    ):
        assert main(["train", *arguments]) == 2
        assert words in capsys.readouterr().err
