"""Models on a hub: fetched and pushed over HTTP, by huggingface_hub against a server here."""

import os
import subprocess
import sys

import huggingface_hub
import jax
import numpy as np
import pytest
from hub_server import Repository
from weights import IMAGES, write

from jaxcl import encoders, pretrained
from jaxcl.pretrained import Pretrained, from_pretrained, load_images, push_to_hub, save_pretrained

NAME = "someone/small"


@pytest.fixture(scope="module")
def model():
    network = encoders.MLP((16, 8))
    variables = network.init(jax.random.key(0), np.zeros((1, 12), np.float32))
    about = {"inputs": {"shape": [12], "dtype": "float32"}, "jaxcl": "0"}
    return Pretrained(
        {"encoder": network},
        {"encoder": variables["params"]},
        {"encoder": variables.get("batch_stats", {})},
        about,
    )


@pytest.fixture
def files(model, tmp_path):
    """What a repository of that model holds."""
    save_pretrained(tmp_path / "model", model)
    return {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}


def rows():
    return np.random.default_rng(0).normal(size=(5, 12)).astype(np.float32)


def test_what_was_pushed_comes_back(hub, model, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    save_pretrained(tmp_path / "model", model)
    (tmp_path / "model" / "README.md").write_text("---\ntags: [jaxcl]\n---\n# A model\n")
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"something else")
    where = push_to_hub(tmp_path / "model", NAME)
    repository = hub.repositories[NAME]
    assert where.startswith(f"{hub.address}/{NAME}/commit/")
    pushed = repository.commits[repository.branches["main"]]
    assert set(pushed) == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    again = from_pretrained(NAME)
    np.testing.assert_array_equal(again(rows()), model(rows()))
    assert again.about["inputs"] == model.about["inputs"]


def test_a_private_repository_is_made_so(hub, files, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    push_to_hub(tmp_path / "model", NAME, private=True)
    assert hub.repositories[NAME].private
    push_to_hub(tmp_path / "model", NAME)
    assert hub.repositories[NAME].private  # one that is there stays as it is


def test_a_revision_is_of_its_time(hub, files, model):
    repository = hub.repositories[NAME] = Repository()
    first = repository.commit(files)
    repository.commit({"config.json": b"{}"})
    repository.branches["old"] = first
    for revision in (first, "old"):
        np.testing.assert_array_equal(
            from_pretrained(NAME, revision=revision)(rows()), model(rows())
        )
    with pytest.raises(ValueError, match="was not written by jaxcl"):
        from_pretrained(NAME)
    with pytest.raises(FileNotFoundError, match=r"someone/small has no revision 'older'"):
        from_pretrained(NAME, revision="older")


def test_models_of_others_come_from_there(hub, tmp_path):
    folder = tmp_path / "theirs"
    write(folder, "timm ViT")
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.repositories["timm/vit"] = Repository()
    hub.repositories["timm/vit"].commit(content | {"pytorch_model.bin": b"not asked for"})
    model = load_images("timm/vit")
    np.testing.assert_array_equal(model(IMAGES), load_images(folder)(IMAGES))
    assert not any("pytorch_model" in one for one in hub.asked)


def test_a_broken_connection_goes_on_where_it_stopped(hub, files, model):
    hub.repositories[NAME] = Repository()
    hub.repositories[NAME].commit(files)
    hub.breaks["model.safetensors"] = 1
    np.testing.assert_array_equal(from_pretrained(NAME)(rows()), model(rows()))
    assert hub.breaks["model.safetensors"] == 0


def test_a_connection_that_stays_broken_is_said_and_the_next_try_succeeds(hub, files, model):
    hub.repositories[NAME] = Repository()
    hub.repositories[NAME].commit(files)
    hub.down = True
    with pytest.raises(ConnectionError, match=r"the hub answered for someone/small: .*503"):
        from_pretrained(NAME)
    hub.down = False
    hub.breaks["model.safetensors"] = 10**6
    with pytest.raises(ConnectionError, match="someone/small was not transferred whole"):
        from_pretrained(NAME)
    hub.breaks.clear()
    np.testing.assert_array_equal(from_pretrained(NAME)(rows()), model(rows()))


def test_nobody_listens(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match="someone/small was not transferred whole"):
        from_pretrained(NAME)


def test_what_was_fetched_is_there_without_the_hub(hub, files, model, monkeypatch):
    hub.repositories[NAME] = Repository()
    hub.repositories[NAME].commit(files)
    from_pretrained(NAME)
    asked = len(hub.asked)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    np.testing.assert_array_equal(from_pretrained(NAME)(rows()), model(rows()))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    np.testing.assert_array_equal(from_pretrained(NAME)(rows()), model(rows()))
    assert len(hub.asked) == asked


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_wrong_digest_is_refused_and_not_kept(hub, files, model, name):
    hub.repositories[NAME] = Repository()
    hub.repositories[NAME].commit(files)
    hub.spoiled.add(name)
    with pytest.raises(ValueError, match=f"{name} of someone/small came with digest"):
        from_pretrained(NAME)
    hub.spoiled.clear()
    np.testing.assert_array_equal(from_pretrained(NAME)(rows()), model(rows()))


def test_a_private_repository_wants_a_token(hub, files, model, monkeypatch):
    hub.repositories[NAME] = Repository(private=True)
    hub.repositories[NAME].commit(files)
    with pytest.raises(FileNotFoundError, match=r"or it is private and no token .* HF_TOKEN"):
        from_pretrained(NAME)
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(FileNotFoundError, match="or it is private"):
        from_pretrained(NAME)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    np.testing.assert_array_equal(from_pretrained(NAME)(rows()), model(rows()))


def test_pushing_wants_a_token_too(hub, files, tmp_path, monkeypatch):
    with pytest.raises(PermissionError, match="log in with a token"):
        push_to_hub(tmp_path / "model", NAME)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    with pytest.raises(ValueError, match="'small' is no repository of the hub: expected 'owner"):
        push_to_hub(tmp_path / "model", "small")
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="holds no safetensors"):
        push_to_hub(tmp_path / "model", NAME)
    assert not hub.repositories


def test_nothing_but_safetensors_is_fetched(hub, files):
    hub.repositories[NAME] = Repository()
    hub.repositories[NAME].commit({"config.json": b"{}", "pytorch_model.bin": b"\x80"})
    with pytest.raises(FileNotFoundError, match=r"no safetensors.* pytorch_model.bin"):
        load_images(NAME)
    assert not any("resolve" in one for one in hub.asked)


def test_shards_are_fetched_and_one_that_is_not_there_is_named(hub, files):
    index = b'{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}'
    hub.repositories[NAME] = Repository()
    hub.repositories[NAME].commit(
        {
            "model.safetensors.index.json": index,
            "config.json": b"{}",
            "model-1.safetensors": files["model.safetensors"],
        }
    )
    with pytest.raises(FileNotFoundError, match=r"lacks model-2.safetensors"):
        load_images(NAME)
    hub.repositories[NAME].commit({"model-2.safetensors": files["model.safetensors"]})
    folder = pretrained.local_path(NAME)
    assert (folder / "model-1.safetensors").is_file()
    assert (folder / "model-2.safetensors").is_file()


def test_paths_are_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert str(pretrained.local_path("a/b")) == "a/b"
    assert str(pretrained.local_path("a/none.safetensors")) == "a/none.safetensors"
    with pytest.raises(ValueError, match="is not of the hub"):
        pretrained.local_path("a/b", "main")


@pytest.mark.slow
def test_the_environment_says_where_the_hub_is(hub, files, tmp_path):
    hub.repositories[NAME] = Repository()
    hub.repositories[NAME].commit(files)
    code = f"from jaxcl.pretrained import from_pretrained; print(from_pretrained({NAME!r}).about)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "'shape': [12]" in done.stdout
