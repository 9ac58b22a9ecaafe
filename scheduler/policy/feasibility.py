"""Whether a request could ever be placed; if not, one line that says the largest there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from atoll.resources import describe


class Offer(NamedTuple):
    """What a node has when nothing of it is held."""

    name: str
    total: Mapping[str, int]


def why_infeasible(wanted: Mapping[str, int], offers: Sequence[Offer]) -> str | None:
    """Return why none of the nodes could ever give what is wanted, or None if one could.

    Args:
        wanted: Units by resource.
        offers: At least one node.
    """
    if any(all(offer.total.get(name, 0) >= units for name, units in wanted.items()) for offer in offers):
        return None
    for name, units in sorted(wanted.items()):
        largest = max(offers, key=lambda offer: offer.total.get(name, 0))
        most = largest.total.get(name, 0)
        if most < units:
            if most == 0:
                return f"no node has {describe({name: units})}; none has any {name}"
            return f"no node has {describe({name: units})}; the largest has {_amount(name, most)} ({largest.name})"
    return f"no node has all of {describe(wanted)} at once; " + "; ".join(
        f"{offer.name} has {describe({name: offer.total.get(name, 0) for name in wanted})}" for offer in offers
    )


def _amount(name: str, units: int) -> str:
    return describe({name: units}).removesuffix(f" {name}")
