"""Ctrl-C and SIGTERM as a request that the loop can honour between two steps."""

import os
import signal
import threading
from types import FrameType, TracebackType

_SAVING = b"\nsaving after this step; Ctrl-C again stops at once, without saving\n"


class StopRequest:
    """While entered, the first SIGINT or SIGTERM is noted; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        """What asked to stop, if anything did."""
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        os.write(2, _SAVING)  # no lock is taken inside a signal handler
