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
        holding: Units, now. Names that come to nothing are left out.
        noted: Of each name that was ever held, all changes times the clock when they were made. Integers if the clock
            gives integers.
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
                noted[name] += units * clock
                left = holding[name] + units
                if left:
                    holding[name] = left
                else:  # what was taken may have been a debt
                    del holding[name]
            else:
                holding[name] = units
                noted[name] = noted.get(name, 0) + units * clock

    def give_back(self, amounts: Mapping[str, int], clock: Clock) -> None:
        """Note that it is held no more."""
        holding, noted = self.holding, self.noted
        for name, units in amounts.items():
            left = holding.get(name, 0) - units
            if left:
                holding[name] = left
            else:
                holding.pop(name, None)
            noted[name] = noted.get(name, 0) - units * clock

    def sums(self, clock: Clock) -> dict[str, Clock]:
        """Return what has been held until now, times the clock; integers if the clock gives integers."""
        holding = self.holding
        return {name: holding.get(name, 0) * clock - noted for name, noted in self.noted.items()}

    def begin(self, clock: Clock) -> None:
        """Forget what was before: sums begin now."""
        self.noted = {name: units * clock for name, units in self.holding.items()}

    def scale(self, factor: Clock) -> None:
        """The clock counts anew, in units of another size."""
        self.noted = {name: noted * factor for name, noted in self.noted.items()}
