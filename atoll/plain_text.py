"""Plain text for terminals: aligned tables, durations, and colour only where somebody looks.

Whatever comes from users (names of cells, actors, files) passes `printable` first: a name must not move the cursor or
change the colours of the terminal of who lists it (claim S17).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}


class Painter:
    """Colours text for a stream, or leaves it alone where the stream is no terminal or NO_COLOR is set.

    Args:
        stream: Where the text will be written.
    """

    def __init__(self, stream: TextIO = sys.stdout) -> None:
        self.colours = stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"

    def __call__(self, text: str, style: str) -> str:
        """Return the text in a style: `bold`, `dim`, `red`, `green` or `yellow`."""
        return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if self.colours else text


def printable(text: str, maximum: int = 60) -> str:
    """Return a text that is one line and has no control characters, shortened with an ellipsis."""
    clean = "".join(character if character.isprintable() else "�" for character in text)
    return clean if len(clean) <= maximum else clean[: maximum - 1] + "…"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, indent: int = 2) -> list[str]:
    """Return the lines of a table, its columns aligned, numbers to the right.

    Args:
        header: The names of the columns; one that begins with `>` is aligned to the right.
        rows: Texts, as many a row as there are columns.
        indent: Spaces before each line.
    """
    right = [name.startswith(">") for name in header]
    cells = [[name.removeprefix(">") for name in header], *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = []
    for row in cells:
        parts = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        lines.append((" " * indent + "  ".join(parts)).rstrip())
    return lines


def duration(seconds: float) -> str:
    """Return a duration as people say it: `850 ms`, `12 s`, `3 min`, `2 h 5 min`, `4 d`."""
    if seconds < 1:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // (24 * 60)} d"


def counted(number: int, word: str, words: str = "") -> str:
    """Return a number with its word: `1 node`, `2 nodes`."""
    return f"{number} {word if number == 1 else words or word + 's'}"
