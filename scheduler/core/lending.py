"""What leases lend to others for a while: the CPU of a task that waits, the devices of an actor that is idle.

TaskBlocked ─▶ its CPU is free ─ TaskUnblocked ─▶ taken again at once, also if others have it now
DevicesReleased ─▶ free ─ DevicesWanted ─▶ wanting ─ they are free, or were asked back ─▶ DevicesReturned
"""

from __future__ import annotations

from atoll.protocol.leave_messages import DevicesReturned
from atoll.resources import CPU, MEMORY, Amounts
from atoll.scheduler.core.demands import DemandTable
from atoll.scheduler.core.lease import HELD, Lease
from atoll.scheduler.core.leases import LeaseTable
from atoll.scheduler.core.shares import ShareTable
from atoll.scheduler.core.turn import Turn
from atoll.scheduler.core.usage import Ledger


class Lending:
    """Takes back for a while what leases do not use.

    Args:
        turn: The time, and where actions go.
        leases: All of them.
        demands: Told when something changes that bears on who waits.
        shares: What sessions use.
        ledger: Counts what is held.
    """

    def __init__(
        self, turn: Turn, leases: LeaseTable, demands: DemandTable, shares: ShareTable, ledger: Ledger
    ) -> None:
        self._turn = turn
        self._leases = leases
        self._demands = demands
        self._shares = shares
        self._ledger = ledger

    def block(self, lease: Lease) -> None:
        """The task waits in `get`: lend its CPU. Memory is lent too where it was a guess: what it waits for may need
        as much, and a guess must not keep tasks waiting for each other."""
        if lease.state == HELD and not lease.blocked:
            self._demands.touched = True
            names = (CPU, MEMORY) if MEMORY in lease.scheduling_class.auto else (CPU,)
            lent = lease.node.block(lease.lease_id, names)
            self._leases.room_on(lease)  # also without a CPU: there is room for a worker more
            self._count_lent(lease, lent, -1)

    def unblock(self, lease: Lease) -> None:
        """The task goes on, whether its CPU is free or not."""
        if lease.blocked:
            self._demands.touched = True
            self._count_lent(lease, lease.node.unblock(lease.lease_id), 1)

    def lend_devices(self, lease: Lease) -> None:
        """An idle actor has given its devices up: they are others' until it is called."""
        if lease.state != HELD or not lease.shares or lease.away:
            return
        self._demands.touched = True
        lent = lease.node.lend_devices(lease.lease_id)
        self._leases.room_on(lease)
        self._count_lent(lease, lent, -1)

    def want_devices(self, lease: Lease) -> None:
        """It has been called: it gets them back before anybody else gets them."""
        if lease.away and lease.wanted_since is None:
            lease.wanted_since = self._turn.now
            self._leases.wanting[lease.lease_id] = lease

    def return_devices(self) -> None:
        """Give devices back to the actors that have been called, those that wait longest first, as far as they are
        free. Tasks that have them are asked to drain; nothing is killed."""
        for lease in list(self._leases.wanting.values()):
            taken = lease.node.reclaim_devices(lease.lease_id)
            if taken is None:
                self._ask_back(lease)
                continue
            self._demands.touched = True
            del self._leases.wanting[lease.lease_id]
            lease.wanted_since = None
            self._count_lent(lease, taken, 1)
            self._turn.send(lease.node.peer, DevicesReturned(lease.lease_id))

    def _ask_back(self, lease: Lease) -> None:
        """Recall the leases of tasks that have devices which an actor wants back."""
        wanted = {share.uuid for share in lease.away}
        for holder in self._leases.holding(lease.node, wanted):
            if holder.record is not None and not holder.recalled and holder.state == HELD:
                self._leases.recall(holder, None)

    def _count_lent(self, lease: Lease, amounts: Amounts, sign: int) -> None:
        """Something was lent (-1) or taken again (1): a lease in a placement group lends to the others there."""
        if not amounts:
            return
        changed = {name: sign * units for name, units in amounts.items()}
        assert lease.tally is not None, "a lease that holds something is counted"
        self._ledger.take(lease.tally.account.key, changed)
        if lease.bundle is not None:
            self._ledger.give_back(self._ledger.key_of_groups(lease.bundle.group.job), changed)
            return
        if sign < 0:
            self._shares.discharge(lease.job, amounts)
        else:
            self._shares.charge(lease.job, amounts)
