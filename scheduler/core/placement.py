"""Where requests go: for each shape of request an order of the nodes, kept up to date only as far as it is read.

All requests of one shape ask the same question, again and again, while nodes change a little in between. So for each
shape that is asked for, its nodes lie in a heap by the policy's score. A node that has become fuller is found out when
it comes to the top, and sinks; one on which something became free is put in anew when the heap is next asked. Nobody
looks at all nodes, and a decision costs a few comparisons and at most the logarithm of the number of nodes.

A node that would not do at any time (wrong labels, another node was named, too small) is not in the heap at all. One
that will not do because of what runs there is as one without room: it is looked at again when that has changed.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from itertools import count

import msgspec

from atoll.protocol.values import LabelTerm, SchedulingClass
from atoll.resources import GPU_MEMORY, UNITS_PER_ONE, Amounts
from atoll.scheduler.core.nodes import Node, NodeTable
from atoll.scheduler.core.supply import Wanted, wanted_of
from atoll.scheduler.policy import company, hybrid, labels, pack, spread
from atoll.scheduler.policy.feasibility import Offer, why_infeasible

Score = Callable[[float, int], tuple[float, int]]
Rank = tuple[int, int, float, int]

POLICIES: dict[str, Score] = {"": hybrid.score, "SPREAD": spread.score, "PACK": pack.score}
MAXIMUM_INDEXES = 256
MAXIMUM_PLACES = 32
"""So many places are looked at for a bundle, and one more for each bundle of its group."""


class Shape:
    """What bears on where a request goes.

    Attributes:
        wanted: What it takes.
        strategy: A key of `POLICIES`.
        node: The only node, or with `node_soft` the one if it can be; as hex; empty for any.
        labels: What the labels must be.
        labels_soft: What they had better be.
        company: What must run on the node, or must not.
        company_soft: What had better.
        anywhere: Whether any node will do.
        key: Equal for equal shapes.
    """

    __slots__ = (
        "anywhere",
        "company",
        "company_soft",
        "key",
        "labels",
        "labels_soft",
        "node",
        "node_soft",
        "strategy",
        "wanted",
    )

    def __init__(
        self,
        wanted: Wanted,
        strategy: str = "",
        node: str = "",
        node_soft: bool = False,
        hard: Iterable[LabelTerm] = (),
        soft: Iterable[LabelTerm] = (),
    ) -> None:
        self.wanted = wanted
        self.strategy = strategy
        self.node = node
        self.node_soft = node_soft
        self.labels, self.company = company.split(tuple(hard))
        self.labels_soft, self.company_soft = company.split(tuple(soft))
        self.anywhere = not node and not self.labels and not self.company
        self.key: Hashable = (
            tuple(sorted(wanted.amounts.items())),
            wanted.device_bytes,
            wanted.device_types,
            strategy,
            node,
            node_soft,
            _key_of(self.labels),
            _key_of(self.labels_soft),
            _key_of(self.company),
            _key_of(self.company_soft),
        )

    @property
    def depends_on_company(self) -> bool:
        """Whether it matters what else runs on a node."""
        return bool(self.company or self.company_soft)

    @property
    def wanted_as_asked(self) -> Amounts:
        """What it takes, device memory among the amounts."""
        size = self.wanted.device_bytes * UNITS_PER_ONE
        return {**self.wanted.amounts, GPU_MEMORY: size} if size else self.wanted.amounts

    @classmethod
    def of(cls, scheduling_class: SchedulingClass) -> Shape:
        """Return the shape of a class."""
        return cls(
            wanted_of(scheduling_class),
            scheduling_class.strategy,
            scheduling_class.node,
            scheduling_class.node_soft,
            scheduling_class.labels,
            scheduling_class.labels_soft,
        )


def shapes_of(scheduling_class: SchedulingClass) -> list[tuple[SchedulingClass, Shape]]:
    """Return what will do for a class, the best first, each as a class without choices and as a shape."""
    if not scheduling_class.choices:
        return [(scheduling_class, Shape.of(scheduling_class))]
    classes = [msgspec.structs.replace(scheduling_class, choices=[])]
    for choice in scheduling_class.choices:
        classes.append(
            msgspec.structs.replace(
                classes[0], resources=choice.resources, labels=choice.labels, device_types=choice.device_types
            )
        )
    return [(each, Shape.of(each)) for each in classes]


def _key_of(terms: Iterable[LabelTerm]) -> Hashable:
    return tuple((term.key, term.operator, tuple(term.values)) for term in terms)


def spares_devices(shape: Shape) -> bool:
    """Whether nodes with GPUs are left to those who need them, as long as others have room."""
    return not (shape.wanted.needs_devices or shape.wanted.device_types or shape.strategy == "SPREAD")


class _Index:
    """The nodes for one shape, in a heap.

    What holds between two calls: a node on which the shape fits is in the heap at least once with a rank that is no
    worse than its own, or is among the changes that have not been read.
    """

    def __init__(self, nodes: NodeTable, shape: Shape) -> None:
        self._shape = shape
        self._score = POLICIES[shape.strategy]
        self._spares = spares_devices(shape)
        changes = self._changes = nodes.changes
        # Packing prefers what is full: there, what was taken makes a node better, too; and so does good company.
        self._log = changes.taken if shape.strategy == "PACK" or shape.depends_on_company else changes.freed
        self._read_to = len(self._log)
        self.membership = changes.membership
        self._misses = {node.order: miss for node in nodes if (miss := self._miss(nodes, node)) is not None}
        self._numbers = count()
        self._heap: list[tuple[Rank, int, int, Node]] = []
        self._fill(nodes)

    def _fill(self, nodes: Iterable[Node]) -> None:
        self._heap = []
        for node in nodes:
            rank = self._rank(node)
            if rank is not None:
                self._heap.append((rank, node.order, next(self._numbers), node))
        heapq.heapify(self._heap)
        self._limit = 4 * len(self._misses) + 64

    def _miss(self, nodes: NodeTable, node: Node) -> int | None:
        """Return 0 for a node that is as wished, 1 for one that will do, None for one that never will."""
        if not could_be_eligible(nodes, self._shape, node) or not node.could_ever_fit(self._shape.wanted):
            return None
        return 0 if labels.matches(node.labels, self._shape.labels_soft) else 1

    def _rank(self, node: Node) -> Rank | None:
        """Return where a node stands now, or None if the shape does not fit there now."""
        wanted = self._shape.wanted
        miss = self._misses.get(node.order)
        if miss is None or not node.fits(wanted):
            return None
        if self._shape.depends_on_company:
            present = node.company()
            if not company.suits(present, self._shape.company):
                return None
            miss += not company.suits(present, self._shape.company_soft)
        used, leases = self._score(node.pool.use_after(wanted.amounts), len(node.holdings))
        return miss, self._spares and bool(node.devices), used, leases

    def _catch_up(self) -> None:
        """Put in the nodes that may be better than they were."""
        log = self._log
        if self._read_to == len(log):
            return
        for node in dict.fromkeys(log[self._read_to :]):
            rank = self._rank(node)
            if rank is not None:
                heapq.heappush(self._heap, (rank, node.order, next(self._numbers), node))
        self._read_to = len(log)
        if len(self._heap) > self._limit:
            self._fill({entry[3].order: entry[3] for entry in sorted(self._heap)}.values())

    def best(self) -> Node | None:
        """Return the best node on which the shape fits now, or None."""
        self._catch_up()
        heap = self._heap
        while heap:
            rank, order, _number, node = heap[0]
            now = self._rank(node)
            if now is None:
                heapq.heappop(heap)
            elif now <= rank:
                return node
            else:
                heapq.heapreplace(heap, (now, order, next(self._numbers), node))
        return None

    def several(self, limit: int) -> list[Node]:
        """Return nodes on which the shape fits now, the best first."""
        found: list[Node] = []
        kept = []
        while len(found) < limit and (node := self.best()) is not None:
            kept.append(heapq.heappop(self._heap))
            if node not in found:
                found.append(node)
        for entry in kept:
            heapq.heappush(self._heap, entry)
        return found


def eligible(nodes: NodeTable, shape: Shape, node: Node) -> bool:
    """Whether the request may go to a node at all, whatever is free there."""
    if shape.company and not company.suits(node.company(), shape.company):
        return False
    return could_be_eligible(nodes, shape, node)


def could_be_eligible(nodes: NodeTable, shape: Shape, node: Node) -> bool:
    """Whether it may, but for what runs there now."""
    if node.draining:
        return False
    if shape.node:
        named = nodes.by_hex(shape.node)
        if named is not None and named.draining:
            named = None
        if named is not None and not shape.node_soft:
            return node is named
        if named is None and not shape.node_soft:
            return False
        if named is not None and named.could_ever_fit(shape.wanted) and labels.matches(named.labels, shape.labels):
            return node is named
    return labels.matches(node.labels, shape.labels)


def could_be_but_for_draining(shape: Shape, node: Node) -> bool:
    """Whether a request could go to a node that is being drained, if it were not."""
    named = not shape.node or shape.node_soft or shape.node == node.node_id.hex()
    return named and labels.matches(node.labels, shape.labels)


class Placement:
    """Finds nodes for shapes.

    Args:
        nodes: The nodes.
    """

    def __init__(self, nodes: NodeTable) -> None:
        self._nodes = nodes
        self._indexes: OrderedDict[Hashable, _Index] = OrderedDict()

    def _index(self, shape: Shape) -> _Index:
        index = self._indexes.get(shape.key)
        if index is None or index.membership != self._nodes.changes.membership:
            index = self._indexes[shape.key] = _Index(self._nodes, shape)
            if len(self._indexes) > MAXIMUM_INDEXES:
                self._indexes.popitem(last=False)
        self._indexes.move_to_end(shape.key)
        return index

    def best(self, shape: Shape) -> Node | None:
        """Return the node to use, or None if none can be used now."""
        return self._index(shape).best()

    def several(self, shape: Shape, limit: int) -> list[Node]:
        """Return nodes that can be used now, the best first."""
        return self._index(shape).several(limit)

    def why_no_company(self, shape: Shape) -> str | None:
        """Return why no node will do because of what runs there, or None if that is not why."""
        if not shape.company or self.eligible(shape):
            return None
        return f"no node has {labels.describe_terms(shape.company)} among what runs there now"

    def eligible(self, shape: Shape) -> list[Node]:
        """Return the nodes to which a request may go, whatever is free there."""
        return [node for node in self._nodes if eligible(self._nodes, shape, node)]

    def why_impossible(self, shape: Shape) -> str | None:
        """Return why no node that is here could ever give a shape; None also while there is no node."""
        if not len(self._nodes):
            return None
        if shape.node and not shape.node_soft and self._nodes.by_hex(shape.node) is None:
            return f"the node {shape.node}, the only one that was allowed, is not in the cluster"
        nodes = [node for node in self._nodes if could_be_eligible(self._nodes, shape, node)]
        draining = [node.name for node in self._nodes if node.draining and could_be_but_for_draining(shape, node)]
        if not nodes and draining:
            return f"it could go to {', '.join(draining[:4])} only, and that is being drained"
        if not nodes:
            return f"no node has labels with {labels.describe_terms(shape.labels)}"
        if any(node.could_ever_fit(shape.wanted) for node in nodes):
            return None
        wanted = shape.wanted
        offers = [Offer(node.name, node.total, [use.device for use in node.devices.values()]) for node in nodes]
        return why_infeasible(wanted.amounts, wanted.device_bytes, wanted.device_types, offers)
