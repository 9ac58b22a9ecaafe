"""Why a request waits: per node what is missing and who holds it, what would place it now, and when it can begin.

All of it is read from the same tables, and tried with the same code, by which placement decides. So a change that is
proposed is one that works: a test applies each of them, over thousands of states.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from atoll.protocol.explanation import ASK, END, FITS, IMPOSSIBLE, WAITS, Change, Explanation, Holder, NodeReason
from atoll.protocol.values import Outsider, SchedulingClass
from atoll.resources import GPU, GPU_MEMORY, UNITS_PER_ONE, Amounts, describe, from_units
from atoll.scheduler.core.cluster import Cluster
from atoll.scheduler.core.demand import Demand
from atoll.scheduler.core.group import Bundle, Group
from atoll.scheduler.core.lease import ENDING, Lease
from atoll.scheduler.core.nodes import MAXIMUM_WORKERS, Node
from atoll.scheduler.core.placement import Shape, shapes_of
from atoll.scheduler.core.supply import Holding, Supply, Wanted
from atoll.scheduler.policy.smallest import Part, smallest_release

MAXIMUM_HOLDERS = 8
"""Shown for a node."""

MAXIMUM_NODES = 16
"""Shown for a request."""

BRIEF_NODES, BRIEF_TRIED = 3, 64
"""Of the nodes that one line is made from: told, and tried for when it can begin."""

ACTOR_COST, GROUP_COST = 1e9, 1e12
"""What is lost with an actor or a group is more than with any task: they are proposed last."""

NEVER = float("inf")


class _Place(NamedTuple):
    """Where a request may go: a node, or a bundle of its placement group."""

    name: str
    node: Node
    supply: Supply

    @property
    def holdings(self) -> dict[int, Holding]:
        """What is held of it, by lease or (negative) by bundle."""
        held: dict[int, Holding] = {
            key: holding for key, holding in self.node.holdings.items() if holding.supply is self.supply
        }
        if self.supply is self.node.supply:
            held.update((number, reservation.holding) for number, reservation in self.node.reservations.items())
        return held

    def fits_without(self, keys: Iterable[int], wanted: Wanted) -> bool:
        """Whether the request would fit if these holders were gone."""
        trial, gone = self.supply.copy(), 0
        holdings = self.holdings
        for key in keys:
            trial.give_back(key, holdings[key])
            gone += key > 0 and not holdings[key].blocked
        return len(self.node.holdings) - self.node.blocked_count - gone < MAXIMUM_WORKERS and trial.fits(wanted)


class Reasons:
    """Explains requests.

    Args:
        cluster: What there is.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._placement = cluster.placement
        self._bundles = {bundle.number: bundle for bundle in cluster.groups.holders()}

    def of_demand(self, demand: Demand) -> Explanation:
        """Explain what a process or an actor waits for."""
        waiting = list(self._cluster.demands.queues.waiting())
        return self._told(demand, waiting.index(demand) if demand in waiting else 0)

    def of_all(self, *, briefly: bool = False) -> list[tuple[Demand, Explanation]]:
        """Explain everything that waits, in the order in which it is served.

        Args:
            briefly: Only as much as one line tells: it is made for everybody who looks, several times a second.
        """
        waiting = enumerate(self._cluster.demands.queues.waiting())
        return [(demand, self._told(demand, before, briefly)) for before, demand in waiting]

    def _told(self, demand: Demand, before: int, briefly: bool = False) -> Explanation:
        waited_s = self._cluster.turn.now - demand.since
        found = self._explain(demand.scheduling_class, demand, waited_s, before, briefly)
        return msgspec.structs.replace(
            found,
            what=demand.scheduling_class.label,
            who=demand.job.name,
            job=demand.job.job_id.hex(),
            count=demand.shortfall,
        )

    def of_return(self, lease: Lease) -> Explanation:
        """Explain an actor that has been called and waits for the devices that it had given up."""
        assert lease.wanted_since is not None, "only who wants them back waits for them"
        waited_s = self._cluster.turn.now - lease.wanted_since
        numbers = ", ".join(str(share.index) for share in lease.away)
        text = f"waits for GPU {numbers}, which it has given up while it was idle"
        missing = {GPU: sum(share.units for share in lease.away)}
        holdings = lease.node.holdings
        holders = [
            self._holder(holder.lease_id, holdings[holder.lease_id])
            for holder in self._cluster.leases.holding(lease.node, [share.uuid for share in lease.away])
        ]
        reason = NodeReason(
            lease.node.name, f"{lease.node.name}: it takes the same devices again", _people(missing), holders
        )
        return Explanation(describe(missing), WAITS, text, waited_s, nodes=[reason])

    def of_class(self, scheduling_class: SchedulingClass) -> Explanation:
        """Explain what would be if somebody asked for this now."""
        scheduling_class = self._cluster.peaks.resolve(scheduling_class)
        return self._explain(scheduling_class, None, 0.0, len(self._cluster.demands.queues))

    # ---------------------------------------------------------------------------------------------- the whole of it

    def _explain(
        self,
        scheduling_class: SchedulingClass,
        demand: Demand | None,
        waited_s: float,
        before: int,
        briefly: bool = False,
    ) -> Explanation:
        request = " or ".join(describe(shape.wanted_as_asked) for _class, shape in shapes_of(scheduling_class))
        impossible = self._cluster.demands.why_impossible(scheduling_class)
        if not len(self._cluster.nodes):
            return Explanation(request, WAITS, "no node has registered with the cluster yet", waited_s)
        group = self._cluster.groups.get(scheduling_class.group) if scheduling_class.group else None
        if group is not None and group.waits:
            text = f"its placement group is {group.state}: {why_group_waits(self._cluster, group)}"
            return Explanation(request, WAITS, text, waited_s, before)
        if demand is not None and demand.early:
            begins_s = demand.begins - self._cluster.turn.now
            text = f"it is not to begin before {begins_s:.3g} s from now"
            return Explanation(request, WAITS, text, waited_s, before, starts_in_s=begins_s)
        choices = [(each, shape, self._places(each, shape)) for each, shape in shapes_of(scheduling_class)]
        if impossible is not None:
            return Explanation(request, IMPOSSIBLE, impossible, waited_s, changes=self._ask_less(choices, ever=True))
        for _each, shape, places in choices:
            for place in places:
                if place.fits_without((), shape.wanted):
                    return self._fits(request, demand, shape, place, waited_s, before)
        alone = [self._placement.why_no_company(shape) for _each, shape, _places in choices]
        if all(alone):
            return Explanation(request, WAITS, "; ".join(filter(None, alone)), waited_s, before)
        _class, first, places = choices[0]
        told = places[: BRIEF_NODES if briefly else MAXIMUM_NODES]
        tried = [(shape, place) for _each, shape, all_of_it in choices for place in all_of_it]
        starts_in_s = min(
            (self._starts_in_s(*each) for each in tried[: BRIEF_TRIED if briefly else None]), default=NEVER
        )
        changes = [] if briefly else [*self._ends(choices), *self._ask_less(choices, ever=False)]
        recalled = sum(lease.recalled_for is demand for lease in self._cluster.leases) if demand is not None else 0
        return Explanation(
            request,
            WAITS,
            "waits for what others hold" if told else "no node may be used",
            waited_s,
            before,
            [self._reason(first, place) for place in told],
            changes,
            starts_in_s if starts_in_s < NEVER else None,
            recalled=recalled,
            more_nodes=len(places) - len(told),
        )

    def _fits(
        self, request: str, demand: Demand | None, shape: Shape, place: _Place, waited_s: float, before: int
    ) -> Explanation:
        """Explain a request that fits: it would begin, or the place is promised to somebody."""
        promise = self._cluster.reservations.on(place.node)
        if demand is None or promise is None or promise.owner is demand:
            return Explanation(request, FITS, f"it begins now on {place.name}", waited_s, before, starts_in_s=0.0)
        owner = promise.owner
        what = owner.spec.name or "a placement group" if isinstance(owner, Group) else owner.scheduling_class.label
        text = f"{place.name} is promised to {what or 'a larger request'}, which waits for more of it"
        reason = NodeReason(place.name, text, {}, [])
        return Explanation(request, WAITS, text, waited_s, before, [reason])

    def _places(self, scheduling_class: SchedulingClass, shape: Shape) -> list[_Place]:
        if scheduling_class.group:
            group = self._cluster.groups.get(scheduling_class.group)
            bundles: list[Bundle] = self._cluster.groups.allowed(group, scheduling_class) if group is not None else []
            return [
                _Place(f"bundle {bundle.index} on {bundle.node.name}", bundle.node, bundle.supply)
                for bundle in bundles
                if bundle.node is not None and bundle.supply is not None
            ]
        return [_Place(node.name, node, node.supply) for node in self._placement.eligible(shape)]

    # ------------------------------------------------------------------------------------------------- who holds it

    def _reason(self, shape: Shape, place: _Place) -> NodeReason:
        missing = place.supply.missing(shape.wanted)
        text = place.node.why_not(shape.wanted, place.supply)
        if place.supply is not place.node.supply:
            text = f"bundle on {text}"
        if not place.supply.could_ever_fit(shape.wanted):
            return NodeReason(place.name, f"{text}; it could never give that", _people(missing), [])
        names = [GPU if name == GPU_MEMORY else name for name in missing]
        found = [
            (key, holding)
            for key, holding in place.holdings.items()
            if not names or any(holding.amounts.get(name) for name in names)
        ]
        found.sort(key=lambda entry: (-max((entry[1].amounts.get(name, 0) for name in names), default=0), entry[0]))
        holders = [self._holder(key, holding) for key, holding in found[:MAXIMUM_HOLDERS]]
        if GPU in names:
            holders += self._outside(place)
        return NodeReason(place.name, text, _people(missing), holders)

    def _holder(self, key: int, holding: Holding) -> Holder:
        turn = self._cluster.turn
        devices = [share.index for share in holding.shares]
        bundle = self._bundles.get(key)
        if bundle is not None:
            group = bundle.group
            name = group.spec.name or group.spec.group_id.hex()[:8]
            since_s = max(0.0, turn.wall(turn.now) - group.created)
            return Holder("group", name, group.job.name, since_s, _people(holding.amounts), devices, 0)
        lease = self._cluster.leases.get(key)
        assert lease is not None, "what is held is held by a lease or by a bundle"
        kind = "actor" if self._is_actor(lease) else "task"
        what = lease.scheduling_class.label or kind
        since_s = max(0.0, turn.now - lease.since)
        return Holder(kind, what, lease.job.name, since_s, _people(holding.amounts), devices, key)

    @staticmethod
    def _outside(place: _Place) -> list[Holder]:
        """Return the processes outside of the cluster that hold memory of devices."""
        return [
            Holder("outside", str(outsider), "", 0.0, {GPU_MEMORY: outsider.used_bytes}, [use.device.index], 0)
            for use in place.supply.devices.values()
            if use.condition.foreign_bytes
            for outsider in use.condition.outsiders or [Outsider(0, use.condition.foreign_bytes)]
        ]

    # ------------------------------------------------------------------------------------------------- what to change

    def _ends(self, choices: Sequence[tuple[SchedulingClass, Shape, list[_Place]]]) -> list[Change]:
        """Return the smallest set of holders whose end would place the request."""
        best: tuple[int, float, Change] | None = None
        for _class, shape, places in choices:
            for place in places:
                parts = [Part(key, self._cost(key)) for key in place.holdings]
                found = smallest_release(parts, partial(place.fits_without, wanted=shape.wanted))
                if not found:
                    continue
                cost = sum(self._cost(key) for key in found)
                if best is None or (len(found), cost) < best[:2]:
                    best = (len(found), cost, self._end(place, found))
        return [best[2]] if best is not None else []

    def _cost(self, key: int) -> float:
        if key < 0:
            return GROUP_COST
        lease = self._cluster.leases.get(key)
        assert lease is not None, "what is held is held by a lease or by a bundle"
        if lease.state == ENDING:
            return -1.0
        return (ACTOR_COST if self._is_actor(lease) else 0.0) + self._cluster.turn.now - lease.since

    def _is_actor(self, lease: Lease) -> bool:
        """Whether a lease is that of an actor, and of no background cell: to people that is none."""
        actor = self._cluster.actors.find(lease.actor_id) if lease.actor_id else None
        return actor is not None and not self._cluster.actors.is_cell(lease.actor_id)

    def _end(self, place: _Place, keys: Sequence[int]) -> Change:
        holdings = place.holdings
        holders = [self._holder(key, holdings[key]) for key in keys]
        names = [f"{holder.what}{' of ' + holder.who if holder.who else ''}" for holder in holders]
        text = f"{_listed(names)} on {place.name} {'ended' if len(names) == 1 else 'all ended'}"
        groups = [self._bundles[key].group.spec.group_id.hex() for key in keys if key < 0]
        return Change(END, text, [key for key in keys if key > 0], list(dict.fromkeys(groups)))

    def _ask_less(self, choices: Sequence[tuple[SchedulingClass, Shape, list[_Place]]], *, ever: bool) -> list[Change]:
        """Return the request that is closest to what is asked for and fits: now, or on nodes that are empty."""
        best: tuple[float, Change] | None = None
        for scheduling_class, shape, places in choices:
            for place in places:
                supply = place.supply if not ever else _emptied(place)
                less = _reduced(scheduling_class.resources, supply, shape.wanted)
                if less is None or not place.fits_without(() if not ever else place.holdings, less.wanted):
                    continue
                loss = _loss(scheduling_class.resources, less.asked)
                change = Change(ASK, f"it asked for {describe(less.asked)}", resources=_people(less.asked))
                if best is None or loss < best[0]:
                    best = (loss, change)
        return [best[1]] if best is not None else []

    def _starts_in_s(self, shape: Shape, place: _Place) -> float:
        """Return in how long enough of the holders will have ended, as far as can be known."""
        if not place.supply.could_ever_fit(shape.wanted):
            return NEVER
        ordered = sorted((self._remaining_s(key), key) for key in place.holdings)
        for number, (remaining_s, _key) in enumerate(ordered, 1):
            if place.fits_without([key for _s, key in ordered[:number]], shape.wanted):
                return remaining_s
        return NEVER

    def _remaining_s(self, key: int) -> float:
        lease: Lease | None = self._cluster.leases.get(key) if key > 0 else None
        return self._cluster.reservations.remaining_s(lease) if lease is not None else NEVER


class _Less(NamedTuple):
    asked: Amounts
    wanted: Wanted


def _emptied(place: _Place) -> Supply:
    trial = place.supply.copy()
    for key, holding in place.holdings.items():
        trial.give_back(key, holding)
    return trial


def _reduced(asked: Amounts, supply: Supply, wanted: Wanted) -> _Less | None:
    """Return a request that takes less of what is missing, and nothing else; None if nothing would be left of it."""
    less = dict(asked)
    for name, units in supply.missing(wanted).items():
        rest = less.get(name, 0) - units
        if name == GPU and rest > UNITS_PER_ONE:
            rest -= rest % UNITS_PER_ONE
        less[name] = rest
    less = {name: units for name, units in less.items() if units > 0}
    if not less or less == asked:
        return None
    amounts = {name: units for name, units in less.items() if name != GPU_MEMORY}
    return _Less(less, Wanted(amounts, less.get(GPU_MEMORY, 0) // UNITS_PER_ONE, wanted.device_types))


def _loss(asked: Amounts, less: Amounts) -> float:
    """Return how much of what was asked for is given up, from 0 to the number of resources."""
    return sum(1.0 - less.get(name, 0) / units for name, units in asked.items())


def _people(amounts: Mapping[str, int]) -> dict[str, float]:
    return {name: from_units(units) for name, units in amounts.items()}


def _listed(names: Sequence[str]) -> str:
    counts = {name: list(names).count(name) for name in names}
    parts = [name if count == 1 else f"{count} times {name}" for name, count in counts.items()]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def why_group_waits(cluster: Cluster, group: Group) -> str:
    """Return in words why a placement group is not placed."""
    lost = [bundle for bundle in group.bundles if bundle.node is None]
    for bundle in lost:
        reason = cluster.placement.why_impossible(bundle.shape)
        if reason is not None:
            return f"bundle {bundle.index}: {reason}"
    if any(bundle.expected for bundle in lost):
        return "the node that it had is expected back"
    for bundle in lost:
        nodes = cluster.placement.eligible(bundle.shape)
        if not any(node.fits(bundle.shape.wanted) for node in nodes):
            return f"bundle {bundle.index}: " + "; ".join(node.why_not(bundle.shape.wanted) for node in nodes)
    return f"each of its {len(lost)} bundles fits somewhere, but not all at once with {group.spec.strategy}"
