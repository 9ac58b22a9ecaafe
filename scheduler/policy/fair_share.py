"""What a session uses of the cluster, as one number: its dominant share, of now and of what it used lately.

A session's share of a resource is what it holds now, and what it held on average lately, over all that there is of it.
The largest of these is its dominant share; divided by its weight it is what is compared: the least goes first.

    recent average   ◀── half of the difference to what is held is made up for in each half-life
                     =   what is held - the sum of all changes, each halved for each half-life since

So a GPU held for an hour counts when the hour is over, less and less; and who has begun just now goes before it, until
both have had the same. What is held now counts as much as what was held, so that nobody takes all for a long time only
because others had something before.
"""

from __future__ import annotations

from collections.abc import Mapping
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


LONGEST = 60.0
"""Half-lives for which a clock runs before it counts anew: powers of two are exact that far, and far from too large."""


class FadingClock:
    """A clock that doubles in each half-life: a change that is noted by it weighs half as much a half-life later.

    Args:
        half_life_s: After which the past counts half; 0 if it does not count: then the clock stands still.
        now: The time at which it begins.

    Attributes:
        began: When it began to count, last.
        now, value: When it was read last, and what it said then.
    """

    __slots__ = ("_half_life_s", "began", "now", "value")

    def __init__(self, half_life_s: float, now: float) -> None:
        self._half_life_s = half_life_s
        self.began = self.now = now
        self.value = 1.0

    def read(self, now: float) -> float:
        """Return what it says; at least 1. Now and then it begins anew: see `began`."""
        if now != self.now:
            self.now = now
            if self._half_life_s:
                if now - self.began > LONGEST * self._half_life_s:
                    self.began = now
                self.value = 2.0 ** ((now - self.began) / self._half_life_s)
        return self.value

    def fades(self, elapsed_s: float) -> float:
        """Return how much is left of the past after a time, of 1."""
        return 2.0 ** (-elapsed_s / self._half_life_s) if self._half_life_s else 0.0


def recent_average(used: Mapping[str, int], noted: Mapping[str, float], clock: float) -> dict[str, float]:
    """Return what was held on average lately, in units by resource.

    Args:
        used: Units held now.
        noted: All changes of that, each times the fading clock when it was made.
        clock: What the fading clock says now.
    """
    return {name: max(0.0, used.get(name, 0) - before / clock) for name, before in noted.items()}


def share_lately(
    used: Mapping[str, int], noted: Mapping[str, float], clock: float, parts: Mapping[str, float], weight: float
) -> int:
    """Return `dominant_share` of what is used and its `recent_average`, at once: it is asked at every placement.

    Args:
        used: As for the average, like `noted` and `clock`; of the same names as that.
        parts: What part of all that there is a unit is, by resource.
        weight: Above 0.
    """
    share, kept = 0.0, 1.0 / clock
    for name, before in noted.items():
        if name in parts:
            part = (2 * used[name] - before * kept) * parts[name]
            if part > share:
                share = part
    return int(share * MILLION / weight)


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
