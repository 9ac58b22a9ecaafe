"""What happened in a simulation: the last steps for people, and a digest of all of them for comparing runs.

A step is written down as a few values and becomes text only when somebody reads it: a run has thousands of steps, and
nearly all of them are never read. The digest takes the short form, which names no object of this process, so that it
is the same in every process that runs the same seed.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections import deque
from typing import Any

from atoll.ids import OBJECT_ID_BYTES, PROCESS_ID_BYTES, TASK_ID_BYTES
from atoll.protocol.machine import Instant

_SHOWN_CHARACTERS = 400
_BYTES = re.compile(r"""b'(?:[^'\\]|\\.)*'|b"(?:[^"\\]|\\.)*\"""")


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
        shown = "" if detail is None else "  " + _BYTES.sub(_readable_id, repr(detail)[: 4 * _SHOWN_CHARACTERS])
        if len(shown) > _SHOWN_CHARACTERS:
            shown = shown[:_SHOWN_CHARACTERS] + "..."
        return f"{now:14.6f}  {who:<14} {what}{shown}"


def _readable_id(literal: re.Match[str]) -> str:
    """Return an id as `process:counter` or `process:counter.index`; other bytes as they are."""
    data = ast.literal_eval(literal[0])
    process, rest = data[:PROCESS_ID_BYTES], data[PROCESS_ID_BYTES:]
    if len(data) not in (PROCESS_ID_BYTES, TASK_ID_BYTES, OBJECT_ID_BYTES):
        return literal[0]
    name = process.decode() if process.isascii() and process.decode().isprintable() else process.hex()
    numbers = ".".join(str(int.from_bytes(part, "big")) for part in (rest[:8], rest[8:]) if part)
    return f"<{name}:{numbers}>" if numbers else f"<{name}>"
