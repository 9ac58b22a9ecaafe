"""Which work to end because something else waits: only what has said that it may be ended.

Opportunistic work takes what nobody wants, and comes after everything else in the queues. When something waits that
would fit if some of it were over, that much of it is ended, once; then one waits until its workers are gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import islice

from atoll.scheduler.core.demand import Demand
from atoll.scheduler.core.demands import DemandTable
from atoll.scheduler.core.lease import ENDING, Lease
from atoll.scheduler.core.leases import LeaseTable
from atoll.scheduler.core.nodes import Node, NodeTable
from atoll.scheduler.core.placement import eligible
from atoll.scheduler.core.supply import Wanted
from atoll.scheduler.policy import preemption

MAXIMUM_LOOKED_AT = 16
"""Demands that are looked at in one turn, the first of the queues."""


def choose_preemptions(leases: LeaseTable, demands: DemandTable, nodes: NodeTable) -> list[tuple[Lease, Demand]]:
    """Return which leases to end now, each for a demand."""
    chosen: list[tuple[Lease, Demand]] = []
    taken: dict[int, None] = {}
    for demand in islice(demands.queues.waiting(), MAXIMUM_LOOKED_AT):
        if demand.group or demand.scheduling_class.preemptible or demand.making_room:
            continue
        for lease in _victims(demand, leases, nodes, taken):
            taken[lease.lease_id] = None
            chosen.append((lease, demand))
    return chosen


def _victims(demand: Demand, leases: LeaseTable, nodes: NodeTable, taken: dict[int, None]) -> list[Lease]:
    """Return leases whose end makes room for one more lease of a demand; none if no number of them does."""
    by_node: dict[int, list[Lease]] = {}
    for lease in leases.preemptible.values():
        if lease.state != ENDING and lease.bundle is None and lease.lease_id not in taken:
            by_node.setdefault(lease.node.order, []).append(lease)
    for _class, shape in demand.choices:
        for candidates in by_node.values():
            node = candidates[0].node
            if not eligible(nodes, shape, node) or not node.could_ever_fit(shape.wanted):
                continue
            offers = [
                preemption.Offer(lease.lease_id, lease.scheduling_class.priority, lease.since) for lease in candidates
            ]
            found = preemption.choose(offers, partial(_fits_without, node, shape.wanted))
            if found is not None:
                return [lease for lease in candidates if lease.lease_id in found]
    return []


def _fits_without(node: Node, wanted: Wanted, lease_ids: Sequence[int]) -> bool:
    return node.fits_without(lease_ids, wanted)
