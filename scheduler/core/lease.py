"""One lease as the scheduler knows it. What becomes of it is `leases.py`'s business."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from atoll.protocol.machine import Instant
from atoll.protocol.values import DeviceShare, SchedulingClass
from atoll.scheduler.core.account import Tally
from atoll.scheduler.core.demand import Demand
from atoll.scheduler.core.group import Bundle
from atoll.scheduler.core.jobs import Job
from atoll.scheduler.core.nodes import Node, Tenant
from atoll.scheduler.core.supply import NOTHING

STARTING, HELD, ENDING = "starting", "held", "ending"


class Lease(Tenant):
    """The right of one process to use one worker, or an actor's home; and what it holds of its node for that.

    Attributes:
        holder: The process that may use it; empty for an actor's.
        record: The holder's connection, while it is here.
        demand: What it was started for, while that is known.
        bundle: The part of a placement group that it takes from, if any.
        recalled_for: The demand because of which it was recalled.
        since: When it was granted; before that, when it began to start.
        tally: Where what it holds is counted.
        wanted_since: Since when its actor wants the devices back that it has given up; None while it does not.
    """

    __slots__ = (
        "address",
        "bundle",
        "demand",
        "holder",
        "killed",
        "node",
        "pid",
        "recalled",
        "recalled_for",
        "record",
        "scheduling_class",
        "since",
        "state",
        "tally",
        "wanted_since",
        "worker_id",
    )

    def __init__(
        self,
        lease_id: int,
        job: Job,
        scheduling_class: SchedulingClass,
        node: Node,
        now: Instant,
        demand: Demand | None = None,
        bundle: Bundle | None = None,
    ) -> None:
        self.amounts = self.lent = NOTHING  # as in `Holding` and `Tenant`: one is made at every placement
        self.shares: list[DeviceShare] = []
        self.blocked = False
        self.away: Sequence[DeviceShare] = ()
        self.lease_id = lease_id
        self.job = job
        self.name = scheduling_class.label
        self.scheduling_class = scheduling_class
        self.node = node
        self.since = now
        self.state = STARTING
        self.demand = demand
        self.actor_id = demand.actor_id if demand is not None else b""
        record = self.record = demand.record if demand is not None else None
        self.holder = record.process_id if record is not None else b""
        self.bundle = bundle
        self.worker_id = b""
        self.address = ""
        self.pid = 0
        self.recalled = False
        self.recalled_for: Demand | None = None
        self.killed = False
        self.tally: Tally | None = None
        self.wanted_since: Instant | None = None

    @property
    def charged(self) -> Mapping[str, int]:
        """What its job is charged for it: nothing in a placement group, which is charged as a whole."""
        return self.amounts if self.bundle is None else NOTHING
