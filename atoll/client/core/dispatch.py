"""Which task goes to which worker, and when: leases, adaptive pipelining, taking back.

The client does not ask the scheduler for tasks to be run. For each scheduling class it asks for leases, and it hands
tasks to leased workers itself:

* A worker that runs nothing gets a task at once.
* How deep tasks queue on a busy worker follows from how long the class's tasks take: as many as fit into
  `QUEUE_AHEAD_S`, so that the worker never runs dry while an answer travels. Of tasks that take longer, up to
  `ONE_AHEAD_S`, one is queued: the worker goes on while its client is busy with the answer. That one still counts as
  waiting: the client asks for a lease for it, and a worker that runs dry gets it. A task that takes longer still never
  waits behind another. Before the first answer nothing is known and the depth is one.
* A worker that has answered nothing for long gets nothing more. What waits behind its task is taken back, and goes to
  a worker that runs dry, or makes the client ask for another lease.
* A task that must not run twice (no retries) is alone on its worker: if that dies, the task is known to have been
  begun, and no other task was the cause. After a worker with several tasks has died, each of these is tried again
  alone, at no charge: which of them was the cause cannot be known, since a task that has ended may not have been
  answered yet.
* A lease that was idle for `KEEP_IDLE_S` is returned; one that is recalled is drained and returned.

Times that this file compares are handed in; durations come from the workers' answers.
"""

from __future__ import annotations

from collections import deque

from atoll.client.core.links import Link
from atoll.client.core.records import TaskRecord
from atoll.protocol.machine import Instant, Peer
from atoll.protocol.messages import LeaseGranted
from atoll.protocol.values import SchedulingClass

QUEUE_AHEAD_S = 0.002
"""Work that is queued on a worker ahead of time, at most, if it is more than one task."""

ONE_AHEAD_S = 0.15
"""Tasks that take no longer than this are queued one ahead. For longer ones the pause is too small to matter."""

MAXIMUM_DEPTH = 256
"""Tasks pushed to one worker and not answered, at most."""

KEEP_IDLE_S = 0.5
"""How long an idle lease is kept. Ray keeps its leases for 500 ms, too."""

STALLED_S = 0.005
"""A worker that has answered nothing for so long runs a task that is longer than those before it, or at least
`STALLED_TASKS` times longer where that is more."""

STALLED_TASKS = 3

MAXIMUM_DEMAND = 64
"""Leases of one class that are asked for beyond those held. More come with those that are granted."""

WORTH_SHARING = 8
"""A queue of so few short tasks is not worth a message to share it with an idle worker; a stalled one's always is."""

_SMOOTHING = 0.2


class Lease:
    """The right to push tasks to one worker.

    Attributes:
        grant: What the scheduler said.
        peer: The channel to the worker, once it stands, by number.
        link: The same as the core keeps it.
        outstanding: Tasks pushed and not answered, oldest first, by sequence number.
        recalled: Nothing more is to be pushed; it is returned when it has drained.
        discard: Its worker is not to be used again.
        taking_back: A `TakeBackTasks` is under way.
        taken: By a task that must be alone.
        idle_since: When it became idle.
        progress: When the last answer came, or the worker was given something after being idle.
    """

    __slots__ = (
        "discard",
        "grant",
        "idle_since",
        "link",
        "outstanding",
        "peer",
        "progress",
        "queue",
        "recalled",
        "taken",
        "taking_back",
    )

    def __init__(self, grant: LeaseGranted, queue: ClassQueue, now: Instant) -> None:
        self.grant = grant
        self.queue = queue
        self.peer: Peer | None = None
        self.link: Link | None = None
        self.outstanding: dict[int, TaskRecord] = {}
        self.recalled = False
        self.discard = False
        self.taking_back = False
        self.taken = False
        self.idle_since = now
        self.progress = now

    def takes_more(self, since: Instant) -> bool:
        """Whether another task may be queued on the worker, but for how many wait there already.

        Args:
            since: A worker that has answered nothing since then has stalled.
        """
        return (
            self.peer is not None
            and not self.recalled
            and not self.taking_back
            and not self.taken
            and self.progress > since
        )


class ClassQueue:
    """The tasks of one scheduling class that wait, and the leases that the class holds.

    Args:
        key: The client's number for the class.
        shape: What a lease of it takes.

    Attributes:
        ready: Tasks that wait.
        leases: All that are held, by number.
        idle: Those whose workers have nothing to do.
        mean_s: How long a task takes, as a moving mean.
        demand: How many more leases the scheduler was told are wanted.
        full: No lease had room when it was last looked; an answer or a change of the leases ends that.
    """

    def __init__(self, key: int, shape: SchedulingClass) -> None:
        self.key = key
        self.shape = shape
        self.ready: deque[TaskRecord] = deque()
        self.leases: dict[int, Lease] = {}
        self.idle: dict[int, Lease] = {}
        self.mean_s: float | None = None
        self.demand = 0
        self.full = False

    @property
    def depth(self) -> int:
        """How many tasks may be outstanding on a worker now."""
        mean = self.mean_s
        if mean is None or mean > ONE_AHEAD_S:
            return 1
        if mean * MAXIMUM_DEPTH <= QUEUE_AHEAD_S:
            return MAXIMUM_DEPTH
        return max(2, int(QUEUE_AHEAD_S / mean))

    @property
    def short(self) -> bool:
        """Whether several tasks fit into `QUEUE_AHEAD_S`: one more that waits is not worth a message."""
        mean = self.mean_s
        return mean is not None and 2 * mean <= QUEUE_AHEAD_S

    @property
    def stalled_after_s(self) -> float:
        """How long a worker with tasks queued may answer nothing."""
        return max(STALLED_S, STALLED_TASKS * (self.mean_s or 0.0))

    def learn(self, duration_s: float) -> None:
        """Take the duration of one more task into account."""
        mean = self.mean_s
        self.mean_s = duration_s if mean is None else mean + _SMOOTHING * (duration_s - mean)

    def wanted_demand(self) -> int:
        """Return how many more leases the waiting tasks could use."""
        waiting = len(self.ready)
        if self.short:
            return min(MAXIMUM_DEMAND, -(-waiting // self.depth))
        for lease in self.leases.values():
            waiting += max(0, len(lease.outstanding) - 1)
        return min(MAXIMUM_DEMAND, waiting)

    def choose(self, record: TaskRecord, now: Instant) -> Lease | None:
        """Return the lease to push a task on now: an idle one, else the least loaded that has room."""
        if self.idle:
            return self.latest_idle()
        if record.alone or self.mean_s is None:
            return None
        chosen, fewest = None, self.depth
        since = Instant(now - self.stalled_after_s)
        for lease in self.leases.values():
            waiting = len(lease.outstanding)
            if waiting < fewest and lease.takes_more(since):
                chosen, fewest = lease, waiting
        return chosen

    def latest_idle(self) -> Lease:
        """Return the idle lease that was busy last: its worker's caches are warm. There must be one."""
        return next(reversed(self.idle.values()))

    def to_share(self) -> tuple[Lease, int] | None:
        """Return the worker that an idle one is to relieve, and of how many tasks; None if that is not worthwhile."""
        if not self.idle or self.ready or len(self.idle) == len(self.leases):
            return None
        queued = [lease for lease in self.leases.values() if len(lease.outstanding) > 1 and not lease.taking_back]
        loaded = max(queued, key=lambda lease: len(lease.outstanding), default=None)
        if loaded is None or (self.short and len(loaded.outstanding) <= WORTH_SHARING):
            return None
        return loaded, len(loaded.outstanding) // 2

    def stalled(self, now: Instant) -> list[Lease]:
        """Return the leases whose workers have tasks queued and have answered nothing for long."""
        since = now - self.stalled_after_s
        return [
            lease
            for lease in self.leases.values()
            if len(lease.outstanding) > 1 and not lease.taking_back and lease.progress <= since
        ]
