"""What is wanted: demands of processes, and of actors for a home. What waits of them is in the queues.

SetDemand, an actor ─▶ entered ─ wanted changes, leases start, are held, end ─▶ nothing wanted, nothing held: gone
                          └ no node could ever give it, its session ends: refused ─▶ gone
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from atoll.protocol.messages import DemandRefused, SetDemand
from atoll.protocol.values import SchedulingClass
from atoll.resources import describe
from atoll.scheduler.core.demand import Demand
from atoll.scheduler.core.groups import GroupTable
from atoll.scheduler.core.jobs import Job, PeerRecord
from atoll.scheduler.core.placement import Placement, Shape, shapes_of
from atoll.scheduler.core.queues import DemandQueues
from atoll.scheduler.core.supply import wanted_of
from atoll.scheduler.core.turn import Turn
from atoll.scheduler.policy.company import needed_actors

MAXIMUM_WANTED = 100_000
TIMER = "begin"


class DemandTable:
    """All demands.

    Args:
        turn: Where actions go.
        placement: Knows what could ever be given.
        groups: The placement groups, from which some demands take.

    Attributes:
        queues: What waits.
        resolve: Gives a class amounts for what it leaves to what has been learned; the composition sets it.
        let_go: Ends the leases that are being started for a demand which is withdrawn.
        is_dead: Whether an actor is known to be dead.
        touched: Whether anything changed that bears on who waits for what; reset by whoever looked.
    """

    def __init__(self, turn: Turn, placement: Placement, groups: GroupTable) -> None:
        self._turn = turn
        self._placement = placement
        self._groups = groups
        self._by_actor: dict[bytes, Demand] = {}
        self._demands: dict[int, Demand] = {}
        self._arrivals = itertools.count(1)
        self.queues = DemandQueues()
        self.resolve: Callable[[SchedulingClass], SchedulingClass] = lambda scheduling_class: scheduling_class
        self.let_go: Callable[[Demand], None] = lambda _demand: None
        self.is_dead: Callable[[bytes], bool] = lambda _actor_id: False
        self.touched = False
        self._early: dict[int, Demand] = {}

    def __iter__(self) -> Iterator[Demand]:
        """Yield all demands, by arrival."""
        return iter(list(self._demands.values()))

    def __len__(self) -> int:
        return len(self._demands)

    def set_demand(self, record: PeerRecord, job: Job, message: SetDemand) -> None:
        """Note how many leases of a class a process wants; an impossible wish is refused at once."""
        demand = record.demands.get(message.demand_key)
        count = min(message.count, MAXIMUM_WANTED)
        wanted = message.scheduling_class
        if wanted.auto and count > 0:
            wanted = self.resolve(wanted)
        if demand is not None and demand.scheduling_class != wanted:
            self.withdraw(demand)
            demand = None
        if demand is None:
            if count <= 0:
                return
            demand = Demand(job, record, message.demand_key, wanted, next(self._arrivals), self._turn.now)
            record.demands[message.demand_key] = demand
            self._enter(demand)
        elif demand.wanted == 0:
            demand.begin_to_wait(self._turn.now)
        demand.wanted = max(0, count)
        self.requeue(demand)
        reason = self.why_impossible(wanted) if count > 0 else None
        if reason:
            known = not wanted.group or self._groups.get(wanted.group) is not None
            self.refuse(demand, "TaskUnschedulableError" if known else "TaskPlacementGroupRemoved", reason)

    def want_for_actor(self, actor_id: bytes, job: Job, scheduling_class: SchedulingClass) -> None:
        """Ask for the one lease in which an actor is to live."""
        assert actor_id not in self._by_actor, "an actor asks for one lease at a time"
        wanted = self.resolve(scheduling_class) if scheduling_class.auto else scheduling_class
        demand = Demand(job, None, 0, wanted, next(self._arrivals), self._turn.now, actor_id)
        demand.wanted = 1
        self._by_actor[actor_id] = demand
        self._enter(demand)
        self.requeue(demand)

    def give_up_for_actor(self, actor_id: bytes) -> None:
        """The actor needs no lease any more; one that is on its way is ended."""
        demand = self._by_actor.get(actor_id)
        if demand is not None:
            self.withdraw(demand)

    def of_actor(self, actor_id: bytes) -> Demand | None:
        """Return the demand for an actor's home, while there is one."""
        return self._by_actor.get(actor_id)

    def wants_for_actor(self, actor_id: bytes) -> bool:
        """Whether a lease for an actor is waited for or on its way."""
        demand = self._by_actor.get(actor_id)
        return demand is not None and demand.wanted > 0

    def refuse(self, demand: Demand, kind: str, text: str) -> None:
        """Tell the asker that its demand is not met, and forget it."""
        if demand.record is not None:
            self._turn.send(demand.record.peer, DemandRefused(demand.key, kind, text))
        self.withdraw(demand)

    def why_impossible(self, scheduling_class: SchedulingClass) -> str | None:
        """Return why no node that is here could ever give a class; None also while there is no node."""
        reasons = [self._why_impossible(each, shape) for each, shape in shapes_of(scheduling_class)]
        return "; and instead: ".join(filter(None, reasons)) if all(reasons) else None

    def _why_impossible(self, scheduling_class: SchedulingClass, shape: Shape) -> str | None:
        if scheduling_class.group:
            return self._why_not_in_group(scheduling_class)
        beside = needed_actors(shape.company)
        if beside and all(self.is_dead(bytes.fromhex(actor_id)) for actor_id in beside):
            return f"the actor {beside[0]}, beside which it was to run, is dead"
        return self._placement.why_impossible(shape)

    def _why_not_in_group(self, scheduling_class: SchedulingClass) -> str | None:
        group = self._groups.get(scheduling_class.group)
        if group is None:
            return "its placement group has been removed, or never was"
        allowed = self._groups.allowed(group, scheduling_class)
        if not allowed:
            return f"its placement group has {len(group.bundles)} bundles, and none of number {scheduling_class.bundle}"
        wanted = wanted_of(scheduling_class)
        placed = [bundle.supply for bundle in allowed if bundle.supply is not None]
        if len(placed) < len(allowed) or any(supply.could_ever_fit(wanted) for supply in placed):
            return None
        bundles = "; ".join(describe(bundle.amounts) for bundle in allowed[:4])
        return f"no bundle of its placement group has {describe(scheduling_class.resources)}; they have: {bundles}"

    def impossible(self) -> list[tuple[Demand, str]]:
        """Return what waits and can never be placed on the nodes that are here."""
        reasons = [(demand, self.why_impossible(demand.scheduling_class)) for demand in self.queues.waiting()]
        return [(demand, reason) for demand, reason in reasons if reason]

    def _enter(self, demand: Demand) -> None:
        self._demands[demand.arrival] = demand
        demand.job.demands[demand.arrival] = demand

    def requeue(self, demand: Demand) -> None:
        """Put a demand where it belongs after any change of it; one of which nothing is left is forgotten."""
        self.touched = True
        if demand.scheduling_class.earliest_s:
            self._hold_back(demand)
        self.queues.update(demand)
        if demand.wanted == 0 and not demand.leases:
            self._demands.pop(demand.arrival, None)
            demand.job.demands.pop(demand.arrival, None)
            if demand.record is not None and demand.record.demands.get(demand.key) is demand:
                del demand.record.demands[demand.key]
            if self._by_actor.get(demand.actor_id) is demand:
                del self._by_actor[demand.actor_id]

    def _hold_back(self, demand: Demand) -> None:
        """What is to begin later is not queued before."""
        demand.early = demand.shortfall > 0 and demand.begins > self._turn.now
        if demand.early:
            self._early[demand.arrival] = demand
            self._turn.set_earlier(TIMER, demand.begins)
        else:
            self._early.pop(demand.arrival, None)

    def begin_due(self) -> None:
        """Queue what may begin now; to be called at the deadline `TIMER`."""
        for demand in list(self._early.values()):
            self.requeue(demand)

    def refuse_beside(self, actor_id: bytes, text: str) -> None:
        """What was to run beside an actor that is dead waits in vain."""
        for demand in self:
            if any(actor_id.hex() in needed_actors(shape.company) for _class, shape in demand.choices):
                self.refuse(demand, "TaskUnschedulableError", text)

    def withdraw(self, demand: Demand) -> None:
        """Forget what is wanted; what is on its way ends, what is held stays."""
        demand.wanted = 0
        if demand.record is not None and demand.record.demands.get(demand.key) is demand:
            del demand.record.demands[demand.key]
        if self._by_actor.get(demand.actor_id) is demand:
            del self._by_actor[demand.actor_id]
        self.let_go(demand)
        self.requeue(demand)

    def refuse_group(self, group_id: bytes, text: str) -> None:
        """What waits for a placement group that is removed waits in vain."""
        for demand in self:
            if demand.group == group_id:
                self.refuse(demand, "TaskPlacementGroupRemoved", text)
