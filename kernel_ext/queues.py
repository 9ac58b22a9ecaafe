"""`queue=train`: cells of one notebook that run one after the other, in the order in which they were sent.

A queue is a name. A cell that names it is sent at once and begins when the one before it has ended, however that
ended: what was queued for the night is not lost with the first failure. What must not run after a failure asks for the
result of the cell before it.
"""

from __future__ import annotations

import threading
from typing import Any

from atoll.kernel_ext.background.handle import BackgroundCell
from atoll.kernel_ext.engine import Running


class Queues:
    """The queues of this notebook. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[str, Running] = {}
        self._last_background: dict[str, BackgroundCell] = {}

    def before(self, name: str) -> list[Any]:
        """Return the refs that a cell of the queue waits for: that of the last one, if it has not ended."""
        with self._lock:
            last = self._last.get(name)
        return [last.ref] if last is not None and not last.future.done() else []

    def add(self, name: str, running: Running) -> None:
        """Note a cell that was sent; the next one waits for it."""
        with self._lock:
            self._last[name] = running
        running.future.add_done_callback(lambda _future: self._ended(name, running))

    def background(self, name: str) -> list[BackgroundCell]:
        """Return the background cell that is the last of the queue, if it has not ended."""
        with self._lock:
            last = self._last_background.get(name)
        return [last] if last is not None and not last.done() else []

    def add_background(self, name: str, cell: BackgroundCell) -> None:
        """Note a background cell that was sent; the next one waits for it."""
        with self._lock:
            self._last_background[name] = cell

    def names(self) -> list[str]:
        """Return the queues in which something waits or runs."""
        with self._lock:
            busy = [name for name, cell in self._last_background.items() if not cell.done()]
            return sorted({*self._last, *busy})

    def _ended(self, name: str, running: Running) -> None:
        with self._lock:
            if self._last.get(name) is running:  # nothing is kept of what has ended, least of all its result
                del self._last[name]


queues = Queues()
"""Of this process."""
