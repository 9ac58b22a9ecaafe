"""What somebody wants of one scheduling class, and where that stands among what waits."""

from __future__ import annotations

from typing import Any

from atoll.protocol.machine import Instant
from atoll.protocol.values import SchedulingClass
from atoll.scheduler.core.account import Tally
from atoll.scheduler.core.jobs import Job, PeerRecord
from atoll.scheduler.core.placement import Shape, shapes_of

ClassKey = tuple[Any, ...]
Place = tuple[float, int, int]
"""Within a session: what is due first, then what has least, then what came first."""

BELOW_ALL = 1 << 40
"""What may be preempted comes after everything else, whatever its priority."""

NEVER = float("inf")


class Demand:
    """What one process wants of one class, or what one actor needs.

    Attributes:
        job: Who is charged.
        record: The connection that asked; None for an actor's.
        key: The asker's own number.
        actor_id: Empty unless it is for an actor.
        choices: What will do, the best first: each a class without choices, and its shape.
        making_room: Leases that are being ended so that this one can begin.
        group: The placement group that they take from; empty for none.
        class_key: Equal for demands that are interchangeable in placement.
        wanted: Leases beyond those that it holds.
        starting: Leases on their way, by id; each will satisfy one.
        leases: How many it has: on their way, and granted.
        since: When it began to wait.
        due: When it had better begin.
        early: Whether it is not to begin yet.
        tally: Where what its leases hold is counted, once it had one.
        line, listed: How the queues know it.
        failures: Starts that failed in a row.
    """

    __slots__ = (
        "actor_id",
        "arrival",
        "choices",
        "class_key",
        "due",
        "early",
        "failures",
        "group",
        "job",
        "key",
        "leases",
        "line",
        "listed",
        "making_room",
        "record",
        "scheduling_class",
        "since",
        "starting",
        "tally",
        "wanted",
    )

    def __init__(
        self,
        job: Job,
        record: PeerRecord | None,
        key: int,
        scheduling_class: SchedulingClass,
        arrival: int,
        now: Instant,
        actor_id: bytes = b"",
    ) -> None:
        self.job = job
        self.record = record
        self.key = key
        self.actor_id = actor_id
        self.scheduling_class = scheduling_class
        self.choices = shapes_of(scheduling_class)
        self.group = scheduling_class.group
        self.class_key: ClassKey = (
            scheduling_class.priority - (BELOW_ALL if scheduling_class.preemptible else 0),
            scheduling_class.group,
            scheduling_class.bundle,
            tuple(map(tuple, scheduling_class.near)),
            *(shape.key for _class, shape in self.choices),
        )
        self.making_room: dict[int, None] = {}
        self.arrival = arrival
        self.begin_to_wait(now)
        self.wanted = 0
        self.early = False
        self.tally: Tally | None = None
        self.line: Any = None
        self.listed: Place | None = None
        self.failures = 0
        self.starting: dict[int, None] = {}
        self.leases = 0

    @property
    def shape(self) -> Shape:
        """What it asks for first."""
        return self.choices[0][1]

    def begin_to_wait(self, now: Instant) -> None:
        """It waits from now on."""
        wanted_s = self.scheduling_class.deadline_s
        self.since = now
        self.due = now + wanted_s if wanted_s else NEVER

    @property
    def shortfall(self) -> int:
        """Leases that are still to be started for it."""
        return self.wanted - len(self.starting)

    @property
    def begins(self) -> Instant:
        """When a place is to be looked for at the earliest."""
        return Instant(self.since + self.scheduling_class.earliest_s)

    @property
    def waits(self) -> bool:
        """Whether a place is looked for now."""
        return self.wanted > len(self.starting) and not self.early

    @property
    def place(self) -> Place:
        """Where it stands among what its session wants."""
        return self.due, self.leases, self.arrival
