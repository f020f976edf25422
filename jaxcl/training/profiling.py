"""Traces of a few training steps, for jax's profiler."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jaxcl.training.errors import UserError


@dataclasses.dataclass(frozen=True)
class Profile:
    """Which steps to trace, the first being 1."""

    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> "Profile":
        """Of FIRST:LAST, such as 10:15.

        Raises:
          UserError: if it is something else.
        """
        match = re.fullmatch(r"(\d+):(\d+)", text)
        profile = None if match is None else cls(int(match[1]), int(match[2]))
        if profile is None or not 1 <= profile.first <= profile.last:
            raise UserError(f"--profile is {text}, expected FIRST:LAST, two steps such as 10:15")
        return profile

    def check(self, *, start: int, total: int) -> None:
        """Raises a `UserError` where a run from `start` to `total` has no such steps."""
        if self.first <= start or self.last > total:
            raise UserError(
                f"--profile {self.first}:{self.last}: this run has the steps {start + 1} to {total}"
            )


class Tracer:
    """Starts and ends the trace as the steps go by."""

    def __init__(self, profile: Profile | None, folder: Path, say: Callable[[str], None]) -> None:
        self._profile, self._folder, self._say = profile, folder, say
        self._running = False

    def before(self, step: int) -> None:
        """To be called before a step is started."""
        if self._profile is not None and step == self._profile.first:
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._running = True

    def after(self, step: int, results: Any) -> None:
        """To be called once it is started, with what it computes."""
        if self._running and self._profile is not None and step == self._profile.last:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Ends the trace, if it runs still, and says where it is."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            self._say(
                f"profile in {self._folder}: drop perfetto_trace.json.gz into ui.perfetto.dev, or "
                "pip install xprof and give the folder to xprof --logdir"
            )
