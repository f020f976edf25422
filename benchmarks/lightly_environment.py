"""A virtual environment with lightly, for the benchmarks that compare with it."""

import subprocess
import sys
from pathlib import Path

PACKAGES = ("lightly==1.6.0", "torch==2.14.1", "torchvision==0.29.1")
PROJECT = Path(__file__).parents[1]


def environment(folder: Path) -> Path:
    """lightly's environment, made if there is none. Returns its Python."""
    python = folder.absolute() / "bin" / "python"
    if not (folder / "complete").exists():
        print(f"making {folder} with {', '.join(PACKAGES)}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install = [python, "-m", "pip", "install", "-q"]
        subprocess.run([*install, *PACKAGES, "-e", PROJECT], check=True)
        (folder / "complete").touch()
    return python
