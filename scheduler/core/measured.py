"""What leases really use, and for whom, from what node agents report: counted in the ledger beside what they hold.

A lease serves tasks of one shape, whatever they are called. Workers report what they ran, and for how long: what the
lease held meanwhile is counted for the cell or function of that name. The time between is that of the first one, which
asked for the lease.

A worker says how much processor time it has used in its life; the difference to the sample before is charged to the
lease that it works for, or, between two leases, to the one before. Memory is what a worker has in use, for as long as
the time since the last sample. What a device does is divided among the leases that hold it by their shares of it.

So the sum of processor time is exact but for a worker's last moments, and how it is divided among leases is as fine as
the samples are: a few tenths of a second.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from atoll.protocol.machine import Instant
from atoll.protocol.values import NodeSample, Span, WorkerSample
from atoll.resources import CPU, GPU, MEMORY, UNITS_PER_ONE, Amounts
from atoll.scheduler.core.account import AccountKey, Sums
from atoll.scheduler.core.lease import Lease
from atoll.scheduler.core.leases import LeaseTable
from atoll.scheduler.core.nodes import Node
from atoll.scheduler.core.spans import SpanTable
from atoll.scheduler.core.usage import Ledger

LONGEST_S = 10.0
"""What was seen is taken to have lasted so long at most: an agent that was away tells nothing of the time between."""

_MICRO = 1_000_000
_PER_CENT = 100


class Served(NamedTuple):
    """The lease that a worker works for, or worked for last.

    Attributes:
        account: Whose it is.
        amounts: What it holds.
        name: What it ran last.
        moved: By the key of a span that runs: how much of it was counted for what it is called.
    """

    account: AccountKey
    amounts: Amounts
    name: str
    moved: dict[int, int]


class UseMeter:
    """Turns samples into use.

    Args:
        ledger: Where it is counted.
        leases: Which worker works for which lease.
        spans: What workers run now.
    """

    def __init__(self, ledger: Ledger, leases: LeaseTable, spans: SpanTable) -> None:
        self._ledger = ledger
        self._leases = leases
        self._spans = spans
        self._served: dict[bytes, Served] = {}
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
            if lease is not None and lease.tally is not None:
                key = self._runs_for(worker.worker_id, lease.tally.account.key)
            seen[worker.worker_id] = (worker.cpu_time_s, key)
            if key is not None:
                self._use(key, worker, cpu_before_s, elapsed_us if lease is not None else 0)
            if lease is not None:
                for share in lease.shares:
                    on_devices.setdefault(share.uuid, []).append((lease, share.units))
        for worker_id in known or ():
            if worker_id not in seen:
                self._served.pop(worker_id, None)
        self._workers[node.node_id] = seen
        for device in sample.devices:
            self._divide(on_devices.get(device.uuid, ()), device.use_percent, elapsed_us)

    def _runs_for(self, worker_id: bytes, account: AccountKey) -> AccountKey:
        """Return the account of what a worker runs, or ran last."""
        served = self._served.get(worker_id)
        name = self._spans.doing(worker_id) or (served.name if served is not None else "")
        return account._replace(cell=name) if name and not account.actor else account

    def take_spans(self, spans: Iterable[Span]) -> None:
        """Take what workers say they ran: so long, what their leases held was for that."""
        for span in spans:
            lease = self._leases.of_worker(span.worker_id)
            served = self._served.get(span.worker_id)
            if lease is not None and lease.tally is not None:
                moved = served.moved if served is not None else {}
                served = Served(lease.tally.account.key, dict(lease.amounts), span.name, moved)
                self._served[span.worker_id] = served
            if served is None:
                continue
            until_us = round(span.duration_s * _MICRO)
            before_us = served.moved.pop(span.key, 0)
            if span.state == "running":
                served.moved[span.key] = max(until_us, before_us)
            if span.name != served.account.cell and not served.account.actor and until_us > before_us:
                held = {name: units * (until_us - before_us) for name, units in served.amounts.items()}
                self._ledger.reassign(served.account, served.account._replace(cell=span.name), held)

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
            assert lease.tally is not None, "a lease that holds something is counted"
            self._ledger.use(lease.tally.account.key, {GPU: used * units // total})

    def node_gone(self, node: Node) -> None:
        """Nothing more comes from there."""
        self._sampled_at.pop(node.node_id, None)
        self._workers.pop(node.node_id, None)
