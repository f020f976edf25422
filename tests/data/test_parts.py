"""Sources side by side, and their parts."""

import numpy as np
import pytest

from jaxcl.data import ArraySource, PairedSource, Split, Subset, read_batch
from jaxcl.data.parts import joined_groups
from jaxcl.data.source import SourceConfig

RANDOM = np.random.default_rng(0)


class Tokens:
    """Texts of up to four tokens, some alike."""

    def __init__(self, count=12, groups=None):
        self.texts = np.where(
            np.arange(4) < RANDOM.integers(1, 5, (count, 1)),
            RANDOM.integers(9, size=(count, 4)),
            -1,
        ).astype(np.int32)
        self.lengths = {"text": (self.texts >= 0).sum(1)}
        self.groups = groups
        self.vocabulary = {"text": 9}
        self.labels, self.label_names = None, None
        self.names = [f"text {row}" for row in range(count)]
        self.notices = ("a notice",)

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, record):
        return {"text": self.texts[record], "text_there": record % 2 == 0, "replaced": record == 3}


def images(count=12, labels=True):
    pixels = RANDOM.integers(0, 255, (count, 5, 6, 3)).astype(np.uint8)
    return ArraySource(pixels, np.arange(count) % 3 if labels else None)


def test_paired_records_have_the_fields_of_both():
    pictures, texts = images(), Tokens()
    source = PairedSource([pictures, texts])
    batch = read_batch(source, [7, 3])
    np.testing.assert_array_equal(batch["image"], pictures.images[[7, 3]])
    np.testing.assert_array_equal(batch["text"], texts.texts[[7, 3]])
    np.testing.assert_array_equal(batch["label"], [1, 0])
    np.testing.assert_array_equal(batch["text_there"], [False, False])
    np.testing.assert_array_equal(batch["replaced"], [False, True])
    assert source.names == texts.names
    assert (source.vocabulary, source.notices) == ({"text": 9}, ("a notice",))
    assert source.groups is None


def test_parts_that_passed_records_over_are_refused():
    texts = Tokens()
    texts.skipped = 3
    with pytest.raises(ValueError, match=r"passed 3 empty records over, .*: give it empty='keep'"):
        PairedSource([images(), texts])


def test_two_pictures_of_one_thing_get_names_of_their_own():
    first, second = images(), images(labels=False)
    source = PairedSource([first, second], ("studio", "other"))
    record = source[5]
    np.testing.assert_array_equal(record["studio"], first.images[5])
    np.testing.assert_array_equal(record["other"], second.images[5])
    assert record["label"] == 2
    three = PairedSource([first, second, Tokens()], ("studio", "other", "name"))
    assert {*three.lengths} == {"name"}
    assert "name_there" in three[0]
    with pytest.raises(ValueError, match="1 names of fields, studio, for 2 paired sources"):
        PairedSource([first, second], ("studio",))
    with pytest.raises(ValueError, match="has the fields studio, other, which cannot all be"):
        PairedSource([source, Tokens()], ("both", "text"))


def test_what_cannot_be_paired_is_refused():
    with pytest.raises(ValueError, match="sources of 12, 11 records cannot be paired"):
        PairedSource([images(), Tokens(11)])
    with pytest.raises(ValueError, match="two of the paired sources have a field 'image'"):
        PairedSource([images(), images()])


def test_groups_are_linked_through_others():
    first = np.array([0, 0, 1, 2, -1, -1])
    second = np.array([4, 5, 5, 6, 7, -1])
    found = joined_groups([first, second])
    same = found[:, None] == found
    expected = np.eye(6, dtype=bool)
    expected[:3, :3] = True  # 0 and 1 by the first, 1 and 2 by the second
    np.testing.assert_array_equal(same, expected)
    assert joined_groups([]) is None


class Given(SourceConfig):
    def __init__(self, source):
        self.source = source

    def open(self):
        return self.source


@pytest.mark.parametrize("seed", range(4))
def test_parts_share_no_group_and_lose_nothing(seed):
    groups = RANDOM.integers(0, 40, 100)
    source = PairedSource([images(100), Tokens(100, groups)])
    parts = {
        part: Split(Given(source), part, share=0.3, seed=seed).open() for part in ("train", "test")
    }
    names = [name for part in parts.values() for name in part.names]
    assert sorted(names) == sorted(source.names)
    assert len(parts["test"]) == 30
    assert not {*parts["train"].groups} & {*parts["test"].groups}
    record = parts["test"].names.index(source.names[int(parts["test"].names[4].split()[1])])
    whole = source[int(parts["test"].names[record].split()[1])]
    np.testing.assert_array_equal(parts["test"][record]["image"], whole["image"])
    assert len(parts["test"].lengths["text"]) == len(parts["test"].labels) == 30


def test_another_seed_draws_another_part():
    source = Given(images(100))
    found = [Split(source, "test", seed=seed).open().names for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"share": 0.0}, "share is 0.0, expected more than 0"),
        ({"share": 1.5}, "share is 1.5"),
        ({"part": "valid"}, "part is 'valid', expected 'train' or 'test'"),
        ({"share": 0.001}, "leaves the train part or the other empty"),
    ],
)
def test_bad_splits_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        Split(Given(images()), **changes).open()


def test_a_subset_is_what_it_names():
    source = images()
    part = Subset(source, np.array([5, 2]))
    np.testing.assert_array_equal(part[0]["image"], source[5]["image"])
    np.testing.assert_array_equal(part.labels, [2, 2])
    assert part.names == ["5", "2"]
    assert part.groups is None
