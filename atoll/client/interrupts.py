"""Ctrl-C while a thread waits: never in the middle of a decision, always within a moment.

Python raises KeyboardInterrupt between any two instructions of the main thread. While that thread reads sockets for a
`get`, this could be in the middle of a change of state. So for the time of a wait SIGINT only makes a note and wakes
the poll; the wait ends, state whole, and KeyboardInterrupt is raised then.

`signal.signal` and `signal.getsignal` make enums of numbers at each call, 4 µs each here, thrice a `get`; the C module
under them takes 0.2 µs. So that one is used where there is one (CPython, PyPy).
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

_set_handler: Callable[[int, Any], Any] = signal.signal
_get_handler: Callable[[int], Any] = signal.getsignal
with contextlib.suppress(ImportError):
    import _signal  # type: ignore[import-not-found]

    _set_handler, _get_handler = _signal.signal, _signal.getsignal

_SIGINT = int(signal.SIGINT)


class Interrupts:
    """A context in which SIGINT is put off. Entered by any thread; only the main thread's entering has an effect.

    Args:
        wake: Ends a sleeping poll; safe in a signal handler.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._main = threading.main_thread().ident
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
        if threading.get_ident() != self._main:
            return None
        self._depth += 1
        if self._depth == 1:
            previous = _get_handler(_SIGINT)
            if not callable(previous):
                self._depth = 0  # SIGINT is ignored, or ends this process, or somebody else's
                return None
            self._previous = previous
            self._noted = False
            _set_handler(_SIGINT, self._note)
        return self._was_noted

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._depth == 0 or threading.get_ident() != self._main:
            return
        self._depth -= 1
        if self._depth == 0:
            previous, self._previous = self._previous, None
            _set_handler(_SIGINT, previous)
            if self._noted:
                self._noted = False
                previous(_SIGINT, None)
