"""The scheduler beside brute force: how much of small clusters is in use over time.

Requests of several shapes wait for nodes of several kinds; whatever begins is followed by another request, the same
ones in the same order on both sides. The other side tries, whenever something ends, every way to place every subset of
what waits, and takes the one that uses most. It knows no fairness: a large request may wait for ever there, while the
scheduler keeps room for it.
"""

from __future__ import annotations

import heapq
import random
from typing import NamedTuple

from atoll.protocol import messages as m
from atoll.protocol.machine import DeadlineReached, Event, Instant, Peer, PeerConnected, Received, Send
from atoll.protocol.values import Device, Environment, SchedulingClass
from atoll.resources import UNITS_PER_ONE
from atoll.scheduler.core.events import RecordsRestored
from atoll.scheduler.core.scheduler import Scheduler

Shape = tuple[int, int]
"""CPUs and GPUs."""

NODES: tuple[Shape, ...] = ((4, 0), (8, 0), (4, 2), (8, 1))
REQUESTS: tuple[Shape, ...] = ((1, 0), (1, 0), (2, 0), (4, 0), (1, 1), (2, 1), (1, 2))
CLIENT = Peer(100)
WAITING, LASTS_S = 5, 60.0
"""Requests that wait at each moment, and how long a case is looked at."""

_PYTHON = Environment("/usr/bin/python3", [], "/", {})


class Packed(NamedTuple):
    """What came of the small cases.

    Attributes:
        cases: How many.
        of_best: What was in use on average, as a part of what brute force had in use.
        longest_s, longest_best_s: The longest that a request waited, here and there; a request takes a second or two.
    """

    cases: int
    of_best: float
    longest_s: float
    longest_best_s: float


def run(cases: int, seed: int = 1) -> Packed:
    """Compare random small cases."""
    chooser = random.Random(seed)
    ours = best = longest_s = longest_best_s = 0.0
    for _ in range(cases):
        nodes = [chooser.choice(NODES) for _ in range(chooser.randint(2, 3))]
        case = chooser.random()
        scheduled, forced = _Scheduled(nodes, case), _Forced(nodes, case)
        ours, best = ours + scheduled.run(), best + forced.run()
        longest_s = max(longest_s, scheduled.longest_s)
        longest_best_s = max(longest_best_s, forced.longest_s)
    return Packed(cases, ours / best, longest_s, longest_best_s)


def value_of(placed: list[Shape], nodes: list[Shape]) -> float:
    """Return how much is used: the mean over the resources that there are of the part in use."""
    parts = [
        sum(shape[kind] for shape in placed) / sum(node[kind] for node in nodes)
        for kind in (0, 1)
        if any(node[kind] for node in nodes)
    ]
    return sum(parts) / len(parts)


class _Side:
    """One small cluster and its requests, in virtual time."""

    def __init__(self, nodes: list[Shape], case: float) -> None:
        self.nodes = nodes
        self._chooser = random.Random(case)
        self._shapes = [shape for shape in REQUESTS if any(fits(shape, node) for node in nodes)]
        self.now_s = 0.0
        self.longest_s = 0.0
        self.waiting: dict[int, Shape] = {}
        self._since: dict[int, float] = {}
        self._lasting: dict[int, float] = {}
        self.running: dict[int, Shape] = {}
        self._ends: list[tuple[float, int]] = []

    def run(self) -> float:
        """Return what was in use on average."""
        used = 0.0
        while self.now_s < LASTS_S:
            while len(self.waiting) < WAITING:
                self._add()
            end_s, key = heapq.heappop(self._ends)
            used += (end_s - self.now_s) * value_of([*self.running.values()], self.nodes)
            self.pass_time(end_s)
            self.now_s = end_s
            del self.running[key]
            self.ended(key)
        self.longest_s = max([self.longest_s, *(self.now_s - since for since in self._since.values())])
        return used / self.now_s

    def _add(self) -> None:
        key = len(self._lasting) + 1
        shape = self.waiting[key] = self._chooser.choice(self._shapes)
        self._lasting[key] = self._chooser.uniform(0.5, 2.0)
        self._since[key] = self.now_s
        self.asked(key, shape)

    def begun(self, key: int) -> None:
        """A request runs."""
        self.running[key] = self.waiting.pop(key)
        self.longest_s = max(self.longest_s, self.now_s - self._since.pop(key))
        heapq.heappush(self._ends, (self.now_s + self._lasting[key], key))

    def asked(self, key: int, shape: Shape) -> None:
        """A request waits."""
        raise NotImplementedError

    def ended(self, key: int) -> None:
        """A request has ended."""
        raise NotImplementedError

    def pass_time(self, until_s: float) -> None:
        """Time passes."""


class _Forced(_Side):
    """Brute force: all subsets, all places."""

    def __init__(self, nodes: list[Shape], case: float) -> None:
        super().__init__(nodes, case)
        self._free = list(nodes)
        self._place: dict[int, tuple[int, Shape]] = {}
        totals = [sum(node[kind] for node in nodes) for kind in (0, 1)]
        self._worth = [1.0 / total if total else 0.0 for total in totals]

    def asked(self, key: int, shape: Shape) -> None:
        self._fill()

    def ended(self, key: int) -> None:
        number, shape = self._place.pop(key)
        free = self._free[number]
        self._free[number] = (free[0] + shape[0], free[1] + shape[1])
        self._fill()

    def _fill(self) -> None:
        _value, chosen = self._best(tuple(self._free), tuple(self.waiting.items()))
        for key, number in chosen:
            shape, free = self.waiting[key], self._free[number]
            self._free[number] = (free[0] - shape[0], free[1] - shape[1])
            self._place[key] = number, shape
            self.begun(key)

    def _best(
        self, free: tuple[Shape, ...], waiting: tuple[tuple[int, Shape], ...]
    ) -> tuple[float, list[tuple[int, int]]]:
        if not waiting:
            return 0.0, []
        (key, shape), rest = waiting[0], waiting[1:]
        found = self._best(free, rest)
        for number, node in enumerate(free):
            if fits(shape, node):
                left = (*free[:number], (node[0] - shape[0], node[1] - shape[1]), *free[number + 1 :])
                value, chosen = self._best(left, rest)
                value += shape[0] * self._worth[0] + shape[1] * self._worth[1]
                if value > found[0] + 1e-12:
                    found = value, [(key, number), *chosen]
        return found


class _Scheduled(_Side):
    """The scheduler's core."""

    def __init__(self, nodes: list[Shape], case: float) -> None:
        super().__init__(nodes, case)
        self._core = Scheduler(Instant(0.0))
        self._leases: dict[int, int] = {}
        self._tell(RecordsRestored([]))
        for number, (cpus, gpus) in enumerate(nodes, 1):
            devices = [Device(f"GPU-{number}-{index}", index, "GPU", 2**34) for index in range(gpus)]
            said = m.RegisterNode(
                1, b"node%04d" % number, f"host-{number}", 1, "/a", {"CPU": cpus * UNITS_PER_ONE}, devices, {}
            )
            self._tell(PeerConnected(Peer(number), "agent", b"node%04d" % number))
            self._tell(Received(Peer(number), said))
        self._tell(PeerConnected(CLIENT, "client", b"client01"))
        self._tell(Received(CLIENT, m.RegisterJob(1, b"client01", "script", "a.py", 1, "", _PYTHON)))

    def asked(self, key: int, shape: Shape) -> None:
        amounts = {name: units * UNITS_PER_ONE for name, units in zip(("CPU", "GPU"), shape, strict=True) if units}
        self._tell(Received(CLIENT, m.SetDemand(key, SchedulingClass(amounts, "", label=str(shape)), 1)))

    def ended(self, key: int) -> None:
        self._tell(Received(CLIENT, m.ReturnLease(self._leases.pop(key))))

    def pass_time(self, until_s: float) -> None:
        while (when := self._core.next_deadline()) is not None and when <= until_s:
            self.now_s = max(self.now_s, when)
            self._tell(DeadlineReached())

    def _tell(self, event: Event) -> None:
        for action in self._core.handle(event, Instant(self.now_s)):
            if not isinstance(action, Send):
                continue
            match action.message:
                case m.StartLease():
                    worker = b"w%015d" % action.message.lease_id
                    self._tell(Received(action.peer, m.LeaseStarted(action.message.lease_id, worker, "/w", 1)))
                case m.EndLease():
                    self._tell(Received(action.peer, m.LeaseEnded(action.message.lease_id)))
                case m.LeaseGranted():
                    self._leases[action.message.demand_key] = action.message.lease_id
                    self.begun(action.message.demand_key)


def fits(shape: Shape, node: Shape) -> bool:
    """Whether a request fits on a node with nothing else on it."""
    return shape[0] <= node[0] and shape[1] <= node[1]
