"""One placement group and its bundles, as the scheduler knows them and as the journal keeps them.

What becomes of a group is `groups.py`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from atoll.protocol.machine import Instant
from atoll.protocol.messages import GroupChanged
from atoll.protocol.values import DeviceShare, GroupSpec, LabelTerm
from atoll.resources import CPU, GPU, GPU_MEMORY, Amounts
from atoll.scheduler.core.jobs import Job, PeerRecord
from atoll.scheduler.core.nodes import Node
from atoll.scheduler.core.placement import Shape
from atoll.scheduler.core.supply import NOTHING, Supply, wanted_by
from atoll.scheduler.policy import bundles as policy
from atoll.scheduler.policy import labels

if TYPE_CHECKING:
    from atoll.scheduler.core.lease import Lease

TABLE = "groups"
PENDING, CREATED, RESCHEDULING, REMOVED = "PENDING", "CREATED", "RESCHEDULING", "REMOVED"
GROUP_ID_BYTES = 16
MAXIMUM_BUNDLES = 1000


class SavedGroup(msgspec.Struct, frozen=True, array_like=True):
    """A group as the journal keeps it: for each bundle its node (empty: none) and devices there."""

    spec: GroupSpec
    job: bytes
    created: float
    nodes: list[bytes]
    shares: list[list[DeviceShare]]


class Bundle:
    """A part of a group.

    Attributes:
        number: Under which its node keeps what is set apart; negative, so that it is no lease's.
        node: Where it is; None while it is nowhere.
        supply: What it has to give there.
        leases: That have taken from it, by id.
        expected: Node and devices that it had before a restart of the scheduler, until the node is back.
    """

    __slots__ = ("amounts", "expected", "group", "index", "leases", "node", "number", "shape", "supply")

    def __init__(self, group: Group, index: int, number: int, amounts: Amounts, terms: list[LabelTerm]) -> None:
        self.group = group
        self.index = index
        self.number = number
        self.amounts = amounts
        self.shape = Shape(wanted_by(amounts), "SPREAD" if "SPREAD" in group.spec.strategy else "", hard=terms)
        self.node: Node | None = None
        self.supply: Supply | None = None
        self.leases: dict[int, Lease] = {}
        self.expected: tuple[bytes, list[DeviceShare]] | None = None

    @property
    def held(self) -> Mapping[str, int]:
        """What it holds of its node."""
        return self.node.reservations[self.number].holding.amounts if self.node is not None else NOTHING

    @property
    def size(self) -> tuple[int, ...]:
        """For placing the largest first."""
        amounts = self.amounts
        rest = sum(units for name, units in amounts.items() if name not in (CPU, GPU, GPU_MEMORY))
        return -amounts.get(GPU, 0), -amounts.get(GPU_MEMORY, 0), -amounts.get(CPU, 0), -rest, self.index


class Group:
    """A placement group.

    Attributes:
        state: `PENDING`, `CREATED`, `RESCHEDULING` or `REMOVED`.
        waiting: Who is to hear when it is created: peer and request.
        created: Wall clock, when it was asked for.
    """

    __slots__ = ("bundles", "created", "job", "key", "order", "since", "spec", "state", "waiting")

    def __init__(self, spec: GroupSpec, job: Job, created: float, now: Instant, order: int) -> None:
        self.spec = spec
        self.job = job
        self.created = created
        self.since = now
        self.order = order
        self.state = PENDING
        self.bundles: list[Bundle] = []
        self.waiting: list[tuple[PeerRecord, int]] = []
        self.key: object = None

    @property
    def outlives_its_job(self) -> bool:
        """Whether it stays when its notebook goes."""
        return self.spec.detached or bool(self.spec.name)

    @property
    def waits(self) -> bool:
        """Whether some bundle has no place."""
        return self.state in (PENDING, RESCHEDULING)

    def changed(self, request: int) -> GroupChanged:
        """Return its state as a message."""
        nodes = [bundle.node.node_id if bundle.node is not None else b"" for bundle in self.bundles]
        return GroupChanged(request, self.spec, self.state, nodes)


encode_saved = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(SavedGroup)


def read_saved(value: bytes) -> SavedGroup:
    """Read a group's record.

    Raises:
        msgspec.DecodeError: It is of another version, or damaged.
    """
    return _decoder.decode(value)


def what_is_wrong(spec: GroupSpec) -> str | None:
    """Return why this is no placement group, or None: what comes from a client is not believed."""
    if len(spec.group_id) != GROUP_ID_BYTES:
        return f"the id of a placement group has {GROUP_ID_BYTES} bytes"
    if spec.strategy not in policy.STRATEGIES:
        return f"{spec.strategy!r} is no strategy; there are {', '.join(policy.STRATEGIES)}"
    if not 0 < len(spec.bundles) <= MAXIMUM_BUNDLES:
        return f"a placement group has 1 to {MAXIMUM_BUNDLES} bundles, not {len(spec.bundles)}"
    if spec.labels and len(spec.labels) != len(spec.bundles):
        return "there are labels for each bundle or for none"
    for terms in spec.labels:
        wrong = labels.what_is_wrong(terms)
        if wrong is not None:
            return wrong
    for amounts in spec.bundles:
        if not amounts:
            return "a bundle is empty"
    return None
