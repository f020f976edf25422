"""Windows of episodes: of arrays, of prepared data sets in the RLDS layout, of videos."""

import dataclasses
import pickle
import sys

import numpy as np
import pytest
import tensorflow_datasets  # noqa: F401 (before any test has run, see test_tfds.py)
from preparing import prepare
from scipy import stats

from jaxcl.data import (
    ArrayEpisodes,
    Batches,
    Episodes,
    EpisodeSource,
    Split,
    batch_at,
    read_batch,
)

E, T = 5, 8
# Each frame says which it is: 10 * episode + time.
NUMBERS = (10 * np.arange(E)[:, None] + np.arange(T)).astype(np.uint8)
VIDEO = np.broadcast_to(NUMBERS[:, :, None, None, None, None], (E, T, 2, 4, 6, 3)).copy()
VIDEO[:, :, 1] += 100
JOINTS = np.stack([NUMBERS, NUMBERS * 2.0], axis=-1)
LENGTHS = np.array([8, 3, 8, 5, 0])


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "robot.npz"
    kinds = np.array(["cup", "ball", "cup", "cup", "ball"])
    np.savez(path, video=VIDEO, joints=JOINTS, kind=kinds, frames=LENGTHS, note=np.array("x"))
    return str(path)


def test_a_record_is_a_window_of_every_field(path):
    source = Episodes(path, window=3, stride=2, cameras=("video",), label="kind").open()
    assert len(source) == E
    record = source[2]
    assert sorted(record) == ["joints", "label", "replaced", "video_0", "video_1"]
    assert record["video_0"].shape == (3, 4, 6, 3)
    assert record["video_0"].dtype == np.uint8
    # Of the places 0 to 3 the middle one.
    assert record["video_0"][:, 0, 0, 0].tolist() == [21, 23, 25]
    assert record["video_1"][:, 0, 0, 0].tolist() == [121, 123, 125]
    assert record["joints"].dtype == np.float32
    assert record["joints"].tolist() == [[21, 42], [23, 46], [25, 50]]
    assert source.label_names == ("ball", "cup")
    assert source.labels.tolist() == [1, 0, 1, 1, 0]
    assert source.names[2] == "episode 2, frame 1"
    assert source.notices == ()


def test_windows_are_drawn_from_everywhere_evenly(path):
    source = Episodes(path, fields=("joints",), window=3).open()
    starts = [int(source.draw(1, (7, 3, n))["joints"][0, 0]) - 10 for n in range(3000)]
    assert stats.chisquare(np.bincount(starts, minlength=T - 2)).pvalue > 1e-3
    again = [int(source.draw(1, (7, 3, n))["joints"][0, 0]) - 10 for n in range(50)]
    assert again == starts[:50]


def test_single_frames_have_no_axis_of_time(path):
    config = Episodes(path, cameras=("video",), window=None, every=3, lengths="frames")
    source = config.open()
    assert source.groups.tolist() == [0, 0, 0, 1, 2, 2, 2, 3, 3]
    assert source.times.tolist() == [0, 3, 6, 0, 0, 3, 6, 0, 3]
    assert source[1]["video_0"].shape == (4, 6, 3)
    assert source[1]["joints"].tolist() == [3, 6]
    assert source.draw(1, (1, 2))["joints"].tolist() == [3, 6]
    assert "1 of 5 episodes have fewer frames" in source.notices[0]
    assert "episode 4" in source.notices[0]


@pytest.mark.parametrize("short", ["skip", "hold"])
def test_short_episodes_are_named_and_left_out_or_held(path, short):
    source = Episodes(path, fields=("joints",), window=4, lengths="frames", short=short).open()
    done = {"skip": "are left out", "hold": "hold their last frame"}[short]
    assert f"2 of 5 episodes have fewer frames than a window takes and {done}" in source.notices[0]
    assert "the first is episode 1" in source.notices[0]
    # An episode without a frame has nothing to hold.
    assert source.groups.tolist() == ([0, 2, 3] if short == "skip" else [0, 1, 2, 3])
    if short == "hold":
        assert source[1]["joints"][:, 0].tolist() == [10, 11, 12, 12]


def test_batches_are_the_same_by_seed_and_process(path):
    source = Episodes(path, fields=("joints",), window=3).open()
    whole = batch_at(source, 7, batch_size=4, seed=3)
    parts = [
        batch_at(source, 7, batch_size=4, seed=3, process_index=p, process_count=2) for p in (0, 1)
    ]
    joined = np.concatenate([part["joints"] for part in parts])
    np.testing.assert_array_equal(joined, whole["joints"])
    ahead = next(iter(Batches(source, batch_size=4, seed=3, start=7, steps=1)))
    np.testing.assert_array_equal(ahead["joints"], whole["joints"])
    copied = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(
        batch_at(copied, 7, batch_size=4, seed=3)["joints"], whole["joints"]
    )


def test_a_split_keeps_episodes_together(path):
    frames = Episodes(path, fields=("joints",), window=None, every=1)
    parts = [Split(frames, part, share=0.4).open() for part in ("train", "test")]
    train, test = ({*part.groups.tolist()} for part in parts)
    assert train.isdisjoint(test)
    assert sum(len(part) for part in parts) == E * T


def test_what_is_no_number_is_replaced_by_the_next(tmp_path):
    joints = JOINTS.copy()
    joints[1, 3] = np.nan
    source = EpisodeSource(ArrayEpisodes({"joints": joints}), window=None, every=1)
    batch = read_batch(source, [T + 2, T + 3, T + 4])
    assert batch["joints"][:, 0].tolist() == [12, 14, 14]
    assert batch["replaced"].tolist() == [False, True, False]
    everywhere = ArrayEpisodes({"joints": np.full((2, 3, 1), np.nan)})
    with pytest.raises(ValueError, match="what is no number"):
        EpisodeSource(everywhere, window=2)


def test_frames_are_resized(path):
    source = Episodes(path, cameras=("video",), window=None, every=1, size=2).open()
    assert source[0]["video_0"].shape == (2, 2, 3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"window": 9}, "none of 5 episodes has the 9 frames"),
        ({"window": 0}, "window is 0"),
        ({"every": 0}, "every is 0"),
        ({"short": "pad"}, "short"),
        ({"fields": ("joint",)}, "no array 'joint'"),
        ({"fields": ("joints", "note")}, "run out of step"),
        ({"lengths": "kind"}, "lengths of"),
        ({"label": "joints"}, "labels of"),
        ({"cameras": ("joints",)}, "cameras, ..."),
        ({"window": 4, "lengths": "frames", "short": "refuse"}, "the first is episode 1"),
        ({"size": 0}, "size 0"),
        ({"split": "test"}, "takes no split"),
        ({"keep": -1.0}, "keep is -1"),
    ],
)
def test_what_does_not_fit_is_said(path, changes, words):
    config = dataclasses.replace(Episodes(path, fields=("joints",), window=2), **changes)
    with pytest.raises(ValueError, match=words):
        config.open()


def test_cameras_of_different_numbers_of_frames_run_out_of_step(tmp_path):
    path = tmp_path / "apart.npz"
    np.savez(path, left=VIDEO[:, :, 0], right=VIDEO[:, :-1, 1])
    with pytest.raises(ValueError, match=r"out of step.*left \(5, 8.*right \(5, 7"):
        Episodes(str(path), fields=("left", "right"), window=2).open()
    with pytest.raises(FileNotFoundError, match=r"no \.npz of episodes"):
        Episodes(str(tmp_path / "nothing"), window=2).open()


def test_arrays_that_do_not_go_together_are_said(tmp_path):
    path = tmp_path / "some.npz"
    state, action = np.zeros((3, 20, 2)), np.zeros((3, 19, 2))
    np.savez(path, state=state, action=action)
    with pytest.raises(ValueError, match=r"state \(3, 20\), action \(3, 19\)\. Name by fields"):
        Episodes(str(path), window=2).open()
    np.savez(path, state=state, place=state, action=action)
    source = Episodes(str(path), window=2).open()
    assert sorted(source[0]) == ["place", "replaced", "state"]
    assert source.notices == (
        "left out, for they have not 3 episodes of 20 frames: action (3, 19)",
    )
    np.savez(path, label=np.zeros((3, 20)))
    with pytest.raises(ValueError, match="which records have of their own"):
        Episodes(str(path), window=2).open()
    np.savez(path, video=np.zeros((3, 20, 2, 4, 4, 1)), video_0=state)
    with pytest.raises(ValueError, match="'video_0', as a camera of video is called"):
        Episodes(str(path), cameras=("video",), window=2).open()
    np.savez(path, stamp=np.full((3, 20, 1), 1_700_000_000_123_456_789))
    with pytest.raises(ValueError, match="which 32 bits do not hold"):
        Episodes(str(path), window=2).open()


PREPARE = """
import io, sys
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


class Arm(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        steps = {
            "observation": {
                "image": tfds.features.Image(shape=(4, 6, 3)),
                "wrist": tfds.features.Image(shape=(None, None, 3)),
                "state": tfds.features.Tensor(shape=(2,), dtype=np.float32),
            },
            "action": tfds.features.Tensor(shape=(2,), dtype=np.float64),
            "is_last": np.bool_,
            "instruction": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({
                "steps": tfds.features.Dataset(steps),
                "episode_metadata": {"task": tfds.features.Text()},
            }),
        )

    def _split_generators(self, manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for episode in range(4):
            count = 3 + episode
            yield episode, {
                "steps": [step(episode, time, count) for time in range(count)],
                "episode_metadata": {"task": ["push", "lift"][episode % 2]},
            }


def step(episode, time, count):
    number = 10 * episode + time
    wrist = png(np.full((4, 6, 3), 100 + number, np.uint8))
    return {
        "observation": {
            "image": png(np.full((4, 6, 3), number, np.uint8)),
            "wrist": wrist[:40] if number == 21 else wrist,
            "state": np.full(2, number, np.float32),
        },
        "action": np.zeros(2),
        "is_last": time == count - 1,
        "instruction": "push it",
    }


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


builder = Arm(data_dir=sys.argv[1], file_format="array_record")
builder.download_and_prepare()
assert "tensorflow" not in sys.modules
print(builder.data_dir)
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("rlds"), PREPARE)


@pytest.mark.slow
def test_nested_steps_are_read_without_tensorflow(prepared):
    fields = ("observation/image", "observation/state")
    source = Episodes(prepared, fields, window=3, label="episode_metadata/task").open()
    assert "tensorflow" not in sys.modules
    assert len(source) == 4
    assert source.label_names == ("lift", "push")
    for record in range(4):
        found = source[record]
        first = found["state"][0, 0]
        episode, start = divmod(int(first), 10)
        assert start == episode // 2  # the middle one of so many places as the episode's number + 1
        assert found["label"] == [1, 0][episode % 2]
        assert found["state"][:, 1].tolist() == [first, first + 1, first + 2]
        assert found["image"].shape == (3, 4, 6, 3)
        assert found["image"][:, 0, 0, 0].tolist() == found["state"][:, 0].tolist()


@pytest.mark.slow
def test_frames_of_a_prepared_set_that_do_not_decode_are_replaced(prepared):
    source = Episodes(prepared, ("observation/wrist", "observation/state"), window=None, every=1)
    opened = source.open()
    assert len(opened) == 3 + 4 + 5 + 6
    batch = read_batch(opened, range(len(opened)))
    np.testing.assert_array_equal(batch["wrist"][:, 0, 0, 0], 100 + batch["state"][:, 0])
    states = batch["state"][:, 0].astype(int).tolist()
    assert 21 not in states
    assert states.count(22) == 2
    assert batch["replaced"].sum() == 1


@pytest.mark.slow
def test_all_images_and_numbers_are_fields_unless_some_are_named(prepared):
    record = Episodes(prepared, window=2).open()[0]
    assert sorted(record) == ["action", "image", "is_last", "replaced", "state", "wrist"]
    assert record["action"].dtype == np.float32
    for changes, words in (
        ({"fields": ("observation/picture",)}, "no feature 'observation/picture'"),
        ({"fields": ("instruction",)}, "no feature 'instruction' of images or numbers"),
        ({"label": "task"}, "no feature 'task' beside its steps"),
        ({"split": "test"}, "splits are"),
    ):
        with pytest.raises(ValueError, match=words):
            dataclasses.replace(Episodes(prepared, window=2), **changes).open()


def write_video(path, numbers, size=(32, 48)):
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.bit_rate = 10**6
        for number in numbers:
            picture = np.full((*size, 3), number, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def test_videos_are_decoded_frame_by_frame(tmp_path):
    for name, start in (("a", 20), ("b", 120)):
        write_video(tmp_path / f"{name}.mp4", range(start, start + 60, 10))
    (tmp_path / "c.mp4").write_bytes(b"no video at all")
    source = Episodes(str(tmp_path), window=3, stride=2).open()
    assert source.names == ["a, frame 0", "b, frame 0"]
    assert "1 videos are left out that do not decode" in source.notices[0]
    record = source[1]
    assert record["video"].shape == (3, 32, 48, 3)
    assert np.abs(record["video"].mean((1, 2, 3)) - [120, 140, 160]).max() < 4
    small = Episodes(str(tmp_path), window=2, size=16, keep=0.0).open()
    assert small[0]["video"].shape == (2, 16, 16, 3)
    with pytest.raises(ValueError, match="takes no cameras: name cameras by fields"):
        Episodes(str(tmp_path), cameras=("left",), window=2).open()
    write_video(tmp_path / "d.mp4", [30, 40, 50], size=(48, 48))
    with pytest.raises(ValueError, match=r"d.mp4 is 48x48 pixels, .*a.mp4 is 48x32: set size"):
        Episodes(str(tmp_path), window=3).open()
    write_video(tmp_path / "a.avi", [30, 40, 50])
    with pytest.raises(ValueError, match="have one name"):
        Episodes(str(tmp_path), window=3).open()


def test_a_copy_in_a_worker_keeps_what_it_decodes(tmp_path, monkeypatch):
    from jaxcl.data import video

    for name in "abc":
        write_video(tmp_path / f"{name}.mp4", range(20, 60, 10))
    source = Episodes(str(tmp_path), window=2).open()
    copied, decoded = pickle.loads(pickle.dumps(source)), []
    plain = video.decode_video
    monkeypatch.setattr(video, "decode_video", lambda p, s: decoded.append(p) or plain(p, s))
    for _ in range(3):
        for record in range(3):
            np.testing.assert_array_equal(copied[record]["video"], source[record]["video"])
    # Each once by the copy; of the first source the first video was decoded when it opened.
    assert len(decoded) == 3 + 2


def test_a_failing_disk_is_no_damaged_video(tmp_path, monkeypatch):
    import errno

    from jaxcl.data import video

    write_video(tmp_path / "a.mp4", range(20, 60, 10))
    source = Episodes(str(tmp_path), window=2, keep=0.0).open()
    source._recordings._last = None

    def fails(path, mode):
        raise OSError(errno.EIO, "the disk")

    monkeypatch.setattr(video, "open", fails, raising=False)
    with pytest.raises(OSError, match="the disk"):
        source[0]


def test_cameras_are_folders_and_those_out_of_step_are_left_out(tmp_path):
    for camera, add in (("left", 0), ("right", 100)):
        (tmp_path / camera).mkdir()
        for name, count in (("one", 4), ("two", 5), ("three", 4)):
            longer = count + (name == "three" and camera == "right")
            numbers = [20 + add + 10 * t for t in range(longer)]
            write_video(tmp_path / camera / f"{name}.avi", numbers)
    write_video(tmp_path / "left" / "four.avi", [10, 20, 30])
    source = Episodes(str(tmp_path), fields=("left", "right"), window=4).open()
    assert source.names == ["one, frame 0", "two, frame 0"]
    record = source[0]
    apart = record["right"].mean((1, 2, 3)) - record["left"].mean((1, 2, 3))
    assert np.abs(apart - 100).max() < 4
    assert "which not every camera has (the first is four)" in source.notices[0]
    assert "run out of step (three: 4, 5 frames)" in source.notices[1]
    with pytest.raises(FileNotFoundError, match="not a folder"):
        Episodes(str(tmp_path), fields=("left", "top"), window=2).open()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no videos"):
        Episodes(str(tmp_path), fields=("empty",), window=2).open()
