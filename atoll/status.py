"""`atoll status`: the cluster's state as lines of plain text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from atoll.plain_text import Painter, counted, duration, printable, table
from atoll.protocol.cluster_file import ClusterFile
from atoll.protocol.state import ActorState, ClusterState, DeviceState, LeaseState, NodeState
from atoll.resources import CPU, MEMORY, format_bytes

_OBJECTS_SHOWN = 10


def status_lines(cluster: ClusterFile, state: ClusterState, paint: Painter) -> Iterator[str]:
    """Yield the lines that describe a cluster."""
    up = duration(state.now - state.started)
    yield paint(f"Atoll {state.version} on {cluster.host}", "bold") + (
        f"  up {up}, started by {printable(cluster.started_by)}, cluster {state.cluster_id}"
    )
    if state.simulated_devices:
        yield paint("Its GPUs are simulated (ATOLL_SIMULATED_GPUS): they can be held, and compute nothing.", "yellow")
    yield from _section(paint, counted(len(state.nodes), "node"), _nodes(state.nodes))
    for node in state.nodes:
        for line in node.drain.waits_for if node.drain is not None else ():
            yield f"    {node.name} is being drained; it waits for {printable(line, 200)}"
    devices = [(node, device) for node in state.nodes for device in node.devices]
    yield from _section(paint, counted(len(devices), "GPU"), _devices(devices))
    for line in quarantine_lines(state):
        yield paint(line, "yellow")
    yield from _section(paint, counted(len(state.jobs), "job"), _jobs(state))
    yield from _section(paint, counted(len(state.leases), "worker in use", "workers in use"), _leases(state))
    yield from _section(paint, counted(len(state.actors), "actor"), _actors(state.actors, state))
    yield from _section(paint, f"{counted(sum(d.count for d in state.demands), 'request')} waiting", _demands(state))
    yield from _section(paint, counted(len(state.names), "name") + " in the cache", _names(state))
    size = format_bytes(sum(item.size_bytes for item in state.objects))
    yield from _section(paint, f"{counted(len(state.objects), 'object')} in shared memory, {size}", _objects(state))


def _section(paint: Painter, title: str, lines: list[str]) -> Iterator[str]:
    """Yield a section, or nothing where there is nothing to list."""
    if len(lines) > 1:
        yield ""
        yield paint(title, "bold")
        yield paint(lines[0], "dim")
        yield from lines[1:]


def resources_text(amounts: Mapping[str, float]) -> str:
    """Return amounts as people read them: `2 CPU, 1 GPU, 4 GiB`."""
    parts = [
        format_bytes(amount) if name == MEMORY else f"{amount:g} {name}" for name, amount in sorted(amounts.items())
    ]
    return ", ".join(parts) or "nothing"


def gpus_of(item: LeaseState | ActorState) -> str:
    """Return the GPUs of a worker or an actor, and whether it has given them up for a while."""
    if item.away:
        numbers = ", ".join(map(str, item.away))
        return f"{numbers} wanted back" if item.wanted_back else f"{numbers} given up"
    return ", ".join(map(str, item.devices)) or "-"


def kept_lines(actors: Iterable[ActorState]) -> list[str]:
    """Return which idle actors could not give their GPUs up, and why, in a line each."""
    return [
        f"{actor.name or actor.class_name} keeps its GPUs while it is idle: {actor.kept}"
        for actor in actors
        if actor.kept and actor.state != "dead"
    ]


def _of(part: float, whole: float) -> str:
    return f"{format_bytes(part)} / {format_bytes(whole)}"


def store_of(node: NodeState) -> str:
    """Return what the node's object store holds: `1 GiB / 4 GiB`, and what of it is on disk."""
    held = _of(node.store_used_bytes, node.store_capacity_bytes)
    return f"{held} + {format_bytes(node.store_spilled_bytes)} on disk" if node.store_spilled_bytes else held


def _nodes(nodes: list[NodeState]) -> list[str]:
    rows = [
        [
            node.name + (f" ({node.drain.phase})" if node.drain is not None else ""),
            f"{node.resources_free.get(CPU, 0):g} of {node.resources_total.get(CPU, 0):g}",
            f"{node.cpu_percent:.0f} %",
            _of(node.memory_used_bytes, node.memory_total_bytes),
            store_of(node),
            str(node.pid),
        ]
        for node in nodes
    ]
    return table(["NODE", ">FREE CPUS", ">BUSY", ">MEMORY", ">STORE", ">PID"], rows)


def holders_of(device: DeviceState) -> str:
    """Return who holds a GPU, of ours and of others, and what is wrong with it if something is."""
    parts = [*device.holders, *device.outsiders]
    if device.foreign_memory_bytes and not device.outsiders:
        parts.append(f"{format_bytes(device.foreign_memory_bytes)} by processes that are not ours")
    if device.trouble:
        parts.append("quarantined" if device.quarantined else device.trouble)
    return " + ".join(parts) or "-"


def quarantine_lines(state: ClusterState) -> list[str]:
    """Return a line for each GPU that is quarantined: why, for how long, and how it is given again before."""
    return [
        f"GPU {device.index} of {node.name} is {printable(device.trouble, 200)}; "
        f"`atoll gpu release {device.uuid}` gives it again now, otherwise it is "
        + (f"in {duration(device.quarantined_for_s)}" if device.quarantined_for_s else "when its memory is free")
        for node in state.nodes
        for device in node.devices
        if device.quarantined
    ]


def _devices(devices: list[tuple[NodeState, DeviceState]]) -> list[str]:
    rows = [
        [
            f"{node.name}:{device.index}",
            device.model,
            f"{device.held * 100:.0f} %",
            f"{device.use_percent:.0f} %",
            _of(device.memory_used_bytes, device.memory_total_bytes),
            holders_of(device),
        ]
        for node, device in devices
    ]
    return table(["GPU", "MODEL", ">HELD", ">BUSY", ">MEMORY", "HELD BY"], rows)


def _jobs(state: ClusterState) -> list[str]:
    rows = [
        [
            job.name or "-",
            job.kind,
            "connected" if job.connected else "gone",
            duration(state.now - job.since),
            str(job.leases),
            str(job.waiting),
            str(job.pid),
        ]
        for job in state.jobs
    ]
    return table(["JOB", "KIND", "STATE", ">SINCE", ">WORKERS", ">WAITING", ">PID"], rows)


def _leases(state: ClusterState) -> list[str]:
    jobs = {job.job: job.name for job in state.jobs}
    actors = {actor.actor_id: actor.name or actor.class_name for actor in state.actors}
    rows = [
        [
            lease.doing or lease.label or "-",
            _lease_state(lease),
            jobs.get(lease.job) or "-",
            actors.get(lease.actor, "-") if lease.actor else "-",
            resources_text(lease.resources),
            gpus_of(lease),
            f"{lease.cpu_percent:.0f} %",
            format_bytes(lease.memory_bytes),
            str(lease.pid),
        ]
        for lease in state.leases
    ]
    return table(["RUNS", "STATE", "JOB", "ACTOR", "HOLDS", "GPUS", ">CPU", ">MEMORY", ">PID"], rows)


def _lease_state(lease: LeaseState) -> str:
    if lease.blocked:
        return "waits in get"
    return "running" if lease.doing else "idle"


def _actors(actors: list[ActorState], state: ClusterState) -> list[str]:
    rows = [
        [
            actor.name or "(anonymous)",
            actor.class_name,
            actor.state + (f" ({actor.incarnation} restarts)" if actor.incarnation else ""),
            resources_text(actor.resources),
            gpus_of(actor),
            duration(state.now - actor.created),
            str(actor.pid) if actor.pid else "-",
            actor.cause or "-",
        ]
        for actor in actors
    ]
    return table(["ACTOR", "CLASS", "STATE", "HOLDS", "GPUS", ">AGE", ">PID", "CAUSE"], rows)


def _demands(state: ClusterState) -> list[str]:
    jobs = {job.job: job.name for job in state.jobs}
    rows = [
        [
            demand.label or "-",
            str(demand.count),
            jobs.get(demand.job) or "-",
            resources_text(demand.resources),
            duration(state.now - demand.since),
            demand.reason or "-",
        ]
        for demand in state.demands
    ]
    return table(["WAITS", ">COUNT", "JOB", "FOR", ">SINCE", "BECAUSE"], rows)


def _names(state: ClusterState) -> list[str]:
    rows = [
        [name.name, name.state, format_bytes(name.size_bytes), duration(state.now - name.created)]
        for name in state.names
    ]
    return table(["NAME", "STATE", ">SIZE", ">AGE"], rows)


def _objects(state: ClusterState) -> list[str]:
    largest = sorted(state.objects, key=lambda item: (-item.size_bytes, item.object_id))
    rows = [
        [item.object_id[:16], item.name or "-", format_bytes(item.size_bytes), str(item.pins)]
        for item in largest[:_OBJECTS_SHOWN]
    ]
    lines = table(["OBJECT", "NAME", ">SIZE", ">PINS"], rows)
    if len(largest) > _OBJECTS_SHOWN:
        lines.append(f"  and {len(largest) - _OBJECTS_SHOWN} smaller ones")
    return lines


def object_label(object_id: str) -> str:
    """Return who made an object and its number there, from its hex id: `ef96·12`."""
    return f"{object_id[:4]}·{int(object_id[16:32] or '0', 16)}"
