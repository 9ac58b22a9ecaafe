"""`timeout=10m`: a cell that has run so long is interrupted where it is, in the worker, as if a user had pressed stop.

    worker  the time is over ─▶ an interrupt ─▶ the cell ends with `CellTimeoutError`; what it had set comes back
            … it goes on     ─▶ a piece of output of the kind `overtime`
    kernel  `overtime`       ─▶ the task is cancelled by force: its worker ends, what it had set is lost

The time is measured in the worker from the cell's first line: a cell that waits for a GPU has not begun. The limit
holds as well when the kernel is busy or gone.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from types import FrameType
from typing import Any

from atoll.exceptions import AtollError, TaskCancelledError
from atoll.kernel_ext.engine.contract import OnOutput, Running
from atoll.plain_text import duration

OVERTIME = "overtime"
"""The kind of the piece that says: it was interrupted, and does not stop."""

GRACE_S = 5.0
"""So long an interrupted cell may take to end."""

_FATES = (
    "What it had set until then is here.",
    "It did not stop when it was interrupted, so its worker was ended; what it had set is lost.",
)


class CellTimeoutError(AtollError, TimeoutError):
    """A cell ran longer than its `timeout=`.

    Args:
        limit_s: The limit.
        ended: Whether its worker had to be ended.
    """

    def __init__(self, limit_s: float, ended: bool = False) -> None:
        super().__init__(
            f"the cell ran longer than timeout={duration(limit_s).replace(' ', '')} and was stopped. "
            f"{_FATES[ended]} Give it more time, or let it run in the background with bg and without timeout="
        )
        self._limit = (limit_s, ended)

    def __reduce__(self) -> tuple[Any, ...]:
        return CellTimeoutError, self._limit


class TimeLimit:
    """Interrupts the main thread of a worker when the time is over.

    Args:
        limit_s: After so many seconds; 0 for never.
        overtime: Called, in another thread, when the interrupt has not helped.
    """

    def __init__(self, limit_s: float, overtime: Callable[[], None]) -> None:
        self._limit_s = limit_s
        self._overtime = overtime
        self._ended = threading.Event()
        self._previous: Any = None
        self.passed = False

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """For the time of the cell, in the main thread."""
        if not self._limit_s or threading.current_thread() is not threading.main_thread():
            yield  # only the main thread can be interrupted
            return
        watch = threading.Thread(target=self._watch, name="atoll-time-limit", daemon=True)
        self._previous = signal.signal(signal.SIGINT, self._interrupted)
        watch.start()
        try:
            yield
        finally:
            self._ended.set()
            signal.signal(signal.SIGINT, self._previous)

    def _watch(self) -> None:
        if self._ended.wait(self._limit_s):
            return
        self.passed = True
        ident = threading.main_thread().ident
        assert ident is not None, "the main thread has begun"
        signal.pthread_kill(ident, signal.SIGINT)
        if not self._ended.wait(GRACE_S):
            self._overtime()

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        """SIGINT: the time is over, or somebody else wants the cell to stop."""
        if not self.passed:
            self._previous(number, frame)
        elif not self._ended.is_set():
            raise KeyboardInterrupt


class Limited:
    """A cell with a time limit, as its kernel sees it: ends it by force where the worker's own interrupt did not.

    Args:
        start: Sends the cell, its output going to the callback.
        on_output: Takes the output.
        limit_s: The limit.
    """

    def __init__(self, start: Callable[[OnOutput], Running], on_output: OnOutput, limit_s: float) -> None:
        self._on_output = on_output
        self._limit_s = limit_s
        self._forced = False
        self.future: Future[Any] = Future()
        self._running: Running = start(self._take)
        self._running.future.add_done_callback(self._done)

    @property
    def ref(self) -> Any:
        """See `Running`."""
        return self._running.ref

    def cancel(self, *, force: bool = False) -> None:
        """See `Running`."""
        self._running.cancel(force=force)

    def _take(self, kind: str, payload: bytes) -> None:
        if kind != OVERTIME:
            self._on_output(kind, payload)
            return
        self._forced = True
        # The thread that delivers output is the client's own, and must not wait for what it would deliver itself.
        threading.Thread(target=self._running.cancel, kwargs={"force": True}, daemon=True).start()

    def _done(self, future: Future[Any]) -> None:
        if future.cancelled():
            error: BaseException | None = CancelledError()
        else:
            error = future.exception()
        if error is None:
            self.future.set_result(future.result())
        elif self._forced and isinstance(error, (TaskCancelledError, CancelledError)):
            self.future.set_exception(CellTimeoutError(self._limit_s, ended=True))
        else:
            self.future.set_exception(error)
