"""What may be given away on a node where something large is to begin: backfilling.

A large request waits until enough is free at once, and small ones would take each piece before the next comes free. So
the one that has waited longest gets a node promised. Others may use that node only where it costs the promise nothing:
with what is left over, or for so short a time that they are done before the rest of it is free.
"""

from __future__ import annotations

from collections.abc import Mapping

AFTER_S = 0.25
"""A request that holds nothing and has waited so long gets a promise, if it is the first of those that wait."""

MAXIMUM = 4
"""Promises at a time, each on another node."""


def may_backfill(
    short_before: Mapping[str, int], short_after: Mapping[str, int], lasts_s: float | None, begins_in_s: float
) -> bool:
    """Return whether a request may use a node that is promised to another.

    Args:
        short_before: What is missing there for the promised request.
        short_after: What would be missing with the other one there.
        lasts_s: How long the other's tasks usually run; None if that is not known.
        begins_in_s: In how long the promised request can begin at the earliest; infinite if nobody knows.
    """
    if all(short_before.get(name, 0) >= units for name, units in short_after.items()):
        return True
    return lasts_s is not None and lasts_s <= begins_in_s
