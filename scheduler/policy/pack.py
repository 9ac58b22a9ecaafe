"""Pack: the fullest node that still fits. For work that shares data, and to keep whole nodes free."""

from __future__ import annotations


def score(use_after: float, leases: int) -> tuple[float, int]:
    """Return how good a node is, the least the best; among equals, the node that came first is taken.

    Args:
        use_after: The highest fraction of any of its resources that would be held.
        leases: How many leases it has: what takes no resource is packed by their number.
    """
    return -use_after, -leases
