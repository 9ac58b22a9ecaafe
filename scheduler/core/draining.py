"""Nodes that are emptied: `atoll drain NODE`.

    DrainNode ─▶ finishing ─ nothing is held there ─▶ copying ─ its objects are elsewhere ─▶ leaving ─ gone ─▶ departed
                   │    └─ the node has to stay (the notebooks of its host use its store) ─▶ empty
                   └─ undo: in use again

While a node finishes, nothing new is placed on it, not even in what a placement group has reserved there.

* Workers that run tasks are asked back, as for fairness: what runs ends, what waits behind it goes elsewhere.
* An actor that may be made again is moved when it is seen to do nothing; that counts as none of its restarts. One that
  may not, or that nothing else could hold, is named to whoever asks, and waited for.
* A bundle of a placement group is set apart elsewhere when nothing runs in it any more.

With a deadline, what still runs then is ended: tasks fail or are retried as if their worker had died, actors are made
again or die. Objects are then copied to one other node, which stands in for the node from then on.

A drain is looked at a few times a second, by a timer: nothing of it is on the way of a lease.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import msgspec

from atoll.protocol.machine import Instant
from atoll.protocol.messages import DrainBegun, DrainNode, EvacuateObjects, LeaseLost, ObjectsEvacuated, StopNode
from atoll.protocol.state import DepartureState, DrainState
from atoll.scheduler.core.actor import Actor
from atoll.scheduler.core.actors import ActorTable
from atoll.scheduler.core.demands import DemandTable
from atoll.scheduler.core.groups import GroupTable
from atoll.scheduler.core.jobs import PeerRecord
from atoll.scheduler.core.lease import ENDING, HELD, Lease
from atoll.scheduler.core.leases import LeaseTable
from atoll.scheduler.core.names import NameTable
from atoll.scheduler.core.nodes import Node, NodeTable
from atoll.scheduler.core.spans import SpanTable
from atoll.scheduler.core.turn import Turn

TABLE = "drains"
SUCCESSORS_TABLE = "successors"
MAXIMUM_SUCCESSORS = 1000
TIMER = "drains"
FINISHING, COPYING, LEAVING, EMPTY = "finishing", "copying", "leaving", "empty"

LOOK_EVERY_S = 0.2
COPY_AGAIN_S = 5.0
"""After a copy that failed."""

MAXIMUM_NAMED = 10
"""So many of those that are waited for are named."""

REMEMBERED = 20
"""Nodes that have left."""


class SavedDrain(msgspec.Struct, frozen=True, array_like=True):
    """A drain as the journal keeps it; times on the wall clock, the deadline 0 for none."""

    since: float
    deadline: float


class Drain:
    """One node that is emptied.

    Attributes:
        phase: `finishing`, `copying`, `leaving` or `empty`.
        since: Wall clock.
        deadline: Wall clock; 0 for none.
        successor: Who takes the objects over, once somebody does.
        copy_at: When they are to be copied again, after a failure.
        problem: Why they were not.
        moved: Actors that were moved.
        objects: That were copied.
        size_bytes: Of them.
    """

    def __init__(self, node: Node, since: float, deadline: float) -> None:
        self.node = node
        self.phase = FINISHING
        self.since = since
        self.deadline = deadline
        self.successor: Node | None = None
        self.copy_at: Instant | None = None
        self.problem = ""
        self.moved = 0
        self.objects = 0
        self.size_bytes = 0


class Drains:
    """All nodes that are emptied.

    Args:
        turn: Where actions go.
        nodes: Which there are.
        leases: What is held on them.
        demands: Knows what could be held elsewhere.
        actors: Who lives on them.
        groups: What is set apart on them.
        names: Named objects, which move with the others.
        spans: Who does something at this moment.
    """

    def __init__(
        self,
        turn: Turn,
        nodes: NodeTable,
        leases: LeaseTable,
        demands: DemandTable,
        actors: ActorTable,
        groups: GroupTable,
        names: NameTable,
        spans: SpanTable,
    ) -> None:
        self._turn = turn
        self._nodes = nodes
        self._leases = leases
        self._demands = demands
        self._actors = actors
        self._groups = groups
        self._names = names
        self._spans = spans
        self._drains: dict[bytes, Drain] = {}
        self._saved: dict[bytes, SavedDrain] = {}
        self._successors: dict[bytes, bytes] = {}
        self._departures: deque[DepartureState] = deque(maxlen=REMEMBERED)

    def __iter__(self) -> Iterator[Drain]:
        return iter(self._drains.values())

    def departures(self) -> list[DepartureState]:
        """Return the nodes that have left lately, the first first."""
        return list(self._departures)

    # ------------------------------------------------------------------------------------------------ asking

    def ask(self, record: PeerRecord, message: DrainNode) -> None:
        """Begin to empty a node, change the deadline of one that is emptied, or take it into use again."""
        found = [node for node in self._nodes if _is_called(node, message.node)]
        wrong = self._what_is_wrong(message, found)
        if wrong:
            self._turn.fail(record.peer, message.request, "ValueError", wrong)
            return
        (node,) = found
        if message.undo:
            self._undo(self._drains[node.node_id])
        else:
            now = self._turn.wall(self._turn.now)
            known = self._drains.get(node.node_id)
            since = known.since if known is not None else now
            self._saved[node.node_id] = SavedDrain(since, now + message.deadline_s if message.deadline_s > 0 else 0.0)
            self._turn.persist(TABLE, node.node_id.hex(), _encode(self._saved[node.node_id]))
            self._begin(node)
        self._turn.send(record.peer, DrainBegun(message.request, node.node_id))

    def _what_is_wrong(self, message: DrainNode, found: list[Node]) -> str:
        if not found:
            there = ", ".join(f"{node.name} ({node.node_id.hex()})" for node in list(self._nodes)[:10])
            return f"no node is called {message.node!r}; there are: {there or 'none'}"
        if len(found) > 1:
            ids = ", ".join(node.node_id.hex() for node in found[:10])
            return f"{message.node!r} stands for {len(found)} nodes; say which by its id: {ids}"
        node = found[0]
        drain = self._drains.get(node.node_id)
        if message.undo:
            if drain is None:
                return f"{node.name} is not being drained"
            return "" if drain.phase in (FINISHING, EMPTY) else f"{node.name} is {drain.phase}: it cannot be kept now"
        if not any(other is not node and not other.draining for other in self._nodes):
            return f"nothing else is left to take over from {node.name}; `atoll down` ends the cluster"
        return ""

    def _begin(self, node: Node) -> None:
        saved = self._saved[node.node_id]
        known = self._drains.get(node.node_id)
        if known is not None:
            known.deadline = saved.deadline
        else:
            self._drains[node.node_id] = Drain(node, saved.since, saved.deadline)
            self._nodes.set_draining(node, True)
            self._leases.nodes_changed()
            self._turn.warn(f"node {node.name} ({node.node_id.hex()}) is being drained")
        self._turn.set_earlier(TIMER, self._turn.now)

    def _undo(self, drain: Drain) -> None:
        self._forget(drain)
        self._nodes.set_draining(drain.node, False)
        self._leases.nodes_changed()

    def _forget(self, drain: Drain) -> None:
        node_id = drain.node.node_id
        del self._drains[node_id]
        if self._saved.pop(node_id, None) is not None:
            self._turn.remove_record(TABLE, node_id.hex())

    # ------------------------------------------------------------------------------------------------ nodes

    def restore(self, key: str, value: bytes) -> None:
        """Take up a drain from the journal; it goes on when its node is back.

        Raises:
            msgspec.DecodeError: It is of another version, or damaged.
            ValueError: Likewise.
        """
        self._saved[bytes.fromhex(key)] = _decoder.decode(value)

    def node_came(self, node: Node) -> None:
        """A node that was being emptied is back."""
        if node.node_id in self._saved:
            self._begin(node)

    def node_gone(self, node: Node) -> None:
        """A node is gone: as it was to, or before it was empty."""
        for other in self._drains.values():
            if other.successor is node and other.phase == COPYING:
                other.successor = None  # somebody else is to take over
                other.copy_at = self._turn.now
                self._turn.set_earlier(TIMER, self._turn.now)
        drain = self._drains.get(node.node_id)
        if drain is None:
            return
        if drain.phase == LEAVING:
            to = f" to {drain.successor.name}" if drain.successor is not None and drain.objects else ""
            parts = [f"{drain.objects} objects copied{to}", f"{drain.moved} actors moved"]
            self._depart(drain, "; ".join(parts), whole=True)
            self._forget(drain)
        else:
            self._depart(drain, f"it was lost while it was {drain.phase}", whole=False)
            del self._drains[node.node_id]  # its agent may come back: then the drain goes on

    def _depart(self, drain: Drain, text: str, *, whole: bool) -> None:
        now = self._turn.wall(self._turn.now)
        node = drain.node
        self._departures.append(DepartureState(node.node_id.hex(), node.name, drain.since, now, whole, text))

    def grace_over(self) -> None:
        """Nodes that did not come back after a restart of the scheduler are not emptied any more."""
        for node_id in [node_id for node_id in self._saved if node_id not in self._drains]:
            del self._saved[node_id]
            self._turn.remove_record(TABLE, node_id.hex())

    # ------------------------------------------------------------------------------------------------ working

    def look(self) -> None:
        """Go on with each drain; to be called at the deadline `TIMER`."""
        for drain in list(self._drains.values()):
            if drain.phase == FINISHING:
                self._finish(drain)
            if drain.phase == COPYING and drain.copy_at is not None and drain.copy_at <= self._turn.now:
                self._copy(drain)
        if any(drain.phase in (FINISHING, COPYING) for drain in self._drains.values()):
            self._turn.set_earlier(TIMER, self._turn.in_s(LOOK_EVERY_S))

    def _finish(self, drain: Drain) -> None:
        node = drain.node
        over = bool(drain.deadline) and drain.deadline <= self._turn.wall(self._turn.now)
        for lease in self._leases_on(node):
            if lease.state == ENDING:
                continue
            if lease.state != HELD:
                self._leases.end(lease, kill=False)
            elif lease.actor_id:
                self._move_actor(drain, lease, over=over)
            elif over:
                self._end_task(lease, node)
            elif not lease.recalled:
                self._leases.recall(lease, None)
        self._groups.leave(node)
        if node.holdings or node.reservations:
            return
        if node.stays:
            drain.phase = EMPTY
        else:
            drain.phase = COPYING
            drain.copy_at = self._turn.now

    def _leases_on(self, node: Node) -> list[Lease]:
        found = (self._leases.get(lease_id) for lease_id in list(node.holdings))
        return [lease for lease in found if lease is not None]

    def _move_actor(self, drain: Drain, lease: Lease, *, over: bool) -> None:
        actor = self._actors.living(lease.actor_id)
        if actor is None or actor.lease is not lease:
            return
        cause = f"{drain.node.name} is being drained"
        if self._why_not_moved(actor):
            if over:
                self._actors.end(actor, f"{cause}, and the deadline for that is over")
        elif over or not self._spans.doing(lease.worker_id):
            drain.moved += 1
            self._actors.move(actor, cause)

    def _why_not_moved(self, actor: Actor) -> str:
        """Return why an actor cannot be made again elsewhere, or nothing."""
        if not actor.spec.maximum_restarts:
            return "it may not be made again (max_restarts=0), and its state would be lost: kill it, or wait for it"
        reason = self._demands.why_impossible(actor.spec.scheduling_class)
        return f"nothing else can hold it: {reason}" if reason else ""

    def _end_task(self, lease: Lease, node: Node) -> None:
        if lease.record is not None:
            text = f"{node.name} was drained, and the deadline for that was over"
            self._turn.send(lease.record.peer, LeaseLost(lease.lease_id, "WorkerCrashedError", text))
        self._leases.end(lease, kill=True)

    def _copy(self, drain: Drain) -> None:
        """Have another node take the objects over: the one whose store has most room."""
        drain.copy_at = None
        others = [other for other in self._nodes if not other.draining and other.peer is not None]
        if not others:
            drain.problem = "no other node is left to take its objects over"
            drain.copy_at = self._turn.in_s(COPY_AGAIN_S)
            return
        drain.successor = max(others, key=lambda other: (_room_of(other), -other.order))
        self._turn.send(drain.node.peer, EvacuateObjects(drain.successor.node_id))

    def evacuated(self, record: PeerRecord, message: ObjectsEvacuated) -> Node | None:
        """A node says that another has taken its objects over. Returns who, if the node leaves now."""
        drain = self._drains.get(record.node_id) if record.node_id is not None else None
        if drain is None or drain.phase != COPYING or drain.successor is None or drain.successor.gone:
            return None
        drain.objects += message.objects
        drain.size_bytes += message.size_bytes
        drain.problem = message.problem
        if message.problem:
            drain.copy_at = self._turn.in_s(COPY_AGAIN_S)
            self._turn.set_earlier(TIMER, drain.copy_at)
            return None
        drain.phase = LEAVING
        self._stand_in(drain.node.node_id, drain.successor.node_id)
        self._names.moved(drain.node.node_id, drain.successor)
        self._turn.send(record.peer, StopNode())
        return drain.successor

    def _stand_in(self, node_id: bytes, successor_id: bytes) -> None:
        self._successors[node_id] = successor_id
        self._turn.persist(SUCCESSORS_TABLE, node_id.hex(), successor_id)
        while len(self._successors) > MAXIMUM_SUCCESSORS:
            oldest = next(iter(self._successors))
            del self._successors[oldest]
            self._turn.remove_record(SUCCESSORS_TABLE, oldest.hex())

    def locate(self, node_id: bytes) -> Node | None:
        """Return a node, or the one that has taken its objects over; None if neither is there."""
        for _step in range(len(self._successors) + 1):
            successor = self._successors.get(node_id)
            if successor is None:
                return self._nodes.get(node_id)
            node_id = successor
        return None

    def restore_successor(self, key: str, value: bytes) -> None:
        """Take up from the journal who stands in for a node that has left.

        Raises:
            ValueError: The record is damaged.
        """
        self._successors[bytes.fromhex(key)] = value

    # ------------------------------------------------------------------------------------------------ people

    def state_of(self, node: Node) -> DrainState | None:
        """Return how far a node is, or None if it is not emptied."""
        drain = self._drains.get(node.node_id)
        if drain is None:
            return None
        waits_for = self._waits_for(drain)
        if len(waits_for) > MAXIMUM_NAMED:
            waits_for[MAXIMUM_NAMED:] = [f"and {len(waits_for) - MAXIMUM_NAMED} more"]
        return DrainState(drain.phase, drain.since, drain.deadline, waits_for, drain.moved, drain.objects)

    def _waits_for(self, drain: Drain) -> list[str]:
        if drain.phase == EMPTY:
            return ["it stays, since notebooks and scripts of its host use its object store"]
        if drain.phase == COPYING:
            to = drain.successor.name if drain.successor is not None else "another node"
            return [drain.problem or f"its objects are being copied to {to}"]
        if drain.phase == LEAVING:
            return ["its agent ends"]
        lines = [self._line_of(lease) for lease in self._leases_on(drain.node)]
        if drain.node.reservations:
            lines.append(f"{len(drain.node.reservations)} bundles of placement groups in which something runs")
        return lines

    def _line_of(self, lease: Lease) -> str:
        whose = f" of {lease.job.name}" if lease.job.name else ""
        if not lease.actor_id:
            return f"{lease.scheduling_class.label or 'a task'}{whose}: to end"
        actor = self._actors.living(lease.actor_id)
        kind = "" if self._actors.is_cell(lease.actor_id) else "actor "
        name = f"{kind}{self._actors.name_of(lease.actor_id)}{whose}"
        if actor is None or lease.state == ENDING:
            return f"{name}: its process ends"
        return f"{name}: {self._why_not_moved(actor) or 'moves when it does nothing'}"


def _is_called(node: Node, text: str) -> bool:
    return text == node.name or (bool(text) and node.node_id.hex().startswith(text.lower()))


def _room_of(node: Node) -> int:
    return node.sample.store_capacity_bytes - node.sample.store_used_bytes if node.sample is not None else 0


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(SavedDrain)
