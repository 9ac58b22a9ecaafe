"""When the devices of a lease are free again: not when its worker is gone, but when their memory is.

A driver frees the memory of a dead process a moment later, and sometimes not at all. So what is in use is measured
when a lease begins and again after its worker has exited, with growing pauses, until what it took is back:

* a whole device is free when no more is in use than at the beginning, apart from what other living processes took
  since then;
* a share of a device is free when no process of the worker is listed on it any more.

Until then the lease has not ended, and the devices are nobody's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from atoll.nodeagent.core.events import DeviceMemory, DeviceMemoryMeasured, MeasureDeviceMemory
from atoll.nodeagent.core.outbox import Outbox
from atoll.protocol.machine import Instant
from atoll.protocol.values import DeviceShare
from atoll.resources import UNITS_PER_ONE

SLACK_BYTES = 64 * 2**20
"""What a driver may keep for itself after it was used."""

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 5.0


@dataclass(slots=True)
class Watch:
    """The devices of one lease.

    Attributes:
        shares: What it holds.
        before: Device to its memory when the lease began.
        worker_pid: Its process, once that is known to be gone; 0 before.
        pause_s: Until the next look.
        look_at: When to look again; None while a look is under way or the worker lives.
    """

    shares: list[DeviceShare]
    before: dict[str, DeviceMemory] = field(default_factory=dict)
    worker_pid: int = 0
    pause_s: float = FIRST_PAUSE_S
    look_at: Instant | None = None
    releasing: bool = False

    @property
    def uuids(self) -> list[str]:
        """The devices."""
        return [share.uuid for share in self.shares]


class DeviceWatches:
    """Follows the memory of all devices that leases hold.

    Args:
        outbox: Where the measurements are asked for.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._watches: dict[int, Watch] = {}

    def begin(self, lease_id: int, shares: list[DeviceShare]) -> None:
        """A lease takes devices: note what is in use on them."""
        watch = self._watches[lease_id] = Watch(shares)
        self._outbox.do(MeasureDeviceMemory(lease_id, watch.uuids, 0))

    def release(self, lease_id: int, worker_pid: int, now: Instant) -> None:
        """The worker is gone: look whether its memory is."""
        watch = self._watches[lease_id]
        watch.releasing = True
        watch.worker_pid = worker_pid
        self._look(lease_id, watch)

    def forget(self, lease_id: int) -> None:
        """The lease never ran: nothing was taken."""
        self._watches.pop(lease_id, None)

    def _look(self, lease_id: int, watch: Watch) -> None:
        watch.look_at = None
        self._outbox.do(MeasureDeviceMemory(lease_id, watch.uuids, watch.worker_pid))

    def measured(self, event: DeviceMemoryMeasured, now: Instant) -> bool:
        """Take a measurement.

        Returns:
            Whether the lease's devices are free now; then it is forgotten here.
        """
        watch = self._watches.get(event.lease_id)
        if watch is None:
            return False
        found = {memory.uuid: memory for memory in event.devices}
        if not watch.before and not watch.releasing:
            watch.before = found
            return False
        if all(self._is_free(share, watch.before.get(share.uuid), found.get(share.uuid)) for share in watch.shares):
            del self._watches[event.lease_id]
            return True
        watch.look_at = Instant(now + watch.pause_s)
        watch.pause_s = min(2 * watch.pause_s, LONGEST_PAUSE_S)
        return False

    @staticmethod
    def _is_free(share: DeviceShare, before: DeviceMemory | None, after: DeviceMemory | None) -> bool:
        if after is None or after.worker_bytes:
            return False
        if share.units < UNITS_PER_ONE or before is None:
            return True
        taken_by_others = max(0, after.other_bytes - before.other_bytes)
        return after.used_bytes <= before.used_bytes + taken_by_others + SLACK_BYTES

    def next_deadline(self) -> Instant | None:
        """Return when to look again."""
        return min((w.look_at for w in self._watches.values() if w.look_at is not None), default=None)

    def tick(self, now: Instant) -> None:
        """Look again where it is due."""
        for lease_id, watch in self._watches.items():
            if watch.look_at is not None and watch.look_at <= now:
                self._look(lease_id, watch)
