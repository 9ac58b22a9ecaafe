"""Standard output and error of a worker: to whoever submitted the task, and to the worker's log."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import TextIO

_LARGE = 8192


class TaskStream(io.TextIOBase):
    """A text stream that emits whole lines, or what there is when it is flushed.

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
        self._parts: list[str] = []
        self._size = 0
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
        with self._lock:
            self._parts.append(text)
            self._size += len(text)
        if "\n" in text or "\r" in text or self._size > _LARGE:
            self.flush()
        return len(text)

    def flush(self) -> None:
        """Send what there is."""
        if not self._parts:
            return
        with self._lock:
            text = "".join(self._parts)
            self._parts.clear()
            self._size = 0
        if text:
            self._emit(self._kind, text.encode(errors="replace"))
            self._log.write(text)
            self._log.flush()
