"""The queues of what waits: one for each scheduling class, ordered, so that the next to serve is always at the front.

    order within a class:   (share of the job, deadline, leases that the demand has, arrival)
    order of classes:       (-priority, then as the demand at the front)

All requests of a class need the same, so when the first does not fit, none does: the class is *blocked* until some
resource is given back, and the others are tried. So a decision costs a few look-ups in sorted lists, however many
requests wait.
"""

from __future__ import annotations

from collections.abc import Iterator

from sortedcontainers import SortedList

from atoll.exceptions import InternalError
from atoll.scheduler.core.demand import ClassKey, Demand


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
