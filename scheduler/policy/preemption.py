"""Which leases to preempt so that a request fits: as few as can be, of the lowest priority, the youngest first.

What was begun last has lost the least when it is ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple


class Offer(NamedTuple):
    """A lease that may be ended."""

    lease_id: int
    priority: int
    since: float


def choose(offers: Sequence[Offer], fits_without: Callable[[Sequence[int]], bool]) -> list[int] | None:
    """Return the leases to end, none of them in vain; None if the request does not fit when all are ended.

    Args:
        offers: What may be ended, on one node.
        fits_without: Whether the request fits when these leases are ended.
    """
    ordered = sorted(offers, key=lambda offer: (offer.priority, -offer.since, -offer.lease_id))
    chosen: list[int] = []
    for offer in ordered:
        if fits_without([offer.lease_id]):
            return [offer.lease_id]
        chosen.append(offer.lease_id)
    if not fits_without(chosen):
        return None
    for lease_id in reversed(chosen[:]):
        rest = [other for other in chosen if other != lease_id]
        if fits_without(rest):
            chosen = rest
    return chosen
