"""`queue=train`: cells of one notebook that run one after the other, in the order in which they were sent.

A queue is a name. A cell that names it is sent at once and begins when the one before it has ended, however that
ended: what was queued for the night is not lost with the first failure. What must not run after a failure asks for the
result of the cell before it.

Only background cells stand in a queue: a cell that the notebook waits for has ended when the next one is sent.
"""

from __future__ import annotations

import threading

from atoll.kernel_ext.background.handle import BackgroundCell


class Queues:
    """The queues of this notebook. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[str, BackgroundCell] = {}

    def before(self, name: str) -> list[BackgroundCell]:
        """Return what a cell of the queue waits for: the last one, if it has not ended."""
        with self._lock:
            last = self._last.get(name)
        return [last] if last is not None and not last.done() else []

    def add(self, name: str, cell: BackgroundCell) -> None:
        """Note a background cell that was sent; the next one waits for it."""
        with self._lock:
            self._last[name] = cell

    def names(self) -> list[str]:
        """Return the queues in which something waits or runs. The ends of the others are forgotten."""
        with self._lock:
            self._last = {name: cell for name, cell in self._last.items() if not cell.done()}
            return sorted(self._last)


queues = Queues()
"""Of this process."""
