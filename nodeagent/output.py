"""Standard output and error of a worker: to whoever submitted the task, and to the worker's log."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import TextIO

_LARGE = 8192


class _Unsent:
    """What one thread has written and not ended with a line."""

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
        self._unsent: dict[int, _Unsent] = {}
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
        thread = threading.get_ident()
        with self._lock:
            unsent = self._unsent.get(thread)
            if unsent is None:
                unsent = self._unsent[thread] = _Unsent()
            unsent.parts.append(text)
            unsent.size += len(text)
        if "\n" in text or "\r" in text or unsent.size > _LARGE:
            self._send([thread])
        return len(text)

    def flush(self) -> None:
        """Send what this thread has written; in the main thread, which ends tasks, what the others have left, too."""
        if self._unsent:
            thread = threading.get_ident()
            self._send(list(self._unsent) if thread == threading.main_thread().ident else [thread])

    def _send(self, threads: list[int]) -> None:
        with self._lock:
            texts = ["".join(unsent.parts) for thread in threads if (unsent := self._unsent.pop(thread, None))]
        for text in texts:
            if text:
                self._emit(self._kind, text.encode(errors="replace"))
                self._log.write(text)
                self._log.flush()
