"""What leases really use, from the samples of node agents: counted in the ledger beside what they hold.

A worker says how much processor time it has used in its life; the difference to the sample before is charged to the
lease that it works for, or, between two leases, to the one before. Memory is what a worker has in use, for as long as
the time since the last sample. What a device does is divided among the leases that hold it by their shares of it.

So the sum of processor time is exact but for a worker's last moments, and how it is divided among leases is as fine as
the samples are: a few tenths of a second.
"""

from __future__ import annotations

from atoll.protocol.machine import Instant
from atoll.protocol.values import NodeSample, WorkerSample
from atoll.resources import CPU, GPU, MEMORY, UNITS_PER_ONE
from atoll.scheduler.core.lease import Lease
from atoll.scheduler.core.leases import LeaseTable
from atoll.scheduler.core.nodes import Node
from atoll.scheduler.core.usage import AccountKey, Ledger, Sums

LONGEST_S = 10.0
"""What was seen is taken to have lasted so long at most: an agent that was away tells nothing of the time between."""

_MICRO = 1_000_000
_PER_CENT = 100


class UseMeter:
    """Turns samples into use.

    Args:
        ledger: Where it is counted.
        leases: Which worker works for which lease.
    """

    def __init__(self, ledger: Ledger, leases: LeaseTable) -> None:
        self._ledger = ledger
        self._leases = leases
        self._sampled_at: dict[bytes, Instant] = {}
        self._workers: dict[bytes, dict[bytes, tuple[float, AccountKey | None]]] = {}

    def take(self, node: Node, sample: NodeSample, now: Instant) -> None:
        """Take a sample of a node, before anything else is done with it."""
        earlier = self._sampled_at.get(node.node_id, now)
        self._sampled_at[node.node_id] = now
        elapsed_us = round(min(now - earlier, LONGEST_S) * _MICRO)
        known = self._workers.get(node.node_id)
        seen: dict[bytes, tuple[float, AccountKey | None]] = {}
        on_devices: dict[str, list[tuple[Lease, int]]] = {}
        for worker in sample.workers:
            lease = self._leases.of_worker(worker.worker_id)
            cpu_before_s, key = (known or {}).get(worker.worker_id, (0.0, None))
            if known is None:
                cpu_before_s = worker.cpu_time_s  # a node's first sample: what was before is not known, or was counted
            key = lease.account if lease is not None else key
            seen[worker.worker_id] = (worker.cpu_time_s, key)
            if key is not None:
                self._use(key, worker, cpu_before_s, elapsed_us if lease is not None else 0)
            if lease is not None:
                for share in lease.shares:
                    on_devices.setdefault(share.uuid, []).append((lease, share.units))
        self._workers[node.node_id] = seen
        for device in sample.devices:
            self._divide(on_devices.get(device.uuid, ()), device.use_percent, elapsed_us)

    def _use(self, key: AccountKey, worker: WorkerSample, cpu_before_s: float, elapsed_us: int) -> None:
        sums: Sums = {}
        cpu_us = round((worker.cpu_time_s - cpu_before_s) * _MICRO)
        if cpu_us > 0:
            sums[CPU] = cpu_us * UNITS_PER_ONE
        if elapsed_us > 0 and worker.memory_bytes > 0:
            sums[MEMORY] = worker.memory_bytes * UNITS_PER_ONE * elapsed_us
        if sums:
            self._ledger.use(key, sums)

    def _divide(self, holders: list[tuple[Lease, int]] | tuple[()], use_percent: float, elapsed_us: int) -> None:
        total = sum(units for _lease, units in holders)
        used = round(use_percent / _PER_CENT * UNITS_PER_ONE) * elapsed_us
        if total <= 0 or used <= 0:
            return
        for lease, units in holders:
            assert lease.account is not None, "a lease that holds something has an account"
            self._ledger.use(lease.account, {GPU: used * units // total})

    def node_gone(self, node: Node) -> None:
        """Nothing more comes from there."""
        self._sampled_at.pop(node.node_id, None)
        self._workers.pop(node.node_id, None)
