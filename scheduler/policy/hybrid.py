"""The usual policy, Ray's: pack until half used, then spread.

Nodes that would stay under the threshold count as equally good, and the first of them is taken: small work stays
together, close to its data, and other nodes stay free for what is large. When every node is beyond it, the least used
is taken, so that load is even where it matters.
"""

from __future__ import annotations

THRESHOLD = 0.5


def score(use_after: float, _leases: int) -> tuple[float, int]:
    """Return how good a node is, the least the best; among equals, the node that came first is taken.

    Args:
        use_after: The highest fraction of any of its resources that would be held, from 0 to 1 (more while lent).
    """
    return (use_after if use_after > THRESHOLD else 0.0), 0
