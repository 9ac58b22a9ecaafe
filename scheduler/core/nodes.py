"""Nodes: what each has, who holds what of it, and which device.

A lease that starts takes its resources from one node, or from what a placement group has reserved on one, and holds
them until the agent says that they are free again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from atoll.exceptions import InternalError
from atoll.protocol.machine import Instant, Peer
from atoll.protocol.messages import RegisterNode
from atoll.protocol.values import ACTOR_ID, ACTOR_NAME, JOB_NAME, TASK_NAME, DeviceShare, NodeSample
from atoll.resources import CPU, GPU, GPU_MEMORY, MEMORY, Amounts, describe
from atoll.scheduler.core.jobs import Job
from atoll.scheduler.core.supply import DeviceUse, Holding, Supply, Wanted
from atoll.scheduler.policy.company import KEYS, Company

MAXIMUM_WORKERS = 256
"""Leases of one node whose tasks do not wait: requests that take no resource must not fork without end."""

MAXIMUM_CHANGES = 50_000
"""So many changes of nodes are remembered for the indexes of `placement`."""

LENT_WHILE_BLOCKED = (CPU, MEMORY)
"""What a task that waits may lend: its CPU, and its memory where that was a guess (`LeaseTable.block`)."""

NODE_ID_LABEL, ACCELERATOR_LABEL = "atoll.io/node-id", "atoll.io/accelerator-type"


class Tenant(Holding):
    """Who holds something of a node: a lease, as far as nodes know one.

    Attributes:
        lease_id: Its own.
        job: Whose it is.
        actor_id: Of the actor that lives there; empty if none does.
        name: What people call what runs: the function, the cell, the actor.
    """

    __slots__ = ("actor_id", "job", "lease_id", "name")

    def __init__(self, lease_id: int, job: Job, name: str) -> None:
        super().__init__()
        self.lease_id = lease_id
        self.job = job
        self.actor_id = b""
        self.name = name


class Reservation(NamedTuple):
    """What a bundle of a placement group holds of a node, and what it has to give of that."""

    holding: Holding
    supply: Supply


class Node:
    """One node.

    Args:
        registration: What its agent said.
        peer: The agent's connection.
        order: Its place among all nodes that ever registered; ties are broken by it.
        now: When it registered.
        changes: Told of what becomes free and what is taken.
    """

    def __init__(self, registration: RegisterNode, peer: Peer, order: int, now: Instant, changes: Changes) -> None:
        self.node_id = registration.node_id
        self.name = registration.name
        self.pid = registration.pid
        self.agent_socket = registration.agent_socket
        self.peer: Peer | None = peer
        self.order = order
        self.since = now
        self.supply = Supply(registration.resources, [DeviceUse(device) for device in registration.devices])
        self.pool = self.supply.pool
        self.devices = self.supply.devices
        self.total = self.supply.total
        self.labels = dict(registration.labels)
        self.labels[NODE_ID_LABEL] = self.node_id.hex()
        if registration.devices:
            self.labels.setdefault(ACCELERATOR_LABEL, registration.devices[0].model)
        self.holdings: dict[int, Tenant] = {}
        self.reservations: dict[int, Reservation] = {}
        self.blocked_count = 0
        self.gone = False
        self.draining = False
        self.stays = registration.stays
        self.sample: NodeSample | None = None
        self._changes = changes
        self._company: Company | None = None

    def company(self) -> Company:
        """Return what runs here, for conditions on it. It is put together when asked for, if it has changed."""
        if self._company is not None:
            return self._company
        found: dict[str, set[str]] = {key: set() for key in KEYS}
        for tenant in self.holdings.values():
            found[JOB_NAME].add(tenant.job.name)
            found[ACTOR_NAME if tenant.actor_id else TASK_NAME].add(tenant.name)
            if tenant.actor_id:
                found[ACTOR_ID].add(tenant.actor_id.hex())
        self._company = found
        return found

    def company_changed(self) -> None:
        """Something that runs here is called otherwise."""
        self._company = None
        self._changes.taken.append(self)

    @property
    def occupied(self) -> Amounts:
        """What is not free, in units; more than there is while CPU that was lent is wanted back."""
        free = self.pool.free
        return {
            name: units for name in {**self.total, **free} if (units := self.total.get(name, 0) - free.get(name, 0))
        }

    def could_ever_fit(self, wanted: Wanted) -> bool:
        """Whether the request fits while nothing else is held."""
        return self.supply.could_ever_fit(wanted)

    def free_cpu(self) -> int:
        """Return the units of CPU that can be given; -1 if nothing can, however little it takes."""
        if self.draining or len(self.holdings) - self.blocked_count >= MAXIMUM_WORKERS:
            return -1
        free = self.supply.live
        return free[CPU] if CPU in free and free[CPU] > 0 else 0

    def fits(self, wanted: Wanted, supply: Supply | None = None) -> bool:
        """Whether the request fits now: on the node, or in what is reserved on it."""
        if self.draining or len(self.holdings) - self.blocked_count >= MAXIMUM_WORKERS:
            return False
        return (supply or self.supply).fits(wanted)

    def fits_without(self, lease_ids: Iterable[int], wanted: Wanted) -> bool:
        """Whether the request would fit if these leases were over."""
        trial = self.supply.copy()
        gone = 0
        for lease_id in lease_ids:
            holding = self.holdings[lease_id]
            gone += not holding.blocked
            if holding.supply is self.supply:
                trial.give_back(lease_id, holding)
        return len(self.holdings) - self.blocked_count - gone < MAXIMUM_WORKERS and trial.fits(wanted)

    def take(self, tenant: Tenant, wanted: Wanted, supply: Supply | None = None) -> None:
        """Give a lease what it asks for; the caller has asked `fits`."""
        (supply or self.supply).give(tenant, tenant.lease_id, wanted)
        self.holdings[tenant.lease_id] = tenant
        self._company = None
        self._changes.taken.append(self)

    def take_again(
        self, tenant: Tenant, wanted: Wanted, shares: list[DeviceShare], supply: Supply | None = None
    ) -> bool:
        """Note what a lease from before a reconnection holds already; False if its devices are not free."""
        key = tenant.lease_id
        if key in self.holdings or not (supply or self.supply).give_again(tenant, key, wanted, shares):
            return False
        self.holdings[key] = tenant
        self._company = None
        self._changes.taken.append(self)
        return True

    def release(self, lease_id: int) -> None:
        """Take back all that a lease holds."""
        holding = self.holdings.pop(lease_id)
        self._company = None
        if holding.blocked:
            self.blocked_count -= 1
        holding.supply.give_back(lease_id, holding)
        self._freed()

    def reserve(self, number: int, wanted: Wanted, shares: list[DeviceShare] | None = None) -> Reservation | None:
        """Set something apart for a bundle; the caller has asked whether it fits.

        Args:
            number: The bundle's own.
            wanted: What it takes.
            shares: The devices that it had before a reconnection; then None is returned if they are not free.
        """
        holding = Holding()
        if shares is None:
            self.supply.give(holding, number, wanted)
        elif not self.supply.give_again(holding, number, wanted, shares):
            return None
        own = [(self.devices[share.uuid], share.units) for share in holding.shares]
        uses = [DeviceUse(use.device, units, use.condition) for use, units in own]
        made = self.reservations[number] = Reservation(holding, Supply(holding.amounts, uses))
        self._changes.taken.append(self)
        return made

    def unreserve(self, number: int) -> None:
        """Take back what was set apart; nothing of it is in use any more."""
        self.supply.give_back(number, self.reservations.pop(number).holding)
        self._freed()

    def block(self, lease_id: int, names: Iterable[str]) -> Amounts:
        """Let others use some of what a lease holds whose task waits. Returns what of these it had."""
        holding = self.holdings[lease_id]
        assert not holding.blocked, "a lease is blocked once"
        holding.blocked = True
        self.blocked_count += 1
        lent = holding.supply.lend(holding, names)
        self._freed()
        return lent

    def unblock(self, lease_id: int) -> Amounts:
        """Take again what a lease has lent, also if it is in use: the task goes on at once. Returns what it was."""
        holding = self.holdings[lease_id]
        assert holding.blocked, "a lease goes on after it was blocked"
        holding.blocked = False
        self.blocked_count -= 1
        taken = holding.supply.reclaim(holding, LENT_WHILE_BLOCKED)
        self._changes.taken.append(self)
        return taken

    def lend_devices(self, lease_id: int) -> Amounts:
        """Let others use the devices of a lease. Returns the amount that it had."""
        holding = self.holdings[lease_id]
        lent = holding.supply.lend_devices(lease_id, holding)
        self._freed()
        return lent

    def reclaim_devices(self, lease_id: int) -> Amounts | None:
        """Take the same devices again. Returns the amount, or None if they are not free."""
        holding = self.holdings[lease_id]
        taken = holding.supply.reclaim_devices(lease_id, holding)
        if taken is not None:
            self._changes.taken.append(self)
        return taken

    def observe(self, sample: NodeSample) -> bool:
        """Take a sample. Returns whether some device can be given now that could not be before."""
        self.sample = sample
        freed = False
        for device in sample.devices:
            use = self.devices.get(device.uuid)
            if use is not None:
                freed = use.condition.observe(device) or freed
        if freed:
            self._freed()
        return freed

    def lift_quarantine(self, uuid: str) -> None:
        """Somebody answers for a device."""
        self.devices[uuid].condition.lift()
        self._freed()

    def _freed(self) -> None:
        changes = self._changes
        if len(changes.taken) > MAXIMUM_CHANGES:
            changes.forget()
        changes.taken.append(self)
        changes.freed.append(self)

    def use_after(self, wanted: Wanted) -> float:
        """Return the highest fraction of any resource that would be held with this request, from 0."""
        return self.pool.use_after(wanted.amounts)

    def why_not(self, wanted: Wanted, supply: Supply | None = None) -> str:
        """Say in words what is short for a request now."""
        if self.draining:
            return f"{self.name}: it is being drained"
        supply = supply or self.supply
        short = supply.missing(wanted)
        if not short and not self.fits(wanted, supply):
            return f"{self.name}: {MAXIMUM_WORKERS} workers are in use, the most there are on a node"
        if not short:
            return f"{self.name}: fits"
        parts = [f"{describe({name: units})} short{_in_use(supply, name)}" for name, units in sorted(short.items())]
        text = f"{self.name}: " + ", ".join(parts)
        obstacles = supply.obstacles(wanted) if GPU in short or GPU_MEMORY in short else []
        return "; ".join([text, *obstacles])

    def check_invariants(self) -> None:
        """Raise `InternalError` unless what is held and what is free make up what there is, in every part."""
        reserved = {id(reservation.supply): reservation for reservation in self.reservations.values()}
        parts: dict[int, list[Holding]] = {key: [] for key in reserved}
        own = [reservation.holding for reservation in self.reservations.values()]
        for holding in self.holdings.values():
            if holding.supply is self.supply:
                own.append(holding)
            elif id(holding.supply) in parts:
                parts[id(holding.supply)].append(holding)
            else:
                raise InternalError(f"{self.name}: something is held of what is not reserved any more")
        self.supply.check_invariants(self.name, own)
        for key, held in parts.items():
            reserved[key].supply.check_invariants(f"a bundle on {self.name}", held)
        if self.blocked_count != sum(holding.blocked for holding in self.holdings.values()):
            raise InternalError(f"{self.name}: {self.blocked_count} leases are counted as blocked")


def _in_use(supply: Supply, name: str) -> str:
    total = supply.total.get(name, 0)
    if not total:
        return ""
    used = describe({name: total - supply.pool.free.get(name, 0)}).removesuffix(f" {name}")
    return f" ({used} of {describe({name: total})} in use)"


class Changes:
    """Which nodes have changed, for those who keep an order of nodes: each reads on from where it has read to.

    Attributes:
        freed: Nodes on which something became free.
        taken: Nodes on which anything changed, those too.
        membership: Grows when a node comes or goes.
    """

    def __init__(self) -> None:
        self.freed: list[Node] = []
        self.taken: list[Node] = []
        self.membership = 0

    def forget(self) -> None:
        """Forget what is old; who has not read it begins anew."""
        self.freed.clear()
        self.taken.clear()
        self.membership += 1


class NodeTable:
    """The nodes that are there, in the order in which they came.

    Attributes:
        changes: What changed of them.
        totals: What they have together, in units.
        parts: What part of that a unit is.
        none_since: Since when there is none; None while there is one.
    """

    def __init__(self, now: Instant) -> None:
        self._nodes: dict[bytes, Node] = {}
        self._orders = 0
        self.changes = Changes()
        self.totals: Amounts = {}
        self.parts: dict[str, float] = {}
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
        node = Node(registration, peer, self._orders, now, self.changes)
        self._nodes[node.node_id] = node
        self.none_since = None
        self.changes.membership += 1
        self._sum_up(node, 1)
        return node

    def remove(self, node: Node, now: Instant) -> None:
        """Forget a node that is gone."""
        del self._nodes[node.node_id]
        node.gone = True
        self.changes.membership += 1
        if not self._nodes:
            self.none_since = now
        self._sum_up(node, -1)

    def set_draining(self, node: Node, draining: bool) -> None:
        """Give nothing more of a node to anybody, or give it again."""
        node.draining = draining
        self.changes.membership += 1

    def _sum_up(self, node: Node, sign: int) -> None:
        for name, units in node.total.items():
            self.totals[name] = self.totals.get(name, 0) + sign * units
        self.parts = {name: 1.0 / units for name, units in self.totals.items() if units}
