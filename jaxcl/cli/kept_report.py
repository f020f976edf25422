"""A report that is written anew while its run trains, by a process of its own on the CPU."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

_PROGRAM = "import os, sys; os.nice(10); from jaxcl.cli import main; sys.exit(main(sys.argv[1:]))"


class KeptReport:
    """Writes report.html of a run each so many steps, one at a time; training does not wait."""

    def __init__(self, directory: Path, every: int | None, config: str | None) -> None:
        """Starts nothing yet.

        Args:
          directory: the run.
          every: steps; None: never.
          config: the config file, where it has classes of its own.
        """
        self.path = directory / "report.html"
        self._every, self._last = every, 0
        own = [] if config is None else ["--config", config]
        self._command = [sys.executable, "-c", _PROGRAM, "report", str(directory), *own]
        self._process: subprocess.Popen[bytes] | None = None
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `end`)

    def __call__(self, row: Mapping[str, float]) -> None:
        """Takes a row of the log; begins a report where one is due and none is being written."""
        step = int(row["step"])
        if self._every is None or step - self._last < self._every:
            return
        if self._process is not None and self._process.poll() is None:
            return
        self._complain()
        self._last = step
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._complaints,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
            start_new_session=True,  # Ctrl-C is for the training
        )

    def end(self) -> None:
        """Ends a report that is being written."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()
            self._process = None
        self._complain()
        self._complaints.close()

    def _complain(self) -> None:
        """Says why the last report failed."""
        if self._process is not None and self._process.returncode:
            self._complaints.seek(0)
            lines = self._complaints.read().decode(errors="replace").strip().splitlines()
            print(f"note: no report was written: {lines[-1] if lines else ''}", file=sys.stderr)
            self._complaints.seek(0)
            self._complaints.truncate()
            self._process = None
