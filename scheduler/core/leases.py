"""Leases: from what is wanted, by placement, to the right to use a worker, and back.

    SetDemand ─▶ waits ─ placed ─▶ STARTING ─ LeaseStarted ─▶ HELD ─ returned ─▶ ENDING ─ LeaseEnded ─▶ gone
                                      │ LeaseFailed:            │ the worker died:
                                      ▼ again, or refused       ▼ LeaseLost
                                     gone                      gone

Resources are taken when a lease starts and are free again only when its agent says so: a worker that is still being
killed holds its memory and its devices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from atoll.exceptions import InternalError
from atoll.protocol.messages import (
    DEVICES_TAKEN,
    PREEMPTED,
    EndLease,
    LeaseGranted,
    LeaseLost,
    LeaseRecalled,
    LeaseStarted,
    StartLease,
)
from atoll.protocol.values import MemoryLoss, SchedulingClass
from atoll.resources import Amounts
from atoll.scheduler.core.account import Tally
from atoll.scheduler.core.demand import Demand
from atoll.scheduler.core.demands import DemandTable
from atoll.scheduler.core.group import Bundle
from atoll.scheduler.core.groups import GroupTable
from atoll.scheduler.core.jobs import Job, PeerRecord
from atoll.scheduler.core.lease import ENDING, HELD, STARTING, Lease
from atoll.scheduler.core.nodes import Node, NodeTable
from atoll.scheduler.core.placement import Shape
from atoll.scheduler.core.shares import ShareTable
from atoll.scheduler.core.supply import wanted_of
from atoll.scheduler.core.turn import Turn
from atoll.scheduler.core.usage import Ledger

MAXIMUM_START_FAILURES = 3


class LeaseTable:
    """All leases.

    Args:
        turn: Where actions go.
        nodes: Where leases are placed.
        groups: The placement groups, from which some leases take.
        demands: What leases are started for.
        shares: What sessions use.
        ledger: Counts what is held.

    Attributes:
        get: Returns a lease that has not ended, by its id.
        leaving: Leases that end or were recalled, by id.
        wanting: Homes of actors that have been called and want their devices back, by id, the longest first.
        preemptible: Leases whose work may be ended when somebody needs what they hold, by id.
        name_of_actor: What people call an actor.
        is_cell: Whether an actor is a background cell.
        first_id: Lease ids of this scheduler's life begin here; smaller ones are its predecessor's.
    """

    def __init__(
        self,
        turn: Turn,
        nodes: NodeTable,
        groups: GroupTable,
        demands: DemandTable,
        shares: ShareTable,
        ledger: Ledger,
    ) -> None:
        self._turn = turn
        self._ledger = ledger
        self._nodes = nodes
        self._groups = groups
        self._shares = shares
        self._leases: dict[int, Lease] = {}
        self.get: Callable[[int], Lease | None] = self._leases.get
        self._by_worker: dict[bytes, Lease] = {}
        self._over_before: dict[int, None] = {}
        self._demands = demands
        self._queues = demands.queues
        demands.let_go = self._let_go
        self.preemptible: dict[int, Lease] = {}
        self.wanting: dict[int, Lease] = {}
        self.leaving: dict[int, Lease] = {}
        self.name_of_actor: Callable[[bytes], str] = lambda actor_id: actor_id.hex()
        self.is_cell: Callable[[bytes], bool] = lambda _actor_id: False
        self.first_id = 1
        self._next_id = 1

    def begin_epoch(self, epoch: int) -> None:
        """Number the leases of this life apart from those of earlier ones."""
        self.first_id = self._next_id = epoch << 32 | 1

    def was_lost(self, lease_id: int) -> bool:
        """Whether a lease that a node reports was already over: what began in this life was, when its node was lost."""
        return lease_id >= self.first_id or lease_id in self._over_before

    def __iter__(self) -> Iterator[Lease]:
        return iter(self._leases.values())

    def __len__(self) -> int:
        return len(self._leases)

    def of_worker(self, worker_id: bytes) -> Lease | None:
        """Return the lease that a worker works for."""
        return self._by_worker.get(worker_id)

    # ----------------------------------------------------------------------------------------------- beginning

    def start(
        self, demand: Demand, scheduling_class: SchedulingClass, shape: Shape, node: Node, bundle: Bundle | None
    ) -> None:
        """Start a lease for a demand, on a node or in a bundle where it fits: see `Starting`."""
        lease_id, job, now = self._next_id, demand.job, self._turn.now
        self._next_id = lease_id + 1
        lease = Lease(lease_id, job, scheduling_class, node, now, demand, bundle)
        node.take(lease, shape.wanted, bundle.supply if bundle is not None else None)
        self._add(lease)
        demand.starting[lease_id] = None
        demand.leases += 1
        job.served = lease_id
        self._queues.update(demand)
        self._turn.send(
            node.peer,
            StartLease(
                lease_id,
                job.job_id,
                scheduling_class,
                lease.shares,
                bool(lease.actor_id),
                lease.holder,
                bundle.index if bundle is not None else -1,
                job.namespace,
                now,
            ),
        )

    def preempt(self, lease: Lease, demand: Demand) -> None:
        """End work that took only what nobody wanted, since a demand wants it now."""
        text = f"it was preempted: {demand.scheduling_class.label or 'other work'} needs what it had"
        if lease.state == HELD and lease.record is not None:
            self._turn.send(lease.record.peer, LeaseLost(lease.lease_id, PREEMPTED, text))
        lease.recalled_for = demand
        demand.making_room[lease.lease_id] = None
        self.end(lease, kill=True)

    def _add(self, lease: Lease) -> None:
        lease_id, job, amounts, bundle = lease.lease_id, lease.job, lease.amounts, lease.bundle
        self._demands.touched = True
        self._leases[lease_id] = job.leases[lease_id] = lease
        if lease.record is not None:
            lease.record.leases[lease_id] = lease
        if lease.scheduling_class.preemptible:
            self.preemptible[lease_id] = lease
        if lease.actor_id:
            lease.name = self.name_of_actor(lease.actor_id)
        tally = lease.demand.tally if lease.demand is not None else None
        if tally is None or tally.closed or tally.amounts is not amounts:
            tally = self._tally_of(lease)
        lease.tally = tally
        self._ledger.lease_began(tally)
        if bundle is None:
            self._shares.charge(job, amounts)
        else:
            bundle.leases[lease_id] = lease
            self._ledger.give_back(self._ledger.key_of_groups(bundle.group.job), amounts)
        if self._queues.restless:
            self._queues.company_changed()

    def _tally_of(self, lease: Lease) -> Tally:
        """Return where what a lease holds is counted. A demand remembers it for the next one."""
        is_actor = bool(lease.actor_id) and not self.is_cell(lease.actor_id)
        key = self._ledger.key_of(lease.job, lease.name, actor=is_actor)
        tally = self._ledger.account(key).tally(lease.amounts)
        if lease.demand is not None:
            lease.demand.tally = tally
        return tally

    # ------------------------------------------------------------------------------------------- what agents say

    def started(self, lease: Lease, message: LeaseStarted) -> None:
        """A worker is ready: grant the lease to who asked for it, or end it if nobody wants it any more."""
        lease.worker_id = message.worker_id
        lease.address = message.address
        lease.pid = message.pid
        self._by_worker[lease.worker_id] = lease
        if lease.state != STARTING:
            return
        demand = lease.demand
        assert demand is not None, "a lease is started for a demand"
        if demand.wanted == 0:
            self.end(lease, kill=False)
            return
        lease.state = HELD
        lease.since = self._turn.now
        demand.failures = 0
        demand.wanted -= 1
        del demand.starting[lease.lease_id]
        self._demands.touched = True  # it is as short as before, and stands where it stood
        self._grant(lease, demand.key)

    def over(self, lease: Lease, kind: str, text: str, memory: MemoryLoss | None = None) -> None:
        """A lease has failed or ended on its node, or with its node: free what it held and tell its holder."""
        state, demand, record = lease.state, lease.demand, lease.record
        if lease.lease_id < self.first_id:
            self._over_before[lease.lease_id] = None
        self._free(lease)
        if state == HELD and record is not None:
            self._turn.send(
                record.peer,
                LeaseLost(lease.lease_id, kind or "WorkerCrashedError", text or "the worker process ended", memory),
            )
        elif state == STARTING and demand is not None and not lease.actor_id and kind != DEVICES_TAKEN:
            demand.failures += 1
            if kind != "WorkerCrashedError" or demand.failures >= MAXIMUM_START_FAILURES:
                self._demands.refuse(
                    demand, kind or "WorkerCrashedError", text or "the worker process ended while it started"
                )

    def _free(self, lease: Lease) -> None:
        lease_id, job, amounts, bundle, node = lease.lease_id, lease.job, lease.amounts, lease.bundle, lease.node
        self._demands.touched = True
        assert lease.tally is not None, "a lease that holds something is counted"
        self._ledger.lease_ended(lease.tally, lease.lent)
        node.release(lease_id)
        if bundle is None:
            self._shares.discharge(job, amounts)
        else:
            self._ledger.take(self._ledger.key_of_groups(bundle.group.job), amounts)
            del bundle.leases[lease_id]
            self._groups.lease_over(bundle)
        del self._leases[lease_id], job.leases[lease_id]
        self.preemptible.pop(lease_id, None)
        self.leaving.pop(lease_id, None)
        self.wanting.pop(lease_id, None)
        if lease.recalled_for is not None:
            lease.recalled_for.making_room.pop(lease_id, None)
        if self._by_worker.get(lease.worker_id) is lease:
            del self._by_worker[lease.worker_id]
        if lease.demand is not None or lease.record is not None:
            self._detach(lease)
        queues = self._queues
        if queues.restless:
            queues.company_changed()
        queues.freed(node)
        if bundle is not None:
            queues.freed_in_group(bundle.group.spec.group_id)

    def room_on(self, lease: Lease) -> None:
        """Something of what a lease holds is free for now: what fits there is to be tried again."""
        self._queues.freed(lease.node)
        if lease.bundle is not None:
            self._queues.freed_in_group(lease.bundle.group.spec.group_id)

    def _let_go(self, demand: Demand) -> None:
        for lease_id in list(demand.starting):
            self.end(self._leases[lease_id], kill=False)

    def _detach(self, lease: Lease) -> None:
        record, demand = lease.record, lease.demand
        if record is not None:
            record.leases.pop(lease.lease_id, None)
            lease.record = None
        if demand is not None:
            lease.demand = None
            demand.starting.pop(lease.lease_id, None)
            demand.leases -= 1
            self._demands.requeue(demand)

    # ----------------------------------------------------------------------------------------- what holders say

    def end(self, lease: Lease, *, kill: bool, gently: bool = False) -> None:
        """Take a lease back; its resources are free when the agent has answered."""
        if lease.state == ENDING and (lease.killed or not kill):
            return
        lease.state = ENDING
        lease.killed = kill
        self.wanting.pop(lease.lease_id, None)
        self.leaving[lease.lease_id] = lease
        self._detach(lease)
        self._turn.send(lease.node.peer, EndLease(lease.lease_id, kill, gently))

    def recall(self, lease: Lease, demand: Demand | None) -> None:
        """Ask a holder for a lease back, because of a demand if it is one; nothing is killed."""
        lease.recalled = True
        lease.recalled_for = demand
        self.leaving[lease.lease_id] = lease
        if lease.record is not None:
            self._turn.send(lease.record.peer, LeaseRecalled(lease.lease_id))

    def nodes_changed(self) -> None:
        """All shares are to be computed anew, and everything that waits is to be tried again."""
        self._shares.stale_all()
        self.room_was_made()

    def room_was_made(self) -> None:
        """Something else than a lease has given back what it held: everything that waits is to be tried again."""
        self._demands.touched = True
        self._queues.unblock()

    def take_from_group(self, lease: Lease, text: str) -> None:
        """A placement group is removed: what runs in it ends, and its holder hears why."""
        if lease.state == HELD and lease.record is not None:
            self._turn.send(lease.record.peer, LeaseLost(lease.lease_id, "TaskPlacementGroupRemoved", text))
        self.end(lease, kill=True)

    def holder_lost(self, record: PeerRecord) -> None:
        """Forget what a process wanted, and take back what it held: it may have died in the middle of a task."""
        for demand in list(record.demands.values()):
            self._demands.withdraw(demand)
        for lease in list(record.leases.values()):
            self.end(lease, kill=lease.state == HELD)

    def holding(self, node: Node, uuids: Iterable[str]) -> list[Lease]:
        """Return the leases that hold any of these devices of a node."""
        found = {key for uuid in uuids for key in node.devices[uuid].held}
        return [lease for key in found if (lease := self._leases.get(key)) is not None]

    # ------------------------------------------------------------------------------------ after a reconnection

    def restore(
        self, node: Node, job: Job, start: StartLease, worker_id: bytes, address: str, actor_id: bytes = b""
    ) -> Lease | None:
        """Take up a lease that lives on from a predecessor's time; None if what it holds is not there.

        With `actor_id`, it is counted as an actor's; whose home it is, its actor says.
        """
        if start.lease_id in self._leases:
            return None
        wanted, shares = wanted_of(start.scheduling_class), list(start.devices)
        group = self._groups.get(start.scheduling_class.group)
        place = group.bundles[start.bundle] if group is not None and 0 <= start.bundle < len(group.bundles) else None
        bundle = place if place is not None and place.node is node else None
        lease = Lease(start.lease_id, job, start.scheduling_class, node, self._turn.now)
        if bundle is None or not node.take_again(lease, wanted, shares, bundle.supply):
            bundle = None  # it takes from the node itself until it has ended
            if not node.take_again(lease, wanted, shares):
                return None
        lease.bundle = bundle
        lease.state = HELD
        lease.holder = start.holder
        lease.worker_id = worker_id
        lease.address = address
        lease.actor_id = actor_id
        self._add(lease)
        if worker_id:
            self._by_worker[worker_id] = lease
        if lease.lease_id < self.first_id and lease.tally is not None:
            giver = self._ledger.key_of_groups(bundle.group.job) if bundle is not None else None
            key, begun = lease.tally.account.key, start.begun
            if self._ledger.resume(key, lease.amounts, begun, lease.lease_id, giver) and bundle is None:
                self._shares.resume(job, lease.amounts, begun)
        return lease

    def claim(self, record: PeerRecord) -> None:
        """A process has come back: what it held before is its own again, unless it has returned it meanwhile."""
        for lease in self:
            if lease.record is None and lease.holder == record.process_id and lease.state == HELD:
                lease.record = record
                record.leases[lease.lease_id] = lease
                self._grant(lease, 0)
                if lease.recalled:
                    self._turn.send(record.peer, LeaseRecalled(lease.lease_id))

    def _grant(self, lease: Lease, demand_key: int) -> None:
        if lease.record is not None:
            node = lease.node
            granted = LeaseGranted(
                demand_key, lease.lease_id, lease.worker_id, lease.address, node.node_id, node.name, lease.shares
            )
            self._turn.send(lease.record.peer, granted)

    def unclaimed(self) -> list[Lease]:
        """Return the leases whose holder has not come back."""
        return [lease for lease in self if lease.record is None and lease.state == HELD and not lease.actor_id]

    # ------------------------------------------------------------------------------------------------- checking

    def check_invariants(self) -> None:
        """Raise `InternalError` if leases, demands, holdings and charges contradict each other."""
        self._queues.check_invariants(list(self._demands))
        for lease in self:
            if lease.lease_id not in lease.node.holdings or self._nodes.get(lease.node.node_id) is not lease.node:
                raise InternalError(f"lease {lease.lease_id} holds nothing on {lease.node.name}")
            if lease.job.leases.get(lease.lease_id) is not lease:
                raise InternalError(f"lease {lease.lease_id} is not among those of its job")
            if lease.state == STARTING and (lease.demand is None or lease.lease_id not in lease.demand.starting):
                raise InternalError(f"lease {lease.lease_id} starts for nobody")
        held = sum(len(node.holdings) for node in self._nodes)
        if held != len(self._leases):
            raise InternalError(f"{held} leases hold something and there are {len(self._leases)}")
        had = Counter(lease.demand.arrival for lease in self if lease.demand is not None)
        for demand in self._demands:
            starting = [lease_id for lease_id in demand.starting if self._leases[lease_id].state != STARTING]
            if starting or demand.wanted < 0 or len(demand.starting) > len(self._leases):
                raise InternalError(f"demand {demand.arrival} counts leases as starting that do not: {starting}")
            if demand.leases != had[demand.arrival]:
                raise InternalError(f"demand {demand.arrival} has {had[demand.arrival]} leases, not {demand.leases}")

    def check_charges(self, jobs: Iterator[Job]) -> None:
        """Raise `InternalError` unless each job is charged with exactly what its leases and its groups hold."""
        held_of: dict[bytes, list[Bundle]] = {}
        for bundle in self._groups.holders():
            held_of.setdefault(bundle.group.job.job_id, []).append(bundle)
        for job in jobs:
            used: Amounts = {}
            for lease in job.leases.values():
                for name, units in lease.charged.items():
                    used[name] = used.get(name, 0) + units
            for bundle in held_of.get(job.job_id, ()):
                for name, units in bundle.held.items():
                    used[name] = used.get(name, 0) + units
            if {name: units for name, units in used.items() if units} != job.history.held():
                raise InternalError(f"job {job.job_id.hex()} is charged {job.used} and holds {used}")
