"""What tasks print, as whoever submitted them sees it: each line says where it comes from, progress bars stay put.

    (fit pid=4711) epoch 3: loss 0.12
    (fit pid=4711)  40%|████      | 40/100
    (fit pid=4712)  35%|███▌      | 35/100

A bar is text that returns to the beginning of its line, as tqdm writes it. In a terminal the bars of all tasks stand
below what is printed, a line each, and are drawn again in place. In a notebook they are one output that is updated.
Elsewhere, in a file say, a bar is written once, when it is finished.

`OutputLines` decides what is to be written, `TaskPrinter` writes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any, TextIO

OutputCallback = Callable[[str, bytes], None]

_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_UP = "\x1b[A"
_CLEAR_LINE = "\r\x1b[K"


class OutputLines:
    """Lines and bars of several tasks.

    Attributes:
        bars: The bars that are not finished, by task and position, in the order of their first appearance.
    """

    def __init__(self) -> None:
        self.bars: dict[tuple[str, int], str] = {}

    def feed(self, source: str, text: str) -> list[str]:
        """Take a piece of a task's output; return the lines that are complete, without their ends.

        Args:
            source: The task; comes before its lines. Empty for none.
            text: Whole lines, or what there was when it was flushed.
        """
        if _UP in text:  # a bar below another one of the same task goes down, writes and comes up again
            self._draw((source, text.count("\n")), _visible(text.replace("\n", "\r")))
            return []
        *whole, rest = text.split("\n")
        lines = [self._finish(source, line) for line in whole]
        if "\r" in rest:
            self._draw((source, 0), _visible(rest))
        elif rest:
            lines.append(_prefixed(source, rest))
        return lines

    def _finish(self, source: str, line: str) -> str:
        if line and "\r" not in line:  # printed while a bar is there, which stays
            return _prefixed(source, line)
        bar = self.bars.pop((source, 0), None)
        shown = _visible(line)
        return bar if bar is not None and not shown else _prefixed(source, shown)

    def _draw(self, key: tuple[str, int], shown: str) -> None:
        if shown:
            self.bars[key] = _prefixed(key[0], shown)
        else:  # it has been cleared
            self.bars.pop(key, None)


def _prefixed(source: str, line: str) -> str:
    return f"({source}) {line}" if source else line


def _visible(text: str) -> str:
    """Return what a terminal shows of a line that was written over again and again."""
    parts = _ESCAPES.sub("", text).split("\r")
    return next((part.rstrip() for part in reversed(parts) if part), "")


class TaskPrinter:
    """Writes what tasks print where this process prints. Called by one thread at a time.

    Args:
        notebook: Whether this is a kernel: bars are displayed, not drawn.
    """

    def __init__(self, *, notebook: bool) -> None:
        self._notebook = notebook
        self._lines = OutputLines()
        self._drawn = 0
        self._handle: Any = None
        self._shown = ""

    def __call__(self, kind: str, payload: bytes) -> None:
        """Write a piece of unknown origin."""
        self._write("", kind, payload)

    def of(self, source: str) -> OutputCallback:
        """Return what writes the pieces of one task."""
        return lambda kind, payload: self._write(source, kind, payload)

    def _write(self, source: str, kind: str, payload: bytes) -> None:
        stream = {"stdout": sys.stdout, "stderr": sys.stderr}.get(kind)
        if stream is None:
            return
        lines = self._lines.feed(source, payload.decode(errors="replace"))
        if self._notebook:
            self._print(stream, lines)
            self._display()
            return
        terminal = sys.stderr.isatty()
        if terminal:
            self._erase()
        self._print(stream, lines)
        if terminal:
            self._draw()

    def _print(self, stream: TextIO, lines: list[str]) -> None:
        if lines:
            stream.write("".join(f"{line}\n" for line in lines))
            stream.flush()

    def _erase(self) -> None:
        if self._drawn:
            sys.stderr.write(_CLEAR_LINE + (_UP + _CLEAR_LINE) * (self._drawn - 1))
            sys.stderr.flush()
            self._drawn = 0

    def _draw(self) -> None:
        bars = list(self._lines.bars.values())
        if bars:
            sys.stderr.write("\n".join(bars))
            sys.stderr.flush()
            self._drawn = len(bars)

    def _display(self) -> None:
        """Show the bars in one output of the notebook."""
        text = "\n".join(self._lines.bars.values())
        if text == self._shown:
            return
        from IPython.display import display

        self._shown = text
        data = {"text/plain": text}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)
        if not text:
            self._handle = None


class TaskForwarder:
    """What a worker does with the output of tasks that its own task has submitted: it goes on to who submitted that.

    Args:
        emit: Sends a piece, with its source, as output of the task that runs here.
    """

    def __init__(self, emit: Callable[[str, bytes, str], None]) -> None:
        self._emit = emit

    def __call__(self, kind: str, payload: bytes) -> None:
        """Send a piece of unknown origin."""
        self._emit(kind, payload, "")

    def of(self, source: str) -> OutputCallback:
        """Return what sends the pieces of one task."""
        return lambda kind, payload: self._emit(kind, payload, source)
