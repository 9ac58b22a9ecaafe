"""What somebody holds and has held: changes are noted, and nothing is added up before somebody asks.

    take 2 at 5, give back 1 at 9          holding 1        noted 2·5 - 1·9 = 1
    asked at 20: the sum over the time is  holding·20 - noted = 19 = 2·(9 - 5) + 1·(20 - 9)

A change costs the same two additions however long ago the last one was, and whatever is read of it later. What the sum
means is up to the clock by which changes are noted. With one that counts microseconds it is an exact integral, in
integers: the accounts (`usage`). With one that grows by a factor in each half-life, what is long ago weighs little: an
average over the last while, from which sessions get their shares (`shares`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

from atoll.resources import Amounts

Clock = TypeVar("Clock", int, float)


class History(Generic[Clock]):
    """Amounts that somebody holds, and the sum over the time for which it held them.

    Attributes:
        holding: Units, now, of each name that was ever held.
        noted: Of the same names, all changes times the clock when they were made. Integers if the clock gives integers.
    """

    __slots__ = ("holding", "noted")

    def __init__(self) -> None:
        self.holding: Amounts = {}
        self.noted: dict[str, Clock] = {}

    def take(self, amounts: Mapping[str, int], clock: Clock) -> None:
        """Note that more is held from now on."""
        holding, noted = self.holding, self.noted
        for name, units in amounts.items():
            if name in holding:
                holding[name] += units
                noted[name] += units * clock
            else:
                holding[name] = units
                noted[name] = units * clock

    def give_back(self, amounts: Mapping[str, int], clock: Clock) -> None:
        """Note that it is held no more."""
        holding, noted = self.holding, self.noted
        for name, units in amounts.items():
            if name in holding:
                holding[name] -= units
                noted[name] -= units * clock
            else:
                holding[name] = -units
                noted[name] = -units * clock

    def sums(self, clock: Clock) -> dict[str, Clock]:
        """Return what has been held until now, times the clock; integers if the clock gives integers."""
        return {name: units * clock - self.noted[name] for name, units in self.holding.items()}

    def had(self, amounts: Mapping[str, Clock]) -> None:
        """Note what was held before this history began, as a sum over the time until now."""
        for name, amount in amounts.items():
            self.holding.setdefault(name, 0)
            self.noted[name] = self.noted.get(name, 0) - amount

    def held(self) -> Amounts:
        """Return what is held now, without the names that come to nothing."""
        return {name: units for name, units in self.holding.items() if units}

    def begin(self, clock: Clock) -> None:
        """Forget what was before: sums begin now."""
        for name in [name for name, units in self.holding.items() if not units]:
            del self.holding[name]
        self.noted = {name: units * clock for name, units in self.holding.items()}

    def scale(self, factor: Clock) -> None:
        """The clock counts anew, in units of another size."""
        self.noted = {name: noted * factor for name, noted in self.noted.items()}
