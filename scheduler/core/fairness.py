"""Which leases to recall because something else waits: a pure decision over what is held and what waits.

Two rules, both bounded by what is short:

* **Fair share.** A session that waits gets leases of one that uses more, now and lately, as long as the giver still has
  at least what the taker then has. It settles: what is given is never asked back before time has changed the shares.
* **Nobody starves.** A demand that holds nothing at all may have one lease of another that has held its own for
  `QUANTUM_S`, also within one session: a cell does not wait for a thousand tasks that were submitted before it. With
  less than one lease for each who waits, they take turns: of that length while all have had the same lately, and else
  who has had more waits until the others have had as much. What is asked back for somebody is given to nobody else.

A recall asks the holder to drain a lease; nothing is killed. Actors are never recalled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

from atoll.protocol.machine import Instant
from atoll.resources import GPU, GPU_MEMORY, Amounts
from atoll.scheduler.core.demand import ClassKey, Demand
from atoll.scheduler.core.jobs import Job
from atoll.scheduler.core.lease import HELD, Lease
from atoll.scheduler.core.nodes import Node, NodeTable
from atoll.scheduler.core.placement import eligible
from atoll.scheduler.core.shares import ShareTable

QUANTUM_S = 0.05
MAXIMUM_LOOKED_AT = 16
"""Demands that are looked at in one turn, the first of the queues."""

MAXIMUM_OF_A_QUEUE = 4
"""Of those, so many of what one session wants of one class."""

MAXIMUM_SCANNED = 512
"""Leases of a job that are looked at for one demand."""

MAXIMUM_RECALLS = 256
"""Leases that are recalled in one turn; the next turn goes on."""


class Recalls(NamedTuple):
    """What to recall, each for a demand; whose turn it is then; when to look again (None: when something changes)."""

    leases: list[tuple[Lease, Demand]]
    turns: list[Demand]
    again: Instant | None


class _Expected:
    """The sessions' shares as they will be once what was recalled has changed hands."""

    def __init__(self, shares: ShareTable) -> None:
        self._shares = shares
        self._used: dict[bytes, Amounts] = {}
        self._known: dict[bytes, int] = {}

    def used(self, job: Job, less: Mapping[str, int] | None = None, more: Mapping[str, int] | None = None) -> Amounts:
        """Return what a session will hold, with changes that are only thought of."""
        used = self._used.get(job.job_id, job.used)
        if less or more:
            used = dict(used)
            for name, units in (less or {}).items():
                used[name] = used.get(name, 0) - units
            for name, units in (more or {}).items():
                used[name] = used.get(name, 0) + units
        return used

    def of(self, job: Job) -> int:
        """Return a session's share in millionths, of now and lately."""
        share = self._known.get(job.job_id)
        if share is None:
            share = self._known[job.job_id] = self._shares.of(job, self.used(job))
        return share

    def with_change(
        self, job: Job, less: Mapping[str, int] | None = None, more: Mapping[str, int] | None = None
    ) -> int:
        """Return what it would be."""
        return self._shares.of(job, self.used(job, less, more)) if less or more else self.of(job)

    def takes_turns_with(self, giver: Job, taker: Job, given: Mapping[str, int]) -> bool:
        """Whether a session that has nothing may have something of another: it holds more, and has had as much."""
        if giver is taker:
            return True
        if self._shares.now_of(giver, self.used(giver)) < self._shares.now_of(taker, self.used(taker)):
            return False
        if self._shares.recent_of(giver) + _SAME >= self._shares.recent_of(taker):
            return True
        return self.with_change(giver, less=given) >= self.of(taker)

    def move(self, giver: Job, taker: Job, given: Mapping[str, int], taken: Mapping[str, int]) -> None:
        """Count a recall."""
        for job, amounts, sign in ((giver, given, -1), (taker, taken, 1)):
            self._known.pop(job.job_id, None)
            used = self._used.get(job.job_id)
            if used is None:
                used = self._used[job.job_id] = dict(job.used)
            for name, units in amounts.items():
                used[name] = used.get(name, 0) + sign * units


_SAME = 1000
"""Sessions that have had the same lately, but for so many millionths, take turns."""


def choose_recalls(
    waiting: Iterable[Demand],
    leaving: Iterable[Lease],
    jobs: Iterable[Job],
    nodes: NodeTable,
    shares: ShareTable,
    now: Instant,
) -> Recalls:
    """Decide what to recall now.

    Args:
        waiting: What could not be placed, in the order of the queues.
        leaving: Leases that end, or were recalled.
        jobs: Who holds what.
        nodes: For what is short where.
        shares: What sessions use.
        now: The time.
    """
    looked_at = list(islice(waiting, MAXIMUM_LOOKED_AT))
    return _Choice(looked_at, leaving, jobs, nodes, shares, now).run() if looked_at else Recalls([], [], None)


class _Choice:
    """One decision.

    Leases of one job are looked at from the newest on, or from the oldest for who starves, and no more than
    `MAXIMUM_SCANNED` of them: so a decision costs no more on a cluster of a thousand nodes than on one of ten.
    """

    def __init__(
        self,
        looked_at: list[Demand],
        leaving: Iterable[Lease],
        jobs: Iterable[Job],
        nodes: NodeTable,
        shares: ShareTable,
        now: Instant,
    ) -> None:
        self._looked_at = looked_at
        self._holders = [job for job in jobs if job.leases]
        self._richest: list[Job] | None = None
        self._now = now
        self._shares = _Expected(shares)
        self._useful_for = _Usefulness(nodes)
        self._taken: dict[int, None] = {}
        self._coming: dict[int, int] = {}
        self._chosen: list[tuple[Lease, Demand]] = []
        self._turns: list[Demand] = []
        for lease in leaving:
            taker = lease.recalled_for
            if taker is None:
                taker = next((demand for demand in looked_at if self._useful_for.helps(lease, demand)), None)
            if taker is not None:
                self._coming[taker.arrival] = self._coming.get(taker.arrival, 0) + 1
                self._shares.move(lease.job, taker.job, lease.charged, _taken_by(taker))

    def run(self) -> Recalls:
        """Return the decision."""
        again: Instant | None = None
        for demand in self._looked_at:
            coming = self._coming.get(demand.arrival, 0)
            needed = demand.shortfall - coming
            while needed > 0 and len(self._chosen) < MAXIMUM_RECALLS and (lease := self._fair(demand)) is not None:
                self._recall(lease, demand)
                needed -= 1
            if demand.leases or coming or needed != demand.shortfall:
                continue
            ripe = self._for_the_starving(demand)
            if isinstance(ripe, Lease):
                if ripe.job is not demand.job:  # within one session, who has least goes first anyway
                    self._turns.append(demand)
                self._recall(ripe, demand)
            elif ripe is not None:
                again = ripe if again is None else min(again, ripe)
        return Recalls(self._chosen, self._turns, again)

    def _recall(self, lease: Lease, demand: Demand) -> None:
        self._chosen.append((lease, demand))
        self._taken[lease.lease_id] = None
        self._shares.move(lease.job, demand.job, lease.charged, _taken_by(demand))
        self._richest = None

    def _fair(self, demand: Demand) -> Lease | None:
        """Return a lease of the job that has most, if that has at least what the taker would then have."""
        if self._richest is None:
            self._richest = sorted(self._holders, key=lambda job: -self._shares.of(job))
        wanted = self._shares.with_change(demand.job, more=_taken_by(demand))
        for job in self._richest:
            if self._shares.of(job) < wanted:
                break
            if job is demand.job:
                continue
            lease = next(self._useful(job, demand, newest=True), None)
            if lease is not None and self._shares.with_change(job, less=lease.charged) >= wanted:
                return lease
        return None

    def _for_the_starving(self, demand: Demand) -> Lease | Instant | None:
        """Return the lease to give to a demand that has none, or when one will be ripe, or None."""
        oldest: Lease | None = None
        for job in self._holders:
            lease = next(self._useful(job, demand, newest=False), None)
            if (
                lease is not None
                and (oldest is None or (lease.since, lease.lease_id) < (oldest.since, oldest.lease_id))
                and self._shares.takes_turns_with(job, demand.job, lease.charged)
            ):
                oldest = lease
        if oldest is None:
            return None
        when = Instant(oldest.since + QUANTUM_S)
        return oldest if self._now >= when else when

    def _useful(self, job: Job, demand: Demand, *, newest: bool) -> Iterator[Lease]:
        ordered = reversed(job.leases.values()) if newest else iter(job.leases.values())
        for lease in islice(ordered, MAXIMUM_SCANNED):
            if (
                lease.state == HELD
                and not lease.actor_id
                and not lease.recalled
                and lease.lease_id not in self._taken
                and self._useful_for.helps(lease, demand)
            ):
                yield lease


def _taken_by(demand: Demand) -> Amounts:
    """Return what a job is charged with for a lease of a demand: nothing in a placement group, charged as a whole."""
    return demand.shape.wanted.amounts if not demand.group else {}


class _Usefulness:
    """Which lease, given back, would bring which demand closer to being placed."""

    def __init__(self, nodes: NodeTable) -> None:
        self._nodes = nodes
        self._missing: dict[tuple[int, ClassKey], tuple[str, ...]] = {}

    def helps(self, lease: Lease, demand: Demand) -> bool:
        """Whether it would."""
        if lease.demand is demand or lease.scheduling_class.priority > demand.scheduling_class.priority:
            return False
        amounts = lease.amounts
        if lease.bundle is not None or demand.group:
            return self._helps_in_group(lease, demand)
        return any(name in amounts for name in self._missing_on(lease.node, demand))

    @staticmethod
    def _helps_in_group(lease: Lease, demand: Demand) -> bool:
        """What is reserved for a group is of use to what waits in that group only."""
        bundle, index = lease.bundle, demand.scheduling_class.bundle
        if bundle is None or bundle.supply is None or bundle.group.spec.group_id != demand.group:
            return False
        wanted = demand.shape.wanted
        return index in (-1, bundle.index) and any(name in lease.amounts for name in bundle.supply.missing(wanted))

    def _missing_on(self, node: Node, demand: Demand) -> tuple[str, ...]:
        """Return what is short on a node for a demand; nothing where it could never be placed."""
        key = (node.order, demand.class_key)
        found = self._missing.get(key)
        if found is None:
            missing: dict[str, None] = {}
            for _class, shape in demand.choices:
                if eligible(self._nodes, shape, node) and node.could_ever_fit(shape.wanted):
                    names = node.supply.missing(shape.wanted)
                    missing.update((GPU if name == GPU_MEMORY else name, None) for name in names)
            found = self._missing[key] = tuple(missing)
        return found
