"""Waiting for something that runs on the cluster: its output is shown as it comes, an interrupt cancels it.

    client's thread ── output ──▶ queue ──▶ the thread that waits ──▶ sink
                    ── done ────▶

The thread that waits, usually the kernel's main thread, shows everything itself, so that what wraps the cell
(`%%capture`, `%%time`) sees the output as its own, and all of it before the cell ends.
"""

from __future__ import annotations

import queue
import time
from concurrent.futures import CancelledError
from typing import Any

from atoll.kernel_ext.engine.contract import Running
from atoll.kernel_ext.outputs import Sink, replay
from atoll.kernel_ext.status import StatusLine
from atoll.progress_messages import PROGRESS, Progress, read_progress

AFTER_CANCEL_S = 1.0
"""How long a cancelled cell may take to end before the wait is given up."""


class Interrupted(Exception):
    """The user interrupted the wait, and the work was cancelled.

    Attributes:
        error: What the work raised then; None if it has not ended yet.
        running: The work.
    """

    def __init__(self, error: BaseException | None, running: Running) -> None:
        super().__init__("interrupted")
        self.error = error
        self.running = running


class OutputQueue:
    """Takes output from the client's threads and gives it to the thread that waits.

    Attributes:
        progress: How far the work is, as it has said last.
    """

    def __init__(self) -> None:
        self.progress: Progress | None = None
        self._items: queue.SimpleQueue[tuple[str, bytes] | None] = queue.SimpleQueue()

    def put(self, kind: str, payload: bytes) -> None:
        """Take a piece of output: the `on_output` of an engine."""
        if kind == PROGRESS:
            self.progress = read_progress(payload)
            return
        self._items.put((kind, payload))

    def finish(self, _future: Any = None) -> None:
        """Say that nothing more comes."""
        self._items.put(None)

    def get(self, timeout_s: float | None) -> tuple[str, bytes] | None:
        """Return the next piece; None at the end.

        Raises:
            queue.Empty: Nothing came in time.
        """
        return self._items.get(timeout=timeout_s)


def wait_for(running: Running, outputs: OutputQueue, sink: Sink, status: StatusLine) -> Any:
    """Wait for the end, showing the output.

    Returns:
        The value.

    Raises:
        Interrupted: The user pressed interrupt.
        Exception: What the work raised.
    """
    started = time.monotonic()
    running.future.add_done_callback(outputs.finish)
    try:
        _show_until_done(outputs, sink, status, started, None)
    except KeyboardInterrupt:
        running.cancel()
        raise Interrupted(_error_after_cancel(running, outputs, sink, status, started), running) from None
    return running.future.result()


def _show_until_done(
    outputs: OutputQueue, sink: Sink, status: StatusLine, started: float, deadline: float | None
) -> bool:
    """Show output; False if the deadline came first."""
    while True:
        now = time.monotonic()
        waits = [wait for wait in (status.wait_s(now - started), deadline and deadline - now) if wait is not None]
        try:
            item = outputs.get(max(0.0, min(waits)) if waits else None)
        except queue.Empty:
            if deadline is not None and time.monotonic() >= deadline:
                return False
            status.tick(time.monotonic() - started)
            continue
        if item is None:
            return True
        status.output_comes()
        replay(*item, sink)


def _error_after_cancel(
    running: Running, outputs: OutputQueue, sink: Sink, status: StatusLine, started: float
) -> BaseException | None:
    """Give cancelled work a second to end, so that its last output is shown; a second interrupt does not wait."""
    try:
        ended = _show_until_done(outputs, sink, status, started, time.monotonic() + AFTER_CANCEL_S)
    except KeyboardInterrupt:
        return None
    if not ended:
        return None
    try:
        return running.future.exception()
    except CancelledError as error:
        return error
