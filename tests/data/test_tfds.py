"""Prepared TFDS data sets are read without TensorFlow."""

import contextlib
import shutil
import sys

import numpy as np
import pytest

# Here, before any test has run: the package replaces `import` while it is being imported, which
# spoils the finalizers of whatever the garbage collector finds in that moment.
import tensorflow_datasets  # noqa: F401
from preparing import prepare

from jaxcl.data import TFDS, Batches, Paired, Sounds, Texts, train_tokenizer

PREPARE = """
import io, sys, types
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.features import audio_feature, feature

# What a data set with sounds asks TensorFlow for when it is prepared: types by their names.
types_alone = types.SimpleNamespace(dtypes=types.SimpleNamespace(as_dtype=np.dtype))
audio_feature.tf = feature.tf = types_alone


class Tiny(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({
                "image": tfds.features.Image(shape=(None, None, 3)),
                "grey": tfds.features.Image(shape=(4, 4, 1)),
                "label": tfds.features.ClassLabel(names=["cat", "dog"]),
                "number": np.int64,
                "title": tfds.features.Text(),
                "captions": tfds.features.Sequence({"text": tfds.features.Text()}),
                "audio": tfds.features.Audio(sample_rate=8000),
                "stereo": tfds.features.Audio(shape=(None, 2), dtype=np.float32),
            }),
        )

    def _split_generators(self, manager):
        return {"train": self._generate_examples(12),
                "sizes": self._generate_examples(2, sizes=True)}

    def _generate_examples(self, count, sizes=False):
        for i in range(count):
            rgb = np.full((6, 5 + i * sizes, 3), 10 * i, np.uint8)
            rgb[0, 0] = (i, 0, 255)
            image = png(rgb)
            yield i, {
                "image": image[:40] if i == 7 else image,
                "grey": png(np.full((4, 4), i, np.uint8)),
                "label": i % 2,
                "number": i,
                "title": f"the number {i}" if i != 5 else "",
                "audio": tone(200 + 10 * i) if i != 3 else np.zeros(800, np.int64),
                "stereo": np.zeros((5, 2), np.float32),
                "captions": {"text": [f"{i} drawn", f"número {i}"][: 1 + i % 2]},
            }


def tone(hertz):
    return np.round(9000 * np.sin(2 * np.pi * hertz * np.arange(800) / 8000)).astype(np.int64)


def png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


builder = Tiny(data_dir=sys.argv[1], file_format="array_record")
builder.download_and_prepare()
assert "tensorflow" not in sys.modules
print(builder.data_dir)
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("tfds"), PREPARE)


@pytest.mark.slow
def test_reads_what_was_prepared(prepared):
    source = TFDS(prepared, label="number").open()
    assert len(source) == 12
    assert source.image_shape == (6, 5, 3)
    assert source.names == [str(record) for record in range(12)]
    numbers = source.labels
    assert numbers.dtype == np.int32
    assert sorted(numbers) == list(range(12))  # TFDS shuffles as it prepares
    assert numbers.tolist() != list(range(12))
    for record, number in enumerate(numbers.tolist()):
        found = source[record]
        assert found["replaced"] == (number == 7)
        if number == 7:
            number = numbers[(record + 1) % 12]
        assert found["label"] == number
        assert found["image"][0, 0].tolist() == [number, 0, 255]
        assert np.unique(found["image"][1:]).tolist() == [10 * number]
    assert "tensorflow" not in sys.modules


def test_labels_splits_and_grey(prepared):
    source = TFDS(prepared).open()
    assert source.label_names == ("cat", "dog")
    np.testing.assert_array_equal(source.labels, TFDS(prepared, label="number").open().labels % 2)
    part = TFDS(prepared, split="train[:50%]", image="grey", label=None).open()
    assert len(part) == 6
    assert part.image_shape == (4, 4, 1)
    assert part.labels is None
    assert part.label_names is None
    assert "label" not in part[0]


def test_images_of_several_sizes(prepared):
    sized = TFDS(prepared, split="sizes", size=3).open()
    assert {sized[record]["image"].shape for record in range(2)} == {(3, 3, 3)}
    source = TFDS(prepared, split="sizes").open()
    with pytest.raises(ValueError, match=r"record 1 of .* \[sizes\] is [56]x6 .*: set size"):
        source[1]


@pytest.mark.slow
def test_batches_from_worker_processes(prepared):
    source = TFDS(prepared).open()
    settings = {"batch_size": 4, "seed": 3, "steps": 4}
    plain = list(Batches(source, **settings))
    with contextlib.closing(iter(Batches(source, **settings, workers=2))) as batches:
        for batch, expected in zip(batches, plain, strict=True):
            for name in expected:
                np.testing.assert_array_equal(batch[name], expected[name])
    assert sum(batch["replaced"].sum() for batch in plain) >= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "valid"}, "'valid'.*'train'"),
        ({"split": "train[:0]"}, "cannot read .*its splits are"),
        ({"image": "picture"}, "no feature 'picture': set image; it has .*'grey'"),
        ({"label": "class"}, "no feature 'class': set label, or to none"),
        ({"image": "title"}, "feature 'title' .* expected an Image"),
        ({"label": "title"}, "feature 'title' .* expected integers"),
        ({"size": 0}, "size 0"),
    ],
)
def test_refuses_options(prepared, options, message):
    with pytest.raises(ValueError, match=message):
        TFDS(prepared, **options).open()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    texts = [f"the number {i} drawn, número" for i in range(12)]
    train_tokenizer(texts, vocabulary=60, kind="wordpiece").tokenizer.save(str(path))
    return str(path)


def test_texts_are_those_of_the_records(prepared, tokenizer):
    numbers = TFDS(prepared, label="number").open().labels
    source = Texts(prepared, tokenizer, ("title", "captions/text"), label="label").open()
    kept = numbers[numbers != 5]
    assert source.columns["title"] == [f"the number {i}" for i in kept]
    captions = [[f"{i} drawn", f"número {i}" if i % 2 else ""] for i in kept]
    assert source.columns["captions/text"] == captions
    assert source.label_names == ("cat", "dog")
    np.testing.assert_array_equal(source.labels, kept % 2)
    assert source.notices == (f"1 records of {prepared} have an empty text and are passed over",)
    several = source[0]["captions/text"]
    assert several.ndim == 2
    part = Texts(prepared, tokenizer, ("title",), split="train[:50%]", empty="keep").open()
    assert len(part) == 6
    assert Texts(prepared, tokenizer).read(("number",))["number"] == [*map(str, numbers)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": ("text",)}, "no feature 'text': it has .*title"),
        ({"columns": ("title/text",)}, "no feature 'title/text'"),
        ({"columns": ("image",)}, "feature 'image' .* expected texts"),
        ({"columns": ("title",), "split": "valid"}, "'valid'.*'train'"),
    ],
)
def test_refuses_what_is_no_text(prepared, tokenizer, options, message):
    with pytest.raises(ValueError, match=message):
        Texts(prepared, tokenizer, **options).open()


def test_pictures_and_texts_of_one_record_stand_together(prepared, tokenizer):
    titles = Texts(prepared, tokenizer, ("title",), empty="keep")
    paired = Paired((TFDS(prepared, label="number"), titles)).open()
    read = titles.open()
    for record in range(12):
        title = read.columns["title"][record]
        found = paired[record]
        if title and not found["replaced"]:
            assert title == f"the number {found['image'][0, 0, 0]}"


def test_refuses_what_is_not_prepared(prepared, tmp_path):
    with pytest.raises(FileNotFoundError, match="no prepared data set"):
        TFDS(str(tmp_path)).open()
    with pytest.raises(FileNotFoundError, match="folder of a version"):
        TFDS(prepared.rsplit("/", 1)[0]).open()


def copied(prepared, folder):
    return shutil.copytree(prepared, folder / "tiny" / "1.0.0")


def test_refuses_other_file_formats(prepared, tmp_path):
    folder = copied(prepared, tmp_path)
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match=r'tfrecord files.*file_format="array_record"'):
        TFDS(str(folder)).open()


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_names_damaged_data_files(prepared, tmp_path, damage):
    folder = copied(prepared, tmp_path)
    (file,) = folder.glob("*train.array_record*")
    content = file.read_bytes()
    file.unlink()
    if damage == "cut":
        file.write_bytes(content[:1000])
    with pytest.raises(ValueError, match=r"record 0 of .* \[train\] cannot be read"):
        TFDS(str(folder)).open()


@pytest.mark.slow
def test_sounds_are_read_and_resampled(prepared):
    source = Sounds(prepared, rate=16_000, seconds=0.05, column="audio", label="label").open()
    assert len(source) == 12
    assert source.label_names == ("cat", "dog")
    [notice] = source.notices
    assert notice.startswith("1 of 12 files looked at are replaced by the next ones: record ")
    assert notice.endswith(f" of {prepared} [train] holds nothing but silence")
    frequencies, replaced = [], 0
    for record in range(12):
        found = source[record]
        assert found["sound"].shape == (800,)
        replaced += found["replaced"]
        spectrum = np.abs(np.fft.rfft(found["sound"] * np.hanning(800), 16_000))
        frequencies.append(int(np.argmax(spectrum)))
    # In the order of preparing, which is none: each tone once, but that one stands in for silence.
    assert replaced == 1
    wanted = [200 + 10 * number for number in range(12) if number != 3]
    assert len({*frequencies}) == 11
    assert all(min(abs(one - other) for other in wanted) <= 2 for one in frequencies)
    assert "tensorflow" not in sys.modules
    for changes, words in (
        ({"column": "title"}, "no feature 'title' of sound"),
        ({"column": "stereo"}, "does not say its sample_rate"),
        ({"column": "audio", "label": "title"}, "no feature 'title' of integers"),
        ({"column": "audio", "labels": "subfolders"}, "labels by label"),
    ):
        with pytest.raises(ValueError, match=words):
            Sounds(prepared, **changes).open()
