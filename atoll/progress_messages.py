"""`atoll.progress`: how far a task or a cell is, for whoever waits for it.

    for epoch in range(100):
        train()
        atoll.progress(epoch + 1, 100, "epochs")

A cell's status line shows it. It travels as output of the task, so it costs no request and nobody has to listen; more
than a few a second are not sent. Bars of tqdm are found without it.
"""

from __future__ import annotations

import time

import msgspec

PROGRESS = "progress"
"""The kind of a piece of output that says how far a task is."""

_EVERY_S = 0.1


class Progress(msgspec.Struct, frozen=True):
    """How far something is.

    Attributes:
        done: So many.
        total: Of so many; None if that is not known.
        text: What is counted, or what is done now.
    """

    done: float
    total: float | None = None
    text: str = ""

    @property
    def share(self) -> float | None:
        """Return the part that is done, from 0 to 1; None if that is not known."""
        return min(1.0, max(0.0, self.done / self.total)) if self.total else None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Progress)
_said_at = float("-inf")


def encode_progress(progress: Progress) -> bytes:
    """Return a progress as it travels."""
    return _encoder.encode(progress)


def read_progress(payload: bytes) -> Progress:
    """Read a progress that came.

    Raises:
        msgspec.ValidationError: It is none.
    """
    return _decoder.decode(payload)


def progress(done: float, total: float | None = None, text: str = "") -> None:
    """Say how far the task or cell is that runs here. Outside of one, nothing happens.

    Args:
        done: So many.
        total: Of so many, if that is known.
        text: What is counted, or what is done now: one short line.

    Raises:
        TypeError: An amount is no number.
    """
    global _said_at
    amount, whole = _number(done), None if total is None else _number(total)
    now = time.monotonic()
    last = whole is not None and amount >= whole
    if not last and now - _said_at < _EVERY_S:
        return
    _said_at = now
    from atoll.client.context import emit_output

    emit_output(PROGRESS, encode_progress(Progress(amount, whole, " ".join(str(text).split()))))


def _number(amount: object) -> float:
    if isinstance(amount, str) or not hasattr(amount, "__float__"):
        raise TypeError(f"progress takes numbers: progress(45, 100, 'epochs'), not {amount!r}")
    return float(amount)
