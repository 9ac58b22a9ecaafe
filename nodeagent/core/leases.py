"""Leases: which worker serves which, and how each ends.

    StartLease ─▶ starting ──worker is there──▶ running ──EndLease──▶ ending ──exit, memory free──▶ LeaseEnded
                     └── no worker can be had ─▶ LeaseFailed             └── the worker goes on ──▶ LeaseEnded

A lease with devices claims them before it is given a worker (`devices.py`). A lease whose worker died by itself takes
the same way, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable

from atoll.exceptions import OutOfMemoryError, RuntimeEnvSetupError, WorkerCrashedError
from atoll.nodeagent.core.devices import HELD, LITTLE, OVER, REFUSED, Devices
from atoll.nodeagent.core.events import (
    DeviceFault,
    DeviceMemoryMeasured,
    DevicesClaimed,
    ProcessExited,
    ZygoteDied,
)
from atoll.nodeagent.core.lease import Lease, describe_exit
from atoll.nodeagent.core.memory_watch import MemoryWatch, Use
from atoll.nodeagent.core.outbox import Outbox
from atoll.nodeagent.core.workers import Worker, WorkerPool
from atoll.protocol.machine import Instant, Peer
from atoll.protocol.messages import (
    DEVICES_TAKEN,
    BeginLease,
    EndLease,
    FinishLease,
    LeaseEnded,
    LeaseFailed,
    LeaseStarted,
    StartLease,
)
from atoll.protocol.values import MemoryLoss, Span
from atoll.resources import MEMORY, UNITS_PER_ONE

STARTS_PER_LEASE = 2
"""A lease whose worker died while starting gets another so often."""


class Leases:
    """All leases of the node.

    Args:
        pool: Gives the workers.
        outbox: Where messages go.
        offered_bytes: Memory that the node offers.
        kept_free_bytes: Memory that is kept free on the host; what is usual if 0.
        make_room: Gives back memory that is kept only to be quick.

    Attributes:
        devices: Which leases hold which devices.
        memory: Looks at what leases use of the host's memory.
    """

    def __init__(
        self,
        pool: WorkerPool,
        outbox: Outbox,
        offered_bytes: int = 0,
        kept_free_bytes: int = 0,
        make_room: Callable[[Instant], bool] = lambda _now: False,
    ) -> None:
        self._pool = pool
        self._outbox = outbox
        self._leases: dict[int, Lease] = {}
        self.devices = Devices(outbox, lambda: [worker.pid for worker in pool.workers() if worker.pid])
        self.memory = MemoryWatch(outbox, offered_bytes, kept_free_bytes, self._out_of_memory, make_room)

    def lease(self, lease_id: int) -> Lease | None:
        """Return a lease by its number."""
        return self._leases.get(lease_id)

    def leases(self) -> list[Lease]:
        """Return all leases, oldest first."""
        return list(self._leases.values())

    def served_by(self, peer: Peer) -> Lease | None:
        """Return the lease that a worker serves, by its connection."""
        worker = self._pool.by_peer(peer)
        return self._of(worker) if worker is not None else None

    def _of(self, worker: Worker) -> Lease | None:
        return self._leases.get(worker.lease_id) if worker.lease_id is not None else None

    # -------------------------------------------------------------------------------------------- beginning

    def start(self, message: StartLease, now: Instant) -> None:
        """Give a worker to a new lease."""
        if message.lease_id in self._leases:
            return
        wanted = message.scheduling_class
        if not self._pool.knows(wanted.environment):
            text = f"no environment {wanted.environment} has been defined on this node"
            self._outbox.tell_scheduler(LeaseFailed(message.lease_id, RuntimeEnvSetupError.__name__, text))
            return
        lease = Lease(message, message.dedicated)
        self._leases[lease.lease_id] = lease
        if lease.devices and not self._adopt_warm(lease, now):
            lease.claiming = True
            self.end_warm(lease, now)
            self.devices.claim(lease.lease_id, lease.devices, now)
        else:
            self._give_worker(lease, now)

    def _adopt_warm(self, lease: Lease, now: Instant) -> bool:
        """Take over the devices of a warm worker that fits a lease, if there is one: the lease gets it then."""
        worker = self._pool.warm(lease.key, lease.job)
        return worker is not None and self.devices.adopt(lease.lease_id, worker.worker_id, lease.devices, now)

    def end_warm(self, lease: Lease, now: Instant) -> None:
        """End the warm workers on devices that a lease is to have as a whole, and the one that it was not to adopt."""
        whole = {share.uuid for share in lease.devices if share.units == UNITS_PER_ONE}
        for worker in self._pool.workers():
            own = (worker.key, worker.job) == (lease.key, lease.job)
            if worker.state == "idle" and (own or whole.intersection(worker.key.devices)):
                self._pool.kill(worker, now)

    def devices_claimed(self, event: DevicesClaimed, now: Instant) -> str:
        """Go on with a lease that has its devices. Returns why it cannot have them and must be given up, or nothing."""
        state, text = self.devices.claimed(event, now)
        lease = self._leases.get(event.lease_id)
        if lease is None or not lease.claiming:
            return ""
        if state == HELD:
            lease.claiming = False
            self._give_worker(lease, now)
        return text if state == REFUSED else ""

    def give_up(self, lease_id: int, text: str) -> None:
        """A lease cannot have its devices."""
        self._fail(self._leases[lease_id], DEVICES_TAKEN, text)

    def _give_worker(self, lease: Lease, now: Instant) -> None:
        lease.starts += 1
        lease.worker = self._pool.obtain(lease.key, lease.lease_id, lease.job, now)
        if lease.devices:
            self.devices.take_over(lease.lease_id, lease.worker.worker_id, now)
        if lease.worker.state == "leased":
            self._begin(lease, lease.worker, now)

    def _begin(self, lease: Lease, worker: Worker, now: Instant) -> None:
        assert worker.peer is not None, "a worker that can begin has a connection"
        lease.state = "running"
        wanted = lease.scheduling_class
        budget_bytes = wanted.resources.get(MEMORY, 0) // UNITS_PER_ONE
        guessed = MEMORY in wanted.auto
        use = Use(worker.worker_id, worker.pid, budget_bytes, lease.key.threads, wanted.preemptible, guessed)
        self.memory.begin(lease.lease_id, use, now)
        begin = BeginLease(
            lease.lease_id,
            lease.job,
            wanted.resources,
            lease.devices,
            wanted.label,
            wanted.group,
            wanted.capture,
            lease.begun.namespace,
        )
        self._outbox.send(worker.peer, begin)
        self._outbox.tell_scheduler(LeaseStarted(lease.lease_id, worker.worker_id, worker.address, worker.pid))

    def worker_started(self, worker: Worker, now: Instant) -> None:
        """A worker listens: begin the lease that waited for it."""
        if worker.lease_id is not None and worker.state == "leased":
            self._begin(self._leases[worker.lease_id], worker, now)

    # ----------------------------------------------------------------------------------------------- ending

    def end(self, message: EndLease, now: Instant) -> None:
        """End a lease as the scheduler wishes. One that is over already is said to be over again."""
        lease = self._leases.get(message.lease_id)
        if lease is None:
            self._outbox.tell_scheduler(LeaseEnded(message.lease_id))
            return
        worker = lease.worker
        if lease.claiming:
            self.devices.forget(lease.lease_id)
            self._over(lease)
            return
        if lease.cooling and message.kill and worker is not None:
            lease.cooling = False
            self._pool.kill(worker, now)
        if lease.state == "ending" or worker is None:
            return
        if not (message.kill or lease.dedicated):
            self._end_kindly(lease, worker, now)
            return
        lease.state = "ending"
        if message.gently:
            self._pool.retire(worker, now)
        else:
            self._pool.kill(worker, now)

    def _end_kindly(self, lease: Lease, worker: Worker, now: Instant) -> None:
        """End a lease whose worker may go on; one with devices only if it holds little of them."""
        if not lease.devices:
            self._finish(lease, worker, now)
        elif lease.state == "running":
            lease.state = "ending"
            lease.cooling = True
            if worker.peer is not None:
                self._outbox.send(worker.peer, FinishLease(lease.lease_id))
            self.devices.cool(lease.lease_id, worker.pid)
        else:
            lease.state = "ending"
            self._pool.kill(worker, now)

    def _finish(self, lease: Lease, worker: Worker, now: Instant) -> None:
        """End a lease whose worker goes on."""
        if lease.state == "running" and worker.peer is not None:
            self._outbox.send(worker.peer, FinishLease(lease.lease_id))
        del self._leases[lease.lease_id]
        self.memory.forget(lease.lease_id)
        self._pool.release(worker, now)
        self._outbox.tell_scheduler(LeaseEnded(lease.lease_id))

    def _out_of_memory(self, lease_id: int, loss: MemoryLoss, text: str, now: Instant) -> None:
        """End a lease whose worker uses more memory than it may."""
        lease = self._leases.get(lease_id)
        if lease is None or lease.state != "running" or lease.worker is None:
            return
        lease.state = "ending"
        lease.kind, lease.text, lease.memory = OutOfMemoryError.__name__, text, loss
        self._pool.kill(lease.worker, now)

    def worker_disconnected(self, worker: Worker) -> None:
        """A worker's connection broke: it is about to end, and its exit will say why."""
        lease = self._of(worker)
        if lease is not None and lease.state == "running":
            lease.state = "ending"
            lease.crashed = True

    def worker_exited(self, worker: Worker, event: ProcessExited, now: Instant) -> None:
        """A worker is gone: end its lease, or give the lease another worker if it never began."""
        lease = self._without(worker, now)
        if lease is None:
            return
        if lease.state != "starting":
            self._end_without(lease, worker.pid, describe_exit(event), now)
        elif lease.starts < STARTS_PER_LEASE:
            self._give_worker(lease, now)
        else:
            kind, text = self._pool.died_while_starting(worker, event.detail or describe_exit(event))
            self._fail(lease, kind, text)

    def zygote_died(self, event: ZygoteDied, lost: list[Worker], now: Instant) -> None:
        """A zygote is gone, and its workers with it."""
        for worker in lost:
            lease = self._without(worker, now)
            if lease is None:
                continue
            if lease.state != "starting":
                self._end_without(lease, worker.pid, f"ended with the process it was forked from: {event.text}", now)
            elif event.transient and lease.starts < STARTS_PER_LEASE:
                self._give_worker(lease, now)
            else:
                self._fail(lease, event.kind, event.text)

    def _without(self, worker: Worker, now: Instant) -> Lease | None:
        """A worker is gone; return the lease that it served."""
        lease = self._of(worker)
        if lease is None:
            self.devices.warm_worker_gone(worker.worker_id, worker.pid, now)
            return None
        lease.worker = None
        self.memory.forget(lease.lease_id)
        return lease

    def _end_without(self, lease: Lease, pid: int, how: str, now: Instant) -> None:
        """End a lease that ran, whose worker is gone."""
        if lease.state == "running" or lease.crashed:
            lease.kind = WorkerCrashedError.__name__
            lease.text = lease.cause or f"the worker (pid {pid}) {how}"
        lease.state = "ending"
        if lease.devices and not self.devices.is_lent(lease.lease_id):
            self.devices.release(lease.lease_id, pid, now)
            return
        if lease.devices:
            self.devices.end_lent(lease.lease_id)
        self._over(lease)

    def _fail(self, lease: Lease, kind: str, text: str) -> None:
        del self._leases[lease.lease_id]
        self.devices.forget(lease.lease_id)
        self._outbox.tell_scheduler(LeaseFailed(lease.lease_id, kind, text))

    def _over(self, lease: Lease) -> None:
        del self._leases[lease.lease_id]
        self._outbox.tell_scheduler(LeaseEnded(lease.lease_id, lease.kind, lease.text, lease.memory))

    # ---------------------------------------------------------------------------------------------- devices

    def device_memory_measured(self, event: DeviceMemoryMeasured, now: Instant) -> None:
        """End the lease if its devices are free; or keep its worker, if that holds little of them."""
        verdict = self.devices.measured(event, now)
        lease = self._leases.get(event.lease_id)
        if lease is None:
            return
        worker = lease.worker
        if verdict == OVER:
            self._over(lease)
        elif lease.cooling and worker is not None:
            lease.cooling = False
            if verdict == LITTLE and worker.state == "leased":
                self.devices.keep_warm(lease.lease_id, worker.worker_id, now)
                self._finish(lease, worker, now)
            else:
                self._pool.kill(worker, now)

    def device_failed(self, fault: DeviceFault, now: Instant) -> None:
        """A device has failed: replace the workers on it, and remember it against the device if it is to blame."""
        if fault.counts:
            self.devices.health.failed(fault.uuid, fault.text, now)
        for lease in self.leases():
            share = next((share for share in lease.devices if share.uuid == fault.uuid), None)
            if share is not None:
                self.break_off(lease, f"GPU {share.index} failed: {fault.text}", now)

    def worker_reports_fault(self, peer: Peer, text: str, counts: bool, now: Instant) -> None:
        """CUDA has failed in a worker, whose context is of no use any more. Of several devices, nobody knows which."""
        lease = self.served_by(peer)
        if lease is None or not lease.devices or lease.state != "running" or lease.worker is None:
            return
        if counts and len(lease.devices) == 1:
            self.devices.health.failed(lease.devices[0].uuid, text, now)
        cause = f"the worker (pid {lease.worker.pid}) was replaced after an error of its GPU: {text}"
        self.break_off(lease, cause, now, gently=True)

    def withdraw_from_quarantined(self, now: Instant) -> None:
        """Give up the leases that have their devices, and no worker on them yet, where one is not to be given now."""
        for lease in self.leases():
            if lease.state != "starting" or lease.claiming:
                continue
            share = next((share for share in lease.devices if self.devices.health.trouble(share.uuid)), None)
            if share is not None:
                text = f"GPU {share.index} is {self.devices.health.trouble(share.uuid)}"
                if lease.worker is not None:
                    self._pool.kill(lease.worker, now)
                self._fail(lease, DEVICES_TAKEN, text)

    def break_off(self, lease: Lease, cause: str, now: Instant, *, gently: bool = False) -> None:
        """End the worker of a lease that runs, not because the scheduler wishes it.

        Args:
            lease: The lease. Nothing is done if it does not run.
            cause: Why, for who waits for what runs there.
            now: The time.
            gently: Whether the worker may end by itself.
        """
        worker = lease.worker
        if lease.state != "running" or worker is None:
            return
        assert worker.lease_id == lease.lease_id, "a worker serves its own lease"
        lease.state, lease.crashed, lease.cause = "ending", True, cause
        if gently:
            self._pool.retire(worker, now)
        else:
            self._pool.kill(worker, now)

    # ------------------------------------------------------------------------------------------------- time

    def next_deadline(self) -> Instant | None:
        """Return when devices, or memory, are to be looked at again."""
        instants = (self.devices.next_deadline(), self.memory.next_deadline())
        return min((instant for instant in instants if instant is not None), default=None)

    def tick(self, now: Instant) -> None:
        """Do what is due."""
        self.devices.tick(now)
        self.memory.tick(now)

    def with_peaks(self, peer: Peer, spans: list[Span]) -> list[Span]:
        """Return what a worker says it ran, with the most memory that it and all that it has started were seen to use.

        What runs in an actor is learned of as the actor's: its state is most of it.
        """
        lease = self.served_by(peer)
        if lease is None or lease.worker is None:
            return spans
        code = lease.scheduling_class.code if lease.actor_id else b""
        return self.memory.with_peaks(lease.worker.worker_id, spans, code)

    # ------------------------------------------------------------------------------------- the scheduler's loss

    def forget_unstarted(self, now: Instant) -> None:
        """The scheduler is gone: leases without a worker yet are not taken up again."""
        for lease in self.leases():
            if lease.state == "starting":
                del self._leases[lease.lease_id]
                self.devices.forget(lease.lease_id)
                if lease.worker is not None:
                    self._pool.release(lease.worker, now)

    def holding(self) -> list[Lease]:
        """Return the leases that hold something of the node: those that go on after a reconnection, and what ends."""
        return [lease for lease in self._leases.values() if lease.state != "starting"]

    def broken_invariant(self) -> str | None:
        """Return what does not hold, or None."""
        for lease in self._leases.values():
            worker = lease.worker
            if lease.claiming:
                if worker is not None or lease.state != "starting":
                    return f"lease {lease.lease_id} has a worker before it has its devices"
            elif lease.state in {"starting", "running"}:
                if worker is None or worker.lease_id != lease.lease_id:
                    return f"lease {lease.lease_id} is {lease.state} without a worker of its own"
                if (lease.state == "running") != (worker.state == "leased"):
                    return f"lease {lease.lease_id} is {lease.state}, its worker {worker.state}"
                if worker.key != lease.key:
                    return f"lease {lease.lease_id} has a worker that is bound to something else"
        for worker in self._pool.workers():
            if worker.lease_id is not None and worker.lease_id not in self._leases and worker.state != "stopping":
                return f"worker {worker.worker_id.hex()} serves a lease that is over"
        return self.devices.broken_invariant()
