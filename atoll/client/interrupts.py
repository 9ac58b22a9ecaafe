"""Ctrl-C while a thread waits: never in the middle of a decision, always within a moment.

Python raises KeyboardInterrupt between any two instructions of the main thread. While that thread reads sockets for a
`get`, this could be in the middle of a change of state. So for the time of a wait SIGINT only makes a note and wakes
the poll; the wait ends, state whole, and KeyboardInterrupt is raised then.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any


class Interrupts:
    """A context in which SIGINT is put off. Entered by any thread; only the main thread's entering has an effect.

    Args:
        wake: Ends a sleeping poll; safe in a signal handler.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._depth = 0
        self._noted = False
        self._previous: Any = None

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._noted = True
        self._wake()

    def _was_noted(self) -> bool:
        return self._noted

    def __enter__(self) -> Callable[[], bool] | None:
        """Put SIGINT off; return what tells whether it has come, or None in another thread."""
        if threading.current_thread() is not threading.main_thread():
            return None
        self._depth += 1
        if self._depth == 1:
            previous = signal.getsignal(signal.SIGINT)
            if previous is None or previous in (signal.SIG_IGN, signal.SIG_DFL):
                self._depth = 0  # somebody else decides about SIGINT in this process
                return None
            self._previous = previous
            self._noted = False
            signal.signal(signal.SIGINT, self._note)
        return self._was_noted

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._depth == 0 or threading.current_thread() is not threading.main_thread():
            return
        self._depth -= 1
        if self._depth == 0:
            previous, self._previous = self._previous, None
            signal.signal(signal.SIGINT, previous)
            if self._noted and callable(previous):
                self._noted = False
                previous(signal.SIGINT, None)
