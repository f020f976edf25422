"""Models on the Hugging Face hub: fetched and pushed as safetensors, held to the hub's digests."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxcl.extras import import_extra
from jaxcl.pretrained.files import IN_FOLDER, SUFFIXES, read_json

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WEIGHTS = tuple(name for name in IN_FOLDER if ".safetensors" in name)
_BESIDE = re.compile(r"([\w-]+/)?[\w.-]+\.json|README\.md")
"""What belongs to weights: configs, tokenizers, those of parts in folders."""


def local_path(model: str | os.PathLike[str], revision: str | None = None) -> Path:
    """Where a model lies on this machine; one of the hub is fetched first, or found in its cache.

    Args:
      model: a file or a folder; or, as a string, the name of a repository of the hub, "owner/name",
        where no such path is here. `HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME` and `HF_HUB_OFFLINE` mean
        what they mean to huggingface_hub.
      revision: branch, tag or commit of the repository; None: its main branch.

    Returns:
      The path, or the folder of what was fetched: weights as safetensors, and the JSON beside them.

    Raises:
      FileNotFoundError: for a repository or a revision that is not there, or is private and no
        token is; or one without safetensors.
      ConnectionError: if the hub cannot be reached and the cache lacks the files.
      ValueError: for files that are not what the hub says, and a revision of a local path.
      ImportError: where huggingface_hub is not installed.
    """
    path = Path(model).expanduser()
    named = isinstance(model, str) and _REPOSITORY.fullmatch(model) and path.suffix not in SUFFIXES
    if path.exists() or not named:
        if revision is not None:
            raise ValueError(f"{path} is not of the hub: it has no revision {revision!r}")
        return path
    return _fetch(str(model), revision)


def push_to_hub(
    folder: str | os.PathLike[str],
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str = "Upload by jaxcl",
) -> str:
    """Uploads a model: its safetensors, the JSON files beside them, and its card.

    Args:
      folder: what `jaxcl export` or a `save_` function wrote.
      repository: its name, "owner/name"; made if need be.
      private: whether one that is made is; one that is there stays as it is.
      revision: the branch, which has to be there; None: main.
      message: of the commit.

    Returns:
      The commit's address.

    Raises:
      FileNotFoundError: for a folder without safetensors, or a revision that is not there.
      PermissionError: without a token that may write there.
      ConnectionError: if the hub cannot be reached.
      ValueError: for what is no name of a repository.
      ImportError: where huggingface_hub is not installed.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise ValueError(f"{repository!r} is no repository of the hub: expected 'owner/name'")
    folder = Path(folder).expanduser()
    if not any((folder / name).is_file() for name in _WEIGHTS):
        raise FileNotFoundError(
            f"{folder} holds no safetensors, and nothing else is pushed: write it by jaxcl export "
            "or a save_ function"
        )
    pushed = [
        path.relative_to(folder).as_posix()
        for path in (*folder.iterdir(), *folder.glob("*_Pooling/config.json"))
        if path.suffix in (".safetensors", ".json") or path.name == "README.md"
    ]
    library = _library()
    api = library.HfApi(library_name="jaxcl")
    with _told(repository, revision, library):
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            revision=revision,
            commit_message=message,
            allow_patterns=[re.sub(r"([*?\[])", r"[\1]", name) for name in pushed],
        )
    return str(commit.commit_url)


def _library() -> Any:
    import_extra("huggingface_hub.errors", "hub")
    return import_extra("huggingface_hub", "hub")


def _fetch(repository: str, revision: str | None) -> Path:
    library = _library()
    api = library.HfApi(library_name="jaxcl")
    with _told(repository, revision, library):
        try:
            about = api.model_info(repository, revision=revision, files_metadata=True)
        except (OSError, _client_error(library)) as error:
            cached = None if _status(error) in range(400, 500) else _in_cache(repository, revision)
            if cached is None:
                raise
            return cached
        files = {file.rfilename: file for file in about.siblings}
        weights = next((name for name in _WEIGHTS if name in files), None)
        if weights is None:
            raise FileNotFoundError(
                f"{repository} has no safetensors, and nothing else is fetched: it has "
                f"{', '.join(sorted(files)[:8])}"
            )
        chosen = [name for name in files if _BESIDE.fullmatch(name)]
        chosen += _shards(api, repository, about.sha, weights, files)
        folder = Path(api.snapshot_download(repository, revision=revision, allow_patterns=chosen))
        if folder.name != about.sha:  # a commit came in between
            about = api.model_info(repository, revision=folder.name, files_metadata=True)
            files = {file.rfilename: file for file in about.siblings}
        for name in chosen:
            _check_digest(folder / name, files[name], repository)
    return folder


def _in_cache(repository: str, revision: str | None) -> Path | None:
    """The folder of what was fetched before; without the hub there is no digest to hold it to."""
    library = _library()
    for name in _WEIGHTS:
        found = library.try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(found, str):
            return Path(found).parent
    return None


def _shards(
    api: Any, repository: str, commit: str, weights: str, files: dict[str, Any]
) -> list[str]:
    """The files of weights: one, or those that an index names."""
    if not weights.endswith(".index.json"):
        return [weights]
    index = Path(api.hf_hub_download(repository, weights, revision=commit))
    listed = read_json(index).get("weight_map")
    named = sorted({str(name) for name in listed.values()} if isinstance(listed, dict) else ())
    if not named or not all(re.fullmatch(r"[\w.-]+\.safetensors", name) for name in named):
        raise ValueError(f"{weights} of {repository} names what are no safetensors beside it")
    lost = [name for name in named if name not in files]
    if lost:
        raise FileNotFoundError(f"{repository} lacks {', '.join(lost)}, which {weights} names")
    return named


def _check_digest(path: Path, told: Any, repository: str) -> None:
    """Holds a fetched file to its digest; one that is another is removed."""
    if told.lfs is not None:
        digest, wanted = hashlib.sha256(), told.lfs.sha256
    else:  # as git names a file
        digest, wanted = hashlib.sha1(b"blob %d\0" % path.stat().st_size), told.blob_id
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    if digest.hexdigest() != wanted:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise ValueError(
            f"{told.rfilename} of {repository} came with digest {digest.hexdigest()[:12]}..., and "
            f"the hub says {wanted[:12]}...: it was removed, so try again"
        )


@contextmanager
def _told(repository: str, revision: str | None, library: Any) -> Iterator[None]:
    """Says in a line what the hub's errors mean."""
    errors = library.errors
    try:
        yield
    except errors.GatedRepoError as error:
        raise PermissionError(
            f"{repository} asks that its terms be accepted on its page, by who is then logged in "
            "(hf auth login, or HF_TOKEN)"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{repository} is no path here, and the hub has no such repository, or it is private "
            "and no token was given that may read it: hf auth login, or HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(f"{repository} has no revision {revision or 'main'!r}") from error
    except errors.HFValidationError as error:
        raise ValueError(_line(error)) from error
    except (OSError, _client_error(library)) as error:
        if type(error) is FileNotFoundError:  # our own
            raise
        status = _status(error)
        if status in (401, 403) or isinstance(error, errors.LocalTokenNotFoundError):
            raise PermissionError(
                f"the hub refuses this for {repository}: log in with a token that may (hf auth "
                "login, or HF_TOKEN)"
            ) from error
        if status is not None:
            raise ConnectionError(f"the hub answered for {repository}: {_line(error)}") from error
        raise ConnectionError(
            f"{repository} was not transferred whole: {_line(error)}. Try again: what came is kept"
        ) from error


def _client_error(library: Any) -> type[Exception]:
    """The base of errors of the HTTP client, whichever huggingface_hub was built on."""
    bases: tuple[type[Exception], ...] = library.errors.HfHubHTTPError.__mro__
    return next(base for base in bases if base.__name__ == "HTTPError")


def _status(error: Exception) -> int | None:
    """What the hub answered, if it did."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
