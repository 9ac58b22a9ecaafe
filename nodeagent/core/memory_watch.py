"""Who uses more of the host's memory than it may, and who ends when there is none left.

Two rules. A request that said how much memory it takes ends when it takes more: its process has a budget, as it has
CPUs and devices. And when the host is nearly full, whoever is furthest beyond what was set aside for it ends, one at a
time, so that the kernel does not choose instead. What is kept only to be quick goes first: memory that is warm for
objects, workers that wait for something to do.

Memory cannot be held back, so it is looked at: often where somebody could soon have too much, at most every
`LONGEST_PAUSE_S` elsewhere, and never while nothing runs. Looks are quick and count too much (`host_memory`); before
anything ends, an exact one is asked for.

What a worker had when a lease with a budget began is not counted: what its zygote has imported, and what earlier
leases have left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from atoll.nodeagent.core.events import MeasureMemory, MemoryMeasured, WorkerMemory
from atoll.nodeagent.core.outbox import Outbox
from atoll.protocol.machine import Instant
from atoll.protocol.values import MemoryLoss, Span
from atoll.resources import format_bytes, roomy_size, written_size

SHORTEST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0

FILL_RATE = 2 * 2**30
"""Bytes a second that one processor touches for the first time, at most: so soon somebody could have too much."""

LEAST_WORTH_BYTES = 64 * 2**20
"""Who has not even so much more than was set aside for it is not ended: that would not help."""

KEPT_FREE_SHARE = 0.04
LEAST_KEPT_FREE_BYTES, MOST_KEPT_FREE_BYTES = 128 * 2**20, 2 * 2**30

ROOM = 1.25
"""So much more than the peak is advised: the process was ended on its way up."""


def kept_free(total_bytes: int) -> int:
    """Return how much memory of a host is kept free: for the daemons, the kernel, and until somebody has ended."""
    return max(LEAST_KEPT_FREE_BYTES, min(MOST_KEPT_FREE_BYTES, int(total_bytes * KEPT_FREE_SHARE)))


@dataclass(slots=True)
class Use:
    """A lease whose worker is looked at, and what it uses. Sizes in bytes.

    Attributes:
        worker_id: The worker.
        pid: Its process.
        budget_bytes: What was set aside for the lease; 0 if it said nothing.
        guessed: Whether that is what its code has needed before, or a guess, and not what somebody asked for.
        cpus: So many processors may touch memory for it at once.
        preemptible: Whether it may be ended for others in any case.
        known: Whether it has been looked at.
        before_bytes: What a worker with a budget had when the lease began.
        counted_twice_bytes: By so much the quick figure was too high at the last exact look.
        pardoned_bytes: What it may use beyond its budget: the contents of devices that it has given up for a while.
        used_bytes: Beyond all that, at the last look.
        peak_bytes: The most that it was.
        recent_bytes: The most since the worker's last report.
        recent_device_bytes: The most memory of devices since then.
        exactly: Whether the next look is to be exact.
        running: The key of what was reported as running, and the most memory and device memory that it was seen with.
    """

    worker_id: bytes
    pid: int
    budget_bytes: int
    cpus: int
    preemptible: bool = False
    guessed: bool = False
    known: bool = False
    before_bytes: int = 0
    counted_twice_bytes: int = 0
    pardoned_bytes: int = 0
    used_bytes: int = 0
    peak_bytes: int = 0
    recent_bytes: int = 0
    recent_device_bytes: int = 0
    exactly: bool = False
    running: tuple[int, int, int] | None = None

    @property
    def excess_bytes(self) -> int:
        """What it uses beyond what was set aside for it."""
        return self.used_bytes - self.budget_bytes

    def take(self, found: WorkerMemory) -> None:
        """Take a look into account."""
        if found.exact_bytes is not None:
            self.counted_twice_bytes = max(0, found.quick_bytes - found.exact_bytes)
        own_bytes = found.quick_bytes - self.counted_twice_bytes
        if not self.known:
            self.known = True
            self.before_bytes = own_bytes if self.budget_bytes else 0
        self.used_bytes = max(0, own_bytes - self.before_bytes - self.pardoned_bytes)
        self.peak_bytes = max(self.peak_bytes, self.used_bytes)
        self.recent_bytes = max(self.recent_bytes, self.used_bytes)


class MemoryWatch:
    """Looks at the memory of what runs.

    Args:
        outbox: Where looks are asked for.
        offered_bytes: What the node offers to requests: nobody is advised to ask for more.
        kept_free_bytes: Kept free on the host; what is usual for its size if 0.
        end: Ends a lease: its number, what it lost by, and the reason in a line.
        make_room: Gives back what is kept only to be quick; returns whether there was any.
    """

    def __init__(
        self,
        outbox: Outbox,
        offered_bytes: int,
        kept_free_bytes: int,
        end: Callable[[int, MemoryLoss, str, Instant], None],
        make_room: Callable[[Instant], bool],
    ) -> None:
        self._outbox = outbox
        self._offered_bytes = offered_bytes
        self._kept_free_bytes = kept_free_bytes
        self._end = end
        self._make_room = make_room
        self._uses: dict[int, Use] = {}
        self._of_worker: dict[bytes, int] = {}
        self._looking = False
        self._look_at: Instant | None = None
        self._ending: int | None = None

    # ---------------------------------------------------------------------------------------------- who is looked at

    def begin(self, lease_id: int, use: Use, now: Instant) -> None:
        """A lease begins to run. One with a budget is looked at now, before its first task comes."""
        self._uses[lease_id] = use
        self._of_worker[use.worker_id] = lease_id
        if use.budget_bytes:
            use.exactly = True
            self._wake(now)
        else:
            self._wake(Instant(now + LONGEST_PAUSE_S))

    def forget(self, lease_id: int) -> None:
        """A lease runs no more."""
        use = self._uses.pop(lease_id, None)
        if use is not None and self._of_worker.get(use.worker_id) == lease_id:
            del self._of_worker[use.worker_id]
        if self._ending == lease_id:
            self._ending = None
        if not self._uses:
            self._look_at = None

    def pardon(self, lease_id: int, size_bytes: int) -> None:
        """Let a lease use so much more: its devices' contents lie in the host's memory now. 0 when they do no more."""
        use = self._uses.get(lease_id)
        if use is not None:
            use.pardoned_bytes = size_bytes

    def devices_used(self, worker_id: bytes, size_bytes: int) -> None:
        """Note how much memory of devices a worker uses."""
        use = self._use_of(worker_id)
        if use is not None and size_bytes > use.recent_device_bytes:
            use.recent_device_bytes = size_bytes

    def with_peaks(self, worker_id: bytes, spans: list[Span], code: bytes) -> list[Span]:
        """Return spans of a worker with the most memory that was seen since its last report.

        Args:
            worker_id: The worker.
            spans: With what the worker has seen itself: of its own process, without what that has started.
            code: Of all of them, if it is not said in each.

        Several codes in one report share nothing: nobody knows whose peak it was.
        """
        use = self._use_of(worker_id)
        if use is None:
            return spans
        tree_bytes, device_bytes = use.recent_bytes, use.recent_device_bytes
        use.recent_bytes = use.recent_device_bytes = 0
        codes = dict.fromkeys(span.code for span in spans)
        if not code and (len(codes) != 1 or b"" in codes):
            return spans
        found = []
        for span in spans:
            own_bytes = max(0, span.peak_bytes - use.before_bytes)
            earlier = use.running if use.running is not None and use.running[0] == span.key else (0, 0, 0)
            peak, device_peak = max(own_bytes, tree_bytes, earlier[1]), max(device_bytes, earlier[2])
            if span.state == "running":
                use.running = span.key, peak, device_peak
            found.append(
                msgspec.structs.replace(span, code=code or span.code, peak_bytes=peak, device_peak_bytes=device_peak)
            )
        return found

    def _use_of(self, worker_id: bytes) -> Use | None:
        lease_id = self._of_worker.get(worker_id)
        return self._uses.get(lease_id) if lease_id is not None else None

    # --------------------------------------------------------------------------------------------------------- looks

    def next_deadline(self) -> Instant | None:
        """Return when to look."""
        return None if self._looking else self._look_at

    def tick(self, now: Instant) -> None:
        """Look, if it is time."""
        if self._look_at is not None and self._look_at <= now and not self._looking:
            self._looking = True
            self._look_at = None
            self._outbox.do(MeasureMemory([(use.worker_id, use.pid, use.exactly) for use in self._uses.values()]))

    def _wake(self, at: Instant) -> None:
        if self._look_at is None or at < self._look_at:
            self._look_at = at

    def measured(self, event: MemoryMeasured, now: Instant) -> None:
        """Take a look: end who has too much, and decide when to look again."""
        self._looking = False
        for found in event.workers:
            use = self._use_of(found.worker_id)
            if use is not None:
                use.exactly = False if found.exact_bytes is not None else use.exactly
                use.take(found)
                if use.budget_bytes and use.excess_bytes > 0:
                    self._over_budget(found, use, now)
        kept_free_bytes = self._kept_free_bytes or kept_free(event.total_bytes)
        if event.available_bytes < kept_free_bytes:
            self._nearly_full(event, now)
        if self._uses:
            self._wake(Instant(now + self._pause_s(event.available_bytes - kept_free_bytes)))

    def _pause_s(self, headroom_bytes: int) -> float:
        """Return how soon somebody could have too much."""
        uses = [use for use in self._uses.values() if use.known]
        if len(uses) < len(self._uses) or any(use.exactly for use in uses):
            return SHORTEST_PAUSE_S
        running = sum(use.cpus for use in uses)
        soonest = headroom_bytes / (FILL_RATE * max(1, running))
        for use in uses:
            if use.budget_bytes:
                soonest = min(soonest, -use.excess_bytes / (FILL_RATE * use.cpus))
        return min(LONGEST_PAUSE_S, max(SHORTEST_PAUSE_S, soonest))

    def _over_budget(self, found: WorkerMemory, use: Use, now: Instant) -> None:
        if found.exact_bytes is None:
            use.exactly = True  # pages that it shares may have been counted twice
            self._wake(now)
            return
        advised = roomy_size(max(2 * use.budget_bytes, int(ROOM * use.peak_bytes)))
        budget = format_bytes(use.budget_bytes)
        text = (
            f"its process used {format_bytes(use.peak_bytes)} of memory at its peak, "
            + (f"{budget} were set aside for it. " if use.guessed else f"it asked for {budget}. ")
            + self._advice(advised)
        )
        again = self._again_bytes(use, advised) if use.guessed else 0
        lease_id = self._of_worker[use.worker_id]
        self._end(lease_id, MemoryLoss(use.peak_bytes, use.budget_bytes, advised, again), text, now)

    def _again_bytes(self, use: Use, advised_bytes: int) -> int:
        """Return with how much a lease's work may be run again; 0 if there is no more than it had."""
        again = min(self._offered_bytes, advised_bytes)
        return again if again > use.budget_bytes else 0

    def _advice(self, advised_bytes: int) -> str:
        if advised_bytes > self._offered_bytes:
            return f"This node has {format_bytes(self._offered_bytes)} in all: let it take less at a time"
        size = written_size(advised_bytes)
        return f'Ask for more: memory="{size}" (mem={size})'

    # ------------------------------------------------------------------------------------------------- a full host

    def _nearly_full(self, event: MemoryMeasured, now: Instant) -> None:
        """End one holder, unless one is ending, or room can be made otherwise."""
        if self._make_room(now) or self._ending is not None:
            return
        lease_id = choose_victim(self._uses.items())
        if lease_id is None:
            return
        use = self._uses[lease_id]
        if not _was_exact(event, use.worker_id):
            use.exactly = True
            self._wake(now)
            return
        self._ending = lease_id
        advised = roomy_size(max(2 * use.budget_bytes, int(ROOM * use.peak_bytes)))
        text = (
            f"its node ran out of memory ({format_bytes(event.available_bytes)} of {format_bytes(event.total_bytes)} "
            f"were left), and this process had the most beyond what was set aside for it: "
            f"{format_bytes(use.peak_bytes)} at its peak, {format_bytes(use.budget_bytes)} set aside. "
            + self._advice(advised)
        )
        loss = MemoryLoss(use.peak_bytes, use.budget_bytes, advised, self._again_bytes(use, advised))
        self._end(lease_id, loss, text, now)


def _was_exact(event: MemoryMeasured, worker_id: bytes) -> bool:
    return any(found.worker_id == worker_id and found.exact_bytes is not None for found in event.workers)


def choose_victim(uses: Iterable[tuple[int, Use]]) -> int | None:
    """Return the lease that ends when the host is full: the one that is furthest beyond what was set aside for it.

    Work that may be preempted goes first. Whoever is within what was set aside for it never goes.
    """
    chosen: tuple[tuple[bool, int], int] | None = None
    for lease_id, use in uses:
        if use.excess_bytes >= LEAST_WORTH_BYTES:
            rank = (use.preemptible, use.excess_bytes)
            if chosen is None or rank > chosen[0]:
                chosen = (rank, lease_id)
    return chosen[1] if chosen is not None else None
