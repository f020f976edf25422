"""Runs on episodes, from arrays to figures: any devices, any stop, and what is asked of moments."""

import dataclasses
import json

import numpy as np
import pytest
from rich.console import Console
from small_runs import stop_after

from jaxcl import augment, data, encoders, methods, training
from jaxcl.cli import main
from jaxcl.evaluation import alignment_error, kendalls_tau, linear_regression, tasks
from jaxcl.evaluation.fields import NotCounted, encoded_fields, raw_fields
from jaxcl.training import RunDirectory, UserError, restore_run, set_up, train

E, T, SIDE = 12, 10, 12


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A bright square that goes its way, seen by two cameras, of which one is turned round."""
    random = np.random.default_rng(0)
    video = random.integers(0, 30, (E, T, 2, SIDE, SIDE, 1)).astype(np.uint8)
    place = np.zeros((E, T, 2), np.float32)
    for episode in range(E):
        start, step = random.uniform(2, 9, 2), random.uniform(-0.7, 0.7, 2)
        for time in range(T):
            place[episode, time] = np.clip(start + time * step, 1, SIDE - 2)
            y, x = place[episode, time].astype(int)
            video[episode, time, 0, y - 1 : y + 2, x - 1 : x + 2] = 255
            video[episode, time, 1] = np.rot90(video[episode, time, 0])
    path = tmp_path_factory.mktemp("episodes") / "square.npz"
    np.savez(path, video=video, place=place)
    return str(path)


def moments(path, part):
    episodes = data.Episodes(
        path, fields=("place", "video"), cameras=("video",), window=None, every=1
    )
    return data.Split(episodes, part, share=0.25)


def experiment(path, **changes):
    windows = data.Episodes(path, fields=("video",), cameras=("video",), window=6)
    crop = augment.EachFrame(augment.RandomResizedCrop(SIDE, scale=(0.7, 1.0)))
    test = moments(path, "test")
    return dataclasses.replace(
        training.Experiment(
            data=data.Split(windows, "train", share=0.25),
            views=augment.Views((crop, crop), fields=("video_0", "video_1")),
            method=methods.TimeContrastive(
                encoders.SmallCNN((4, 8), pool=False),
                encoders.MLP((8,)),
                contrast="info_nce",
                far=3,
            ),
            optimizer=training.AdamW(learning_rate=1e-3, scaling="none"),
            schedule=training.Schedule(warmup_epochs=0),
            train=training.Train(batch_size=4, epochs=2),
            run=training.Run(devices=1, log_every=1, checkpoint_every=2),
            tasks=(
                tasks.Regression("place", moments(path, "train"), test, "video_0", "place"),
                tasks.Cameras("cameras", test, "video_0", "video_1"),
            ),
        ),
        **changes,
    )


def losses(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows]


@pytest.mark.slow
def test_figures_are_the_definitions(path, tmp_path):
    run = experiment(path)
    train(run, tmp_path, console=Console(quiet=True))
    assert main(["evaluate", str(tmp_path)]) == 0
    found = json.loads(RunDirectory(tmp_path).tasks.read_text())["tasks"]
    names = ["raw input", "untrained encoder", "trained encoder"]
    assert [*found["place"]] == [*found["cameras"]] == names
    parts = [moments(path, part).open() for part in ("train", "test")]
    restored = restore_run(tmp_path)
    for name, features in (
        ("raw input", raw_fields),
        ("trained encoder", encoded_fields(restored, restored.state)),
    ):
        rows = [features(source, "video_0") for source in parts]
        places = [np.stack([s[n]["place"] for n in range(len(s))]) for s in parts]
        told = linear_regression(rows[0], places[0], rows[1], places[1], groups=parts[0].groups)
        assert found["place"][name] == {"R²": told.mean(), "R², least": told.min()}
        first, second = (features(parts[1], f"video_{camera}") for camera in (0, 1))
        errors, taus = [], []
        for episode in np.unique(parts[1].groups):
            own = parts[1].groups == episode
            for one, other in ((first, second), (second, first)):
                errors.append(alignment_error(one[own], other[own]))
                taus.append(kendalls_tau(one[own], other[own]))
        assert found["cameras"][name] == {
            "alignment error": np.mean(errors),
            "Kendall's tau": np.mean(taus),
        }
    image = parts[1][3]["video_0"].astype(np.float32)
    np.testing.assert_array_equal(raw_fields(parts[1], "video_0")[3], image.reshape(-1))


@pytest.mark.slow
def test_two_devices_and_a_stop_change_nothing(path, tmp_path, monkeypatch):
    run = experiment(path)
    train(run, tmp_path / "one", console=Console(quiet=True))
    two = dataclasses.replace(run, run=dataclasses.replace(run.run, devices=2))
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert train(two, tmp_path / "two", console=Console(quiet=True)).step == 2
    assert train(two, tmp_path / "two", console=Console(quiet=True)).finished
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-4)


@pytest.mark.slow
def test_moments_are_told_in_the_course_of_their_episode(path, tmp_path):
    """Contexts of CPC at each frame are those of the whole episode, not of single frames."""
    method = methods.CPC(
        encoders.OnFrames(encoders.SmallCNN((4, 8)), "none"),
        context=encoders.Recurrence(6),
        steps=2,
    )
    view = augment.EachFrame(augment.RandomResizedCrop(SIDE, scale=(0.7, 1.0)))
    run = experiment(path, method=method, views=augment.Views((view,), fields="video_0"))
    train(run, tmp_path, console=Console(quiet=True))
    restored = restore_run(tmp_path)
    source = moments(path, "test").open()
    found = encoded_fields(restored, restored.state)(source, "video_0")
    with np.load(path) as file:
        video = file["video"][:, :, 0].astype(np.float32) / 255
    for episode in np.unique(source.groups):
        params, state = restored.state.params, restored.state.method
        whole = method.embed_frames(params, state, video[episode : episode + 1])[0]
        np.testing.assert_allclose(found[source.groups == episode], whole, atol=1e-5)


def test_numbers_of_moments_and_series_are_rows_and_videos_are_not(path):
    source = moments(path, "test").open()
    rows = raw_fields(source, "place")
    np.testing.assert_array_equal(rows[5], source[5]["place"])
    windows = data.Episodes(path, fields=("place",), window=3).open()
    first = raw_fields(windows, "place")[0]
    np.testing.assert_array_equal(first, windows[0]["place"].reshape(-1))
    video = data.Episodes(path, fields=("video",), cameras=("video",), window=3).open()
    with pytest.raises(NotCounted, match="no picture, no series and no numbers of a moment"):
        raw_fields(video, "video_0")


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (lambda p, m: tasks.Regression("t", m, m, "video_0", "joints"), "no field 'joints'"),
        (lambda p, m: tasks.Regression("t", m, m, "place", "video_0"), "expected floats"),
        (
            lambda p, m: tasks.Cameras("t", data.Episodes(p, window=2), "video", "place"),
            "no moments of episodes",
        ),
        (lambda p, m: tasks.Cameras("t", m, "video_0", "video_2"), "no field 'video_2'"),
        (lambda p, m: tasks.Verification("t", m, "video_0"), "name labels that come again"),
    ],
)
def test_a_task_that_cannot_be_measured_is_said_at_once(path, task, words):
    run = experiment(path, tasks=(task(path, moments(path, "test")),))
    with pytest.raises(UserError, match=words):
        set_up(run)


def test_a_horizon_longer_than_the_windows_is_said_at_once(path):
    method = methods.TimeContrastive(encoders.MLP((4,)), far=5)
    views = augment.Views((augment.EachFrame(augment.RandomCrop(8)),), fields="video_0")
    with pytest.raises(UserError, match="of 6 times none has one more than 5 away"):
        set_up(experiment(path, method=method, views=views, tasks=()))
