"""Direct channels as the client's core sees them, and the list of what is to be done.

A `Link` is one channel to one process: the tasks pushed on it and not answered, and the functions that the other
side knows already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from atoll.client.core.events import AnnounceObjects, ConnectProcess
from atoll.client.core.records import TaskRecord
from atoll.protocol.channel_messages import CallMethod, DeclareFunction, OpenStream, RunTask
from atoll.protocol.machine import Action, Peer, Send
from atoll.protocol.values import ObjectLocation

if TYPE_CHECKING:
    from atoll.client.core.objects import ObjectTable


class Outbox:
    """The actions that an event leads to, in order.

    Attributes:
        announced: Objects that somebody in this process waits for and that are ready now.
        scheduler: The scheduler's connection, if there is one now.
        agent: The node agent's, likewise.
    """

    def __init__(self) -> None:
        self.actions: list[Action] = []
        self.announced: list[bytes] = []
        self.scheduler: Peer | None = None
        self.agent: Peer | None = None
        self._requests = 0

    def take(self) -> list[Action]:
        """Return the actions so far and begin anew."""
        actions, self.actions = self.actions, []
        if self.announced:
            actions.append(AnnounceObjects(self.announced))
            self.announced = []
        return actions

    def send(self, peer: Peer, message: Any) -> None:
        """Send a message to a peer."""
        self.actions.append(Send(peer, message))

    def tell_scheduler(self, message: Any) -> None:
        """Send to the scheduler. While it is away nothing is kept: what still holds is said again at its return."""
        if self.scheduler is not None:
            self.actions.append(Send(self.scheduler, message))

    def tell_agent(self, message: Any) -> None:
        """Send to the node agent, if it is there."""
        if self.agent is not None:
            self.actions.append(Send(self.agent, message))

    def next_request(self) -> int:
        """Return a request number that was not used on any connection of this process."""
        self._requests += 1
        return self._requests


class Link:
    """A channel to a process.

    Attributes:
        peer: Its number.
        process_id: Who is at the other end.
        outstanding: What was pushed and not answered, oldest first, by sequence number.
        declared: Digests of the functions that were declared on it.
    """

    __slots__ = ("declared", "outstanding", "peer", "process_id", "sequence")

    def __init__(self, peer: Peer, process_id: bytes) -> None:
        self.peer = peer
        self.process_id = process_id
        self.sequence = 0
        self.outstanding: dict[int, TaskRecord] = {}
        self.declared: set[bytes] = set()


_NO_DEPENDENCIES: list[ObjectLocation] = []
_NOTHING_KEPT: list[int] = []


class Links:
    """All direct channels of a process, and the functions whose code it can send.

    Args:
        outbox: Where actions go.
        objects: Where the values of dependencies are.
    """

    def __init__(self, outbox: Outbox, objects: ObjectTable) -> None:
        self._outbox = outbox
        self._objects = objects
        self.by_peer: dict[Peer, Link] = {}
        self.by_process: dict[bytes, Link] = {}
        self._connecting: dict[bytes, None] = {}
        self._functions: dict[bytes, DeclareFunction] = {}

    def define(self, digest: bytes, name: str, payload: bytes, maximum_calls: int = 0) -> None:
        """Remember the code of a function."""
        self._functions[digest] = DeclareFunction(digest, name, payload, maximum_calls)

    def want(self, process_id: bytes, address: str = "") -> Link | None:
        """Return the channel to a process, or None and have one opened."""
        link = self.by_process.get(process_id)
        if link is None and process_id not in self._connecting:
            self._connecting[process_id] = None
            self._outbox.actions.append(ConnectProcess(process_id, address))
        return link

    def opened(self, peer: Peer, process_id: bytes) -> Link:
        """Note a channel that stands. If two processes have called each other, either channel serves."""
        self._connecting.pop(process_id, None)
        link = self.by_peer[peer] = Link(peer, process_id)
        self.by_process[process_id] = link
        return link

    def failed(self, process_id: bytes) -> None:
        """Note that a process cannot be reached."""
        self._connecting.pop(process_id, None)

    def lost(self, peer: Peer) -> Link | None:
        """Note that a channel is gone, and return it."""
        link = self.by_peer.pop(peer, None)
        if link is not None and self.by_process.get(link.process_id) is link:
            del self.by_process[link.process_id]
        return link

    @staticmethod
    def _call(record: TaskRecord, sequence: int, dependencies: list[ObjectLocation]) -> CallMethod:
        task_id, arguments, returns, manner = record.task_id, record.arguments, record.returns, record.manner
        if manner is None:
            name = record.name
            return CallMethod(sequence, task_id, name, arguments, dependencies, returns, "", "", b"", record.pushes)
        shown = record.name if manner.method else ""
        method = manner.method or record.name
        group, retried = manner.group, manner.retried
        return CallMethod(
            sequence, task_id, method, arguments, dependencies, returns, group, shown, retried, record.pushes
        )

    def push(self, link: Link, record: TaskRecord) -> None:
        """Send a task or call whose dependencies have values."""
        link.sequence += 1
        sequence = link.sequence
        record.sequence = sequence
        record.peer = link.peer
        record.pushes += 1
        link.outstanding[sequence] = record
        if record.stream is not None:
            stream = record.stream
            self._outbox.send(
                link.peer, OpenStream(sequence, stream.limit, stream.received, stream.taken, stream.replayed or [])
            )
        names = record.dependencies
        dependencies = [self._objects.location(name) for name in names] if names else _NO_DEPENDENCIES
        message: RunTask | CallMethod
        if record.actor_id:
            message = self._call(record, sequence, dependencies)
        else:
            digest = record.function
            if digest not in link.declared:
                link.declared.add(digest)
                self._outbox.send(link.peer, self._functions[digest])
            kept = record.rerun.kept if record.rerun is not None else _NOTHING_KEPT
            message = RunTask(
                sequence, record.task_id, digest, record.arguments, dependencies, record.returns, kept, record.pushes
            )
        self._outbox.actions.append(Send(link.peer, message))
