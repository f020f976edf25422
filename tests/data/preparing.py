"""Data sets that tensorflow-datasets prepares, for tests that read them."""

import subprocess
import sys
from pathlib import Path


def prepare(folder: Path, script: str) -> str:
    """The directory that a script, given a folder for its data, prints last.

    It runs in a process of its own and is removed then, so that reading is seen to need nothing of
    the builder's code.
    """
    (folder / "builder.py").write_text(script)
    run = subprocess.run(
        [sys.executable, "builder.py", str(folder / "data")],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    (folder / "builder.py").unlink()
    return run.stdout.strip().splitlines()[-1]
