"""What happened in a simulation: the last steps for people, and a digest of all of them for comparing runs.

A step is written down as a few values and becomes text only when somebody reads it: a run has thousands of steps, and
nearly all of them are never read. The digest takes the short form, which names no object of this process, so that it
is the same in every process that runs the same seed.
"""

from __future__ import annotations

import hashlib
from collections import deque
from typing import Any

from atoll.protocol.machine import Instant

_SHOWN_CHARACTERS = 400


class Transcript:
    """A record of steps.

    Args:
        length: How many of the last lines are kept to be shown.
    """

    def __init__(self, length: int = 300) -> None:
        self._lines: deque[tuple[Instant, str, str, Any]] = deque(maxlen=length)
        self._hash = hashlib.blake2b(digest_size=16)
        self.count = 0

    def add(self, now: Instant, who: str, what: str, detail: Any = None) -> None:
        """Write down a line.

        Args:
            now: When.
            who: The machine, or what else it happened to.
            what: Short; part of the digest.
            detail: Shown after it, as its `repr`; not part of the digest.
        """
        self._lines.append((now, who, what, detail))
        self._hash.update(f"{now:.9f} {who} {what}\n".encode())
        self.count += 1

    def digest(self) -> str:
        """Return a digest of all lines so far."""
        return self._hash.hexdigest()

    def text(self) -> str:
        """Return the last lines as people read them, oldest first."""
        return "\n".join(self._line(*line) for line in self._lines)

    @staticmethod
    def _line(now: Instant, who: str, what: str, detail: Any) -> str:
        shown = "" if detail is None else f"  {detail!r}"
        if len(shown) > _SHOWN_CHARACTERS:
            shown = shown[:_SHOWN_CHARACTERS] + "..."
        return f"{now:14.6f}  {who:<14} {what}{shown}"
