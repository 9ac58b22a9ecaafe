"""Spread: always the node that would be used least. For work that competes for what is not accounted (bandwidth)."""

from __future__ import annotations


def score(use_after: float, leases: int) -> tuple[float, int]:
    """Return how good a node is, the least the best; among equals, the node that came first is taken.

    Args:
        use_after: The highest fraction of any of its resources that would be held.
        leases: How many leases it has: what takes no resource is spread by their number.
    """
    return use_after, leases
