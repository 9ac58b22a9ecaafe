"""Which of several free devices go to one request: those that are near each other, leaving together what is left.

Devices that work together talk to each other: over NVLink at hundreds of gigabytes a second, over a switch of PCI
Express at tens, across processors at less. So of all sets of the right size the one is chosen

1. whose devices are nearest to each other, all pairs summed up (`Device.distances`);
2. that lies on the fewest processors;
3. that is farthest from the devices which stay free, so that pairs and islands are not broken for a single device;
4. that has the lowest numbers.

A box has few devices: all sets are compared, up to `MAXIMUM_SETS`. Beyond that, a set grows from each device by the
nearest one and is bettered by exchanges, as long as that helps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from math import comb

from atoll.protocol.values import Device

MAXIMUM_SETS = 1_000
SAME_PROCESSOR, OTHER_PROCESSOR = 40, 50
"""How far devices are taken to be apart of which only the processors are known, or not even those."""

Cost = tuple[int, int, int, tuple[int, ...]]


def distance(one: Device, other: Device) -> int:
    """Return how far two devices are apart, on the scale of `Device.distances`."""
    known = one.distances.get(other.uuid)
    if known is not None:
        return known
    return SAME_PROCESSOR if one.numa_node == other.numa_node >= 0 else OTHER_PROCESSOR


def cost(devices: Sequence[Device], chosen: Iterable[int]) -> Cost:
    """Return how bad a set is, by the four points above; the least is the best.

    Args:
        devices: What is free.
        chosen: Places in it, ascending.
    """
    chosen = tuple(chosen)
    inside = sum(distance(devices[one], devices[other]) for one, other in combinations(chosen, 2))
    processors = len({devices[place].numa_node for place in chosen})
    left = [place for place in range(len(devices)) if place not in chosen]
    apart = sum(distance(devices[place], devices[other]) for place in chosen for other in left)
    return inside, processors, -apart, chosen


def choose(devices: Sequence[Device], count: int) -> list[int]:
    """Return the places of the devices that a request gets; the caller has made sure that there are enough.

    Args:
        devices: What is free and will do, in the order of their numbers.
        count: How many.
    """
    assert 0 < count <= len(devices), "there are enough devices to choose from"
    if count == len(devices) or not any(device.distances or device.numa_node >= 0 for device in devices):
        return list(range(count))
    if comb(len(devices), count) <= MAXIMUM_SETS:
        return list(min(combinations(range(len(devices)), count), key=lambda chosen: cost(devices, chosen)))
    return list(min(_grown(devices, count), key=lambda chosen: cost(devices, chosen)))


def _grown(devices: Sequence[Device], count: int) -> Iterable[tuple[int, ...]]:
    """Yield a set for each device to begin with."""
    places = range(len(devices))
    for first in places:
        chosen = [first]
        while len(chosen) < count:
            rest = [place for place in places if place not in chosen]
            chosen.append(min(rest, key=lambda place: _to(devices, place, chosen)))
        yield tuple(sorted(_bettered(devices, chosen)))


def _to(devices: Sequence[Device], place: int, chosen: Sequence[int]) -> tuple[int, int]:
    return sum(distance(devices[place], devices[other]) for other in chosen if other != place), place


def _bettered(devices: Sequence[Device], chosen: list[int]) -> list[int]:
    """Exchange the device that fits worst for one that fits better, as often as there is one."""
    while True:
        worst = max(chosen, key=lambda place: _to(devices, place, chosen))
        kept = [place for place in chosen if place != worst]
        rest = [place for place in range(len(devices)) if place not in chosen]
        best = min(rest, key=lambda place: _to(devices, place, kept))
        if _to(devices, best, kept)[0] >= _to(devices, worst, kept)[0]:
            return chosen
        chosen = [*kept, best]
