"""Where bundles go, against brute force: what can be placed is, and as few or as many nodes are used as can be."""

from __future__ import annotations

import random
from itertools import product

import pytest

from atoll.scheduler.policy.bundles import PACK, SPREAD, STRATEGIES, STRICT_PACK, STRICT_SPREAD, assign


class Ground:
    """Nodes with so much of one resource; bundles that take so much."""

    def __init__(self, free: list[int], wanted: list[int]) -> None:
        self.free = list(free)
        self.wanted = wanted

    def places(self, bundle: int) -> list[int]:
        fitting = [place for place in range(len(self.free)) if self.fits(bundle, place)]
        return sorted(fitting, key=lambda place: (-self.free[place], place))

    def fits(self, bundle: int, place: int) -> bool:
        return self.free[place] >= self.wanted[bundle]

    def put(self, bundle: int, place: int) -> None:
        self.free[place] -= self.wanted[bundle]
        assert self.free[place] >= 0, "a bundle is put only where it fits"

    def take_back(self, bundle: int, place: int) -> None:
        self.free[place] += self.wanted[bundle]


def possible(free: list[int], wanted: list[int], strategy: str) -> list[int]:
    """Return, of every way to place all bundles, how many nodes it uses."""
    found = []
    for places in product(range(len(free)), repeat=len(wanted)):
        left = list(free)
        for bundle, place in enumerate(places):
            left[place] -= wanted[bundle]
        used = len(set(places))
        strict = {STRICT_PACK: used == 1, STRICT_SPREAD: used == len(wanted)}.get(strategy, True)
        if min(left) >= 0 and strict:
            found.append(used)
    return found


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_brute_force_can_place_is_placed(strategy: str) -> None:
    chance = random.Random(strategy)
    placed = optimal = 0
    for _case in range(400):
        free = [chance.randint(0, 6) for _ in range(chance.randint(1, 4))]
        wanted = [chance.randint(1, 4) for _ in range(chance.randint(1, 5))]
        order = sorted(range(len(wanted)), key=lambda bundle: -wanted[bundle])
        ground = Ground(free, wanted)
        found = assign(strategy, order, ground)
        counts = possible(free, wanted, strategy)
        assert (found is not None) == bool(counts), f"{wanted} on {free}"
        if found is None:
            assert ground.free == free, "nothing is left behind of what could not be placed"
            continue
        assert sum(ground.free) == sum(free) - sum(wanted)
        placed += 1
        used = len(set(found.values()))
        optimal += used == (max(counts) if strategy in (SPREAD, STRICT_SPREAD) else min(counts))
    assert placed > 40
    assert optimal >= 0.95 * placed, f"{optimal} of {placed} use as many nodes as the best placement"


def test_what_stays_counts() -> None:
    assert assign(STRICT_SPREAD, [0], Ground([5, 5, 1], [2]), [0]) == {0: 1}
    assert assign(PACK, [0], Ground([5, 5, 1], [2]), [1]) == {0: 1}
    assert assign(STRICT_PACK, [0], Ground([5, 1], [2]), [1]) is None
