"""Hand-made messages and a core with its links up, for tests of the client's core."""

from __future__ import annotations

from typing import Any

from atoll.client.core.client import ClientCore
from atoll.client.core.events import ConnectProcess, FunctionDefined, SchedulerLinked, TaskSubmitted
from atoll.client.core.records import TaskRecord
from atoll.ids import ObjectId, ProcessId, TaskId, return_id
from atoll.protocol.channel_messages import RunTask, TaskReturned
from atoll.protocol.machine import Action, Event, Instant, Peer, PeerConnected, Received, Send
from atoll.protocol.messages import LeaseGranted, SetDemand
from atoll.protocol.values import SchedulingClass

ME = ProcessId(b"driver__")
SCHEDULER = Peer(1)
ADD = b"digest-of-add___"


def worker_id(number: int) -> bytes:
    """Return the process id of worker `number`."""
    return f"worker{number:02}".encode()


class Harness:
    """A client core on a virtual clock, with what it sends sorted by receiver."""

    def __init__(self) -> None:
        self.core = ClientCore(ME)
        self.now = 0.0
        self.actions: list[Action] = []
        self._tasks = 0
        self.handle(SchedulerLinked(SCHEDULER))
        self.handle(FunctionDefined(ADD, "add", b"code"))
        self.shape = SchedulingClass({"CPU": 10_000}, "env")
        self.key = self.core.tasks.class_key(self.shape)

    def handle(self, event: Event) -> list[Action]:
        """Give the core an event; its state is checked after it."""
        actions = self.core.handle(event, Instant(self.now))
        self.core.check_invariants()
        self.actions.extend(actions)
        return actions

    def task(self, **more: Any) -> TaskRecord:
        """Return a new task of the harness's class."""
        self._tasks += 1
        task_id = TaskId(ME + self._tasks.to_bytes(8, "big"))
        more.setdefault("retries_left", 3)
        return TaskRecord(task_id, "add", b"", function=ADD, class_key=self.key, **more)

    def submit(self, **more: Any) -> TaskRecord:
        """Submit a new task."""
        record = self.task(**more)
        self.handle(TaskSubmitted(record))
        return record

    def grant(self, number: int, key: int | None = None) -> Peer:
        """Grant a lease on worker `number`, of another class than the usual with `key`, and have its channel stand."""
        grant = LeaseGranted(
            self.key if key is None else key, number, worker_id(number), f"/w{number}", b"node", "here", []
        )
        actions = self.handle(Received(SCHEDULER, grant))
        peer = Peer(100 + number)
        if any(isinstance(action, ConnectProcess) for action in actions):
            self.handle(PeerConnected(peer, "worker", worker_id(number)))
        return peer

    def sent(self, kind: type, peer: Peer | None = None) -> list[Any]:
        """Return the messages of a type that were sent so far, to `peer` or to anybody."""
        return [
            action.message
            for action in self.actions
            if isinstance(action, Send) and isinstance(action.message, kind) and peer in (None, action.peer)
        ]

    def pushed(self, peer: Peer) -> list[bytes]:
        """Return the ids of the tasks that were pushed on a channel."""
        return [message.task_id for message in self.sent(RunTask, peer)]

    def answer(self, peer: Peer, *sequences: int, microseconds: int = 5, value: bytes = b"N.") -> None:
        """Have a worker answer tasks, all in one batch."""
        self.handle(Received(peer, [TaskReturned(sequence, value, microseconds) for sequence in sequences]))

    def demands(self) -> list[int]:
        """Return the counts of the demands that were sent."""
        return [message.count for message in self.sent(SetDemand)]

    def result(self, record: TaskRecord) -> Any:
        """Return the entry of a task's first return value."""
        return self.core.objects.entries[return_id(record.task_id, 0)]


def result_id(record: TaskRecord, index: int = 0) -> ObjectId:
    """Return the id of a task's return value."""
    return return_id(record.task_id, index)
