"""The smallest change that makes room: as few holders as can be, those that lose least by it first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from math import comb
from typing import NamedTuple

MAXIMUM_TRIED = 300
"""Sets of one size that are tried; where there are more, a set is found that cannot be made smaller, which may not be
the smallest."""


class Part(NamedTuple):
    """Something that holds what is wanted.

    Attributes:
        key: Of the holder.
        cost: What is lost when it ends; the less the better.
    """

    key: int
    cost: float


def smallest_release(parts: Sequence[Part], fits_without: Callable[[Sequence[int]], bool]) -> list[int] | None:
    """Return the fewest holders without which the request fits; None if it does not fit without all of them.

    Args:
        parts: All that hold something of what is wanted, on one node.
        fits_without: Whether the request fits when these are gone.
    """
    ordered = sorted(parts, key=lambda part: (part.cost, part.key))
    keys = [part.key for part in ordered]
    if not fits_without(keys):
        return None
    for size in range(len(keys) + 1):
        if comb(len(keys), size) > MAXIMUM_TRIED:
            return _without_what_is_not_needed(keys, fits_without)
        for chosen in combinations(keys, size):
            if fits_without(chosen):
                return list(chosen)
    return keys


def _without_what_is_not_needed(keys: Sequence[int], fits_without: Callable[[Sequence[int]], bool]) -> list[int]:
    chosen = list(keys)
    for key in reversed(keys):
        rest = [other for other in chosen if other != key]
        if fits_without(rest):
            chosen = rest
    return chosen
