"""Files that are there whole or not at all, whatever ends the process."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_durably(path: Path, content: str | Callable[[BinaryIO], object]) -> None:
    """Replaces a file so that a crash or a full disk leaves the old one or the new one, whole.

    Args:
      path: the file; its folder exists.
      content: its text, or a function that writes its bytes to an open file.

    Raises:
      OSError: if it cannot be written, naming the file.
    """
    temporary = path.with_name(path.name + ".writing")
    try:
        with temporary.open("wb") as file:
            if isinstance(content, str):
                file.write(content.encode())
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise cannot_write(path, error) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_writable(folder: Path) -> None:
    """Raises OSError where files cannot be made in a folder, before they are worked for."""
    if not os.access(folder, os.W_OK):
        raise OSError(errno.EACCES, "cannot write: read-only, or not yours", str(folder))


def cannot_write(path: Path, error: OSError) -> OSError:
    """The same error, saying which file it was about."""
    return OSError(error.errno, f"cannot write: {error.strerror}", str(path))
