"""How many placements a second the scheduler's core decides, on simulated clusters.

The real core, no sockets: events in, actions out, one process, one core. A simulated agent answers at once. Each round
asks for leases of several shapes, from several jobs, until the cluster is full, returns some of them in random order,
and so on until so many requests were served. What is timed is `Scheduler.handle`, all of it: queues, fairness,
promises, placement, messages made (not encoded).
"""

from __future__ import annotations

import random
import statistics
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from atoll.protocol import messages as m
from atoll.protocol.machine import DeadlineReached, Instant, Peer, PeerConnected, Received, Send
from atoll.protocol.values import Device, Environment, GroupSpec, SchedulingClass
from atoll.resources import UNITS_PER_ONE
from atoll.scheduler.core.events import RecordsRestored
from atoll.scheduler.core.scheduler import Scheduler

PYTHON = Environment("/usr/bin/python3", [], "/", {})
SHAPES = ({"CPU": 1}, {"CPU": 2}, {"CPU": 1, "GPU": 1}, {"CPU": 0.5, "GPU": 0.5}, {"CPU": 1, "memory": 2**30})
JOBS = 4


class Figures(NamedTuple):
    """What came out of a run."""

    nodes: int
    placements: int
    seconds: float
    slowest_s: float

    @property
    def rate(self) -> float:
        """Placements a second."""
        return self.placements / self.seconds


class Cluster:
    """A core with agents that answer at once and clients that hold on to what they get."""

    def __init__(self, nodes: int, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = Instant(0.0)
        self.seconds = self.slowest_s = 0.0
        self.placed = 0
        self.core = Scheduler(self.now)
        self.held: dict[int, Peer] = {}
        self.recalled: deque[int] = deque()
        self._todo: deque[tuple[Peer, m.Message]] = deque()
        self._event(RecordsRestored([]))
        self.environment = ""
        self.agents = {}
        for number in range(1, nodes + 1):
            self.agents[Peer(number)] = number
            self._event(PeerConnected(Peer(number), "agent", b"node%06d" % number))
            self._event(Received(Peer(number), _registration(number)))
        self.clients = [Peer(10**6 + number) for number in range(JOBS)]
        for number, peer in enumerate(self.clients):
            job = b"job%05d" % number
            self._event(PeerConnected(peer, "client", job))
            self._event(Received(peer, m.RegisterJob(1, job, "script", f"job-{number}", 1, "", PYTHON)))
        self.seconds = self.slowest_s = 0.0

    def _event(self, event: object) -> None:
        began = time.process_time()
        actions = self.core.handle(event, self.now)  # type: ignore[arg-type]
        took = time.process_time() - began
        self.seconds += took
        self.slowest_s = max(self.slowest_s, took)
        for action in actions:
            if isinstance(action, Send):
                self._todo.append((action.peer, action.message))

    def timed(self, peer: Peer, message: m.Message) -> float:
        """Say something, and return the processor time until all is done about it."""
        before = self.seconds
        self._event(Received(peer, message))
        self.settle()
        return self.seconds - before

    def settle(self) -> None:
        """Let agents answer until nothing is left to say, and nothing is due."""
        while self._todo or self._is_due():
            if not self._todo:
                self._event(DeadlineReached())
                continue
            peer, message = self._todo.popleft()
            if isinstance(message, m.StartLease):
                worker = b"w%015d" % message.lease_id
                self._event(Received(peer, m.LeaseStarted(message.lease_id, worker, "/w", 1)))
            elif isinstance(message, m.EndLease):
                self._event(Received(peer, m.LeaseEnded(message.lease_id)))
            elif isinstance(message, m.LeaseGranted):
                self.placed += 1
                self.held[message.lease_id] = peer
            elif isinstance(message, m.LeaseRecalled):
                self.recalled.append(message.lease_id)
            elif isinstance(message, m.JobRegistered):
                self.environment = message.environment

    def _is_due(self) -> bool:
        when = self.core.next_deadline()
        return when is not None and when <= self.now

    def ask(self, count: int) -> None:
        """Each job asks for so many leases of each shape."""
        for peer in self.clients:
            for key, shape in enumerate(SHAPES, 1):
                amounts = {name: round(amount * UNITS_PER_ONE) for name, amount in shape.items()}
                wanted = SchedulingClass(amounts, self.environment, label=f"shape-{key}")
                self._event(Received(peer, m.SetDemand(key, wanted, count)))
        self.settle()

    def give_back(self, count: int) -> None:
        """Some leases are returned, those that were recalled first; others take their place."""
        order = list(self.held)
        self.random.shuffle(order)
        for _ in range(min(count, len(order))):
            lease_id = self.recalled.popleft() if self.recalled else order.pop()
            peer = self.held.pop(lease_id, None)
            if peer is not None:
                self.now = Instant(self.now + 0.0001)
                self._event(Received(peer, m.ReturnLease(lease_id)))
                self.settle()


def _registration(number: int) -> m.RegisterNode:
    gpus = (0, 0, 4, 8)[number % 4]
    devices = [Device(f"GPU-{number}-{index}", index, "NVIDIA H100", 80 * 2**30) for index in range(gpus)]
    amounts = {"CPU": 16 * UNITS_PER_ONE, "memory": 64 * 2**30 * UNITS_PER_ONE}
    return m.RegisterNode(1, b"node%06d" % number, f"host-{number}", 1, "/a", amounts, devices, {})


def run(nodes: int, requests: int, seed: int = 1) -> Figures:
    """Serve so many requests on so many nodes."""
    cluster = Cluster(nodes, seed)
    cluster.settle()
    cluster.seconds = cluster.slowest_s = 0.0
    waiting = max(1, requests // (JOBS * len(SHAPES)))
    cluster.ask(waiting)
    while cluster.placed < requests and cluster.held:
        cluster.give_back(min(2000, requests - cluster.placed))
    return Figures(nodes, cluster.placed, cluster.seconds, cluster.slowest_s)


GROUPS = 300


def groups(nodes: int = 100) -> tuple[float, float]:
    """Return how long it takes to create and to remove a placement group of four bundles, in seconds: medians."""
    cluster = Cluster(nodes, 1)
    cluster.settle()
    client, bundles = cluster.clients[0], [{"CPU": UNITS_PER_ONE}] * 4
    ids = [b"group%011d" % number for number in range(GROUPS)]
    specs = [GroupSpec(group_id, "", "", "SPREAD", bundles) for group_id in ids]
    created = [cluster.timed(client, m.CreateGroup(1, spec)) for spec in specs]
    removed = [cluster.timed(client, m.RemoveGroup(1, group_id)) for group_id in ids]
    return statistics.median(created), statistics.median(removed)


def measure(sizes: Sequence[int], requests: int, rounds: int) -> list[Figures]:
    """Return the median round of each size; rounds of different sizes take turns, so that all have the same weather.

    Args:
        sizes: Numbers of nodes.
        requests: For the largest clusters; smaller ones are asked for fewer, so that each is filled many times.
        rounds: Of each.
    """
    found: dict[int, list[Figures]] = {nodes: [] for nodes in sizes}
    for _ in range(rounds):
        for nodes in sizes:
            found[nodes].append(run(nodes, max(min(requests, 10_000), min(requests, 100 * nodes))))
    return [sorted(found[nodes], key=lambda figures: figures.rate)[rounds // 2] for nodes in sizes]
