"""Which leases to recall because something else waits: a pure decision over what is held and what waits.

Two rules, both bounded by what is short:

* **Fair share.** A job that waits gets leases of a job that uses more, as long as the giver still has at least what
  the taker then has. It settles: what is given is never asked back.
* **Nobody starves.** A demand that holds nothing at all may have one lease of another that has held its own for
  `QUANTUM_S`, also within one job: a cell does not wait for a thousand tasks that were submitted before it. With less
  than one lease for each who waits, they take turns of that length.

A recall asks the holder to drain a lease; nothing is killed. Actors are never recalled.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from atoll.protocol.machine import Instant
from atoll.resources import GPU, GPU_MEMORY, Amounts
from atoll.scheduler.core.jobs import Job
from atoll.scheduler.core.leases import ENDING, HELD, Lease
from atoll.scheduler.core.nodes import Node, NodeTable
from atoll.scheduler.core.placement import eligible
from atoll.scheduler.core.queues import ClassKey, Demand

QUANTUM_S = 0.05
MAXIMUM_LOOKED_AT = 16
"""Demands that are looked at in one turn, the first of the queues."""


class Recalls(NamedTuple):
    """What to recall, each for a demand, and when to look again (None: when something changes)."""

    leases: list[tuple[Lease, Demand]]
    again: Instant | None


class _Shares:
    """The jobs' shares as they will be once what was recalled has changed hands."""

    def __init__(self, nodes: NodeTable) -> None:
        self._nodes = nodes
        self._used: dict[bytes, Amounts] = {}

    def of(self, job: Job, less: Amounts | None = None, more: Amounts | None = None) -> int:
        """Return a job's share in millionths, with changes that are only thought of."""
        used = self._used.get(job.job_id, job.used)
        if less or more:
            used = dict(used)
            for name, units in (less or {}).items():
                used[name] = used.get(name, 0) - units
            for name, units in (more or {}).items():
                used[name] = used.get(name, 0) + units
        return self._nodes.dominant_share(used)

    def move(self, giver: Job, taker: Job, given: Amounts, taken: Amounts) -> None:
        """Count a recall."""
        for job, amounts, sign in ((giver, given, -1), (taker, taken, 1)):
            used = dict(self._used.get(job.job_id, job.used))
            for name, units in amounts.items():
                used[name] = used.get(name, 0) + sign * units
            self._used[job.job_id] = used


def choose_recalls(waiting: Iterable[Demand], leases: Iterable[Lease], nodes: NodeTable, now: Instant) -> Recalls:
    """Decide what to recall now.

    Args:
        waiting: What could not be placed, in the order of the queues.
        leases: All that there are.
        nodes: For the shares, and for what is short where.
        now: The time.
    """
    shares, useful_for = _Shares(nodes), _Usefulness(nodes)
    looked_at = list(islice(waiting, MAXIMUM_LOOKED_AT))
    givers = []
    coming: dict[int, int] = {}
    for lease in leases:
        if lease.recalled or lease.state == ENDING:
            taker = lease.recalled_for or next(
                (demand for demand in looked_at if useful_for.helps(lease, demand)), None
            )
            if taker is not None:
                coming[taker.arrival] = coming.get(taker.arrival, 0) + 1
                shares.move(lease.job, taker.job, lease.charged, _taken_by(taker))
        elif lease.state == HELD and not lease.actor_id:
            givers.append(lease)
    chosen: list[tuple[Lease, Demand]] = []
    again: Instant | None = None
    for demand in looked_at:
        needed = demand.shortfall - coming.get(demand.arrival, 0)
        taken = _taken_by(demand)
        useful = [lease for lease in givers if useful_for.helps(lease, demand)]
        useful.sort(key=lambda lease: (-shares.of(lease.job), -lease.lease_id))
        for lease in useful:
            if needed <= 0:
                break
            if lease.job is not demand.job and shares.of(lease.job, less=lease.charged) >= shares.of(
                demand.job, more=taken
            ):
                chosen.append((lease, demand))
                givers.remove(lease)
                shares.move(lease.job, demand.job, lease.charged, taken)
                needed -= 1
        starves = not demand.held and not demand.starting and needed == demand.shortfall
        if starves and demand.arrival not in coming:
            lease_or_when = _for_the_starving(demand, [lease for lease in useful if lease in givers], shares, now)
            if isinstance(lease_or_when, Lease):
                chosen.append((lease_or_when, demand))
                givers.remove(lease_or_when)
                shares.move(lease_or_when.job, demand.job, lease_or_when.charged, taken)
            elif lease_or_when is not None:
                again = lease_or_when if again is None else min(again, lease_or_when)
    return Recalls(chosen, again)


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


def _for_the_starving(demand: Demand, useful: list[Lease], shares: _Shares, now: Instant) -> Lease | Instant | None:
    """Return the lease to give to a demand that has none, or when one will be ripe, or None."""
    own = shares.of(demand.job)
    ripe = [lease for lease in useful if lease.job is demand.job or shares.of(lease.job) >= own]
    if not ripe:
        return None
    oldest = min(ripe, key=lambda lease: (lease.since, lease.lease_id))
    when = Instant(oldest.since + QUANTUM_S)
    return oldest if now >= when else when
