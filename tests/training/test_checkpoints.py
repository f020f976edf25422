"""Checkpoints: what goes in comes out, what is damaged is noticed, and named."""

import hashlib
import json
import resource

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcl.training import CheckpointError, Checkpoints, UserError
from jaxcl.training import checkpoints as checkpoints_module
from jaxcl.training.durable_files import write_durably


def state(value):
    return {
        "params": {
            "kernel": jnp.full((3, 4), float(value)),
            "half": jnp.full(5, value, jnp.bfloat16),
        },
        "cursor": jnp.asarray(int(value), jnp.int32),
        "key": jnp.asarray([1, 2], jnp.uint32),
        "none": jnp.zeros((0, 3)),
    }


def save(folder, *steps, **options):
    checkpoints = Checkpoints(folder, **options)
    for step in steps:
        checkpoints.save(step, state(step))
    checkpoints.close()
    return Checkpoints(folder, **options)


def save_and_wait(checkpoints, step, arrays):
    checkpoints.save(step, arrays)
    checkpoints.wait()


def data_file(folder, step, share="arrays-0"):
    """The largest file that holds array bytes of a checkpoint."""
    files = [path for path in (folder / f"{step:08d}" / share).rglob("d/*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def test_arrays_come_back_bit_for_bit(tmp_path):
    restored = save(tmp_path, 3).restore(state(0))
    assert restored.step == 3
    for name, theirs in state(3)["params"].items():
        ours = restored.state["params"][name]
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    assert restored.state["cursor"] == 3
    assert restored.state["none"].shape == (0, 3)


def test_nothing_to_restore(tmp_path):
    assert Checkpoints(tmp_path / "missing").restore(state(0)) is None


def test_old_ones_are_removed_but_for_the_kept(tmp_path):
    checkpoints = save(tmp_path, 1, 2, 3, 4, 5, keep_last=2, keep_every=3)
    assert checkpoints.steps() == [3, 4, 5]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000003", "00000004", "00000005"]


def test_the_state_is_copied_when_saved(tmp_path):
    mutable = {"x": np.zeros(3)}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, mutable)
    mutable["x"] += 1
    checkpoints.close()
    np.testing.assert_array_equal(Checkpoints(tmp_path).restore(mutable).state["x"], np.zeros(3))


@pytest.mark.parametrize("position", [0.1, 0.5, 0.9])
def test_a_flipped_bit_is_noticed_and_the_one_before_taken(tmp_path, position):
    checkpoints = save(tmp_path, 1, 2)
    path = data_file(tmp_path, 2)
    content = bytearray(path.read_bytes())
    content[int(len(content) * position)] ^= 0b100
    path.write_bytes(content)
    restored = checkpoints.restore(state(0))
    assert restored.step == 1
    assert "step 2" in restored.passed_over[0]


def test_a_truncated_one_is_passed_over(tmp_path):
    checkpoints = save(tmp_path, 1, 2)
    path = data_file(tmp_path, 2)
    path.write_bytes(path.read_bytes()[:10])
    restored = checkpoints.restore(state(0))
    assert restored.step == 1
    assert "step 2" in restored.passed_over[0]


def test_one_without_a_manifest_does_not_count(tmp_path):
    checkpoints = save(tmp_path, 1, 2)
    (tmp_path / "00000002" / "manifest.json").unlink()
    assert checkpoints.restore(state(0)).step == 1


@pytest.mark.parametrize(
    "text",
    [
        '{"step": 2, "shares"',
        '{"shares": [{"arrays": []}]}',
        '{"shares": [{"arrays": {"key": {"dtype": "uint32"}}}]}',
    ],
)
def test_a_damaged_manifest_is_passed_over(tmp_path, text):
    checkpoints = save(tmp_path, 1, 2)
    (tmp_path / "00000002" / "manifest.json").write_text(text)
    restored = checkpoints.restore(state(0))
    assert restored.step == 1
    assert "manifest" in restored.passed_over[0]


def test_a_manifest_that_promises_another_value_is_passed_over(tmp_path):
    checkpoints = save(tmp_path, 1, 2)
    path = tmp_path / "00000002" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["shares"][0]["arrays"]["cursor"]["sha256"] = "0" * 64
    path.write_text(json.dumps(manifest))
    assert "digest of cursor" in checkpoints.restore(state(0)).passed_over[0]


def test_a_link_in_place_of_a_file_is_not_followed(tmp_path):
    folder = tmp_path / "run"
    checkpoints = save(folder, 1, 2)
    path = data_file(folder, 2)
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    restored = checkpoints.restore(state(0))
    assert restored.step == 1
    assert "link" in restored.passed_over[0]


def test_saving_after_one_that_does_not_hold_keeps_what_does(tmp_path):
    save(tmp_path, 2, 9)
    data_file(tmp_path, 9).write_bytes(b"")
    checkpoints = Checkpoints(tmp_path, keep_last=1)
    assert checkpoints.restore(state(0)).step == 2
    checkpoints.save(3, state(3))
    checkpoints.close()
    assert checkpoints.steps() == [3]
    assert checkpoints.restore(state(0)).step == 3


def test_what_a_killed_save_left_is_swept(tmp_path):
    (tmp_path / "00000001" / "arrays-0").mkdir(parents=True)
    save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["00000002"]


def test_nothing_that_holds_is_an_error_that_names_all(tmp_path):
    checkpoints = save(tmp_path, 1, 2)
    for step in (1, 2):
        data_file(tmp_path, step).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"step 2.*step 1"):
        checkpoints.restore(state(0))


def test_another_structure_is_named(tmp_path):
    checkpoints = save(tmp_path, 1)
    other = state(0) | {"queue": jnp.zeros(3)}
    other["params"] = {"kernel": jnp.zeros((3, 5)), "half": other["params"]["half"]}
    with pytest.raises(
        UserError, match=r"params/kernel is float32\[3, 4\], expected float32\[3, 5\]"
    ):
        checkpoints.restore(other)
    with pytest.raises(UserError, match="queue is missing"):
        checkpoints.restore(other)


def test_a_full_disk_is_said_and_loses_nothing(tmp_path):
    checkpoints = save(tmp_path, 1)
    big = {"x": np.random.default_rng(0).integers(0, 2**31, 200_000)}  # 1.6 MB, incompressible
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        with pytest.raises(CheckpointError, match=r"step 1 is the newest kept.*Free some disk"):
            save_and_wait(checkpoints, 2, big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert Checkpoints(tmp_path).restore(state(0)).step == 1


def test_a_path_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write the checkpoint of step 1"):
        Checkpoints(tmp_path / "file" / "checkpoints").save(1, state(1))


def test_the_manifest_comes_last_and_names_every_file(tmp_path, monkeypatch):
    arrays = tmp_path / "00000003" / "arrays-0"
    seen = []

    def write(path, content):
        seen.append({str(file.relative_to(arrays.parent)) for file in files_below(arrays)})
        write_durably(path, content)

    monkeypatch.setattr(checkpoints_module, "write_durably", write)
    save(tmp_path, 3)
    manifest = json.loads((tmp_path / "00000003" / "manifest.json").read_text())
    (share,) = manifest["shares"]
    assert [{*share["files"]}] == seen
    assert "arrays-0/_METADATA" in seen[0]
    for name, digest in share["files"].items():
        assert hashlib.sha256((arrays.parent / name).read_bytes()).hexdigest() == digest


def test_processes_write_a_share_each(tmp_path):
    """The first cleans the folder, and makes the manifest when all shares are there."""
    parts = [Checkpoints(tmp_path, process=process, processes=3) for process in range(3)]
    for step in (1, 2):
        for part in parts:
            part.save(step, state(step))
    for part in parts:
        part.close()
    shares = json.loads((tmp_path / "00000002" / "manifest.json").read_text())["shares"]
    names = [name for share in shares for name in share["arrays"]]
    assert sorted(names) == ["cursor", "key", "none", "params/half", "params/kernel"]
    assert all(share["arrays"] and share["files"] for share in shares)
    assert {path.name for path in (tmp_path / "00000002").iterdir()} == {
        "manifest.json",
        "arrays-0",
        "arrays-1",
        "arrays-2",
    }
    restored = Checkpoints(tmp_path).restore(state(0))  # by another number of processes
    assert restored.step == 2
    np.testing.assert_array_equal(restored.state["params"]["kernel"], np.full((3, 4), 2.0))
    data_file(tmp_path, 2, "arrays-1").write_bytes(b"")
    assert "its file arrays-1" in Checkpoints(tmp_path).restore(state(0)).passed_over[0]


def test_a_share_that_does_not_come_is_named(tmp_path):
    save(tmp_path, 1)
    first = Checkpoints(tmp_path, process=0, processes=2, seconds=0.2)
    first.save(2, state(2))
    with pytest.raises(CheckpointError, match=r"process 1 has not written its share within 0.2 s"):
        first.close()
    assert Checkpoints(tmp_path).restore(state(0)).step == 1


def test_a_share_that_fails_is_told_to_the_first(tmp_path):
    first, other = (Checkpoints(tmp_path, process=process, processes=2) for process in range(2))
    first.save(1, state(1))
    (tmp_path / "00000001" / "arrays-1").write_text("in the way")
    other.save(1, state(1))
    with pytest.raises(CheckpointError, match="cannot write the checkpoint of step 1"):
        other.close()
    with pytest.raises(CheckpointError, match="process 1: "):
        first.close()


def test_a_checkpoint_of_an_earlier_version_is_said_to_be_one(tmp_path):
    checkpoints = save(tmp_path, 1, 2)
    (tmp_path / "00000002" / "manifest.json").write_text('{"step": 2, "arrays": {}, "files": {}}')
    restored = checkpoints.restore(state(0))
    assert restored.passed_over == ("step 2: an earlier version of jaxcl wrote it",)


def test_each_damaged_file_is_named(tmp_path):
    save(tmp_path, 3)
    for file in files_below(tmp_path / "00000003" / "arrays-0"):
        whole = file.read_bytes()
        file.write_bytes(whole + b"x")
        with pytest.raises(CheckpointError, match=f"its file .*{file.name} is damaged"):
            Checkpoints(tmp_path).restore(state(0))
        file.write_bytes(whole)
    assert Checkpoints(tmp_path).restore(state(0)).step == 3


def files_below(folder):
    return [path for path in folder.rglob("*") if path.is_file()]
