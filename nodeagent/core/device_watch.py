"""What is learned of the node's devices, and who must know of it first.

    NodeObserved (faults) · ReportDeviceFault ──▶ held against the device, its workers are replaced
    DevicesClaimed (refused) ──────────────────▶ the lease is given up       the scheduler is told how the devices are
    ReleaseDevice ─────────────────────────────▶ nothing is held against it  *before* it hears of any lease: else it
                                                                             would place there again what is withdrawn

Which device a lease holds is in the leases' books (`devices.py`), what is held against one in `device_health.py`.
"""

from __future__ import annotations

from atoll.nodeagent.core.actors import Actors
from atoll.nodeagent.core.events import DeviceMemoryMeasured, DevicesClaimed, NodeObserved
from atoll.nodeagent.core.leases import Leases
from atoll.nodeagent.core.samples import Samples
from atoll.protocol.machine import Instant, Peer
from atoll.protocol.messages import ReleaseDevice, ReportDeviceFault


class DeviceWatch:
    """Of one node.

    Args:
        leases: Hold devices.
        actors: May have given theirs up.
        samples: Tell the scheduler.
    """

    def __init__(self, leases: Leases, actors: Actors, samples: Samples) -> None:
        self._leases = leases
        self._actors = actors
        self._samples = samples

    def observed(self, event: NodeObserved, now: Instant) -> None:
        """The node was looked at."""
        for worker in event.workers:
            if worker.device_bytes:
                self._leases.memory.devices_used(worker.worker_id, worker.device_bytes)
        if not self._samples.taken(event, now):
            return
        for fault in event.faults:
            self._leases.device_failed(fault, now)
        self._samples.tell(now)
        if event.faults:
            self._leases.withdraw_from_quarantined(now)

    def fault_reported(self, peer: Peer, message: ReportDeviceFault, now: Instant) -> None:
        """CUDA has failed in a worker."""
        self._leases.worker_reports_fault(peer, message.text, message.counts, now)
        self._samples.tell(now)
        self._leases.withdraw_from_quarantined(now)

    def claimed(self, event: DevicesClaimed, now: Instant) -> None:
        """Go on with the lease; if it is given up, the scheduler first learns why, so that it looks elsewhere."""
        text = self._leases.devices_claimed(event, now)
        if not text:
            return
        self._samples.correct(event.samples, now)
        self._leases.give_up(event.lease_id, text)

    def measured(self, event: DeviceMemoryMeasured, now: Instant) -> None:
        """Devices were looked at because an actor leaves them, or because a lease ends."""
        if not self._actors.measured(event):
            self._leases.device_memory_measured(event, now)

    def released(self, message: ReleaseDevice, now: Instant) -> None:
        """Somebody answers for a device that was quarantined."""
        self._leases.devices.health.lift(message.uuid)
        self._samples.tell(now)
