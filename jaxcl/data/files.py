"""Files of a folder and the folders below it."""

import errno
import os
from collections.abc import Collection, Sequence

import numpy as np

# Errors that belong to the one file, which is then replaced. Any other, such as a failing disk or
# too many open files, must end the run: by replacing, what is read would depend on chance.
BAD_FILE = {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP}


def list_files(root: str, extensions: Collection[str]) -> list[str]:
    """Sorted paths below `root`, with slashes, of files whose names end so (lower case, with the
    dot); hidden ones are passed over, links followed, each folder read once."""
    names = []
    seen = set()  # of real folders, so that a link to a folder above does not go round for ever
    pending = [""]
    while pending:
        prefix = pending.pop()
        folder = os.path.join(root, prefix)
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        subfolders = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                    subfolders.append(f"{prefix}{entry.name}/")
                elif os.path.splitext(entry.name)[1].lower() in extensions and _is_file(entry):
                    names.append(prefix + entry.name)
        # Sorted, since of several ways to one folder the first counts.
        pending += sorted(subfolders, reverse=True)
    return sorted(names)


def _is_file(entry: "os.DirEntry[str]") -> bool:
    """Whether to read it: no pipe or socket, which would block; but a dangling link, to count it as
    a bad file."""
    if entry.is_symlink():
        return os.path.isfile(entry.path) or not os.path.exists(entry.path)
    return entry.is_file()


def subfolder_labels(root: str, names: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The folder directly below `root` that each file is in: numbers [N], and their names.

    Raises:
      ValueError: where a file lies in none.
    """
    loose = [name for name in names if "/" not in name]
    if loose:
        raise ValueError(
            f"labels are subfolders, but {len(loose)} files lie directly in {root}, such as "
            f"{loose[0]}: move them into subfolders, or set labels to none"
        )
    label_names, labels = np.unique([name.split("/")[0] for name in names], return_inverse=True)
    return labels.astype(np.int32), tuple(str(name) for name in label_names)
