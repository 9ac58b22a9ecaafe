"""What tasks write and show, on its way to who takes it: in order, one piece at a time, without the session's lock."""

from __future__ import annotations

import contextlib
import threading
from collections import deque

from atoll.client.core.records import OutputCallback


class Outputs:
    """Pieces of output that wait for their callbacks. Safe to use from several threads."""

    def __init__(self) -> None:
        self._pieces: deque[tuple[OutputCallback, str, bytes]] = deque()
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def add(self, callback: OutputCallback, kind: str, payload: bytes) -> None:
        """Queue a piece. It is shown by the next thread that pauses."""
        self._pieces.append((callback, kind, payload))

    def show(self) -> None:
        """Call the callbacks, in order."""
        while self._pieces:
            with self._lock, contextlib.suppress(IndexError):
                callback, kind, payload = self._pieces.popleft()
                callback(kind, payload)

    def deliver(self) -> None:
        """Return when what has come so far was shown: a future must not be done before its task's output."""
        self.show()
        with self._lock:  # another thread may be about to show the last piece
            return
