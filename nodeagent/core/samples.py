"""What the scheduler is told of the node now and then: how busy it is, its devices, its store.

    tick ──ObserveNode──▶ the shell measures ──NodeObserved──▶ taken ──▶ tell ──NodeSampled──▶ the scheduler

Often while there are leases, seldom while there are none. What was measured last is told again, with what is known
better by now, when something about devices changes that the scheduler must know before it places the next lease.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from atoll.nodeagent.core.events import NodeObserved, ObserveNode
from atoll.nodeagent.core.leases import Leases
from atoll.nodeagent.core.outbox import Outbox
from atoll.nodeagent.core.store import ObjectStore
from atoll.nodeagent.core.transfers import Transfers
from atoll.nodeagent.core.workers import WorkerPool
from atoll.protocol.machine import Instant
from atoll.protocol.messages import NodeSampled
from atoll.protocol.values import DeviceSample, NodeSample

BUSY_SAMPLE_S = 0.4
IDLE_SAMPLE_S = 4.0
SHOWN_OBJECTS = 500


class Samples:
    """Asks for measurements and tells the scheduler of them.

    Args:
        outbox: Where measurements are asked for, and the scheduler is told.
        pool: Whose workers are measured.
        leases: Knows whether the node is busy, and what is held against devices.
        store: Knows its objects.
        transfers: Knows what came from other nodes, and went there.
    """

    def __init__(
        self, outbox: Outbox, pool: WorkerPool, leases: Leases, store: ObjectStore, transfers: Transfers
    ) -> None:
        self._outbox = outbox
        self._pool = pool
        self._leases = leases
        self._store = store
        self._transfers = transfers
        self._at: Instant | None = None
        self._observing = False
        self._observed: NodeObserved | None = None

    def scheduler_linked(self, now: Instant) -> None:
        """There is a scheduler. What is held against a device from before is told before somebody is given it."""
        self._at = now if self._leases.devices.health.any_trouble() else Instant(now + BUSY_SAMPLE_S)

    def scheduler_lost(self) -> None:
        """There is nobody to tell."""
        self._at = None

    def hasten(self, now: Instant) -> None:
        """The node has become busy."""
        soon = Instant(now + BUSY_SAMPLE_S)
        if self._at is not None and self._at > soon:
            self._at = soon

    def next_deadline(self) -> Instant | None:
        """Return when to measure next."""
        return None if self._observing else self._at

    def tick(self, now: Instant) -> None:
        """Measure if it is due."""
        if self._at is None or self._at > now or self._observing:
            return
        self._observing = True
        workers = [(worker.worker_id, worker.pid) for worker in self._pool.workers() if worker.pid]
        self._outbox.do(ObserveNode(workers, self._leases.devices.in_use()))

    def taken(self, event: NodeObserved, now: Instant) -> bool:
        """Keep what was measured. Returns whether there is a scheduler to be told."""
        self._observing = False
        if self._outbox.scheduler is None:
            return False
        self._at = Instant(now + (BUSY_SAMPLE_S if self._leases.leases() else IDLE_SAMPLE_S))
        self._observed = event
        return True

    def correct(self, samples: Iterable[DeviceSample], now: Instant) -> None:
        """Some devices were looked at since: tell how they are."""
        if self._observed is None:
            return
        fresh = {sample.uuid: sample for sample in samples}
        devices = [fresh.get(sample.uuid, sample) for sample in self._observed.devices]
        self._observed = msgspec.structs.replace(self._observed, devices=devices)
        self.tell(now)

    def tell(self, now: Instant) -> None:
        """Tell the scheduler what was observed last, and what is held against devices."""
        event = self._observed
        if event is None:
            return
        sample = NodeSample(
            cpu_percent=event.cpu_percent,
            memory_used_bytes=event.memory_used_bytes,
            memory_total_bytes=event.memory_total_bytes,
            store_used_bytes=self._store.used_bytes,
            store_capacity_bytes=self._store.capacity_bytes,
            devices=[self._judged(device, now) for device in event.devices],
            workers=event.workers,
            objects=self._store.describe(SHOWN_OBJECTS),
            store_spilled_bytes=self._store.spilled_bytes,
            received_bytes=self._transfers.received_bytes,
            sent_bytes=self._transfers.sent_bytes,
        )
        self._outbox.tell_scheduler(NodeSampled(sample))

    def _judged(self, device: DeviceSample, now: Instant) -> DeviceSample:
        """Return a device's sample with what is held against it."""
        health = self._leases.devices.health
        trouble = health.trouble(device.uuid)
        if not trouble:
            return device
        left_s = health.quarantined_for_s(device.uuid, now)
        return msgspec.structs.replace(device, trouble=trouble, quarantined=True, quarantined_for_s=left_s)
