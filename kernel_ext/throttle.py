"""Floods of output: what a cell prints or shows faster than a browser takes it is counted instead of shown.

A bucket that fills slowly: a cell may show much at once, and then so much a second. What is too much is left out, with
a line that says how much and where all of it is; of text the end is kept, which is where a loop says how far it is. Of
a display that is updated again and again only the last state counts, and is always shown.

    shown      ─▶ sent, and so recorded
    left out   ─▶ recorded alone: `unshown`
    told later ─▶ sent: what was left out, and its end, which has been recorded before
"""

from __future__ import annotations

from typing import Any

TEXT_AT_ONCE = 1 << 20
TEXT_A_SECOND = 128 * 1024
"""Characters: about 10,000 lines at once, and then 1,300 a second."""

LINE_CHARACTERS = 100
"""A line counts for so many characters at least: a page takes as long to lay out a short one as a long one."""

DISPLAYS_AT_ONCE = 500
DISPLAYS_A_SECOND = 20.0

KEPT_CHARACTERS = 4096
"""How much of the end of what was left out is shown after all."""


class Bucket:
    """Lets through so much at once and then so much a second."""

    def __init__(self, at_once: float, a_second: float) -> None:
        self._at_once = at_once
        self._a_second = a_second
        self._level = at_once
        self._filled_at = 0.0

    def take(self, amount: float, now: float, least: float = 0.0) -> bool:
        """Take an amount if it is there, and no less than `least` is."""
        self._level = min(self._at_once, self._level + (now - self._filled_at) * self._a_second)
        self._filled_at = now
        if max(amount, least) > self._level:
            return False
        self._level -= amount
        return True


def _cost(text: str) -> int:
    return max(len(text), LINE_CHARACTERS * text.count("\n"))


class Throttle:
    """What of one cell's output is shown. Pure: the time comes with each call.

    Each method returns what is to be sent now, in order: `(stream, text)` or `("display", content)`; what it was given
    stands last, or is left out.

    Args:
        record: Number of the cell, in whose record all of it is; empty if nothing is recorded.
    """

    def __init__(self, record: str = "") -> None:
        self._where = f"; %logs {record} all shows all of it" if record else ""
        self._text = Bucket(TEXT_AT_ONCE, TEXT_A_SECOND)
        self._displays = Bucket(DISPLAYS_AT_ONCE, DISPLAYS_A_SECOND)
        self._lines = 0
        self._characters = 0
        self._shows = 0
        self._stream = "stdout"
        self._end = ""
        self._updates: dict[str, Any] = {}

    def text(self, stream: str, text: str, now: float) -> list[tuple[str, Any]]:
        """Take text."""
        amount = _cost(text)
        least = 0.0
        if self._characters:  # a flood is told of once a second, not in as many notes as there is room for a line
            amount += _cost(self._end)
            least = TEXT_A_SECOND
        if self._text.take(amount, now, least):
            return [*self._told(), (stream, text)]
        if stream != self._stream:
            self._stream, self._end = stream, ""
        self._lines += text.count("\n")
        self._characters += len(text)
        self._end = (self._end + text)[-KEPT_CHARACTERS:]
        return []

    def display(self, content: dict[str, Any], now: float) -> list[tuple[str, Any]]:
        """Take a display, or the update of one."""
        display_id = str((content.get("transient") or {}).get("display_id", ""))
        updates = content.get("update")
        if self._displays.take(1, now):
            self._updates.pop(display_id, None)
            return [*self._told(), *self._late(), ("display", content)]
        if updates:
            self._updates.pop(display_id, None)
            self._updates[display_id] = content
        else:
            self._shows += 1
        return []

    def end(self) -> list[tuple[str, Any]]:
        """The cell is over: say what was left out."""
        return [*self._told(), *self._late()]

    def _late(self) -> list[tuple[str, Any]]:
        late, self._updates = list(self._updates.values()), {}
        return [("display", content) for content in late]

    def _told(self) -> list[tuple[str, Any]]:
        if not self._characters and not self._shows:
            return []
        parts = []
        if self._characters > len(self._end):
            left_out = self._characters - len(self._end)
            lines = max(0, self._lines - self._end.count("\n"))
            parts.append(f"{left_out:,} characters ({lines:,} lines) of output")
        if self._shows:
            parts.append(f"{self._shows:,} displays")
        note = f"\n[{' and '.join(parts)} left out: too much at once{self._where}]\n" if parts else ""
        told = [(self._stream, f"{note}{self._end}")]
        self._lines = self._characters = self._shows = 0
        self._end = ""
        return told
