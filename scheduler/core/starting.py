"""From what waits to leases that start: who is next, and which node gets it.

the first in order of what may fit ─▶ its choices, the best first ─▶ a node, or a bundle of its group ─▶ it starts
                 ▲                                  │ promised to somebody else, or too far from its data
                 └── its class is blocked ◀─────────┘ none, or not yet
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from atoll.protocol.machine import Instant
from atoll.protocol.values import SchedulingClass
from atoll.scheduler.core.demand import Demand
from atoll.scheduler.core.demands import DemandTable
from atoll.scheduler.core.group import Bundle
from atoll.scheduler.core.groups import GroupTable
from atoll.scheduler.core.leases import LeaseTable
from atoll.scheduler.core.nodes import Node, NodeTable
from atoll.scheduler.core.placement import Placement, Shape, eligible
from atoll.scheduler.core.shares import ShareTable
from atoll.scheduler.core.turn import Turn
from atoll.scheduler.policy import locality

NEVER = float("inf")
LEAST_WAIT_S = 1e-3
"""Of a node that has room, and has promised it."""

MAXIMUM_STARTED = 500
"""Leases that are started in one turn: nobody waits to speak while an empty cluster of a thousand nodes is filled."""


class Starting:
    """Serves what waits.

    Args:
        turn: The time.
        nodes: Where leases are placed.
        placement: Finds nodes.
        groups: The placement groups, from which some leases take.
        demands: What waits.
        leases: Where leases are started.
        shares: What sessions use: it says who is next.

    Attributes:
        promises: The nodes that are promised to somebody, by their order.
        may_go: Whether a demand may go to a node, as far as promises to others go.
        wait_s: In how long a request could begin on a node where it does not fit, as far as is known.
    """

    def __init__(
        self,
        turn: Turn,
        nodes: NodeTable,
        placement: Placement,
        groups: GroupTable,
        demands: DemandTable,
        leases: LeaseTable,
        shares: ShareTable,
    ) -> None:
        self._turn = turn
        self._nodes = nodes
        self._placement = placement
        self._groups = groups
        self._queues = demands.queues
        self._leases = leases
        self._shares = shares
        self.promises: Mapping[int, object] = {}
        self.may_go: Callable[[Demand, SchedulingClass, Shape, Node], bool] = lambda *_request: True
        self.wait_s: Callable[[Node, Shape], float] = lambda _node, _shape: NEVER

    def place(self) -> None:
        """Start leases for what waits, in the order of the queues, as far as resources go."""
        queues, shares, leases = self._queues, self._shares, self._leases
        started = 0
        while queues.anything_fits():
            for job in shares.refresh():
                queues.moved(job)
            if started == MAXIMUM_STARTED:
                self._turn.set_earlier("placement", self._turn.now)
                return
            demand, only = queues.next_fitting()
            found = self._choose(demand, only)
            if found is None:
                queues.block(demand)
                continue
            scheduling_class, shape, node, bundle = found
            leases.start(demand, scheduling_class, shape, node, bundle)
            started += 1
            queues.taken(demand)

    def _choose(self, demand: Demand, only: Node | None) -> tuple[SchedulingClass, Shape, Node, Bundle | None] | None:
        """Return the first choice that can be had now, and where.

        Args:
            demand: What is wanted.
            only: The only node on which it fits, in one of the ways that will do, if that is known.
        """
        for scheduling_class, shape in demand.choices:
            if not demand.group:
                if only is None:
                    node = self._placement.best(shape)
                elif len(demand.choices) > 1 and not only.fits(shape.wanted):
                    continue
                else:
                    node = only if shape.anywhere or eligible(self._nodes, shape, only) else None
                if node is not None and self.promises and not self.may_go(demand, scheduling_class, shape, node):
                    others = self._placement.several(shape, len(self.promises) + 1)
                    node = next((n for n in others if self.may_go(demand, scheduling_class, shape, n)), None)
                if scheduling_class.near and only is None:
                    node = self._nearest(demand, scheduling_class, shape, node)
                if node is not None:
                    return scheduling_class, shape, node, None
                continue
            bundle = self._groups.bundle_for(shape.wanted, scheduling_class)
            if bundle is not None and bundle.node is not None:
                return scheduling_class, shape, bundle.node, bundle
        return None

    def _nearest(
        self, demand: Demand, scheduling_class: SchedulingClass, shape: Shape, best: Node | None
    ) -> Node | None:
        """Return where to go if some nodes have what is taken: there, or to the best, or nowhere yet."""
        near, total = dict(scheduling_class.near), sum(size for _node_id, size in scheduling_class.near)
        places = {node.order: node for node_id in near if (node := self._nodes.get(node_id)) is not None}
        places = {order: node for order, node in places.items() if eligible(self._nodes, shape, node)}
        offers = []
        for node in {**places, **({best.order: best} if best is not None else {})}.values():
            free = node is best or (node.fits(shape.wanted) and self.may_go(demand, scheduling_class, shape, node))
            wait_s = 0.0 if free else max(self.wait_s(node, shape), LEAST_WAIT_S)
            if free or wait_s < NEVER:
                offers.append(locality.Offer(node.order, near.get(node.node_id, 0), wait_s))
        chosen = locality.choose(offers, total)
        if chosen is None or chosen.wait_s == 0.0:
            return best if chosen is None else places.get(chosen.order, best)
        patience_over = Instant(demand.since + locality.move_s(total))
        if patience_over <= self._turn.now:
            return best
        self._turn.set_earlier("locality", patience_over)
        return None
