"""Where the bundles of a placement group go: all of them at once, or none.

    PACK            as few nodes as can be            STRICT_PACK     one node, or none at all
    SPREAD          as many nodes as can be           STRICT_SPREAD   each on a node of its own, or none at all

Bundles are placed one after the other, the largest first, each on the place that suits the strategy best; when one
fits nowhere, the last decision is taken back. So a group that fits is found, on small clusters always, and on large
ones within a bounded number of steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic, Protocol, TypeVar

PACK, SPREAD, STRICT_PACK, STRICT_SPREAD = STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")

MAXIMUM_STEPS = 400
"""So many times a bundle is put somewhere before the search is given up."""

Place = TypeVar("Place")


class Ground(Protocol[Place]):
    """Where bundles can be tried; what is put there is taken back by whoever asked, unless all are placed."""

    def places(self, bundle: int) -> Iterable[Place]:
        """Return the places on which a bundle fits now, the best first."""
        ...

    def fits(self, bundle: int, place: Place) -> bool:
        """Whether a bundle fits on a place now."""
        ...

    def put(self, bundle: int, place: Place) -> None:
        """Take up room for a bundle."""
        ...

    def take_back(self, bundle: int, place: Place) -> None:
        """Undo `put`."""
        ...


def assign(
    strategy: str, order: Sequence[int], ground: Ground[Place], kept: Sequence[Place] = ()
) -> dict[int, Place] | None:
    """Place bundles.

    Args:
        strategy: One of `STRATEGIES`.
        order: The bundles to place, the largest first.
        ground: Where; on success, all bundles are put there.
        kept: Places of bundles of the same group that stay where they are.

    Returns:
        The place of each bundle, or None, and then nothing is put anywhere.
    """
    if strategy == PACK:
        found = _Search(STRICT_PACK, order, ground, kept).run()
        if found is not None:
            return found
    return _Search(strategy, order, ground, kept).run()


class _Search(Generic[Place]):
    def __init__(self, strategy: str, order: Sequence[int], ground: Ground[Place], kept: Sequence[Place]) -> None:
        self._strategy = strategy
        self._order = order
        self._ground = ground
        self._used: list[Place] = list(kept)
        self._placed: dict[int, Place] = {}
        self._steps = 0

    def run(self) -> dict[int, Place] | None:
        return dict(self._placed) if self._place(0) else None

    def _place(self, index: int) -> bool:
        if index == len(self._order):
            return True
        bundle, ground = self._order[index], self._ground
        for place in self._choices(bundle):
            if self._steps >= MAXIMUM_STEPS:
                return False
            self._steps += 1
            ground.put(bundle, place)
            self._used.append(place)
            self._placed[bundle] = place
            if self._place(index + 1):
                return True
            del self._placed[bundle]
            self._used.pop()
            ground.take_back(bundle, place)
        return False

    def _choices(self, bundle: int) -> Iterable[Place]:
        """Yield the places to try, the best first; what is used is looked at before it changes."""
        used = list(dict.fromkeys(self._used))
        match self._strategy:
            case "STRICT_PACK" if used:
                yield from (place for place in used[:1] if self._ground.fits(bundle, place))
            case "STRICT_PACK":
                yield from self._ground.places(bundle)
            case "STRICT_SPREAD":
                yield from (place for place in self._ground.places(bundle) if place not in used)
            case "SPREAD":
                yield from (place for place in self._ground.places(bundle) if place not in used)
                by_count = sorted(used, key=self._used.count)
                yield from (place for place in by_count if self._ground.fits(bundle, place))
            case _:
                yield from (place for place in used if self._ground.fits(bundle, place))
                yield from (place for place in self._ground.places(bundle) if place not in used)
