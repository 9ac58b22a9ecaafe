"""What happens to a node agent, and what it has done about it (beside what every core knows, `protocol.machine`)."""

from __future__ import annotations

import msgspec

from atoll.protocol.machine import Action, Event, Peer
from atoll.protocol.messages import Message
from atoll.protocol.values import DeviceSample, Environment, WorkerSample

# ------------------------------------------------------------------------------------------------------- events


class ZygoteReady(Event, frozen=True):
    """The zygote of an environment has imported what workers share and forks on request."""

    environment: str


class ZygoteDied(Event, frozen=True):
    """A zygote ended or could not start. All its workers end with it.

    Attributes:
        environment: The digest.
        kind: A class of `atoll.exceptions`, for leases that wait for a worker of it.
        text: One line: why, and what to do.
        transient: Whether another one may do better: it had been able to fork, or was killed from outside.
    """

    environment: str
    kind: str
    text: str
    transient: bool = False


class WorkerForked(Event, frozen=True):
    """A worker's process exists. It says `WorkerStarted` itself when it listens."""

    worker_id: bytes
    pid: int


class ForkFailed(Event, frozen=True):
    """No process could be made."""

    worker_id: bytes
    text: str


class ProcessExited(Event, frozen=True):
    """A worker's process is gone, and whatever it had started.

    Attributes:
        worker_id: Which.
        exit_code: Its exit code, or None if a signal ended it.
        signal: The signal's number, or None.
        detail: The last line of its error output, if it had not started yet.
    """

    worker_id: bytes
    exit_code: int | None
    signal: int | None
    detail: str = ""


class SegmentCreated(Event, frozen=True):
    """The memory of a segment is reserved."""

    segment_id: int


class SegmentFailed(Event, frozen=True):
    """The host could not give the memory; nothing of the segment is left."""

    segment_id: int
    text: str


class ObjectsSpilled(Event, frozen=True):
    """The answer to `SpillObjects`: the copies are safe on disk.

    Attributes:
        file_id: The file.
        checksums: Of the pieces, in their order; opaque.
    """

    file_id: int
    checksums: list[bytes]


class SpillFailed(Event, frozen=True):
    """The copies could not be written; nothing of the file is left.

    Attributes:
        file_id: The file.
        text: Why, in words for people: `the disk is full`.
    """

    file_id: int
    text: str


class ObjectRestored(Event, frozen=True):
    """The answer to `RestoreObject`: its bytes are in memory again, and they are the right ones."""

    object_id: bytes


class RestoreFailed(Event, frozen=True):
    """The bytes on disk are not those that were written, or cannot be read. `text` says which."""

    object_id: bytes
    text: str


class DeviceMemory(msgspec.Struct, frozen=True):
    """The memory of a device at one moment.

    Attributes:
        uuid: The device.
        used_bytes: All that is in use on it.
        worker_bytes: Of that, what processes of the worker in question hold.
        other_bytes: Of that, what other living processes hold.
    """

    uuid: str
    used_bytes: int
    worker_bytes: int
    other_bytes: int


class DeviceMemoryMeasured(Event, frozen=True):
    """The answer to `MeasureDeviceMemory`. A device that cannot be measured is left out."""

    lease_id: int
    devices: list[DeviceMemory]


class DevicesClaimed(Event, frozen=True):
    """The answer to `ClaimDevices`: all are locked, or none that was not before.

    Attributes:
        lease_id: For which lease.
        samples: What the devices do now; one that cannot be read is left out.
        memory: What is in use on them, likewise.
        refused: Why a device could not be locked, in words, by UUID.
    """

    lease_id: int
    samples: list[DeviceSample]
    memory: list[DeviceMemory]
    refused: dict[str, str]


class DeviceFault(msgspec.Struct, frozen=True):
    """Something that a device has failed at.

    Attributes:
        uuid: The device.
        text: What the driver says.
        counts: Whether it is the device's fault; else it is the program's, and the device is as good as before.
    """

    uuid: str
    text: str
    counts: bool = True


class DeviceRecord(msgspec.Struct, frozen=True):
    """What is held against a device, for an agent that comes after this one.

    Attributes:
        uuid: The device.
        faults: When it failed, and at what, the oldest first. Instants are of this boot of the host.
        until: Until when it is quarantined for that; 0 if it is not.
    """

    uuid: str
    faults: list[tuple[float, str]]
    until: float = 0.0


class WorkerMemory(msgspec.Struct, frozen=True):
    """The memory of a worker and of all that it has started.

    Attributes:
        worker_id: Which.
        quick_bytes: Too much where processes share pages, as after a fork.
        exact_bytes: Shared pages divided; None unless it was asked for.
    """

    worker_id: bytes
    quick_bytes: int
    exact_bytes: int | None = None


class MemoryMeasured(Event, frozen=True):
    """The answer to `MeasureMemory`.

    Attributes:
        workers: Those that were asked for.
        total_bytes: The host's memory, or what its control group may have.
        available_bytes: What is left of that, without swapping.
    """

    workers: list[WorkerMemory]
    total_bytes: int
    available_bytes: int


class DevicesCheckpointed(Event, frozen=True):
    """The answer to `CheckpointDevices` and `RestoreCheckpoint`.

    Attributes:
        lease_id: The lease.
        text: Why it could not be done; then the process has what it had before.
    """

    lease_id: int
    text: str = ""


class NodeObserved(Event, frozen=True):
    """The answer to `ObserveNode`. `faults` are those since the last one."""

    cpu_percent: float
    memory_used_bytes: int
    memory_total_bytes: int
    devices: list[DeviceSample]
    workers: list[WorkerSample]
    faults: tuple[DeviceFault, ...] = ()


class StopRequested(Event, frozen=True):
    """The process was asked to end, by a signal."""

    cause: str


# ------------------------------------------------------------------------------------------------------ actions


class StartZygote(Action, frozen=True):
    """Start the zygote of an environment. Forks may be asked for at once; they wait until it can."""

    digest: str
    environment: Environment


class StopZygote(Action, frozen=True):
    """End a zygote that has no workers left."""

    digest: str


class ForkWorker(Action, frozen=True):
    """Fork a worker.

    Attributes:
        worker_id: Its id, made by the core.
        environment: The digest of its environment.
        devices: The UUIDs of the devices that it may see.
        threads: How many threads numerical libraries may use in it.
        urgent: Somebody waits for it: it does not wait until the zygote has imported everything.
    """

    worker_id: bytes
    environment: str
    devices: list[str]
    threads: int
    urgent: bool


class KillWorker(Action, frozen=True):
    """End a worker and whatever it started, at once. `ProcessExited` follows."""

    worker_id: bytes


class CreateSegment(Action, frozen=True):
    """Reserve memory. `SegmentCreated` or `SegmentFailed` follows.

    Attributes:
        segment_id: Its number.
        size_bytes: In whole pages.
        background: Nobody waits for it: it is made while the processors have nothing else to do, and only if the
            host has plenty of memory.
    """

    segment_id: int
    size_bytes: int
    background: bool = False


class CutSegment(Action, frozen=True):
    """Give the memory beyond this size back to the host. Nothing lies there, and nobody has the segment mapped."""

    segment_id: int
    size_bytes: int


class DestroySegment(Action, frozen=True):
    """Give the memory of a segment back to the host, also where processes still have it mapped."""

    segment_id: int


class SpillPiece(msgspec.Struct, frozen=True):
    """An object's bytes in memory."""

    segment_id: int
    offset: int
    size_bytes: int


class SpillObjects(Action, frozen=True):
    """Copy objects into a new file, one behind the other. `ObjectsSpilled` or `SpillFailed` follows.

    The bytes of an object that is given up meanwhile may change while they are copied: nobody asks for that copy.
    """

    file_id: int
    pieces: list[SpillPiece]


class RestoreObject(Action, frozen=True):
    """Read an object from a file into memory. `ObjectRestored` or `RestoreFailed` follows.

    Attributes:
        object_id: The object.
        file_id: Where from.
        file_offset: Where in the file.
        checksum: What its bytes must have.
        piece: Where to.
    """

    object_id: bytes
    file_id: int
    file_offset: int
    checksum: bytes
    piece: SpillPiece


class AgentUnreachable(Event, frozen=True):
    """The agent of another node does not answer."""

    node_id: bytes
    text: str


class DialAgent(Action, frozen=True):
    """Connect to the agent of another node. Its `PeerConnected` follows, or `AgentUnreachable`."""

    node_id: bytes
    path: str


class SendPiece(Action, frozen=True):
    """Send a part of an object to another agent, as an `ObjectPiece`.

    Attributes:
        peer: The agent.
        request: Of what is answered.
        piece: Where the object lies.
        offset: Where the part begins in the object.
        size_bytes: Of the part.
    """

    peer: Peer
    request: int
    piece: SpillPiece
    offset: int
    size_bytes: int


class WritePiece(Action, frozen=True):
    """Write a part of an object that comes from another node, before any later action is carried out."""

    piece: SpillPiece
    offset: int
    data: bytes


class DeleteSpillFile(Action, frozen=True):
    """Nobody wants what is in a file."""

    file_id: int


class SendWithSegments(Action, frozen=True):
    """Send a message together with descriptors of segments.

    Attributes:
        peer: To whom.
        message: What.
        segments: (segment id, whether the descriptor may be written through), in the order of the descriptors.
    """

    peer: Peer
    message: Message
    segments: list[tuple[int, bool]]


class ClaimDevices(Action, frozen=True):
    """Lock devices and look what they do. `DevicesClaimed` follows.

    Attributes:
        lease_id: For which lease.
        uuids: The devices, all of them or none; those that are locked by this agent already stay so.
        pids: The processes of workers: their memory is not that of others.
        held: The devices that other leases hold.
    """

    lease_id: int
    uuids: list[str]
    pids: list[int]
    held: tuple[str, ...]


class UnlockDevices(Action, frozen=True):
    """Let go of the locks of devices; workers that live still hold them."""

    uuids: list[str]


class RememberDevice(Action, frozen=True):
    """Write down what is held against a device, so that the next agent of the host knows it."""

    record: DeviceRecord


class ForgetDevice(Action, frozen=True):
    """Nothing is held against a device any more: whoever looked after it says so."""

    uuid: str


class MeasureDeviceMemory(Action, frozen=True):
    """Look what is in use on devices. `worker_pid` is the process whose share is wanted, or 0."""

    lease_id: int
    uuids: list[str]
    worker_pid: int


class CheckpointDevices(Action, frozen=True):
    """Have the driver copy what a process has on its devices into the host's memory. `DevicesCheckpointed` follows."""

    lease_id: int
    pid: int


class RestoreCheckpoint(Action, frozen=True):
    """Have the driver copy it back to the same devices. `DevicesCheckpointed` follows."""

    lease_id: int
    pid: int


class MeasureMemory(Action, frozen=True):
    """Look how much of the host's memory is in use, by these workers (id, pid, whether exactly) and in all."""

    workers: list[tuple[bytes, int, bool]]


class ObserveNode(Action, frozen=True):
    """Sample the node, its devices and these workers (id, pid). `held` are the devices that leases hold."""

    workers: list[tuple[bytes, int]]
    held: tuple[str, ...] = ()


class DialScheduler(Action, frozen=True):
    """Connect to the scheduler, again and again until it works."""


class Exit(Action, frozen=True):
    """End everything that this agent started, then the agent. Nothing else follows."""

    cause: str
