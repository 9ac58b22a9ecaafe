"""Promises of nodes to what needs much at once, so that small requests do not take every piece of it.

    waits, holds nothing, is the first ─ AFTER_S ─▶ promised its nodes ─ it fits ─▶ begins
                                                          │ what runs there and can be asked back is asked back;
                                                          ▼ others go there only if `policy.reservation` allows it
                                 the request or a node of it goes: no promise any more

A promise takes nothing. It says no to others, and it is kept until who has it begins, is withdrawn, or a node goes. A
placement group is promised a node for each of its bundles, all or none. What an actor holds cannot be asked back, and
nobody knows when it ends: where that is in the way nothing is promised, or others would wait for ever, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from atoll.protocol.machine import Instant
from atoll.protocol.values import SchedulingClass
from atoll.resources import Amounts
from atoll.scheduler.core.demand import Demand
from atoll.scheduler.core.demands import DemandTable
from atoll.scheduler.core.durations import Durations
from atoll.scheduler.core.group import Group
from atoll.scheduler.core.groups import GroupTable
from atoll.scheduler.core.lease import ENDING, HELD, STARTING, Lease
from atoll.scheduler.core.leases import LeaseTable
from atoll.scheduler.core.nodes import Node
from atoll.scheduler.core.placement import Placement, Shape
from atoll.scheduler.core.supply import Holding, Supply, Wanted
from atoll.scheduler.core.turn import Turn
from atoll.scheduler.policy import bundles, labels, preemption
from atoll.scheduler.policy import reservation as policy

NEVER = float("inf")
DEADLINE = "reservations"

AT_ONCE, PER_LEASE_S = 64, 50e-6
"""With more leases than this, new promises are thought of only now and then: so long for each lease."""


class Promise(NamedTuple):
    """A node that is promised.

    Attributes:
        owner: To whom.
        node: Where.
        wanted: What is to begin there: one request, or some bundles.
    """

    owner: Demand | Group
    node: Node
    wanted: tuple[Wanted, ...]


class ReservationTable:
    """All promises.

    Args:
        turn: The time.
        leases: What is held.
        demands: What waits.
        groups: Placement groups that wait.
        placement: Knows which nodes will do.
        durations: How long tasks usually run.

    Attributes:
        by_node: The promises, by the order of their nodes.
        rests_until: Until when `update` has nothing to do: its deadline is set.
    """

    def __init__(
        self,
        turn: Turn,
        leases: LeaseTable,
        demands: DemandTable,
        groups: GroupTable,
        placement: Placement,
        durations: Durations,
    ) -> None:
        self._turn = turn
        self._leases = leases
        self._demands = demands
        self._groups = groups
        self._placement = placement
        self._durations = durations
        self.by_node: dict[int, Promise] = {}
        self._look_at = Instant(0.0)
        self.rests_until = Instant(0.0)

    def __iter__(self) -> Iterator[Promise]:
        return iter(self.by_node.values())

    def __len__(self) -> int:
        return len(self.by_node)

    def on(self, node: Node) -> Promise | None:
        """Return to whom a node is promised."""
        return self.by_node.get(node.order)

    def of(self, owner: Demand | Group) -> list[Promise]:
        """Return what somebody was promised."""
        return [promise for promise in self.by_node.values() if promise.owner is owner]

    # ------------------------------------------------------------------------------------------------- promising

    def update(self) -> None:
        """Drop promises that have no object any more, and make some if it is time."""
        turn = self._turn
        again = self._look()
        if again is None:
            turn.deadlines.pop(DEADLINE, None)
            self.rests_until = Instant(0.0)
        else:
            turn.deadlines[DEADLINE] = again
            self.rests_until = Instant(0.0) if self.by_node else min(again, self._look_at)

    def _look(self) -> Instant | None:
        """Do so, and return when to look again."""
        for promise in list(self.by_node.values()):
            if promise.node.gone or promise.node.draining or self._is_over(promise.owner):
                self._drop(promise.owner)
        again = None
        if self._look_at > self._turn.now:
            return self._look_at if self._demands.queues or self._groups.anything_waits else None
        for promise in list(self.by_node.values()):
            if shortage(self._cleared(promise.node), promise.wanted):
                self._drop(promise.owner)
        group = next(iter(self._groups.waiting()), None)
        demand = self._first_demand()
        for owner in (group, demand):
            if owner is None or self.of(owner) or len(self.by_node) >= policy.MAXIMUM:
                continue
            due = Instant(owner.since + policy.AFTER_S)
            if due <= self._turn.now:
                self.promise(owner)
            else:
                again = due if again is None else min(again, due)
        if len(self._leases) > AT_ONCE:
            self._look_at = self._turn.in_s(len(self._leases) * PER_LEASE_S)
        return again

    def _first_demand(self) -> Demand | None:
        for demand in self._demands.queues.waiting():
            if demand.group or demand.leases or demand.scheduling_class.preemptible:
                continue
            if demand.since + policy.AFTER_S > self._turn.now:
                return demand
            if self.of(demand) or (self._needs_much(demand) and self._can_be_promised(demand)):
                return demand
        return None

    def _can_be_promised(self, demand: Demand) -> bool:
        """Whether asking back what can be asked back would make room for it somewhere."""
        return any(
            node.order not in self.by_node and not self._cleared(node).missing(shape.wanted)
            for _class, shape in demand.choices
            for node in self._placement.eligible(shape)
        )

    def _needs_much(self, demand: Demand) -> bool:
        """Whether small requests could keep it waiting; what one lease of its size makes room for gets its turn."""
        for _class, shape in demand.choices:
            for node in self._placement.eligible(shape):
                short = shortage(node.supply, (shape.wanted,))
                if any(units != shape.wanted.amounts.get(name) for name, units in short.items()):
                    continue  # a part of it is free, and may be nibbled at
                for lease in self._leases_on(node):
                    if not lease.actor_id and _begins_without(node, node.supply, (shape.wanted,), [lease.lease_id]):
                        return False
        return True

    def _is_over(self, owner: Demand | Group) -> bool:
        if isinstance(owner, Group):
            return not owner.waits
        return owner.shortfall <= 0 or owner.leases > 0

    def _drop(self, owner: Demand | Group) -> None:
        for promise in self.of(owner):
            del self.by_node[promise.node.order]
        self._demands.queues.unblock()

    def promise(self, owner: Demand | Group, node: Node | None = None) -> None:
        """Promise the best nodes to somebody, or this one."""
        made = self._for_group(owner) if isinstance(owner, Group) else self._for_demand(owner, node)
        for each in made:
            self.by_node[each.node.order] = each
        self._demands.touched = self._demands.touched or bool(made)
        self.rests_until = Instant(0.0)

    def _for_demand(self, demand: Demand, node: Node | None) -> list[Promise]:
        best: tuple[float, int] | None = None
        chosen: list[Promise] = []
        for _class, shape in demand.choices:
            for each in [node] if node is not None else self._placement.eligible(shape):
                if each.order in self.by_node or self._cleared(each).missing(shape.wanted):
                    continue
                rank = (self._distance(each, shape), each.order)
                if best is None or rank < best:
                    best, chosen = rank, [Promise(demand, each, (shape.wanted,))]
        return chosen

    def _distance(self, node: Node, shape: Shape) -> float:
        """Return how far a node is from having room: what is missing, in nodes."""
        missing = node.supply.missing(shape.wanted)
        return sum(units / max(1, node.total.get(name, 1)) for name, units in missing.items())

    def _for_group(self, group: Group) -> list[Promise]:
        lost = sorted((bundle for bundle in group.bundles if bundle.node is None), key=lambda bundle: bundle.size)
        kept = [bundle.node for bundle in group.bundles if bundle.node is not None]
        ground = _ClearedGround(self, group)
        found = bundles.assign(group.spec.strategy, [bundle.index for bundle in lost], ground, kept)
        by_node: dict[int, list[Wanted]] = {}
        for bundle in lost if found is not None else ():
            assert found is not None, "there are bundles to promise"
            by_node.setdefault(found[bundle.index].order, []).append(bundle.shape.wanted)
        nodes = {node.order: node for node in (found or {}).values()}
        return [Promise(group, nodes[order], tuple(wanted)) for order, wanted in by_node.items()]

    def cleared_nodes(self, shape: Shape) -> list[tuple[Node, Supply]]:
        """Return nodes that are promised to nobody and will do, with what each has when all is back that can be."""
        nodes = self._placement.eligible(shape)
        return [(node, self._cleared(node)) for node in nodes if node.order not in self.by_node]

    def _cleared(self, node: Node) -> Supply:
        """Return what a node would have if all that can be asked back were back."""
        trial = node.supply.copy()
        for lease in self._leases_on(node):
            if lease.state == ENDING or not lease.actor_id:
                trial.give_back(lease.lease_id, node.holdings[lease.lease_id])
        return trial

    def _leases_on(self, node: Node) -> list[Lease]:
        found = (self._leases.get(lease_id) for lease_id in node.holdings)
        return [lease for lease in found if lease is not None and lease.bundle is None]

    # --------------------------------------------------------------------------------------------------- keeping

    def allows(self, demand: Demand, scheduling_class: SchedulingClass, shape: Shape, node: Node) -> bool:
        """Whether a demand may go to a node on which it fits, as far as promises to others go."""
        promise = self.by_node.get(node.order)
        if promise is None or _goes_before(demand, promise.owner):
            return True
        trial = node.supply.copy()
        trial.take(0, shape.wanted)
        before, after = shortage(node.supply, promise.wanted), shortage(trial, promise.wanted)
        lasts_s = self._durations.of(scheduling_class.label)
        return policy.may_backfill(before, after, lasts_s, self.begins_in_s(promise) if before else 0.0)

    def begins_in_s(self, promise: Promise) -> float:
        """Return in how long what is promised can begin there, as far as can be known; infinite if it cannot."""
        return self._begins_in_s(promise.node, promise.wanted)

    def _begins_in_s(self, node: Node, wanted: tuple[Wanted, ...]) -> float:
        trial = node.supply.copy()
        if not shortage(trial, wanted):
            return 0.0
        for remaining_s, lease_id in sorted(
            (self.remaining_s(lease), lease.lease_id) for lease in self._leases_on(node)
        ):
            trial.give_back(lease_id, node.holdings[lease_id])
            if not shortage(trial, wanted):
                return remaining_s
        return NEVER

    def wait_s(self, node: Node, shape: Shape) -> float:
        """Return in how long a request fits on a node, if nobody else takes what becomes free; infinite if unknown."""
        return self._begins_in_s(node, (shape.wanted,))

    def remaining_s(self, lease: Lease) -> float:
        """Return how long a lease will still last once it is asked back; infinite if nobody knows."""
        if lease.state in (ENDING, STARTING):
            return 0.0
        usual_s = self._durations.of(lease.scheduling_class.label)
        if lease.actor_id or usual_s is None:
            return NEVER
        return max(0.0, usual_s - (self._turn.now - lease.since) % max(usual_s, 1e-3))

    def to_recall(self) -> list[tuple[Lease, Demand | None]]:
        """Return leases to ask back so that promises can be kept, each for a demand: no more than must be."""
        chosen: list[tuple[Lease, Demand | None]] = []
        for promise in self.by_node.values():
            node = promise.node
            priority = 0 if isinstance(promise.owner, Group) else promise.owner.scheduling_class.priority
            trial, offers = node.supply.copy(), []
            for lease in self._leases_on(node):
                if lease.recalled or lease.state == ENDING:
                    trial.give_back(lease.lease_id, node.holdings[lease.lease_id])
                elif lease.state == HELD and not lease.actor_id and lease.scheduling_class.priority <= priority:
                    offers.append(preemption.Offer(lease.lease_id, -lease.job.share, lease.since))
            if not shortage(trial, promise.wanted):
                continue
            found = preemption.choose(offers, partial(_begins_without, node, trial, promise.wanted))
            owner = promise.owner if isinstance(promise.owner, Demand) else None
            chosen += [(lease, owner) for lease in self._leases_on(node) if lease.lease_id in (found or ())]
        return chosen


def _goes_before(demand: Demand, owner: Demand | Group) -> bool:
    """Whether a demand may take what is promised: its own, of a higher priority, or the same need, in turn."""
    if isinstance(owner, Group):
        return bool(demand.class_key[0] > 0)
    return demand.class_key == owner.class_key or bool(demand.class_key[0] > owner.class_key[0])


def _begins_without(node: Node, supply: Supply, wanted: tuple[Wanted, ...], lease_ids: Sequence[int]) -> bool:
    trial = supply.copy()
    for lease_id in lease_ids:
        trial.give_back(lease_id, node.holdings[lease_id])
    return not shortage(trial, wanted)


def shortage(supply: Supply, wanted: Sequence[Wanted]) -> Amounts:
    """Return what is missing for all of these at once; empty if they fit together."""
    if len(wanted) == 1:
        return supply.missing(wanted[0]) if not supply.fits(wanted[0]) else {}
    trial, short = supply.copy(), Amounts()
    for number, each in enumerate(wanted, 1):
        if trial.fits(each):
            trial.take(-number, each)
            continue
        for name, units in trial.missing(each).items():
            short[name] = short.get(name, 0) + units
    if short:  # what is missing of the sum: one after the other, a smaller one may fit into what a larger one lacks
        together = Amounts()
        for each in wanted:
            for name, units in each.amounts.items():
                together[name] = together.get(name, 0) + units
        for name, units in supply.pool.missing(together):
            short[name] = max(units, short.get(name, 0))
    return short


class _ClearedGround:
    """The nodes as they would be if all that can be asked back were back, for the search of places for a group."""

    def __init__(self, reservations: ReservationTable, group: Group) -> None:
        self._bundles = group.bundles
        self._found: dict[object, list[Node]] = {}
        self._supplies: dict[int, Supply] = {}
        self._held: dict[int, Holding] = {}
        for bundle in group.bundles:
            if bundle.shape.key not in self._found:
                nodes = reservations.cleared_nodes(bundle.shape)
                self._found[bundle.shape.key] = [node for node, _supply in nodes]
                for node, supply in nodes:
                    self._supplies.setdefault(node.order, supply)

    def places(self, bundle: int) -> list[Node]:
        return [node for node in self._found[self._bundles[bundle].shape.key] if self.fits(bundle, node)]

    def fits(self, bundle: int, place: Node) -> bool:
        shape = self._bundles[bundle].shape
        supply = self._supplies.get(place.order)
        return supply is not None and supply.fits(shape.wanted) and labels.matches(place.labels, shape.labels)

    def put(self, bundle: int, place: Node) -> None:
        number = self._bundles[bundle].number
        self._held[bundle] = self._supplies[place.order].take(number, self._bundles[bundle].shape.wanted)

    def take_back(self, bundle: int, place: Node) -> None:
        holding = self._held.pop(bundle)
        self._supplies[place.order].give_back(self._bundles[bundle].number, holding)
