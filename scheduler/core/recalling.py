"""When to think of recalls: at once while that is seldom, and with many changes now and then, for all of them at once.

something changed ─▶ looked at, `BURST` times in `WINDOW_S` ─▶ rests, longer with more leases ─▶ looked at
"""

from __future__ import annotations

from atoll.protocol.machine import Instant
from atoll.scheduler.core.demands import DemandTable
from atoll.scheduler.core.fairness import MAXIMUM_OF_A_QUEUE, choose_recalls
from atoll.scheduler.core.jobs import JobTable
from atoll.scheduler.core.leases import LeaseTable
from atoll.scheduler.core.nodes import NodeTable
from atoll.scheduler.core.reservations import ReservationTable
from atoll.scheduler.core.shares import ShareTable
from atoll.scheduler.core.turn import Turn

DEADLINE = "fairness"

BURST, WINDOW_S = 8, 0.002
"""So many decisions in so much time are taken at once; the changes after them are decided on together."""

PER_LEASE_S = 50e-6
"""With many leases, a decision rests for so long for each of them: the busier the cluster, the less it is looked at."""

AT_ONCE = 64
"""With fewer leases than this, only `BURST` bounds the decisions."""


class Recalling:
    """Asks back what others wait for.

    Args:
        turn: The time.
        jobs, nodes, shares: Who uses what of what.
        demands: What waits.
        leases: What is held.
        reservations: Promises, for which something may have to be asked back.

    Attributes:
        rests_until: Until when it need not be asked: its deadline is set.
    """

    def __init__(
        self,
        turn: Turn,
        jobs: JobTable,
        nodes: NodeTable,
        shares: ShareTable,
        demands: DemandTable,
        leases: LeaseTable,
        reservations: ReservationTable,
    ) -> None:
        self._turn = turn
        self._jobs = jobs
        self._nodes = nodes
        self._shares = shares
        self._demands = demands
        self._leases = leases
        self._reservations = reservations
        self.rests_until = Instant(0.0)
        self._again: Instant | None = None
        self._window_ends = Instant(0.0)
        self._looks = 0

    def recall(self) -> None:
        """Ask back what others wait for, if anything changed that bears on it; not to be called while it rests."""
        turn, demands, leases = self._turn, self._demands, self._leases
        if not demands.touched and (self._again is None or self._again > turn.now):
            turn.deadlines.pop(DEADLINE, None)
            if self._again is not None:
                turn.deadlines[DEADLINE] = self._again
            return
        demands.touched = False
        self._again = None
        turn.deadlines.pop(DEADLINE, None)
        if not demands.queues and not len(self._reservations):
            return
        for job in self._shares.refresh():
            demands.queues.moved(job)
        self._count()
        recalls = choose_recalls(
            demands.queues.fronts(MAXIMUM_OF_A_QUEUE),
            leases.leaving.values(),
            self._jobs,
            self._nodes,
            self._shares,
            turn.now,
        )
        for lease, demand in recalls.leases:
            leases.recall(lease, demand)
        for demand in recalls.turns:
            demands.queues.give_turn(demand)
        for lease, promised in self._reservations.to_recall():
            leases.recall(lease, promised)
            if promised is not None:
                demands.queues.give_turn(promised)  # else who has less takes it first, and it is asked back again
        self._again = recalls.again
        tick = self._shares.next_tick() if demands.queues and len(self._jobs) > 1 else None
        if tick is not None:
            self._again = max(tick, turn.now) if self._again is None else min(self._again, max(tick, turn.now))
        if self.rests_until > turn.now:
            turn.deadlines[DEADLINE] = self.rests_until  # what changes meanwhile is looked at then
        elif self._again is not None:
            turn.deadlines[DEADLINE] = self._again

    def _count(self) -> None:
        """Note that a decision is taken, and how long the next has to wait."""
        turn = self._turn
        if turn.now >= self._window_ends:
            self._window_ends, self._looks = turn.in_s(WINDOW_S), 0
        self._looks += 1
        if self._looks >= BURST:
            self.rests_until = self._window_ends
        if len(self._leases) > AT_ONCE:
            self.rests_until = max(self.rests_until, turn.in_s(len(self._leases) * PER_LEASE_S))
