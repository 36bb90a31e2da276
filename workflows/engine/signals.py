"""SIGTERM and SIGINT become a fact that a loop can look at, so that nothing is cut off in its middle."""

import signal
import threading
from types import FrameType
from typing import Any


class Signals:
    """A context in which the first SIGTERM or SIGINT is only noted; a second ends the process as usual."""

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Signals":
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """(Again): a library may have set its own handler since."""
        if threading.current_thread() is not threading.main_thread():
            return  # Python delivers signals to the main thread only
        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.signal(number, self._note)
            self._before.setdefault(number, before)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.received = number
