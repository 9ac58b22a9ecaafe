"""What a policy may look at: nodes on which a request fits now, reduced to two numbers."""

from __future__ import annotations

from typing import NamedTuple


class Candidate(NamedTuple):
    """A node that fits.

    Attributes:
        order: Its place in the order in which nodes came; breaks ties, so that placement is deterministic.
        use_after: The highest fraction of any of its resources that would be held, from 0 to 1 (more while lent).
    """

    order: int
    use_after: float
