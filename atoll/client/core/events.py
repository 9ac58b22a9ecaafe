"""What happens to a client, and what it has its shell do, beyond the events and actions that all cores share."""

from __future__ import annotations

from typing import Any

from atoll.client.core.records import Stream, TaskRecord
from atoll.protocol.machine import Action, Event, Peer
from atoll.protocol.messages import CreateActor
from atoll.protocol.values import ObjectLocation


class TaskSubmitted(Event, frozen=True):
    """A function was called with `.remote()`."""

    record: TaskRecord


class MethodCalled(Event, frozen=True):
    """An actor's method was called with `.remote()`."""

    record: TaskRecord


class CreationRequested(Event, frozen=True):
    """An actor without a name is to be made: of its class's pickled code, when the constructor's arguments are there.

    `message` lacks the payload, which is made of the code and of the arguments in `record`.
    """

    record: TaskRecord
    message: CreateActor
    code: bytes


class CreationGivenUp(Event, frozen=True):
    """Whoever makes a detached actor was interrupted, and nobody has a handle: it is not to be, or to end."""

    actor_id: bytes


class FunctionDefined(Event, frozen=True):
    """The code of a function is known now; tasks will name it by its digest."""

    digest: bytes
    name: str
    payload: bytes
    maximum_calls: int = 0


class ObjectPut(Event, frozen=True):
    """A value was put. `contained` are the ids of the refs inside."""

    object_id: bytes
    location: ObjectLocation
    contained: list[bytes]


class ObjectsWanted(Event, frozen=True):
    """Somebody waits for the objects: say when each is ready, and fetch those that other processes own."""

    object_ids: list[bytes]


class ObjectMissing(Event, frozen=True):
    """An object was to be in the store of this node, and the store does not have it."""

    object_id: bytes


class ValueTaken(Event, frozen=True):
    """Somebody has a ref to a stream's next value, which was there, and wants the one behind it."""

    stream: Stream


class RefsReleased(Event, frozen=True):
    """`ObjectRef`s were garbage-collected: one count each."""

    object_ids: list[bytes]


class HoldRequested(Event, frozen=True):
    """Register `holder` at the object's owner. `HoldConfirmed` follows."""

    object_id: bytes
    holder: bytes


class CancelRequested(Event, frozen=True):
    """The user cancels the task that computes the object, and, if `recursive`, what that has submitted."""

    object_id: bytes
    force: bool
    recursive: bool = True


class SchedulerLinked(Event, frozen=True):
    """The connection to the scheduler stands (again), and the job is registered there."""

    peer: Peer


class AgentLinked(Event, frozen=True):
    """The connection to the node agent stands."""

    peer: Peer


class ConnectFailed(Event, frozen=True):
    """A process that the core wanted to talk to cannot be reached."""

    process_id: bytes
    cause: str


class SendFailed(Event, frozen=True):
    """A message on a direct channel cannot be sent: it is too long, or something in it cannot be encoded."""

    peer: Peer
    message: Any
    text: str


class DemandsRefused(Event, frozen=True):
    """The scheduler cannot read what we want, or wants nothing to do with us: nothing that waits for it will come.

    `kind` names a class in `atoll.exceptions`.
    """

    kind: str
    text: str


class ConnectProcess(Action, frozen=True):
    """Open a direct channel to a process, at an address or, if that is empty, at the one that its id stands for."""

    process_id: bytes
    address: str


class AnnounceObjects(Action, frozen=True):
    """Objects that were wanted are ready, or have failed."""

    object_ids: list[bytes]


class ConfirmHold(Action, frozen=True):
    """The owner knows the holder now (or is dead, and nothing can be held)."""

    object_id: bytes
    holder: bytes


class ShowOutput(Action, frozen=True):
    """A task has written or shown something. `source` says what wrote it, for people."""

    record: TaskRecord
    kind: str
    payload: bytes
    source: str = ""


class FinishCall(Action, frozen=True):
    """A control request of the shell's own was answered. The core does not know what it was about."""

    peer: Peer
    answer: Any
