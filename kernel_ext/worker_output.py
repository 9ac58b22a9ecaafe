"""What a cell prints and shows in a worker, sent to its kernel in order and while it runs.

Text is collected for a moment, so that `print` in a loop does not send a message a word; a display sends the text
before it first. The process has one pair of streams for good: what keeps `sys.stderr` from an earlier cell, as a
logging handler does, writes to the cell that runs now. Outside of a cell, text goes where it went before.
"""

from __future__ import annotations

import io
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO

from atoll.kernel_ext.cell_messages import AGAIN, DISPLAY, STDERR, STDOUT, UNSHOWN, encode_event
from atoll.kernel_ext.descriptors import CellDescriptors
from atoll.kernel_ext.throttle import Throttle

Emit = Callable[[str, bytes], None]
"""Sends one piece of output to whoever submitted the cell."""

COLLECT_S = 0.03
"""How long text is collected at most before it is sent."""

COLLECT_CHARACTERS = 16 * 1024
"""More text than this is sent at once."""


class OutputPort:
    """Where the output of one cell goes. Safe to use from the cell's threads.

    Args:
        emit: Sends a piece.
        keep: Records a piece that is not sent; None if nothing is recorded.
        record: Number of the cell whose record that is.
    """

    def __init__(self, emit: Emit, keep: Emit | None = None, record: str = "") -> None:
        self._emit = emit
        self._keep = keep or _drop
        self._lock = threading.RLock()
        self._kind = STDOUT
        self._pieces: list[str] = []
        self._characters = 0
        self._sent_at = float("-inf")
        self._timer: threading.Timer | None = None
        self.descriptors: CellDescriptors | None = None
        self._throttle = Throttle(record)

    def write(self, kind: str, text: str) -> None:
        """Take text of one of the streams, after what was written past Python."""
        if self.descriptors is not None:
            self.descriptors.drain()
        self.add(kind, text)

    def add(self, kind: str, text: str) -> None:
        """Take text as it comes."""
        with self._lock:
            if kind != self._kind:
                self.flush()
                self._kind = kind
            self._pieces.append(text)
            self._characters += len(text)
            waited = time.monotonic() - self._sent_at > COLLECT_S
            if self._characters >= COLLECT_CHARACTERS or (waited and text.endswith("\n")):
                self.flush()
            elif self._timer is None:
                self._timer = threading.Timer(COLLECT_S, self._flush_late)
                self._timer.daemon = True
                self._timer.start()

    def _flush_late(self) -> None:
        with self._lock:
            self._timer = None
            self.flush()

    def flush(self) -> None:
        """Send the text that was collected."""
        with self._lock:
            if self._pieces:
                text = "".join(self._pieces)
                self._pieces.clear()
                self._characters = 0
                self._sent_at = time.monotonic()
                shown = self._throttle.text(self._kind, text, self._sent_at)
                if not shown:
                    self._keep(UNSHOWN + self._kind, text.encode("utf-8", "replace"))
                self._pass_on(shown, last_is_new=True)

    def send(self, kind: str, content: dict[str, Any]) -> None:
        """Send an event, after the text before it."""
        if self.descriptors is not None:
            self.descriptors.drain()
        with self._lock:
            self.flush()
            if kind == DISPLAY:
                shown = self._throttle.display(content, time.monotonic())
                if not shown and not content.get("update"):
                    self._keep(UNSHOWN + DISPLAY, encode_event(content))
                self._pass_on(shown, last_is_new=True)
            else:
                self._emit(kind, encode_event(content))

    def close(self) -> None:
        """Send what is left. Nothing may be written after."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self.flush()
            self._pass_on(self._throttle.end(), last_is_new=False)

    def _pass_on(self, shown: list[tuple[str, Any]], *, last_is_new: bool) -> None:
        for left, (kind, content) in zip(range(len(shown) - 1, -1, -1), shown, strict=True):
            if kind == DISPLAY:
                self._emit(kind, encode_event(content))
                continue
            if left or not last_is_new:
                self._keep(AGAIN, b"")
            self._emit(kind, content.encode("utf-8", "replace"))


def _drop(_kind: str, _payload: bytes) -> None:
    """Record nothing."""


class CellStream(io.TextIOBase):
    """`sys.stdout` or `sys.stderr` of a worker: the current cell's, or the process's own outside of a cell."""

    def __init__(self, kind: str, outside: TextIO | None) -> None:
        super().__init__()
        self.name = f"<{kind}>"
        self._kind = kind
        self._outside = outside
        self.port: OutputPort | None = None

    encoding = "UTF-8"
    errors = "replace"

    def writable(self) -> bool:
        """It can be written to."""
        return True

    def isatty(self) -> bool:
        """It is no terminal."""
        return False

    def fileno(self) -> int:
        """The descriptor of the process's own stream, where subprocesses write."""
        if self._outside is None:
            raise io.UnsupportedOperation("fileno")
        return self._outside.fileno()

    def write(self, text: str) -> int:
        """Take text."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text)}")
        if self.port is not None:
            if text:
                self.port.write(self._kind, text)
        elif self._outside is not None:
            self._outside.write(text)
        return len(text)

    def flush(self) -> None:
        """Send what was collected."""
        if self.port is not None:
            self.port.flush()
        elif self._outside is not None and not self._outside.closed:
            self._outside.flush()


class WorkerStreams:
    """The streams of this process, put in place at the first cell and kept."""

    def __init__(self) -> None:
        self._stdout = CellStream(STDOUT, sys.stdout)
        self._stderr = CellStream(STDERR, sys.stderr)

    def begin(self, port: OutputPort) -> None:
        """What is written from now on belongs to a cell."""
        self._before = (sys.stdout, sys.stderr)
        sys.stdout, sys.stderr = self._stdout, self._stderr
        self._stdout.port = self._stderr.port = port
        self._descriptors = port.descriptors = CellDescriptors(port.add)
        self._descriptors.begin()

    def end(self) -> None:
        """The cell is over. Its port may be closed only after this."""
        self._descriptors.end()
        self._stdout.port = self._stderr.port = None
        sys.stdout, sys.stderr = self._before
