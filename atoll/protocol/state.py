"""The cluster as people see it: one value from which the dashboard, the magics and the CLI all read.

The scheduler makes it, as JSON, and whoever shows it needs nothing else. Ids are hex, times are seconds since 1970
on the wall clock, sizes are bytes, amounts of resources are as people write them (1.5 CPU).
"""

from __future__ import annotations

import msgspec


class DeviceState(msgspec.Struct, frozen=True):
    """A GPU.

    Attributes:
        held: The share that leases hold, from 0 to 1.
        holders: Those leases, for people.
        outsiders: Processes outside of the cluster that have memory of it, for people.
        trouble: Why nobody is given it, in words; empty if nothing is wrong with it.
        quarantined: Whether that is because it has failed too often, and somebody may lift it.
        part: Whether it is a part of a device (a MIG instance).
        quarantined_for_s: For how long it still is; 0 if it is not, or until its memory is free.
    """

    uuid: str
    index: int
    model: str
    simulated: bool
    memory_total_bytes: int
    memory_used_bytes: int
    foreign_memory_bytes: int
    use_percent: float
    held: float
    holders: list[str]
    outsiders: list[str] = []
    trouble: str = ""
    quarantined: bool = False
    part: bool = False
    quarantined_for_s: float = 0.0


class DrainState(msgspec.Struct, frozen=True):
    """How far a node is that is being emptied.

    Attributes:
        phase: `finishing` (tasks end, actors move), `copying` (objects), `leaving`, or `empty` for one that stays.
        since: When it was asked for.
        deadline: When what still runs is ended; 0 for never.
        waits_for: What is waited for, a line each.
        actors_moved: So far.
        objects_copied: So far.
    """

    phase: str
    since: float
    deadline: float
    waits_for: list[str]
    actors_moved: int
    objects_copied: int


class DepartureState(msgspec.Struct, frozen=True):
    """A node that was drained and is gone. `whole` is false if it was lost before it was empty."""

    node_id: str
    name: str
    since: float
    gone: float
    whole: bool
    text: str


class NodeState(msgspec.Struct, frozen=True):
    """A node with what it has and what is used of it; `drain` says how far it is if it is being emptied."""

    node_id: str
    name: str
    pid: int
    resources_total: dict[str, float]
    resources_free: dict[str, float]
    cpu_percent: float
    memory_used_bytes: int
    memory_total_bytes: int
    store_used_bytes: int
    store_capacity_bytes: int
    devices: list[DeviceState]
    store_spilled_bytes: int = 0
    labels: dict[str, str] = {}
    drain: DrainState | None = None
    received_bytes: int = 0
    sent_bytes: int = 0


class LeaseState(msgspec.Struct, frozen=True):
    """A worker in use. `doing` is what it runs now, or empty; `actor` is its actor's id, or empty.

    `devices` are what it holds now, `away` those that its idle actor has given up until the next call; `wanted_back`
    says that this call has come.
    """

    lease_id: int
    node_id: str
    worker_id: str
    pid: int
    job: str
    label: str
    resources: dict[str, float]
    devices: list[int]
    actor: str
    doing: str
    blocked: bool
    since: float
    cpu_percent: float
    memory_bytes: int
    away: list[int] = []
    wanted_back: bool = False


class ActorState(msgspec.Struct, frozen=True):
    """An actor, dead ones too for a while. `state` is as in `ActorChanged`.

    `calls` are those that its process has ended, `last_call` is when the last of them did; 0 for never. `devices`,
    `away` and `wanted_back` are as in `LeaseState`; `kept` says why it could not give its devices up while it was idle.
    """

    actor_id: str
    name: str
    namespace: str
    class_name: str
    state: str
    incarnation: int
    node_id: str
    pid: int
    job: str
    resources: dict[str, float]
    devices: list[int]
    cause: str
    created: float
    calls: int = 0
    last_call: float = 0.0
    away: list[int] = []
    wanted_back: bool = False
    kept: str = ""


class JobState(msgspec.Struct, frozen=True):
    """A notebook session or script.

    `waiting` counts the leases that it asks for and does not have. `share` is its dominant share, of now and lately,
    for a weight of 1: who has least goes first.
    """

    job: str
    name: str
    kind: str
    pid: int
    namespace: str
    connected: bool
    since: float
    leases: int
    waiting: int
    share: float = 0.0
    weight: float = 1.0


class DemandState(msgspec.Struct, frozen=True):
    """A scheduling class that waits, and why."""

    job: str
    label: str
    resources: dict[str, float]
    count: int
    since: float
    reason: str


class GroupState(msgspec.Struct, frozen=True):
    """A placement group, removed ones too for a while. `nodes` has one for each bundle, empty where it has no place."""

    group_id: str
    name: str
    namespace: str
    strategy: str
    state: str
    bundles: list[dict[str, float]]
    nodes: list[str]
    job: str
    created: float
    reason: str


class ObjectState(msgspec.Struct, frozen=True):
    """An object in shared memory."""

    object_id: str
    node_id: str
    name: str
    owner: str
    size_bytes: int
    pins: int


class NameState(msgspec.Struct, frozen=True):
    """A name of the cache: `ready` or `computing`."""

    name: str
    state: str
    size_bytes: int
    created: float


class SpanState(msgspec.Struct, frozen=True):
    """A piece of a worker's time, as `atoll.protocol.values.Span`, ids in hex."""

    key: str
    worker_id: str
    node_id: str
    job: str
    name: str
    start: float
    duration_s: float
    count: int
    state: str
    task_id: str = ""


class ClusterState(msgspec.Struct, frozen=True):
    """Everything. `spans` are those that ended in the last five minutes, newest last, and what runs now."""

    cluster_id: str
    version: str
    now: float
    started: float
    simulated_devices: bool
    nodes: list[NodeState]
    leases: list[LeaseState]
    actors: list[ActorState]
    jobs: list[JobState]
    demands: list[DemandState]
    objects: list[ObjectState]
    names: list[NameState]
    spans: list[SpanState]
    groups: list[GroupState] = []
    departures: list[DepartureState] = []


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(ClusterState)


def encode_state(state: ClusterState) -> bytes:
    """Return the state as JSON."""
    return _encoder.encode(state)


def decode_state(data: bytes | memoryview | msgspec.Raw) -> ClusterState:
    """Read the state from JSON.

    Raises:
        msgspec.ValidationError: It is of another version.
    """
    return _decoder.decode(data)
