"""Standard output and error of a worker: to whoever submitted the task, and to the worker's log."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import TextIO

_LARGE = 8192


class _Unsent:
    """What one thread has written and not ended with a line. Not known by the thread's number, which is used again."""

    __slots__ = ("parts", "size")

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.size = 0


class TaskStream(io.TextIOBase):
    """A text stream that emits whole lines, or what there is when it is flushed; each thread's are its own.

    Args:
        kind: `stdout` or `stderr`.
        log: Where the text goes as well.
        emit: Takes the text.
    """

    encoding = "utf-8"

    def __init__(self, kind: str, log: TextIO, emit: Callable[[str, bytes], None]) -> None:
        self._kind = kind
        self._log = log
        self._emit = emit
        self._own = threading.local()
        self._unsent: dict[_Unsent, None] = {}
        self._lock = threading.Lock()

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor of the log: what C code writes there goes to the log only."""
        return self._log.fileno()

    def write(self, text: str) -> int:
        """Take text; a line that ends, or a carriage return (a progress bar), sends what there is."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        unsent: _Unsent | None = getattr(self._own, "unsent", None)
        if unsent is None:
            unsent = self._own.unsent = _Unsent()
        with self._lock:
            self._unsent[unsent] = None
            unsent.parts.append(text)
            unsent.size += len(text)
        if "\n" in text or "\r" in text or unsent.size > _LARGE:
            self._send([unsent])
        return len(text)

    def flush(self) -> None:
        """Send what this thread has written; in the main thread, which ends tasks, what the others have left, too."""
        if not self._unsent:
            return
        if threading.current_thread() is threading.main_thread():
            self._send(list(self._unsent))
        elif (own := getattr(self._own, "unsent", None)) is not None:
            self._send([own])

    def _send(self, written: list[_Unsent]) -> None:
        with self._lock:
            texts = ["".join(unsent.parts) for unsent in written]
            for unsent in written:
                unsent.parts.clear()
                unsent.size = 0
                self._unsent.pop(unsent, None)
        for text in texts:
            if text:
                self._emit(self._kind, text.encode(errors="replace"))
                self._log.write(text)
                self._log.flush()
