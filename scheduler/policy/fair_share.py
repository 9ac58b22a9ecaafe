"""What a session uses of the cluster, as one number: its dominant share, of now and of what it used lately.

A session's share of a resource is what it holds now, and what it held on average lately, over all that there is of it.
The largest of these is its dominant share; divided by its weight it is what is compared: the least goes first.

    recent average   ◀── half of the difference to what is held is made up for in each half-life

So a GPU held for an hour counts when the hour is over, less and less; and who has begun just now goes before it, until
both have had the same. What is held now counts as much as what was held, so that nobody takes all for a long time only
because others had something before.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from atoll.config import LEAST_WEIGHT, MOST_WEIGHT

MILLION = 1_000_000
HALF_LIFE_S = 600.0
"""Ten minutes: what a notebook had before lunch is nobody's business after it."""


class Rules(NamedTuple):
    """What whoever runs the cluster has said about shares.

    Attributes:
        half_life_s: After which the past counts half; 0 if it does not count.
        weights: Patterns of notebooks' and scripts' names, and their weights: the first that fits is taken.
    """

    half_life_s: float = HALF_LIFE_S
    weights: tuple[tuple[str, float], ...] = ()

    def weight_of(self, name: str, asked: float) -> float:
        """Return the weight of a session of this name, which itself asks for one."""
        said = (weight for pattern, weight in self.weights if fnmatchcase(name, pattern))
        return min(max(next(said, asked), LEAST_WEIGHT), MOST_WEIGHT)


def follow(recent: MutableMapping[str, float], used: Mapping[str, int], elapsed_s: float, half_life_s: float) -> None:
    """Bring a recent average up to date, after a time in which so much was held.

    Args:
        recent: Units by resource; changed.
        used: Units that were held all the time.
        elapsed_s: For how long.
        half_life_s: After which the past counts half; 0 if it does not count.
    """
    if not half_life_s:
        return
    kept = 2.0 ** (-elapsed_s / half_life_s)
    made_up = 1.0 - kept
    if not recent.keys() <= used.keys():
        for name in recent.keys() - used.keys():
            recent[name] *= kept
    for name, units in used.items():
        recent[name] = recent.get(name, 0.0) * kept + units * made_up


def dominant_share(
    used: Mapping[str, int], recent: Mapping[str, float], totals: Mapping[str, int], weight: float
) -> int:
    """Return the largest part of any resource that is used, now and lately, in millionths for a weight of 1.

    Args:
        used: Units held now.
        recent: Units held on average lately; empty to leave it out.
        totals: What there is. A resource of which there is nothing (any more) does not count.
        weight: Above 0; who has twice the weight may have twice as much.
    """
    share = 0.0
    for name, units in used.items():
        total = totals.get(name, 0)
        if total:
            part = (units + recent[name]) / total if name in recent else units / total
            if part > share:
                share = part
    if not recent.keys() <= used.keys():
        for name, average in recent.items():
            if name not in used and totals.get(name, 0):
                share = max(share, average / totals[name])
    return int(share * MILLION / weight)
