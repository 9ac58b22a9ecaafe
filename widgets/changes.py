"""Which of the states that come are worth sending on: those that differ, and now and then a sign of life."""

from __future__ import annotations

import re

QUIET_S = 2.0
"""Without a change, so often it is said that nothing has changed."""

_NOW = re.compile(rb'"now":([-+0-9.eE]+)')


class ChangeFilter:
    """Compares states by all that they say except the time.

    Args:
        interval_s: At most one state is let through in this time.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._last: bytes | None = None
        self._said_at = float("-inf")

    def take(self, state: bytes, now: float) -> bytes | None:
        """Return what to send for a state that came, if anything.

        Args:
            state: JSON of a `ClusterState`. The next one follows soon; one that is held back is not remembered.
            now: Monotonic seconds.

        Returns:
            The state itself, or `{"kind":"unchanged","now":...}`, or None.
        """
        # Half an interval of slack: the states come in that rhythm themselves, and none is to miss its beat by a hair.
        if now - self._said_at < self._interval_s / 2:
            return None
        # `now` stands near the beginning, before anything that a user has named; its quotes cannot occur in a string.
        content = _NOW.sub(b"", state, count=1)
        if content != self._last:
            self._last = content
            self._said_at = now
            return state
        if now - self._said_at < QUIET_S:
            return None
        self._said_at = now
        found = _NOW.search(state)
        return b'{"kind":"unchanged","now":' + (found.group(1) if found else b"0") + b"}"

    def forget(self) -> None:
        """Let the next state through whatever it is: somebody new looks, or something was said in between."""
        self._last = None
        self._said_at = float("-inf")
