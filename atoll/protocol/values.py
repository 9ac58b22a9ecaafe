"""What messages are made of: the values that several of them carry.

Arrays on the wire, as the messages are. Amounts of resources are in units (`atoll.resources`), sizes in bytes, wall
clock in seconds since 1970. Payloads of users are `bytes`, opaque to daemons.
"""

from __future__ import annotations

import msgspec

from atoll.resources import Amounts

CELLS_NAMESPACE = "cells"
"""The namespace of the actors that background cells are. To people they are cells."""


class Environment(msgspec.Struct, frozen=True, array_like=True):
    """What a worker must share with the kernel whose code it runs. One zygote is kept for each.

    Attributes:
        executable: The Python interpreter.
        sys_path: `sys.path` of the kernel.
        working_directory: The kernel's.
        variables: Environment variables, without those that are secrets, and with those of a `runtime_env`.
        extras: What a `runtime_env` adds that must be made before a worker can start; None for nothing.
        runtime_env: The `runtime_env` as people wrote it, as JSON; empty for none.
    """

    executable: str
    sys_path: list[str]
    working_directory: str
    variables: dict[str, str]
    extras: Extras | None = None
    runtime_env: str = ""


class Extras(msgspec.Struct, frozen=True, array_like=True):
    """What is made on a node for an environment, each part once for equal content.

    Attributes:
        working_archive: The archive that becomes the working directory: `<digest>.zip` among the cluster's packages;
            empty for none.
        module_archives: Archives of modules, likewise.
        requirements: Lines for pip, as in a requirements file.
        pip_options: Options of `pip install`.
        pip_version: The version of pip itself, as `==24.0`; empty for the one that is there.
        pip_check: Whether the installed packages are checked to fit together.
        timeout_s: How long making it may take; 0 for as long as it takes.
    """

    working_archive: str = ""
    module_archives: list[str] = []
    requirements: list[str] = []
    pip_options: list[str] = []
    pip_version: str = ""
    pip_check: bool = False
    timeout_s: float = 600.0


class LabelTerm(msgspec.Struct, frozen=True, array_like=True):
    """A condition on a label of a node.

    Attributes:
        key: The label.
        operator: `in`, `not in`, `exists` or `not exists`. A node without the label is `not in` whatever it is.
        values: What it is compared with; empty for the last two.
    """

    key: str
    operator: str
    values: list[str] = []


ACTOR_ID, ACTOR_NAME = "atoll.io/actor-id", "atoll.io/actor"
TASK_NAME, JOB_NAME = "atoll.io/task", "atoll.io/job"
"""As keys of a `LabelTerm`, they stand for what runs on a node: actors by id (hex) or name, tasks, notebooks."""


class Choice(msgspec.Struct, frozen=True, array_like=True):
    """What will do instead of what a request asks for first; its other fields hold for each choice.

    Attributes:
        resources: As in `SchedulingClass`.
        labels: Likewise.
        device_types: Likewise.
    """

    resources: Amounts
    labels: list[LabelTerm] = []
    device_types: list[str] = []


class SchedulingClass(msgspec.Struct, frozen=True, array_like=True):
    """The shape of a request: all requests of one class are interchangeable to the scheduler.

    Attributes:
        resources: What each lease takes, in units (`atoll.resources`). `GPU` of 10,000 and more means whole
            devices, less means a share of one.
        environment: Digest of the `Environment` that the worker must have.
        priority: Higher goes first; 0 is usual.
        node: Only on this node, as hex; empty for any.
        label: What the request is for, for people: the function or the cell.
        maximum_calls: After so many tasks the worker is replaced; 0 for never.
        strategy: `SPREAD` or `PACK`; empty for the usual: pack until half used, then spread.
        node_soft: Whether another node will do when `node` is gone or could never give the resources.
        labels: What the node's labels must be, all of it.
        labels_soft: What they had better be.
        device_types: Models of devices that will do; empty for all.
        group: The placement group from which it takes its resources; empty for none.
        bundle: Which bundle of that; -1 for any.
        capture: Whether what the worker submits takes from the same placement group unless it says otherwise.
        choices: What will do as well, the best first, when what is asked for is not free.
        preemptible: It takes what nobody else wants, and is ended when somebody does; its tasks are then run anew.
        deadline_s: So long after it was asked for it had better begin; 0 for never. Orders what one job waits for.
        auto: Resources of which it takes as much as has usually been needed, and at least what `resources` says:
            `memory`, `gpu_memory`.
        code: Digest of the function, class or cell, under which its needs are learned.
        earliest_s: No place is looked for before it was asked for so long.
        near: Nodes that have what its tasks take, most first: id and bytes, rounded up to a power of two.
    """

    resources: Amounts
    environment: str
    priority: int = 0
    node: str = ""
    label: str = ""
    maximum_calls: int = 0
    strategy: str = ""
    node_soft: bool = False
    labels: list[LabelTerm] = []
    labels_soft: list[LabelTerm] = []
    device_types: list[str] = []
    group: bytes = b""
    bundle: int = -1
    capture: bool = False
    choices: list[Choice] = []
    preemptible: bool = False
    deadline_s: float = 0.0
    auto: list[str] = []
    code: bytes = b""
    earliest_s: float = 0.0
    near: list[tuple[bytes, int]] = []


class MemoryLoss(msgspec.Struct, frozen=True, array_like=True):
    """How a process ran out of memory. Sizes in bytes.

    Attributes:
        used_bytes: At its peak.
        asked_bytes: What was set aside for it; 0 if nothing.
        advised_bytes: What it had better ask for.
        again_bytes: With so much set aside it may be run again by itself; 0 if that would not help.
    """

    used_bytes: int
    asked_bytes: int
    advised_bytes: int
    again_bytes: int = 0


class GroupSpec(msgspec.Struct, frozen=True, array_like=True):
    """A placement group: bundles of resources that are reserved together or not at all.

    Attributes:
        group_id: Made by the creator.
        name: Empty for an anonymous one.
        namespace: Where the name lives.
        strategy: `PACK`, `SPREAD`, `STRICT_PACK` or `STRICT_SPREAD`.
        bundles: What each takes, in units.
        labels: What the labels of each bundle's node must be; empty if nothing is said of any.
        detached: Lives on when its job ends. What has a name does too.
    """

    group_id: bytes
    name: str
    namespace: str
    strategy: str
    bundles: list[Amounts]
    labels: list[list[LabelTerm]] = []
    detached: bool = False


class Device(msgspec.Struct, frozen=True, array_like=True):
    """An accelerator of a node.

    Attributes:
        uuid: NVML's, or `SIM-GPU-...` for a simulated one.
        index: Its number on the node, for people.
        model: For example `NVIDIA H100 80GB HBM3`; simulated ones say so.
        memory_bytes: Its memory.
        simulated: True for a device that exists for tests and demonstrations only.
        parent: The UUID of the device of which it is a part (a MIG instance); empty if it is whole.
        numa_node: The processor that it is nearest to; -1 if that is not known.
        distances: How far other devices are, by UUID, where that is known: 0 for parts of one device, 1 to 9 over
            NVLink (10 less the number of links), then what the way over PCI Express crosses: 10 one switch, 20
            several, 30 a host bridge, 40 bridges of one processor, 50 other processors.
    """

    uuid: str
    index: int
    model: str
    memory_bytes: int
    simulated: bool = False
    parent: str = ""
    numa_node: int = -1
    distances: dict[str, int] = {}


class DeviceShare(msgspec.Struct, frozen=True, array_like=True):
    """A device, or a fraction of one, that a lease holds; `units` of 10,000 is the whole."""

    uuid: str
    index: int
    units: int
    simulated: bool = False


class Outsider(msgspec.Struct, frozen=True, array_like=True):
    """A process that is no worker of the cluster and has memory of a device.

    Attributes:
        pid: Its process id; 0 if nobody knows whose memory it is.
        used_bytes: How much.
        user: Whose it is; empty if that is not known.
        name: What it runs, likewise.
    """

    pid: int
    used_bytes: int
    user: str = ""
    name: str = ""

    def __str__(self) -> str:
        if not self.pid:
            return "a process that the driver does not name"
        who = f" of {self.user}" if self.user else ""
        return f"process {self.pid}{who}{f' ({self.name})' if self.name else ''}"


class DeviceSample(msgspec.Struct, frozen=True, array_like=True):
    """What a device does now.

    Attributes:
        uuid: Which.
        use_percent: How busy it is.
        memory_used_bytes: Memory in use.
        foreign_memory_bytes: What of that processes outside of the cluster hold.
        outsiders: Those processes, the largest first.
        trouble: Why it is not given to anybody now, in words; empty if nothing is wrong with it.
        quarantined: Whether that is because it has failed too often.
        quarantined_for_s: For how long it still is; 0 if it is not, or until its memory is free.
    """

    uuid: str
    use_percent: float
    memory_used_bytes: int
    foreign_memory_bytes: int = 0
    outsiders: list[Outsider] = []
    trouble: str = ""
    quarantined: bool = False
    quarantined_for_s: float = 0.0


class ObjectInfo(msgspec.Struct, frozen=True, array_like=True):
    """An object in a store, as people look at it.

    Attributes:
        object_id: Its id.
        size_bytes: Bytes in shared memory.
        pins: How many processes have it mapped in use.
        name: The name in the cluster's cache, or empty.
        owner: The process that owns it; empty for the cluster.
    """

    object_id: bytes
    size_bytes: int
    pins: int
    name: str
    owner: bytes


class NodeSample(msgspec.Struct, frozen=True, array_like=True):
    """What a node and its workers do now. Percentages are of one core for workers, of all cores for the node.

    `received_bytes` and `sent_bytes` are of objects, from and to other nodes, since the node's beginning.
    """

    cpu_percent: float
    memory_used_bytes: int
    memory_total_bytes: int
    store_used_bytes: int
    store_capacity_bytes: int
    devices: list[DeviceSample]
    workers: list[WorkerSample]
    objects: list[ObjectInfo]
    store_spilled_bytes: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0


class WorkerSample(msgspec.Struct, frozen=True, array_like=True):
    """What a worker process does now, and how much processor time it and its ended children have used in its life."""

    worker_id: bytes
    pid: int
    cpu_percent: float
    memory_bytes: int
    cpu_time_s: float = 0.0
    device_bytes: int = 0


class Span(msgspec.Struct, frozen=True, array_like=True):
    """A piece of a worker's time, for the timeline.

    Spans of many tiny tasks are merged by the worker: then `count` says how many.

    Attributes:
        worker_id: Where.
        job: The job that submitted it.
        name: Function, method or cell.
        start: Wall clock, seconds since 1970.
        duration_s: So far, if it is still running.
        count: Tasks in this span.
        state: `running`, `finished` or `failed`.
        key: The same for every report of one span, so that a later report replaces an earlier one.
        task_id: The task, if it is one.
        code: Digest of what ran, under which its needs are learned; empty for what is not known by itself.
        peak_bytes: The most memory that the process used meanwhile; 0 if that was not seen.
        device_peak_bytes: Likewise, of devices.
    """

    worker_id: bytes
    job: bytes
    name: str
    start: float
    duration_s: float
    count: int
    state: str
    key: int
    task_id: bytes = b""
    code: bytes = b""
    peak_bytes: int = 0
    device_peak_bytes: int = 0


class MethodSpec(msgspec.Struct, frozen=True, array_like=True):
    """A method of an actor, for whoever has a handle and not the class.

    Attributes:
        parameters: Name, kind (of `inspect.Parameter`) and whether there is a default, without `self`; None for a
            method that does not say.
        options: What `@atoll.method` says of its calls, pickled; empty for nothing.
        generator: Whether it yields.
    """

    parameters: list[tuple[str, int, bool]] | None = None
    options: bytes = b""
    generator: bool = False


class ActorInterface(msgspec.Struct, frozen=True, array_like=True):
    """What a handle must know to call an actor.

    Attributes:
        methods: By name.
        retries: How often a call is made again when the process died during it; -1 for without end.
        maximum_pending: Calls of one process that may wait; -1 for without limit.
        any_order: Whether a call may overtake one that waits for its arguments.
    """

    methods: dict[str, MethodSpec] = {}
    retries: int = 0
    maximum_pending: int = -1
    any_order: bool = False


class ActorSpec(msgspec.Struct, frozen=True, array_like=True):
    """All that is needed to make an actor, and to make it again.

    Attributes:
        actor_id: Made by the creator.
        name: Empty for an anonymous one.
        namespace: Where the name lives.
        class_name: For people.
        scheduling_class: Where it may live.
        payload: Class and constructor arguments, serialized; opaque to daemons. Refs inside are resolved first.
        detached: Lives on when its handles and its job are gone.
        maximum_restarts: -1 for without end.
        interface: For handles made by name.
        maximum_concurrency: Calls that may run at once; 0 for what is usual for its class.
        concurrency_groups: The same for the methods of each named group.
        idle_s: So long without a call it keeps its GPUs, then gives them up until the next; 0 for always.
    """

    actor_id: bytes
    name: str
    namespace: str
    class_name: str
    scheduling_class: SchedulingClass
    payload: bytes
    detached: bool = False
    maximum_restarts: int = 0
    interface: ActorInterface = ActorInterface()
    maximum_concurrency: int = 0
    concurrency_groups: dict[str, int] = {}
    idle_s: float = 0.0


class ObjectLocation(msgspec.Struct, frozen=True, array_like=True):
    """Where a value is: in the message itself, or in the store of a node.

    Attributes:
        object_id: Its id.
        node_id: The node whose store has it; empty if it is inline.
        size_bytes: In the store.
        inline: The serialized value, if it is small (`atoll.protocol.serialization.pack`).
    """

    object_id: bytes
    node_id: bytes = b""
    size_bytes: int = 0
    inline: bytes = b""


class ActorPayload(msgspec.Struct, array_like=True, frozen=True):
    """What a worker needs to make an actor: opaque to daemons.

    Attributes:
        code: The pickled class.
        arguments: Of the constructor, as `atoll.client.arguments` packs them.
        dependencies: The values of top-level refs among them.
    """

    code: bytes
    arguments: bytes
    dependencies: list[ObjectLocation]


class NameInfo(msgspec.Struct, frozen=True, array_like=True):
    """A name of the cache. `state` is `ready` or `computing`; `created` is wall clock."""

    name: str
    state: str
    size_bytes: int
    created: float
