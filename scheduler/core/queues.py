"""The queues of what waits: one for each scheduling class, ordered, so that the next to serve is always at the front.

    order within a class:   (share of the job, deadline, leases that the demand has, arrival)
    order of classes:       (-priority, then as the demand at the front)

All requests of a class need the same, so when the first does not fit, none does: the class is *blocked* until some
resource is given back, and the others are tried. So a decision costs a few look-ups in sorted lists, however many
requests wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sortedcontainers import SortedList

from atoll.exceptions import InternalError
from atoll.protocol.machine import Instant
from atoll.protocol.values import SchedulingClass
from atoll.scheduler.core.jobs import Job, PeerRecord
from atoll.scheduler.core.placement import Shape, shapes_of

ClassKey = tuple[Any, ...]
Place = tuple[int, float, int, int]

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
        held: Leases that it was granted and that have not ended, by id.
        since: When it began to wait.
        failures: Starts that failed in a row.
    """

    __slots__ = (
        "actor_id",
        "arrival",
        "choices",
        "class_key",
        "failures",
        "group",
        "held",
        "job",
        "key",
        "listed",
        "making_room",
        "record",
        "scheduling_class",
        "since",
        "starting",
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
            *(shape.key for _class, shape in self.choices),
        )
        self.making_room: dict[int, None] = {}
        self.arrival = arrival
        self.since = now
        self.wanted = 0
        self.failures = 0
        self.starting: dict[int, None] = {}
        self.held: dict[int, None] = {}
        self.listed: Place | None = None

    @property
    def shape(self) -> Shape:
        """What it asks for first."""
        return self.choices[0][1]

    @property
    def deadline(self) -> float:
        """When it had better begin."""
        wanted_s = self.scheduling_class.deadline_s
        return self.since + wanted_s if wanted_s else NEVER

    @property
    def shortfall(self) -> int:
        """Leases that are still to be started for it."""
        return self.wanted - len(self.starting)

    @property
    def place(self) -> Place:
        """Where it stands among those that wait: the job that has least goes first, and of it what is due first."""
        return self.job.share, self.deadline, len(self.held) + len(self.starting), self.arrival


class _ClassQueue:
    __slots__ = ("demands", "key", "listed", "number", "order")

    def __init__(self, number: int, key: ClassKey) -> None:
        self.number = number
        self.key = key
        self.order = SortedList()
        self.demands: dict[int, Demand] = {}
        self.listed: tuple[float, ...] | None = None


class DemandQueues:
    """All that waits for a lease to be started: every demand with a shortfall is in exactly one queue."""

    def __init__(self) -> None:
        self._queues: dict[ClassKey, _ClassQueue] = {}
        self._numbers: dict[int, _ClassQueue] = {}
        self._order = SortedList()
        self._blocked: dict[int, None] = {}
        self._last_number = 0

    def update(self, demand: Demand) -> None:
        """Put a demand where it belongs now: in its queue by its job's share, or nowhere if nothing is short."""
        wanted = demand.place if demand.shortfall > 0 else None
        if wanted == demand.listed:
            return
        queue = self._queues.get(demand.class_key)
        if queue is None:
            self._last_number += 1
            queue = self._queues[demand.class_key] = _ClassQueue(self._last_number, demand.class_key)
            self._numbers[queue.number] = queue
        if demand.listed is not None:
            queue.order.remove(demand.listed)
            del queue.demands[demand.arrival]
        demand.listed = wanted
        if wanted is not None:
            queue.order.add(wanted)
            queue.demands[demand.arrival] = demand
        self._list_again(queue)

    def _list_again(self, queue: _ClassQueue) -> None:
        front = queue.order[0] if queue.order else None
        wanted = None if front is None else (-queue.key[0], *front, queue.number)
        if wanted == queue.listed:
            return
        if queue.listed is not None:
            self._order.remove(queue.listed)
        queue.listed = wanted
        if wanted is not None:
            self._order.add(wanted)
            return
        del self._queues[queue.key]
        del self._numbers[queue.number]
        self._blocked.pop(queue.number, None)

    def next_unblocked(self) -> Demand | None:
        """Return the demand to serve next, of a class that is not blocked."""
        for *_before, arrival, number in self._order:
            if number not in self._blocked:
                return self._numbers[number].demands[arrival]
        return None

    def block(self, demand: Demand) -> None:
        """Leave out the class of a waiting demand until `unblock`."""
        self._blocked[self._queues[demand.class_key].number] = None

    def unblock(self) -> None:
        """Some resource was given back: everything is to be tried again."""
        self._blocked.clear()

    def waiting(self) -> Iterator[Demand]:
        """Yield what waits: classes in order, within each its demands in order."""
        for *_rest, number in self._order:
            queue = self._numbers[number]
            for *_before, arrival in queue.order:
                yield queue.demands[arrival]

    def __len__(self) -> int:
        return sum(len(queue.demands) for queue in self._queues.values())

    def check_invariants(self, demands: list[Demand]) -> None:
        """Raise `InternalError` unless exactly the demands with a shortfall are queued, once, in the right place."""
        queued = list(self.waiting())
        expected = [demand for demand in demands if demand.shortfall > 0]
        if len(queued) != len(expected) or {d.arrival for d in queued} != {d.arrival for d in expected}:
            raise InternalError(f"{len(queued)} demands are queued, {len(expected)} wait")
        for demand in queued:
            if demand.listed != demand.place:
                raise InternalError(f"demand {demand.arrival} is queued at {demand.listed}")
        if any(not queue.demands for queue in self._queues.values()) or len(self._order) != len(self._queues):
            raise InternalError("an empty queue is kept")
