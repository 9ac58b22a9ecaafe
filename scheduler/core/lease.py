"""One lease as the scheduler knows it. What becomes of it is `leases.py`'s business."""

from __future__ import annotations

from atoll.protocol.machine import Instant
from atoll.protocol.values import DeviceShare, SchedulingClass
from atoll.resources import Amounts
from atoll.scheduler.core.demand import Demand
from atoll.scheduler.core.group import Bundle
from atoll.scheduler.core.jobs import Job, PeerRecord
from atoll.scheduler.core.nodes import Node
from atoll.scheduler.core.usage import Account

STARTING, HELD, ENDING = "starting", "held", "ending"


class Lease:
    """The right of one process to use one worker, or an actor's home.

    Attributes:
        holder: The process that may use it; empty for an actor's.
        record: The holder's connection, while it is here.
        demand: What it was started for, while that is known.
        bundle: The part of a placement group that it takes from, if any.
        name: What people call what runs: the function, the cell, the actor.
        blocked: Whether its task waits, so that its CPU is lent.
        recalled_for: The demand because of which it was recalled.
        since: When it was granted; before that, when it began to start.
        account: Where what it holds is counted.
        away: The devices that its actor has given up for a while.
        wanted_since: Since when it wants them back; None while it does not.
    """

    __slots__ = (
        "account",
        "actor_id",
        "address",
        "away",
        "blocked",
        "bundle",
        "demand",
        "holder",
        "job",
        "killed",
        "lease_id",
        "name",
        "node",
        "pid",
        "recalled",
        "recalled_for",
        "record",
        "scheduling_class",
        "shares",
        "since",
        "state",
        "wanted_since",
        "worker_id",
    )

    def __init__(self, lease_id: int, job: Job, scheduling_class: SchedulingClass, node: Node, now: Instant) -> None:
        self.lease_id = lease_id
        self.job = job
        self.scheduling_class = scheduling_class
        self.node = node
        self.since = now
        self.state = STARTING
        self.holder = b""
        self.record: PeerRecord | None = None
        self.demand: Demand | None = None
        self.bundle: Bundle | None = None
        self.actor_id = b""
        self.name = scheduling_class.label
        self.shares: list[DeviceShare] = []
        self.worker_id = b""
        self.address = ""
        self.pid = 0
        self.blocked = False
        self.recalled = False
        self.recalled_for: Demand | None = None
        self.killed = False
        self.account: Account | None = None
        self.away: list[DeviceShare] = []
        self.wanted_since: Instant | None = None

    @property
    def amounts(self) -> Amounts:
        """What it holds now, without lent CPU."""
        return self.node.holdings[self.lease_id].amounts

    @property
    def charged(self) -> Amounts:
        """What its job is charged for it: nothing in a placement group, which is charged as a whole."""
        return self.amounts if self.bundle is None else {}
