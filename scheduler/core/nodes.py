"""Nodes: what each has, who holds what of it, and which device.

A lease that starts takes its resources from one node and holds them until the agent says that they are free again.
Devices are known by UUID. Asking for one GPU or more means whole devices, held by nobody else; asking for less means a
share of one device, and shares are put together on as few devices as possible, so that whole ones stay whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from atoll.exceptions import InternalError
from atoll.protocol.machine import Instant, Peer
from atoll.protocol.messages import RegisterNode
from atoll.protocol.values import Device, DeviceShare, NodeSample
from atoll.resources import CPU, GPU, UNITS_PER_ONE, Amounts, Pool, describe

MAXIMUM_WORKERS = 256
"""Leases of one node whose tasks do not wait: requests that take no resource must not fork without end."""


class DeviceUse:
    """A device and the leases that hold it, in units."""

    __slots__ = ("device", "free", "held")

    def __init__(self, device: Device) -> None:
        self.device = device
        self.free = UNITS_PER_ONE
        self.held: dict[int, int] = {}

    def share(self, units: int) -> DeviceShare:
        """Return the device as a lease names it."""
        return DeviceShare(self.device.uuid, self.device.index, units, self.device.simulated)


class Holding:
    """What a lease holds of a node. While `blocked`, its CPU is `lent` and not part of `amounts`."""

    __slots__ = ("amounts", "blocked", "lent", "shares")

    def __init__(self, amounts: Amounts, shares: list[DeviceShare]) -> None:
        self.amounts = amounts
        self.shares = shares
        self.blocked = False
        self.lent = 0


class Node:
    """One node.

    Args:
        registration: What its agent said.
        peer: The agent's connection.
        order: Its place among all nodes that ever registered; ties are broken by it.
        now: When it registered.
    """

    def __init__(self, registration: RegisterNode, peer: Peer, order: int, now: Instant) -> None:
        self.node_id = registration.node_id
        self.name = registration.name
        self.pid = registration.pid
        self.agent_socket = registration.agent_socket
        self.labels = dict(registration.labels)
        self.peer: Peer | None = peer
        self.order = order
        self.since = now
        self.devices = {device.uuid: DeviceUse(device) for device in registration.devices}
        total = {name: units for name, units in registration.resources.items() if units > 0}
        total.pop(GPU, None)
        if self.devices:
            total[GPU] = len(self.devices) * UNITS_PER_ONE
        self.pool = Pool(total)
        self.total = self.pool.total
        self.holdings: dict[int, Holding] = {}
        self.blocked_count = 0
        self.sample: NodeSample | None = None

    def could_ever_fit(self, wanted: Mapping[str, int]) -> bool:
        """Whether the request fits while nothing else is held."""
        return self.pool.could_ever_fit(wanted)

    def fits(self, wanted: Mapping[str, int]) -> bool:
        """Whether the request fits now."""
        if not self.pool.fits(wanted) or len(self.holdings) - self.blocked_count >= MAXIMUM_WORKERS:
            return False
        units = wanted.get(GPU, 0)
        return not units or self._devices_for(units) is not None

    def take(self, lease_id: int, wanted: Amounts) -> list[DeviceShare]:
        """Give a lease what it asks for; the caller has asked `fits`. Returns its devices."""
        units = wanted.get(GPU, 0)
        uses = (self._devices_for(units) or []) if units else []
        self.pool.take(wanted)
        shares = []
        for use in uses:
            part = min(units, UNITS_PER_ONE)
            use.held[lease_id] = part
            use.free -= part
            shares.append(use.share(part))
        self.holdings[lease_id] = Holding(dict(wanted), shares)
        return shares

    def take_again(self, lease_id: int, wanted: Amounts, shares: list[DeviceShare]) -> bool:
        """Note what a lease from before a reconnection holds already; False if its devices are not free."""
        free = all(share.uuid in self.devices and self.devices[share.uuid].free >= share.units for share in shares)
        if not free or lease_id in self.holdings:
            return False
        for share in shares:
            use = self.devices[share.uuid]
            use.held[lease_id] = share.units
            use.free -= share.units
        self.pool.take_anyway(wanted)
        self.holdings[lease_id] = Holding(dict(wanted), shares)
        return True

    def release(self, lease_id: int) -> None:
        """Take back all that a lease holds."""
        holding = self.holdings.pop(lease_id)
        self.blocked_count -= holding.blocked
        self.pool.give_back(holding.amounts)
        for share in holding.shares:
            use = self.devices[share.uuid]
            use.free += use.held.pop(lease_id)

    def lend_cpu(self, lease_id: int) -> int:
        """Let others use the CPU of a lease whose task waits. Returns the units that it had."""
        holding = self.holdings[lease_id]
        assert not holding.blocked, "a lease lends its CPU once"
        holding.blocked = True
        self.blocked_count += 1
        units = holding.amounts.pop(CPU, 0)
        if units:
            holding.lent = units
            self.pool.give_back({CPU: units})
        return units

    def reclaim_cpu(self, lease_id: int) -> int:
        """Take the lent CPU again, also if it is in use: the task goes on at once. Returns the units."""
        holding = self.holdings[lease_id]
        assert holding.blocked, "a lease takes its CPU back after it has lent it"
        holding.blocked = False
        self.blocked_count -= 1
        units, holding.lent = holding.lent, 0
        if units:
            holding.amounts[CPU] = units
            self.pool.take_anyway({CPU: units})
        return units

    def use_after(self, wanted: Mapping[str, int]) -> float:
        """Return the highest fraction of any resource that would be held with this request, from 0."""
        return self.pool.use_after(wanted)

    def missing(self, wanted: Mapping[str, int]) -> Amounts:
        """Return what is short for a request now, empty if it fits."""
        short = dict(self.pool.missing(wanted))
        units = wanted.get(GPU, 0)
        if units and GPU not in short and self._devices_for(units) is None:
            free = self._whole_free() * UNITS_PER_ONE if units >= UNITS_PER_ONE else self._largest_free()
            short[GPU] = units - free
        return short

    def why_not(self, wanted: Mapping[str, int]) -> str:
        """Say in words what is short for a request now."""
        short = self.missing(wanted)
        if not short and len(self.holdings) - self.blocked_count >= MAXIMUM_WORKERS:
            return f"{self.name}: {MAXIMUM_WORKERS} workers are in use, the most there are on a node"
        if not short:
            return f"{self.name}: fits"
        parts = [
            f"{describe({name: units})} short ({self._in_use(name)} in use)" for name, units in sorted(short.items())
        ]
        return f"{self.name}: " + ", ".join(parts)

    def _in_use(self, name: str) -> str:
        total = self.total.get(name, 0)
        used = describe({name: total - self.pool.free.get(name, 0)}).removesuffix(f" {name}")
        return f"{used} of {describe({name: total})}"

    def _whole_free(self) -> int:
        return sum(use.free == UNITS_PER_ONE for use in self.devices.values())

    def _largest_free(self) -> int:
        return max((use.free for use in self.devices.values()), default=0)

    def _devices_for(self, units: int) -> list[DeviceUse] | None:
        """Return the devices to take for so many units of GPU, or None."""
        if units < UNITS_PER_ONE:
            fitting = [use for use in self.devices.values() if use.free >= units]
            return [min(fitting, key=lambda use: (use.free, use.device.index))] if fitting else None
        whole = [use for use in self.devices.values() if use.free == UNITS_PER_ONE]
        count = units // UNITS_PER_ONE
        return whole[:count] if len(whole) >= count else None

    def check_invariants(self) -> None:
        """Raise `InternalError` unless what is held and what is free make up what there is."""
        held: Amounts = {}
        for holding in self.holdings.values():
            for name, units in holding.amounts.items():
                held[name] = held.get(name, 0) + units
        free = self.pool.free
        for name in {**free, **held}:
            if free.get(name, 0) + held.get(name, 0) != self.total.get(name, 0):
                raise InternalError(f"{self.name}: {free.get(name, 0)} {name} free and {held.get(name, 0)} held")
        if self.blocked_count != sum(holding.blocked for holding in self.holdings.values()):
            raise InternalError(f"{self.name}: {self.blocked_count} leases are counted as blocked")
        for use in self.devices.values():
            if use.free < 0 or use.free + sum(use.held.values()) != UNITS_PER_ONE:
                raise InternalError(f"{self.name}: device {use.device.uuid} is held by {use.held}, {use.free} free")
            if len(use.held) > 1 and UNITS_PER_ONE in use.held.values():
                raise InternalError(f"{self.name}: whole device {use.device.uuid} has two holders")


class NodeTable:
    """The nodes that are there, in the order in which they came."""

    def __init__(self, now: Instant) -> None:
        self._nodes: dict[bytes, Node] = {}
        self._orders = 0
        self.totals: Amounts = {}
        self.none_since: Instant | None = now

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, node_id: bytes) -> Node | None:
        """Return a node that is there."""
        return self._nodes.get(node_id)

    def by_hex(self, text: str) -> Node | None:
        """Return the node that a scheduling class names."""
        try:
            return self._nodes.get(bytes.fromhex(text))
        except ValueError:
            return None

    def add(self, registration: RegisterNode, peer: Peer, now: Instant) -> Node:
        """Take a node in. The caller has made sure that it is not there."""
        assert registration.node_id not in self._nodes, "a node registers once for each connection"
        self._orders += 1
        node = Node(registration, peer, self._orders, now)
        self._nodes[node.node_id] = node
        self.none_since = None
        self._sum_up()
        return node

    def remove(self, node: Node, now: Instant) -> None:
        """Forget a node that is gone."""
        del self._nodes[node.node_id]
        if not self._nodes:
            self.none_since = now
        self._sum_up()

    def _sum_up(self) -> None:
        self.totals = {}
        for node in self:
            for name, units in node.total.items():
                self.totals[name] = self.totals.get(name, 0) + units

    def dominant_share(self, used: Mapping[str, int]) -> int:
        """Return the largest part of any resource of the cluster that these amounts are, in millionths."""
        share = 0
        for name, units in used.items():
            total = self.totals.get(name, 0)
            if total and units > 0:
                share = max(share, units * 1_000_000 // total)
        return share
