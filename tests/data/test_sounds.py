"""Sound files of every kind: what is read of them, drawn, replaced, refused, said."""

import csv
import errno
import pickle
import sys
import wave

import numpy as np
import pytest
import soundfile

from jaxcl.data import Arrays, Batches, Paired, Sounds, Split, batch_at
from jaxcl.data.clips import read_clip
from jaxcl.data.source import read_record

RATE = 8_000


def tone(seconds, hertz=440.0, level=0.5, rate=RATE):
    return level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def ramp(count):
    """Samples that say where they stand."""
    return np.arange(1, count + 1, dtype=np.int16)


@pytest.fixture
def folder(tmp_path):
    for place, name in enumerate(("a/0.wav", "a/1.flac", "b/0.ogg", "b/2.wav")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, tone(1.0, 300.0 + 100 * place), RATE)
    (tmp_path / "notes.txt").write_text("no sound")
    return tmp_path


def test_files_of_a_folder_are_records(folder):
    source = Sounds(str(folder), rate=RATE, seconds=0.5, labels="subfolders").open()
    assert source.names == ["a/0.wav", "a/1.flac", "b/0.ogg", "b/2.wav"]
    assert source.label_names == ("a", "b")
    assert source.labels.tolist() == [0, 0, 1, 1]
    record = source[3]
    assert record["sound"].shape == (4_000,)
    assert record["sound"].dtype == np.int16
    assert record["label"] == 1
    assert not record["replaced"]
    expected = np.round(tone(1.0, 600.0)[2_000:6_000] * 32768)  # the middle
    np.testing.assert_allclose(record["sound"], expected, atol=1)
    assert source.notices == ()


@pytest.mark.slow
@pytest.mark.parametrize("keep", [0.0, 1.0])
@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_windows_are_drawn_from_everywhere_evenly(tmp_path, name, keep):
    soundfile.write(tmp_path / name, ramp(20), RATE, subtype="PCM_16")
    source = Sounds(str(tmp_path), rate=RATE, seconds=16 / RATE, keep=keep).open()
    assert source[0]["sound"].tolist() == list(range(3, 19))
    starts = [source.draw(0, (1, 2, number))["sound"] for number in range(2_000)]
    assert all(np.array_equal(found, found[0] + np.arange(16)) for found in starts)
    counts = np.bincount([found[0] for found in starts], minlength=6)[1:]
    # Of 2,000 draws among five places: within four standard deviations of 400.
    assert np.all(np.abs(counts - 400) < 4 * np.sqrt(400 * 0.8))
    again = source.draw(0, (1, 2, 7))["sound"]
    np.testing.assert_array_equal(again, starts[7])


def test_what_is_drawn_hangs_on_seed_and_step_alone(tmp_path):
    for number in range(6):
        soundfile.write(tmp_path / f"{number}.wav", 100 * ramp(300) % 3_000, RATE)
    config = Sounds(str(tmp_path), rate=RATE, seconds=100 / RATE)
    options = {"batch_size": 4, "seed": 3}
    whole = batch_at(config.open(), 5, **options)
    for process in range(2):
        part = batch_at(
            pickle.loads(pickle.dumps(config.open())),
            5,
            **options,
            process_index=process,
            process_count=2,
            threads=2,
        )
        np.testing.assert_array_equal(part["sound"], whole["sound"][2 * process :][:2])
    assert not np.array_equal(
        whole["sound"], batch_at(config.open(), 5, batch_size=4, seed=4)["sound"]
    )
    later = batch_at(config.open(), 6, **options)
    same = np.intersect1d(whole["index"], later["index"], return_indices=True)
    assert len(same[0])
    assert not np.array_equal(whole["sound"][same[1]], later["sound"][same[2]])
    [batch] = Batches(config.open(), **options, start=5, steps=1)
    np.testing.assert_array_equal(batch["sound"], whole["sound"])


def test_parts_of_a_source_draw_as_the_whole(folder):
    whole = Sounds(str(folder), rate=RATE, seconds=0.25, same="name")
    half = Split(whole, "train", share=0.5)
    source, seed = half.open(), (0, 1, 0)
    row = whole.open().names.index(source.names[0])
    drawn = read_record(source, 0, seed)["sound"]
    np.testing.assert_array_equal(drawn, whole.open().draw(row, seed)["sound"])
    pair = Paired((whole, whole), ("left", "right")).open()
    both = read_record(pair, 1, seed)
    np.testing.assert_array_equal(both["left"], both["right"])
    assert not np.array_equal(both["left"], pair[1]["left"])


def test_files_of_one_name_stay_together(folder):
    source = Sounds(str(folder), rate=RATE, same="name").open()
    assert source.groups.tolist() == [0, 1, 0, 2]
    assert Sounds(str(folder), rate=RATE).open().groups is None


@pytest.mark.parametrize(
    ("subtype", "tolerance"), [("PCM_U8", 257), ("PCM_16", 1), ("PCM_24", 1), ("FLOAT", 1)]
)
def test_any_depth_is_the_same_sound(tmp_path, subtype, tolerance):
    soundfile.write(tmp_path / "a.wav", tone(0.5), RATE, subtype=subtype)
    found = Sounds(str(tmp_path), rate=RATE, seconds=0.5).open()[0]["sound"]
    np.testing.assert_allclose(found, np.round(tone(0.5) * 32768), atol=tolerance)


def test_channels_are_averaged(tmp_path):
    two = np.stack([tone(0.5), 0.5 * tone(0.5)], axis=1)
    soundfile.write(tmp_path / "a.wav", two, RATE, subtype="FLOAT")
    found = Sounds(str(tmp_path), rate=RATE, seconds=0.5).open()[0]["sound"]
    np.testing.assert_allclose(found, np.round(0.75 * tone(0.5) * 32768), atol=1)


@pytest.mark.parametrize("rate", [11_025, 44_100, 48_000, 7_919])
def test_odd_rates_become_the_one_asked_for(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", tone(2.0, 500.0, rate=rate), rate, subtype="FLOAT")
    found = Sounds(str(tmp_path), rate=RATE, seconds=1.0).open()[0]["sound"] / 32768
    spectrum = np.abs(np.fft.rfft(found * np.hanning(RATE)))
    assert spectrum.argmax() == 500  # Hz, of a window of one second
    np.testing.assert_allclose(np.sqrt(np.mean(found**2)), 0.5 / np.sqrt(2), rtol=1e-2)


def test_clips_shorter_than_the_window(tmp_path):
    soundfile.write(tmp_path / "a.wav", ramp(10), RATE, subtype="PCM_16")
    config = Sounds(str(tmp_path), rate=RATE, seconds=25 / RATE)
    source = config.open()
    assert source[0]["sound"].tolist() == [*range(1, 11), *[0] * 15]
    np.testing.assert_array_equal(source.draw(0, (5,))["sound"], source[0]["sound"])
    [notice] = source.notices
    assert "1 of 1 files looked at are shorter than the window of 0.003125 s: silence" in notice
    repeated = Sounds(str(tmp_path), rate=RATE, seconds=25 / RATE, short="repeat").open()
    assert repeated[0]["sound"].tolist() == [*range(1, 11), *range(1, 11), *range(1, 6)]
    refusing = Sounds(str(tmp_path), rate=RATE, seconds=25 / RATE, short="refuse")
    with pytest.raises(ValueError, match=r"1 of 1 files .* shorter .* the first is .*a\.wav"):
        refusing.open()


def bad_files(folder):
    """One of each kind that is replaced, by what is said of it."""
    not_a_number = tone(0.5)
    not_a_number[2_000] = np.nan  # in the middle window
    soundfile.write(folder / "nan.wav", not_a_number, RATE, subtype="FLOAT")
    soundfile.write(folder / "silent.wav", np.zeros(4_000), RATE)
    (folder / "text.wav").write_text("no sound")
    soundfile.write(folder / "cut.flac", tone(3.0), RATE)
    whole = (folder / "cut.flac").read_bytes()
    (folder / "cut.flac").write_bytes(whole[: len(whole) // 2])
    with wave.open(str(folder / "empty.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
    return {
        "nan.wav": "no numbers",
        "silent.wav": "nothing but silence",
        "text.wav": "does not decode",
        "cut.flac": "cut short|does not decode",
        "empty.wav": "cut short",
    }


def test_what_stands_in_for_a_bad_file_brings_its_own_label(folder):
    (folder / "a" / "1.flac").write_text("no sound")
    source = Sounds(str(folder), rate=RATE, seconds=0.5, labels="subfolders").open()
    found = source[1]
    assert found["replaced"]
    assert found["label"] == source[2]["label"] == 1
    np.testing.assert_array_equal(found["sound"], source[2]["sound"])


@pytest.mark.parametrize("name", ["a.ogg", "a.opus", "a.mp3", "a.aiff", "a.au", "a.flac"])
def test_any_format_is_the_same_sound(tmp_path, name):
    options = {"format": "OGG", "subtype": "OPUS"} if name == "a.opus" else {}
    soundfile.write(tmp_path / name, tone(1.0), RATE, **options)
    found = Sounds(str(tmp_path), rate=RATE, seconds=0.5).open()[0]["sound"] / 32768
    spectrum = np.abs(np.fft.rfft(found * np.hanning(len(found))))
    assert spectrum.argmax() == 220  # of half a second: 440 Hz
    np.testing.assert_allclose(np.sqrt(np.mean(found**2)), 0.5 / np.sqrt(2), rtol=0.03)


@pytest.mark.parametrize("keep", [0.0, 1.0])
def test_bad_files_are_replaced_named_and_counted(tmp_path, keep):
    bad = bad_files(tmp_path)
    soundfile.write(tmp_path / "zz.wav", tone(1.0), RATE)
    source = Sounds(str(tmp_path), rate=RATE, seconds=0.25, keep=keep).open()
    assert len(source) == 6
    for record, name in enumerate(source.names):
        found = source[record]
        assert found["replaced"] == (name != "zz.wav"), name
        np.testing.assert_array_equal(found["sound"], source[5]["sound"])
    [notice] = source.notices
    assert "5 of 6 files looked at are replaced by the next ones" in notice
    for name, words in bad.items():
        with pytest.raises(ValueError, match=words):
            read_clip(str(tmp_path / name), RATE)


def test_clipping_is_said(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.clip(tone(0.5, level=2.0), -1, 1), RATE)
    [notice] = Sounds(str(tmp_path), rate=RATE, seconds=0.5).open().notices
    assert "1 of 1 files looked at are clipped" in notice
    assert "a.wav" in notice


def table(folder, rows):
    with open(folder / "table.csv", "w", newline="") as file:
        csv.writer(file).writerows([("caption", "fr", "kind"), *rows])
    return str(folder / "table.csv")


def test_a_table_names_files_and_some_records_have_none(folder):
    path = table(folder, [("x", "a/0.wav", "k"), ("y", "", "m"), ("z", "b/2.wav", "k")])
    config = Sounds(path, rate=RATE, seconds=0.5, column="fr", label="kind", field="french")
    source = config.open()
    records = [source[number] for number in range(3)]
    assert [record["french_there"] for record in records] == [True, False, True]
    assert not records[1]["french"].any()
    assert not records[1]["replaced"]
    assert source.labels.tolist() == [0, 1, 0]
    assert source.label_names == ("k", "m")
    batch = batch_at(source, 0, batch_size=3, seed=0)
    assert batch["french_there"].tolist() == [number != 1 for number in batch["index"]]
    np.savez(folder / "images.npz", image=np.zeros((3, 4, 4, 1), np.uint8))
    both = Paired((Arrays(str(folder / "images.npz")), config)).open()[1]
    assert not both["french_there"]
    assert both["image"].shape == (4, 4, 1)


def test_what_has_no_file_is_of_no_group_and_stands_for_none(folder):
    rows = [("x", "", "k"), *[("y", "", "k")] * 80, ("z", "b/2.wav", "k"), ("w", "a/1.flac", "k")]
    config = Sounds(table(folder, rows), rate=RATE, seconds=0.5, column="fr", same="name")
    source = config.open()
    assert len(set(source.groups.tolist())) == 83
    # The file breaks once the source is open: the next that has one stands in, past 81 without.
    fresh = Sounds(config.path, rate=RATE, seconds=0.5, column="fr", keep=0.0).open()
    (folder / "a" / "1.flac").write_text("no sound")
    found = fresh[82]
    assert found["replaced"]
    assert found["sound_there"]
    np.testing.assert_array_equal(found["sound"], fresh[81]["sound"])


def test_a_failing_machine_is_no_bad_file(folder, monkeypatch):
    source = Sounds(str(folder), rate=RATE, seconds=0.5, keep=0.0).open()

    def fail(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("builtins.open", fail)
    with pytest.raises(OSError, match="Too many open files"):
        source[0]


BAD = {
    "no folder": (lambda f: Sounds(str(f / "none")), FileNotFoundError, "neither a folder"),
    "no sounds": (lambda f: Sounds(str(f / "empty")), ValueError, "holds no sound files"),
    "no rate": (lambda f: Sounds(str(f), rate=0), ValueError, "rate 0"),
    "no time": (lambda f: Sounds(str(f), seconds=0.0), ValueError, "seconds 0"),
    "short": (lambda f: Sounds(str(f), short="cut"), ValueError, "short is 'cut'"),
    "column": (lambda f: Sounds(table(f, [("x", "a/0.wav", "k")])), ValueError, "column 'sound'"),
    "no file": (
        lambda f: Sounds(table(f, [("x", "", "k")]), column="fr"),
        ValueError,
        "names no file",
    ),
    "absolute": (
        lambda f: Sounds(table(f, [("x", str(f / "a/0.wav"), "k")]), column="fr"),
        ValueError,
        "below the table's own folder",
    ),
    "missing": (
        lambda f: Sounds(table(f, [("x", "a/7.wav", "k"), ("y", "a/0.wav", "k")]), column="fr"),
        ValueError,
        "1 of the files .* not there, the first is 'a/7.wav'",
    ),
    "labels": (
        lambda f: Sounds(table(f, [("x", "a/0.wav", "k")]), column="fr", labels="subfolders"),
        ValueError,
        "name its column of labels by label",
    ),
    "all bad": (lambda f: Sounds(str(f / "bad")), ValueError, "no readable sound in 1 records"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_opened_is_said(folder, case):
    (folder / "empty").mkdir()
    (folder / "bad").mkdir()
    (folder / "bad" / "a.wav").write_text("no sound")
    make, kind, words = BAD[case]
    with pytest.raises(kind, match=words):
        make(folder).open()


def test_a_missing_package_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ImportError, match=r'soundfile is not .*: pip install "jaxcl\[sound\]"'):
        Sounds(str(folder)).open()
