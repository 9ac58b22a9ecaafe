"""Placement groups: bundles of resources, each set apart on a node, all of them or none.

    CreateGroup ─▶ PENDING ─ all bundles have a node ─▶ CREATED ─ a node goes ─▶ RESCHEDULING ─ lost bundles placed ─┐
                      │                                   ▲ │                        │                              │
                      └───────────── RemoveGroup ─────────┼─┴────────────────────────┘ ◀── (the others stay) ───────┘
                                          ▼               └─────────────────────────────────────────────────────────
                                       REMOVED   (what is leased from it ends; each bundle is free when that has ended)

A group that waits holds nothing, so groups cannot wait for each other. What a task in a group takes, it takes from a
bundle; the node sees one holding for each bundle, and the job is charged with it.

Groups are written down, with their nodes and devices, before anybody hears of them: a restarted scheduler finds them
again, and each bundle takes up its place when its node is back, before anything else is given there.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator

from atoll.exceptions import InternalError
from atoll.protocol.messages import CreateGroup, Done
from atoll.protocol.values import GroupSpec, SchedulingClass
from atoll.scheduler.core.group import (
    CREATED,
    PENDING,
    REMOVED,
    RESCHEDULING,
    TABLE,
    Bundle,
    Group,
    SavedGroup,
    encode_saved,
)
from atoll.scheduler.core.jobs import Job, PeerRecord
from atoll.scheduler.core.nodes import Node, NodeTable
from atoll.scheduler.core.placement import Placement
from atoll.scheduler.core.shares import ShareTable
from atoll.scheduler.core.supply import Wanted
from atoll.scheduler.core.turn import Turn
from atoll.scheduler.core.usage import Ledger
from atoll.scheduler.policy import bundles as policy
from atoll.scheduler.policy import labels

MAXIMUM_REMOVED = 256


class _NodeGround:
    """The nodes of the cluster, for the search of a place for every bundle."""

    def __init__(self, placement: Placement, group: Group) -> None:
        self._placement = placement
        self._bundles = group.bundles
        self._limits = (len(group.bundles) + 2, max(32, len(group.bundles) + 8))

    def places(self, bundle: int) -> Iterator[Node]:
        seen: dict[int, None] = {}
        for limit in self._limits:  # the first few nearly always do
            for node in self._placement.several(self._bundles[bundle].shape, limit):
                if node.order not in seen:
                    seen[node.order] = None
                    yield node

    def fits(self, bundle: int, place: Node) -> bool:
        shape = self._bundles[bundle].shape
        return place.fits(shape.wanted) and labels.matches(place.labels, shape.labels)

    def put(self, bundle: int, place: Node) -> None:
        found = self._bundles[bundle]
        place.reserve(found.number, found.shape.wanted)

    def take_back(self, bundle: int, place: Node) -> None:
        place.unreserve(self._bundles[bundle].number)


class GroupTable:
    """All placement groups.

    Args:
        turn: Where actions go.
        nodes: Where bundles are placed.
        placement: Finds nodes.
        shares: What sessions use.
        ledger: Counts what is held.

    Attributes:
        anything_waits: The groups that have no place, or not for all bundles, by id.
    """

    def __init__(self, turn: Turn, nodes: NodeTable, placement: Placement, shares: ShareTable, ledger: Ledger) -> None:
        self._turn = turn
        self._nodes = nodes
        self._placement = placement
        self._shares = shares
        self._ledger = ledger
        self._groups: dict[bytes, Group] = {}
        self._names: dict[tuple[str, str], Group] = {}
        self._removed: OrderedDict[bytes, Group] = OrderedDict()
        self.anything_waits: dict[bytes, Group] = {}
        self._fresh: dict[bytes, Group] = {}
        self._leaving: dict[int, Bundle] = {}
        self._orders = itertools.count(1)
        self._numbers = itertools.count(1)
        self._tried_at: tuple[int, int] = (-1, -1)

    def __iter__(self) -> Iterator[Group]:
        return iter(self._groups.values())

    def __len__(self) -> int:
        return len(self._groups)

    def removed(self) -> Iterator[Group]:
        """Return those that are remembered, the longest removed first."""
        return iter(self._removed.values())

    def get(self, group_id: bytes) -> Group | None:
        """Return a group that was not removed."""
        return self._groups.get(group_id)

    def find(self, group_id: bytes, namespace: str, name: str) -> Group | None:
        """Return a group by its id, removed ones too for a while, or by its name."""
        if group_id:
            return self._groups.get(group_id) or self._removed.get(group_id)
        return self._names.get((namespace, name))

    def waiting(self) -> list[Group]:
        """Return the groups that wait for a place, in the order in which they are tried."""
        return sorted(self.anything_waits.values(), key=lambda group: (group.job.share, group.order))

    # ------------------------------------------------------------------------------------------------ requests

    def create(self, record: PeerRecord, job: Job, message: CreateGroup) -> None:
        """Take a group in; it is placed as soon as it can be."""
        spec = message.spec
        known = self._groups.get(spec.group_id)
        holder = self._names.get((spec.namespace, spec.name)) if spec.name else None
        if known is None and holder is not None:
            text = f"the name {spec.name!r} is taken by another placement group ({holder.state}); remove it first"
            self._turn.fail(record.peer, message.request, "ValueError", text)
            return
        if known is None:
            group = self._add(spec, job, self._turn.wall(self._turn.now))
            self._write_down(group)
            self.anything_waits[spec.group_id] = self._fresh[spec.group_id] = group
        self._turn.send(record.peer, Done(message.request))

    def _add(self, spec: GroupSpec, job: Job, created: float) -> Group:
        group = Group(spec, job, created, self._turn.now, next(self._orders))
        for index, amounts in enumerate(spec.bundles):
            terms = spec.labels[index] if spec.labels else []
            group.bundles.append(Bundle(group, index, -next(self._numbers), amounts, terms))
        group.key = (spec.strategy, tuple(bundle.shape.key for bundle in group.bundles))
        self._groups[spec.group_id] = group
        if spec.name:
            self._names[spec.namespace, spec.name] = group
        return group

    def wait(self, record: PeerRecord, request: int, group: Group) -> None:
        """Answer when the group is created, or removed."""
        if group.state in (CREATED, REMOVED):
            self._turn.send(record.peer, group.changed(request))
        else:
            group.waiting.append((record, request))

    def peer_lost(self, record: PeerRecord) -> None:
        """Nobody waits there any more."""
        for group in self.anything_waits.values():
            group.waiting = [entry for entry in group.waiting if entry[0] is not record]

    def forget(self, group: Group) -> None:
        """The group is removed. Its leases have been ended; what they hold is free when they have."""
        spec = group.spec
        group.state = REMOVED
        del self._groups[spec.group_id]
        self.anything_waits.pop(spec.group_id, None)
        self._fresh.pop(spec.group_id, None)
        if spec.name:
            del self._names[spec.namespace, spec.name]
        self._removed[spec.group_id] = group
        if len(self._removed) > MAXIMUM_REMOVED:
            self._removed.popitem(last=False)
        self._turn.remove_record(TABLE, spec.group_id.hex())
        self._tell(group)
        for bundle in group.bundles:
            bundle.expected = None
            if bundle.node is not None:
                self._leaving[bundle.number] = bundle
                self.lease_over(bundle)

    def lease_over(self, bundle: Bundle) -> None:
        """Give a bundle's resources back if its group is removed and nothing of it is in use any more."""
        if bundle.number in self._leaving and not bundle.leases and bundle.node is not None:
            del self._leaving[bundle.number]
            self._discharge(bundle)
            bundle.node.unreserve(bundle.number)
            bundle.node = bundle.supply = None

    def _tell(self, group: Group) -> None:
        for record, request in group.waiting:
            self._turn.send(record.peer, group.changed(request))
        group.waiting = []

    # ----------------------------------------------------------------------------------------------- placement

    def place(self) -> bool:
        """Place what waits, as far as there is room. Returns whether anything was placed."""
        changes = self._nodes.changes
        stamp = (changes.membership, len(changes.freed))
        tried = list(self._fresh.values()) if stamp == self._tried_at else self.waiting()
        self._fresh.clear()
        hopeless: dict[object, None] = {}
        placed = False
        for group in tried:
            if group.key in hopeless or any(bundle.expected for bundle in group.bundles):
                continue
            if self._place(group):
                placed = True
            elif group.state == PENDING:
                hopeless[group.key] = None
        self._tried_at = (changes.membership, len(changes.freed))
        return placed

    def _place(self, group: Group) -> bool:
        lost = sorted((bundle for bundle in group.bundles if bundle.node is None), key=lambda bundle: bundle.size)
        kept = [bundle.node for bundle in group.bundles if bundle.node is not None]
        ground = _NodeGround(self._placement, group)
        found = policy.assign(group.spec.strategy, [bundle.index for bundle in lost], ground, kept)
        if found is None:
            return False
        for bundle in lost:
            self._settle(bundle, found[bundle.index])
        self._complete(group)
        return True

    def _settle(self, bundle: Bundle, node: Node) -> None:
        bundle.node = node
        bundle.supply = node.reservations[bundle.number].supply
        self._shares.charge(bundle.group.job, bundle.held)
        self._ledger.take(self._ledger.key_of_groups(bundle.group.job), bundle.held)

    def _complete(self, group: Group) -> None:
        group.state = CREATED
        self.anything_waits.pop(group.spec.group_id, None)
        self._write_down(group)
        self._tell(group)

    def _discharge(self, bundle: Bundle) -> None:
        self._shares.discharge(bundle.group.job, bundle.held)
        self._ledger.give_back(self._ledger.key_of_groups(bundle.group.job), bundle.held)

    def bundle_for(self, wanted: Wanted, scheduling_class: SchedulingClass) -> Bundle | None:
        """Return the bundle from which a request of this class can take now, or None."""
        group = self._groups.get(scheduling_class.group)
        if group is None:
            return None
        for bundle in self.allowed(group, scheduling_class):
            if bundle.node is not None and bundle.node.fits(wanted, bundle.supply):
                return bundle
        return None

    @staticmethod
    def allowed(group: Group, scheduling_class: SchedulingClass) -> list[Bundle]:
        """Return the bundles from which a class may take."""
        index = scheduling_class.bundle
        return group.bundles if index < 0 else group.bundles[index : index + 1]

    # ------------------------------------------------------------------------------------- nodes come and go

    def node_lost(self, node: Node) -> None:
        """What was set apart on a node is lost; the leases there are over already."""
        for bundle in [*self._leaving.values()]:
            if bundle.node is node:
                self.lease_over(bundle)
        for group in self:
            for bundle in group.bundles:
                if bundle.node is node:
                    self._displace(bundle)

    def leave(self, node: Node) -> None:
        """A node is being drained: bundles there in which nothing runs are to be set apart elsewhere."""
        for group in self:
            for bundle in group.bundles:
                if bundle.node is node and not bundle.leases:
                    self._displace(bundle)

    def _displace(self, bundle: Bundle) -> None:
        group, node = bundle.group, bundle.node
        assert node is not None, "a bundle that loses its place has one"
        self._discharge(bundle)
        node.unreserve(bundle.number)
        bundle.node = bundle.supply = None
        placed = any(each.node is not None for each in group.bundles)
        group.state = RESCHEDULING if placed else PENDING
        self.anything_waits[group.spec.group_id] = group

    def node_came(self, node: Node) -> None:
        """A node is back after a restart of the scheduler: bundles take up their places there again."""
        for group in list(self.anything_waits.values()):
            for bundle in group.bundles:
                if bundle.expected is not None and bundle.expected[0] == node.node_id:
                    _node_id, shares = bundle.expected
                    bundle.expected = None
                    if node.reserve(bundle.number, bundle.shape.wanted, shares) is not None:
                        self._settle(bundle, node)
                        begun = group.created - self._turn.wall_offset
                        key = self._ledger.key_of_groups(group.job)
                        if self._ledger.resume(key, bundle.held, begun, bundle.number):
                            self._shares.resume(group.job, bundle.held, begun)
                        group.state = RESCHEDULING
            if all(bundle.node is not None for bundle in group.bundles):
                self._complete(group)

    def restore(self, saved: SavedGroup, job: Job) -> None:
        """Take up a group from the journal."""
        group = self._add(saved.spec, job, saved.created)
        self.anything_waits[saved.spec.group_id] = group
        for bundle, node_id, shares in zip(group.bundles, saved.nodes, saved.shares, strict=True):
            if node_id:
                bundle.expected = (node_id, shares)

    def grace_over(self) -> None:
        """Nodes that did not come back are lost, and so are the bundles there."""
        for group in self.anything_waits.values():
            for bundle in group.bundles:
                bundle.expected = None
        self._tried_at = (-1, -1)

    def _write_down(self, group: Group) -> None:
        nodes, shares = [], []
        for bundle in group.bundles:
            nodes.append(bundle.node.node_id if bundle.node is not None else b"")
            held = bundle.node.reservations[bundle.number].holding if bundle.node is not None else None
            shares.append(held.shares if held is not None else [])
        saved = SavedGroup(group.spec, group.job.job_id, group.created, nodes, shares)
        self._turn.persist(TABLE, group.spec.group_id.hex(), encode_saved(saved))

    # ------------------------------------------------------------------------------------------------ checking

    def holders(self) -> Iterator[Bundle]:
        """Yield the bundles that hold something."""
        yield from self._leaving.values()
        for group in self:
            yield from (bundle for bundle in group.bundles if bundle.node is not None)

    def check_invariants(self) -> None:
        """Raise `InternalError` unless each group is placed wholly or not at all, and nodes hold what groups think."""
        expected = {}
        for bundle in self.holders():
            expected[bundle.number] = bundle
            node = bundle.node
            if node is None or node.gone or node.reservations[bundle.number].supply is not bundle.supply:
                raise InternalError(f"bundle {bundle.number} is not where its group believes")
        found = {number for node in self._nodes for number in node.reservations}
        if found != expected.keys():
            raise InternalError(f"nodes have set apart {sorted(found)}, groups hold {sorted(expected)}")
        for group in self:
            placed = sum(bundle.node is not None for bundle in group.bundles)
            whole = placed == len(group.bundles)
            if whole != (group.state == CREATED) or (group.state == PENDING and placed):
                raise InternalError(f"group {group.spec.group_id.hex()} is {group.state} with {placed} bundles placed")
            if group.waits != (group.spec.group_id in self.anything_waits):
                raise InternalError(f"group {group.spec.group_id.hex()} is {group.state} and not queued as such")
            nodes = [bundle.node for bundle in group.bundles if bundle.node is not None]
            spread, packed = group.spec.strategy == policy.STRICT_SPREAD, group.spec.strategy == policy.STRICT_PACK
            if (spread and len({node.order for node in nodes}) < len(nodes)) or (
                packed and len({node.order for node in nodes}) > 1
            ):
                raise InternalError(f"group {group.spec.group_id.hex()} is not {group.spec.strategy}")
        for (_namespace, name), group in self._names.items():
            if group.spec.name != name or group.state == REMOVED:
                raise InternalError(f"the name {name!r} belongs to no group")
