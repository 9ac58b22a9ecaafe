"""Where the bytes are: moving them, weighed against waiting.

A node costs the time that it takes to bring there what is not there, and the time until it has room. The cheapest is
chosen. So a task of a gigabyte waits a second for the node that has it, and one of a few megabytes goes elsewhere at
once. Who waits does so no longer than moving everything takes: then it goes where there is room.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

BYTES_PER_S = 500e6
"""What the stores of two nodes move, roughly."""

MAXIMUM_NODES = 4
"""So many nodes with bytes are named by a request; what the others have counts as being far."""


class Offer(NamedTuple):
    """A node that could be used.

    Attributes:
        order: Its place among all nodes; ties are broken by it.
        bytes_there: Of what the task takes.
        wait_s: Until it has room, as far as is known; 0 for at once, infinite if nobody knows.
    """

    order: int
    bytes_there: int
    wait_s: float


def move_s(size_bytes: int) -> float:
    """Return how long it takes to bring so much to another node."""
    return max(0, size_bytes) / BYTES_PER_S


def cost_s(offer: Offer, total_bytes: int) -> float:
    """Return when the task could begin there: once there is room, and what it takes has come."""
    return offer.wait_s + move_s(total_bytes - offer.bytes_there)


def choose(offers: Iterable[Offer], total_bytes: int) -> Offer | None:
    """Return the cheapest offer, among equals the one that has most; None if there is none.

    Args:
        offers: What there is.
        total_bytes: All that the task takes, wherever it is.
    """
    ranked = [(cost_s(offer, total_bytes), -offer.bytes_there, offer.order, offer) for offer in offers]
    return min(ranked)[3] if ranked else None
