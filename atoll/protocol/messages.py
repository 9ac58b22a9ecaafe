"""What is said on control connections: between clients, workers, node agents and the scheduler.

(What is said on direct channels, task by task, is in `atoll.protocol.channel_messages`.)

A request is imperative (`SetDemand`), what tells of a fact is past tense (`LeaseGranted`). A `request` field
ties a reply to what it answers; messages without one are never answered. Payloads of users (functions, arguments,
errors) are `bytes` here: daemons pass them on and never unpickle them.

Who says what to whom:

    client or worker ─▶ scheduler   RegisterJob ActForJob SetDemand ReturnLease TaskBlocked TaskUnblocked CreateActor
                                    GetActor WatchActor KillActor ReleaseActor ClaimName PublishName AbandonName
                                    DropName ListNames CreateGroup RemoveGroup WaitGroup FindGroup Explain ExplainAll
                                    GetState WatchState GetUsage DrainNode AddEnvironment GetEnvironment ReleaseDevice
                                    StopCluster
    scheduler ─▶ client             JobRegistered LeaseGranted DemandRefused LeaseRecalled LeaseLost ActorChanged
                                    GroupChanged Explained ExplainedAll NameClaimed NameList EnvironmentFound State
                                    Usage DrainBegun Done Failed
    agent ─▶ scheduler              RegisterNode NodeSampled LeaseStarted LeaseFailed LeaseEnded ActorStarted
                                    ActorFailed SpansRecorded ObjectAdopted ObjectGone ObjectsEvacuated
                                    LocateNode
    scheduler ─▶ agent              NodeRegistered DefineEnvironment StartLease EndLease StartActor AdoptObject
                                    DropObject EvacuateObjects NodeLocated JobEnded
                                    ReleaseDevice StopNode
    agent ─▶ agent                  FetchObject ReadPiece ReleaseObjects DeleteObjects KeepObjects
                                    ObjectOffered ObjectPiece ObjectsKept Failed
    client or worker ─▶ agent       AttachProcess CreateObject SealObject AbortObject GetObject ReleaseObjects
                                    DeleteObjects SegmentNotTaken
    agent ─▶ client or worker       ProcessAttached ObjectCreated ObjectSealed ObjectFound Done Failed
    worker ─▶ agent                 WorkerStarted ActorConstructed ReportSpans ReportDeviceFault
    agent ─▶ worker                 BeginLease FinishLease ConstructActor StopWorker
"""

from __future__ import annotations

from typing import Any

import msgspec

from atoll.protocol import leave_messages as leave_messages
from atoll.protocol.device_messages import DEVICES_TAKEN as DEVICES_TAKEN
from atoll.protocol.device_messages import ReleaseDevice as ReleaseDevice
from atoll.protocol.device_messages import ReportDeviceFault as ReportDeviceFault
from atoll.protocol.environment_messages import AddEnvironment as AddEnvironment
from atoll.protocol.environment_messages import EnvironmentFound as EnvironmentFound
from atoll.protocol.environment_messages import GetEnvironment as GetEnvironment
from atoll.protocol.message import Message as Message
from atoll.protocol.node_messages import DrainBegun as DrainBegun
from atoll.protocol.node_messages import DrainNode as DrainNode
from atoll.protocol.node_messages import EvacuateObjects as EvacuateObjects
from atoll.protocol.node_messages import FetchObject as FetchObject
from atoll.protocol.node_messages import GetUsage as GetUsage
from atoll.protocol.node_messages import KeepObjects as KeepObjects
from atoll.protocol.node_messages import LocateNode as LocateNode
from atoll.protocol.node_messages import NodeLocated as NodeLocated
from atoll.protocol.node_messages import ObjectOffered as ObjectOffered
from atoll.protocol.node_messages import ObjectPiece as ObjectPiece
from atoll.protocol.node_messages import ObjectsEvacuated as ObjectsEvacuated
from atoll.protocol.node_messages import ObjectsKept as ObjectsKept
from atoll.protocol.node_messages import ReadPiece as ReadPiece
from atoll.protocol.node_messages import Usage as Usage
from atoll.protocol.placement_messages import CreateGroup as CreateGroup
from atoll.protocol.placement_messages import Explain as Explain
from atoll.protocol.placement_messages import ExplainAll as ExplainAll
from atoll.protocol.placement_messages import Explained as Explained
from atoll.protocol.placement_messages import ExplainedAll as ExplainedAll
from atoll.protocol.placement_messages import FindGroup as FindGroup
from atoll.protocol.placement_messages import GroupChanged as GroupChanged
from atoll.protocol.placement_messages import RemoveGroup as RemoveGroup
from atoll.protocol.placement_messages import WaitGroup as WaitGroup
from atoll.protocol.store_messages import AbortObject as AbortObject
from atoll.protocol.store_messages import AttachProcess as AttachProcess
from atoll.protocol.store_messages import CreateObject as CreateObject
from atoll.protocol.store_messages import DeleteObjects as DeleteObjects
from atoll.protocol.store_messages import GetObject as GetObject
from atoll.protocol.store_messages import ObjectCreated as ObjectCreated
from atoll.protocol.store_messages import ObjectFound as ObjectFound
from atoll.protocol.store_messages import ObjectSealed as ObjectSealed
from atoll.protocol.store_messages import ProcessAttached as ProcessAttached
from atoll.protocol.store_messages import ReleaseObjects as ReleaseObjects
from atoll.protocol.store_messages import ReturnPins as ReturnPins
from atoll.protocol.store_messages import SealObject as SealObject
from atoll.protocol.store_messages import SegmentNotTaken as SegmentNotTaken
from atoll.protocol.store_messages import SegmentsDestroyed as SegmentsDestroyed
from atoll.protocol.values import (
    ActorInterface,
    ActorSpec,
    Device,
    DeviceShare,
    Environment,
    MemoryLoss,
    NameInfo,
    NodeSample,
    ObjectLocation,
    SchedulingClass,
    Span,
)
from atoll.protocol.worker_messages import ActorConstructed as ActorConstructed
from atoll.protocol.worker_messages import BeginLease as BeginLease
from atoll.protocol.worker_messages import ConstructActor as ConstructActor
from atoll.protocol.worker_messages import FinishLease as FinishLease
from atoll.protocol.worker_messages import ReportSpans as ReportSpans
from atoll.protocol.worker_messages import StopWorker as StopWorker
from atoll.protocol.worker_messages import WorkerStarted as WorkerStarted
from atoll.resources import Amounts


class Failed(Message, frozen=True):
    """A request was refused or failed; the state is as before.

    Attributes:
        request: The request that this answers.
        kind: The name of a class in `atoll.exceptions`.
        text: One line: what is wrong and what to do.
        payload: A serialized exception, where user code raised one.
    """

    request: int
    kind: str
    text: str
    payload: bytes = b""


class Done(Message, frozen=True):
    """A request was carried out and has nothing else to say."""

    request: int


# ----------------------------------------------------------------------------------- client -> scheduler


class RegisterJob(Message, frozen=True):
    """A kernel or script begins a session. Its workers do not register: they act within the job of their lease.

    Attributes:
        request: Answered by `JobRegistered`.
        job: The process id of the client.
        kind: `kernel`, `script` or `server` (the Jupyter server's own connection, which runs no tasks).
        name: What people call it: the notebook's or script's file.
        pid: Of the client.
        namespace: Where its actors' names live; empty for the common one.
        environment: For its workers; None for a session that runs no tasks.
        weight: Whoever has twice the weight may have twice as much of what all want.
    """

    request: int
    job: bytes
    kind: str
    name: str
    pid: int
    namespace: str
    environment: Environment | None
    weight: float = 1.0


class SetDemand(Message, frozen=True):
    """How many leases of a class the sender wants beyond those that it holds. Replaces what it said before.

    `demand_key` is the sender's own number for the class; leases come back with it. Demands of a worker are
    charged to the job of its lease.
    """

    demand_key: int
    scheduling_class: SchedulingClass
    count: int


class ReturnLease(Message, frozen=True):
    """The sender is done with a lease: idle for a while, or recalled and drained.

    `discard` asks that the worker is not used again (its state is suspect, or it has reached `max_calls`).
    """

    lease_id: int
    discard: bool = False


class ActForJob(Message, frozen=True):
    """A worker says for which job it runs, once: its lease may be over while what it has submitted is not."""

    job: bytes


class TaskBlocked(Message, frozen=True):
    """The worker that holds the lease waits in `get`: its CPU may be lent to others. Sent by the worker."""

    lease_id: int


class TaskUnblocked(Message, frozen=True):
    """The worker goes on."""

    lease_id: int


class CreateActor(Message, frozen=True):
    """Make an actor. Answered by `ActorChanged` (pending) or `Failed`; the sender then watches it.

    With `get_if_exists`, the answer for a taken name is the actor that has it.
    """

    request: int
    job: bytes
    spec: ActorSpec
    get_if_exists: bool = False


class GetActor(Message, frozen=True):
    """Find an actor by name. Answered by `ActorChanged`, or `Failed` if there is none; the sender then watches it."""

    request: int
    name: str
    namespace: str


class WatchActor(Message, frozen=True):
    """Tell the sender the actor's state now, as the answer, and at every change from now on."""

    request: int
    actor_id: bytes


class KillActor(Message, frozen=True):
    """End an actor at once. Answered by `Done`. `cause` is what its callers are told, if it ends itself."""

    request: int
    actor_id: bytes
    no_restart: bool = True
    cause: str = ""


class ReleaseActor(Message, frozen=True):
    """No handle of an actor that the sender has made is left: it ends, gently. Not answered.

    Nothing is said when the actor is not there any more.
    """

    actor_id: bytes


class ClaimName(Message, frozen=True):
    """Ask for the object of a name, and, with `compute`, for the right to make it if there is none.

    Answered by `NameClaimed`. A claim that finds another process computing is answered when that one publishes
    or abandons it (or dies): then the next claimant is asked to compute.
    """

    request: int
    name: str
    compute: bool = False


class PublishName(Message, frozen=True):
    """Give a name to an object, which belongs to the cluster from now on. Replaces what had the name.

    Answered by `Done`.
    """

    request: int
    name: str
    location: ObjectLocation


class AbandonName(Message, frozen=True):
    """A claim is given up: the computation has failed, or nobody waits for the answer any more.

    `request` is the claim's own number; 0 for whatever the sender computes. A claim that still waits is answered with
    neither an object nor the duty to compute one.
    """

    name: str
    request: int = 0


class DropName(Message, frozen=True):
    """Take a name away; its object goes when nobody uses it. Answered by `Done`, or `Failed` for no such name."""

    request: int
    name: str


class ListNames(Message, frozen=True):
    """Answered by `NameList`."""

    request: int


class GetState(Message, frozen=True):
    """Answered by `State`."""

    request: int


class WatchState(Message, frozen=True):
    """Send `State` every `interval_s` seconds, with request 0; 0 ends it. At most ten a second."""

    interval_s: float


class StopCluster(Message, frozen=True):
    """End the cluster. Answered by `Done` before everything goes.

    With `only_if_unused`, it goes on if another client is attached or something has a name.
    """

    request: int
    only_if_unused: bool = False


# ----------------------------------------------------------------------------------- scheduler -> client


class JobRegistered(Message, frozen=True):
    """The answer to `RegisterJob`.

    Attributes:
        request: Of the `RegisterJob`.
        environment: The digest by which leases name the job's environment.
        node_id: The node that the client is on; empty until one has registered.
        agent_socket: Where the client attaches to the store.
    """

    request: int
    environment: str
    node_id: bytes
    agent_socket: str


class LeaseGranted(Message, frozen=True):
    """The right to push tasks to a worker.

    Attributes:
        demand_key: Of the `SetDemand` that this satisfies (by one). 0 from a restarted scheduler that has found a
            lease of the receiver's again: if the receiver has returned it meanwhile, it returns it again.
        lease_id: Unique in the cluster.
        worker_id: The worker's process id.
        address: The path of its socket.
        node_id: Where it is.
        node_name: For people.
        devices: The GPUs that it holds.
    """

    demand_key: int
    lease_id: int
    worker_id: bytes
    address: str
    node_id: bytes
    node_name: str
    devices: list[DeviceShare]


class DemandRefused(Message, frozen=True):
    """The demand can never be met. `text` says what the largest possible is; the tasks fail with it."""

    demand_key: int
    kind: str
    text: str


class LeaseRecalled(Message, frozen=True):
    """Another job waits: push nothing more on this lease and return it when it has drained."""

    lease_id: int


PREEMPTED = "Preempted"
"""The kind of a loss that the scheduler meant: what was not finished is to be run anew, at nobody's cost."""


class LeaseLost(Message, frozen=True):
    """The worker of a lease is gone. `kind` names a class in `atoll.exceptions`, or is `PREEMPTED`.

    `memory` is there if it had to end because of its memory.
    """

    lease_id: int
    kind: str
    text: str
    memory: MemoryLoss | None = None


class ActorChanged(Message, frozen=True):
    """The state of an actor.

    Attributes:
        request: Of what this answers; 0 for news.
        actor_id: Its id.
        state: `pending`, `alive`, `restarting` or `dead`.
        incarnation: 0 for the first process; grows with each restart.
        address: The socket to call it at, when alive.
        worker_id: Its process, when alive.
        class_name: For people.
        interface: As in `ActorSpec`; only in answers, news leave it out.
        cause: Why it is dead, or why it waits: one line.
        error: The serialized exception of its constructor, if that is why it is dead.
        name: Its name, or empty.
    """

    request: int
    actor_id: bytes
    state: str
    incarnation: int
    address: str
    worker_id: bytes
    class_name: str
    interface: ActorInterface = ActorInterface()
    cause: str = ""
    error: bytes = b""
    name: str = ""


class NameClaimed(Message, frozen=True):
    """The answer to `ClaimName`: the object, or the duty to compute it, or neither (no such name)."""

    request: int
    location: ObjectLocation | None
    compute: bool


class NameList(Message, frozen=True):
    """The answer to `ListNames`."""

    request: int
    names: list[NameInfo]


class State(Message, frozen=True):
    """The cluster as people see it: JSON of `atoll.protocol.state.ClusterState`."""

    request: int
    state: bytes


# ------------------------------------------------------------------------------------ agent <-> scheduler


class RegisterNode(Message, frozen=True):
    """An agent offers its node. Also sent after a reconnection, then with what is running there.

    Attributes:
        request: Answered by `NodeRegistered`.
        node_id: Stable for the agent's life.
        name: The host's name.
        pid: Of the agent.
        agent_socket: Where processes of this node attach.
        resources: What it has, in units.
        devices: Its GPUs.
        labels: For policies.
        leases: Those that live on from before the reconnection: (lease id, worker id, address); and those that are
            ending, and hold what they have until `LeaseEnded`, with neither worker nor address.
        actors: Those that live on: (actor id, lease id).
        started: The `StartLease` of each of `leases`, as it came: a restarted scheduler learns from it what they
            hold. A lease without one ends.
        away: Leases whose actors have given their devices up for a while, and whether they want them back.
        stays: It is the first of its host, whose object store the host's notebooks use: drained, it is empty and stays.
    """

    request: int
    node_id: bytes
    name: str
    pid: int
    agent_socket: str
    resources: Amounts
    devices: list[Device]
    labels: dict[str, str]
    leases: list[tuple[int, bytes, str]] = []
    actors: list[tuple[bytes, int]] = []
    started: list[StartLease] = []
    stays: bool = False
    away: list[tuple[int, bool]] = []


class NodeRegistered(Message, frozen=True):
    """The node takes part. What the cluster has not adopted there (`AdoptObject`) by now, it has given up."""

    request: int


class DefineEnvironment(Message, frozen=True):
    """Leases will name this environment by its digest. With `prepare`, a zygote and workers are made ready now."""

    digest: str
    environment: Environment
    prepare: bool


class StartLease(Message, frozen=True):
    """Give a worker to a lease: one that is idle in this environment, or a new one.

    `holder` is the process that the lease is for; empty for an actor's. `bundle` is the part of the class's placement
    group that it takes from, -1 for none. `namespace` is the job's. `begun` is when, on the scheduler's clock: said
    back to one that was restarted, it tells since when the lease holds what it holds.
    """

    lease_id: int
    job: bytes
    scheduling_class: SchedulingClass
    devices: list[DeviceShare]
    dedicated: bool
    holder: bytes = b""
    bundle: int = -1
    namespace: str = ""
    begun: float = 0.0


class LeaseStarted(Message, frozen=True):
    """The worker is ready for its lease."""

    lease_id: int
    worker_id: bytes
    address: str
    pid: int


class LeaseFailed(Message, frozen=True):
    """No worker could be had (`kind`: a class of `atoll.exceptions`), and the lease is over.

    With `DEVICES_TAKEN` its devices could not be had, as the sample before says; the request goes on waiting.
    """

    lease_id: int
    kind: str
    text: str


class EndLease(Message, frozen=True):
    """The lease is over: keep the worker for another, or, with `kill`, end it. Answered by `LeaseEnded`.

    With `gently`, the worker that is to end is asked to, and killed only if it does not.
    """

    lease_id: int
    kill: bool
    gently: bool = False


class LeaseEnded(Message, frozen=True):
    """Its resources are free again: devices too are verified to be. Also sent when the worker died by itself.

    `kind` and `text` are empty if it ended as wished. `memory` is there if it had to end because of its memory.
    """

    lease_id: int
    kind: str = ""
    text: str = ""
    memory: MemoryLoss | None = None


class StartActor(Message, frozen=True):
    """Run an actor's constructor in the worker of a lease. Answered by `ActorStarted` or `ActorFailed`."""

    lease_id: int
    spec: ActorSpec
    incarnation: int


class ActorStarted(Message, frozen=True):
    """The constructor returned; the actor can be called at the address of its lease."""

    actor_id: bytes
    lease_id: int


class ActorFailed(Message, frozen=True):
    """The constructor raised `text`, and `error` is the serialized exception; or the actor is refused, without one."""

    actor_id: bytes
    lease_id: int
    text: str
    error: bytes


class NodeSampled(Message, frozen=True):
    """A few times a second while somebody looks, rarely otherwise."""

    sample: NodeSample


class SpansRecorded(Message, frozen=True):
    """What workers of the node have run since the last report."""

    spans: list[Span]


class AdoptObject(Message, frozen=True):
    """The object belongs to the cluster from now on, under this name: it does not go with its owner.

    Answered by `ObjectAdopted` or `ObjectGone`.
    """

    object_id: bytes
    name: str


class DropObject(Message, frozen=True):
    """The cluster gives up an adopted object; it goes when nobody has it pinned."""

    object_id: bytes


class ObjectAdopted(Message, frozen=True):
    """The answer to `AdoptObject`: the object stays, whatever its owner says from now on."""

    object_id: bytes


class ObjectGone(Message, frozen=True):
    """An adopted object is lost (its seal never came, or the store was restarted)."""

    object_id: bytes


class JobEnded(Message, frozen=True):
    """A client is gone: its objects go too, except adopted ones."""

    job: bytes


class StopNode(Message, frozen=True):
    """End all workers, give back all memory, exit."""


def _all_messages() -> tuple[type[Message], ...]:
    return tuple(Message.__subclasses__())


MESSAGES: tuple[type[Message], ...] = _all_messages()
"""Every control message there is."""

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Any] | None = None


def encode(message: Message) -> bytes:
    """Return the bytes of a message."""
    return _encoder.encode(message)


def decode(data: bytes | bytearray | memoryview) -> Message:
    """Read a message.

    Raises:
        msgspec.ValidationError: The bytes are no message of a known type with fields of the right types.
        msgspec.DecodeError: The bytes are not even msgpack.
    """
    global _decoder
    if _decoder is None:
        union: Any = MESSAGES[0]
        for kind in MESSAGES[1:]:
            union = union | kind
        _decoder = msgspec.msgpack.Decoder(union)
    message: Message = _decoder.decode(data)
    return message
