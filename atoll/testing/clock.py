"""A clock that only goes on when it is told to."""

from __future__ import annotations

from atoll.protocol.machine import Instant

BEGINNING_S = 1000.0
"""Where clocks start: not at zero, so that nothing takes the first instant for none at all."""


class VirtualClock:
    """A monotonic clock in seconds.

    Args:
        start_s: What it shows first.
    """

    def __init__(self, start_s: float = BEGINNING_S) -> None:
        self._now = Instant(start_s)

    @property
    def now(self) -> Instant:
        """What it shows."""
        return self._now

    def advance_to(self, when: Instant) -> None:
        """Show a later instant, or the same."""
        assert when >= self._now, f"time goes on: {when} is before {self._now}"
        self._now = when
