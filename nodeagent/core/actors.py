"""Actors on the node's workers: made in a lease of their own, and when they are idle, parted from their devices.

    StartActor ──▶ ConstructActor ──▶ ActorConstructed ──▶ ActorStarted, or ActorFailed

What a worker says about an actor is passed on unread. An actor ends with its lease (`leases.py`), which tells why. How
an idle one gives its devices up and takes them back is decided in `device_leave.py`; what that means for its lease, its
devices' books and the memory it may use is seen to here.
"""

from __future__ import annotations

from atoll.ids import ActorId
from atoll.nodeagent.core.device_leave import DeviceLeaves, Leave
from atoll.nodeagent.core.events import DeviceMemoryMeasured, DevicesCheckpointed
from atoll.nodeagent.core.lease import Lease
from atoll.nodeagent.core.leases import Leases
from atoll.nodeagent.core.outbox import Outbox
from atoll.nodeagent.core.workers import Worker
from atoll.protocol.leave_messages import (
    DevicesOffloaded,
    DevicesRestored,
    DevicesReturned,
    WantDevices,
)
from atoll.protocol.machine import Instant, Peer
from atoll.protocol.messages import ActorConstructed, ActorFailed, ActorStarted, ConstructActor, StartActor

NO_WAY = (
    "it cannot give its GPUs up when it is idle (idle=, release_gpu_when_idle_s=): give its class methods offload() "
    "and restore(), or leave the option out; the driver cannot do it here"
)

PARDONED_BYTES = 1 << 60
"""What an actor may use of the host's memory while the contents of its devices lie there."""


class Actors:
    """All actors of the node.

    Args:
        leases: The leases that they live in.
        outbox: Where messages go.
        no_checkpoint: Why the driver cannot give up what a process has on its devices; empty if it can.
    """

    def __init__(self, leases: Leases, outbox: Outbox, no_checkpoint: str = "") -> None:
        self._leases = leases
        self._outbox = outbox
        self._leaves = DeviceLeaves(outbox, no_checkpoint)

    # ----------------------------------------------------------------------------------------- beginning and end

    def start(self, message: StartActor) -> None:
        """Have the worker of a lease make an actor. If it is gone, the end of the lease tells why, and what follows."""
        lease = self._leases.lease(message.lease_id)
        if lease is None:
            failed = ActorFailed(message.spec.actor_id, message.lease_id, "its worker is gone", b"")
            self._outbox.tell_scheduler(failed)
            return
        worker = lease.worker
        if lease.state != "running" or worker is None or worker.peer is None:
            return
        lease.actor_id = ActorId(message.spec.actor_id)
        lease.idle_s = message.spec.idle_s
        lease.dedicated = True
        self._outbox.send(worker.peer, ConstructActor(message.lease_id, message.spec, message.incarnation))

    def constructed(self, peer: Peer, message: ActorConstructed, now: Instant) -> None:
        """Pass on how the constructor ended."""
        lease = self._leases.served_by(peer)
        if lease is None or lease.worker is None or lease.actor_id != message.actor_id:
            return
        text = message.text
        gives_up = bool(lease.idle_s and lease.devices)
        if not (message.error or text) and gives_up and not message.offloads and self._leaves.no_checkpoint:
            text = f"{NO_WAY}: {self._leaves.no_checkpoint}"
        if message.error or text:
            self._outbox.tell_scheduler(ActorFailed(message.actor_id, lease.lease_id, text, message.error))
            return
        if gives_up:
            uuids = [share.uuid for share in lease.devices]
            self._leaves.begin(lease.lease_id, Leave(peer, lease.worker.pid, uuids, lease.idle_s, now))
        lease.actor_alive = True
        self._outbox.tell_scheduler(ActorStarted(message.actor_id, lease.lease_id))

    def worker_gone(self, worker: Worker) -> None:
        """A worker has ended, and what lived in it. To be called before its lease hears of it."""
        if worker.lease_id is not None:
            self._leaves.forget(worker.lease_id)

    def living(self) -> list[tuple[bytes, int]]:
        """Return the actors that are there, and their leases."""
        return [
            (lease.actor_id, lease.lease_id)
            for lease in self._leases.holding()
            if lease.actor_id is not None and lease.actor_alive and lease.state == "running"
        ]

    # --------------------------------------------------------------------------------- devices that are given up

    def away(self) -> list[tuple[int, bool]]:
        """Return the leases whose devices are others', and whether they are wanted back."""
        return list(self._leaves.gone())

    def tell_kept(self) -> None:
        """Tell a scheduler that has come back which actors keep their devices."""
        self._leaves.tell_kept()

    def busy(self, peer: Peer, now: Instant) -> None:
        """A worker has reported something that it ran."""
        lease = self._leases.served_by(peer)
        if lease is not None and lease.idle_s:
            self._leaves.busy(lease.lease_id, now)

    def next_deadline(self) -> Instant | None:
        """Return when the next one has been idle for long enough."""
        return self._leaves.next_deadline()

    def tick(self, now: Instant) -> None:
        """Ask those that have been idle for long enough."""
        self._leaves.tick(now)

    def _speaks_of(self, peer: Peer, lease_id: int) -> Lease | None:
        """Return the lease that a worker speaks of, if it is its own."""
        lease = self._leases.served_by(peer)
        return lease if lease is not None and lease.lease_id == lease_id else None

    def offloaded(self, peer: Peer, message: DevicesOffloaded, now: Instant) -> None:
        """A worker holds calls, and its actor has given up what it has on its devices, if it does that itself."""
        lease = self._speaks_of(peer, message.lease_id)
        if lease is not None:
            if not (message.busy or message.text):
                self._leases.memory.pardon(lease.lease_id, PARDONED_BYTES)
            self._leaves.offloaded(message, now)

    def checkpointed(self, event: DevicesCheckpointed, now: Instant) -> None:
        """The driver has done something."""
        self._end_if(event.lease_id, self._leaves.checkpointed(event), now)

    def measured(self, event: DeviceMemoryMeasured) -> bool:
        """Lend the devices of an actor if it has left them. Returns whether that is so."""
        left = self._leaves.measured(event)
        if left:
            self._leases.devices.lend(event.lease_id)
        return left

    def wanted(self, peer: Peer, message: WantDevices) -> None:
        """A call has come for an actor that has given its devices up."""
        if self._speaks_of(peer, message.lease_id) is not None:
            self._leaves.wanted(message.lease_id)

    def returned(self, message: DevicesReturned, now: Instant) -> None:
        """The scheduler gives the devices of an actor back; a warm worker that is on them ends."""
        lease = self._leases.lease(message.lease_id)
        if lease is not None and self._leaves.returned(message.lease_id):
            self._leases.devices.take_back(message.lease_id)
            self._leases.end_warm(lease, now)

    def restored(self, peer: Peer, message: DevicesRestored, now: Instant) -> None:
        """An actor has what it had."""
        if self._speaks_of(peer, message.lease_id) is not None:
            self._leases.memory.pardon(message.lease_id, 0)
            self._end_if(message.lease_id, self._leaves.restored(message, now), now)

    def _end_if(self, lease_id: int, cause: str, now: Instant) -> None:
        """End a lease whose actor cannot go on, if there is a cause."""
        lease = self._leases.lease(lease_id)
        if cause and lease is not None:
            self._leases.break_off(lease, cause, now)

    def broken_invariant(self) -> str | None:
        """Return what does not hold, or None."""
        for lease_id, _wanted in self._leaves.gone():
            if self._leases.lease(lease_id) is None or not self._leases.devices.is_lent(lease_id):
                return f"the actor of lease {lease_id} has given its devices up, and the books say otherwise"
        return None
