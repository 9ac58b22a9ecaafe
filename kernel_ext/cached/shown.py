"""What a cell has shown, as it looked at the end: what is shown again on a hit.

Texts of one stream are joined, a line that was overwritten (`\\r`, progress bars) is what it became, a display that was
updated is what it was updated to, and what was cleared is gone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from atoll.kernel_ext.cell_messages import CLEAR, DISPLAY, STDERR, STDOUT, decode_event, encode_event

MAXIMUM_BYTES = 16 * 2**20
"""More is not kept: the beginning is."""

LEFT_OUT = "[the rest of the output was too much to be kept]\n"

Piece = tuple[str, bytes]


def settled(pieces: Iterable[Piece]) -> list[Piece]:
    """Return pieces of output that show what the given ones have come to."""
    kept: list[Piece] = []
    displays: dict[str, int] = {}
    clear_later = False
    for kind, payload in pieces:
        event: dict[str, Any] = decode_event(payload) if kind in (DISPLAY, CLEAR) else {}
        display_id = (event.get("transient") or {}).get("display_id", "") if kind == DISPLAY else ""
        if kind == CLEAR:
            clear_later = bool(event.get("wait"))
            if not clear_later:
                kept, displays = [], {}
            continue
        if event.get("update"):
            if display_id in displays:
                kept[displays[display_id]] = (DISPLAY, encode_event({**event, "update": False}))
            continue
        if clear_later:
            kept, displays, clear_later = [], {}, False
        if display_id:
            displays[display_id] = len(kept)
        if kept and kind in (STDOUT, STDERR) and kept[-1][0] == kind:
            kept[-1] = (kind, kept[-1][1] + payload)
        else:
            kept.append((kind, payload))
    return _bounded((kind, overwritten(payload) if kind in (STDOUT, STDERR) else payload) for kind, payload in kept)


def overwritten(text: bytes) -> bytes:
    """Return a text with each line as a terminal shows it at the end."""
    if b"\r" not in text:
        return text
    lines = []
    for line in text.replace(b"\r\n", b"\n").split(b"\n"):
        shown = b""
        for part in line.split(b"\r"):
            shown = part + shown[len(part) :] if part else shown
        lines.append(shown)
    return b"\n".join(lines)


def _bounded(pieces: Iterable[Piece]) -> list[Piece]:
    kept: list[Piece] = []
    room = MAXIMUM_BYTES
    for kind, payload in pieces:
        room -= len(payload)
        if room < 0:
            return [*kept, (STDERR, LEFT_OUT.encode())]
        kept.append((kind, payload))
    return kept
