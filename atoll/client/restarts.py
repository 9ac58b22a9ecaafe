"""How often the daemons of a cluster are started again before they are given up.

A daemon that dies once has had bad luck; one that dies again and again dies of something that a restart does not mend,
and a user who waits is to hear where to look. Whoever looks after a cluster counts here, and brings the time along.
"""

from __future__ import annotations

from collections import deque

RESTARTS = 5
WITHIN_S = 60.0
"""A cluster whose daemons die oftener than so many times within so many seconds is given up."""


class Restarts:
    """Of the daemons of one cluster, as far as one process has started them again."""

    def __init__(self) -> None:
        self._at: deque[float] = deque(maxlen=RESTARTS)

    def begin(self, now: float) -> bool:
        """Count a restart. False, and then it is not counted, if there were too many lately.

        Args:
            now: Monotonic seconds.
        """
        if len(self._at) == RESTARTS and now - self._at[0] < WITHIN_S:
            return False
        self._at.append(now)
        return True


def refusal(what: str, directory: str) -> str:
    """Return why something is not started again, and where to look, in a line."""
    return (
        f"{what} died {RESTARTS} times within {WITHIN_S:g} s and will not be started again; "
        f"look into {directory}/logs, or run `atoll doctor`"
    )
