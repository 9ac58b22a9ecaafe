"""The cluster as people see it, made from the core's tables only when somebody asks."""

from __future__ import annotations

from collections.abc import Mapping

from atoll.protocol.explanation import Explanation
from atoll.protocol.state import (
    ActorState,
    ClusterState,
    DemandState,
    DeviceState,
    GroupState,
    JobState,
    LeaseState,
    NameState,
    NodeState,
    ObjectState,
)
from atoll.protocol.values import DeviceSample, NodeSample, WorkerSample
from atoll.resources import MEMORY, UNITS_PER_ONE, format_bytes, from_units
from atoll.scheduler.core.actor import Actor
from atoll.scheduler.core.cluster import Cluster
from atoll.scheduler.core.demand import Demand
from atoll.scheduler.core.group import Group
from atoll.scheduler.core.lease import ENDING, STARTING, Lease
from atoll.scheduler.core.nodes import Node
from atoll.scheduler.core.why import Reasons, why_group_waits
from atoll.scheduler.policy.fair_share import MILLION

MAXIMUM_OBJECTS = 1000
"""The largest are shown; a store may hold far more than anybody reads."""


def cluster_state(cluster: Cluster) -> ClusterState:
    """Return everything, as of now."""
    turn = cluster.turn
    return ClusterState(
        cluster_id=cluster.cluster_id,
        version=cluster.version,
        now=turn.wall(turn.now),
        started=turn.wall(turn.started),
        simulated_devices=any(use.device.simulated for node in cluster.nodes for use in node.devices.values()),
        nodes=[_node(cluster, node) for node in cluster.nodes],
        leases=_leases(cluster),
        actors=[_actor(cluster, actor) for actors in (cluster.actors, cluster.actors.dead()) for actor in actors],
        jobs=_jobs(cluster),
        demands=[_demand(cluster, *each) for each in Reasons(cluster).of_all(briefly=True)],
        objects=_objects(cluster),
        names=[NameState(info.name, info.state, info.size_bytes, info.created) for info in cluster.names.infos()],
        spans=cluster.spans.states(),
        groups=[_group(cluster, group) for groups in (cluster.groups, cluster.groups.removed()) for group in groups],
        departures=cluster.drains.departures(),
    )


def amounts_for_people(amounts: Mapping[str, int]) -> dict[str, float]:
    """Return amounts as people write them."""
    return {name: from_units(units) for name, units in amounts.items()}


def _node(cluster: Cluster, node: Node) -> NodeState:
    sample = node.sample or NodeSample(0.0, 0, node.total.get(MEMORY, 0) // UNITS_PER_ONE, 0, 0, [], [], [])
    by_uuid = {device.uuid: device for device in sample.devices}
    return NodeState(
        node_id=node.node_id.hex(),
        name=node.name,
        pid=node.pid,
        resources_total=amounts_for_people(node.total),
        resources_free=amounts_for_people(node.pool.free),
        cpu_percent=sample.cpu_percent,
        memory_used_bytes=sample.memory_used_bytes,
        memory_total_bytes=sample.memory_total_bytes,
        store_used_bytes=sample.store_used_bytes,
        store_capacity_bytes=sample.store_capacity_bytes,
        devices=[_device(cluster, node, uuid, by_uuid.get(uuid)) for uuid in node.devices],
        store_spilled_bytes=sample.store_spilled_bytes,
        labels=node.labels,
        drain=cluster.drains.state_of(node),
        received_bytes=sample.received_bytes,
        sent_bytes=sample.sent_bytes,
    )


def _device(cluster: Cluster, node: Node, uuid: str, sample: DeviceSample | None) -> DeviceState:
    use = node.devices[uuid]
    device = use.device
    return DeviceState(
        uuid=uuid,
        index=device.index,
        model=device.model,
        simulated=device.simulated,
        memory_total_bytes=device.memory_bytes,
        memory_used_bytes=sample.memory_used_bytes if sample else 0,
        foreign_memory_bytes=sample.foreign_memory_bytes if sample else 0,
        use_percent=sample.use_percent if sample else 0.0,
        held=(UNITS_PER_ONE - use.free) / UNITS_PER_ONE,
        holders=[_holder_name(cluster, lease_id) for lease_id in use.held],
        outsiders=[f"{format_bytes(each.used_bytes)}: {each}" for each in (sample.outsiders if sample else [])],
        trouble=use.condition.trouble,
        quarantined=use.condition.quarantined,
        part=bool(device.parent),
        quarantined_for_s=sample.quarantined_for_s if sample else 0.0,
    )


def _holder_name(cluster: Cluster, lease_id: int) -> str:
    if lease_id < 0:
        return "a placement group"
    lease = cluster.leases.get(lease_id)
    assert lease is not None, "what holds a device is a lease or a bundle"
    name = lease.scheduling_class.label or "task"
    return f"{name} ({lease.job.name})" if lease.job.name else name


def _leases(cluster: Cluster) -> list[LeaseState]:
    samples: dict[bytes, WorkerSample] = {}
    for node in cluster.nodes:
        if node.sample is not None:
            samples.update((worker.worker_id, worker) for worker in node.sample.workers)
    return [_lease(cluster, lease, samples.get(lease.worker_id)) for lease in cluster.leases]


def _lease(cluster: Cluster, lease: Lease, sample: WorkerSample | None) -> LeaseState:
    doing = cluster.spans.doing(lease.worker_id)
    if lease.state in {STARTING, ENDING}:
        doing = f"({lease.state})"
    return LeaseState(
        lease_id=lease.lease_id,
        node_id=lease.node.node_id.hex(),
        worker_id=lease.worker_id.hex(),
        pid=lease.pid or (sample.pid if sample else 0),
        job=lease.job.job_id.hex(),
        label=lease.scheduling_class.label,
        resources=amounts_for_people(lease.scheduling_class.resources),
        devices=[share.index for share in lease.shares],
        actor=lease.actor_id.hex(),
        doing=doing,
        blocked=lease.blocked,
        since=cluster.turn.wall(lease.since),
        cpu_percent=sample.cpu_percent if sample else 0.0,
        memory_bytes=sample.memory_bytes if sample else 0,
        away=[share.index for share in lease.away],
        wanted_back=lease.wanted_since is not None,
    )


def _actor(cluster: Cluster, actor: Actor) -> ActorState:
    lease = actor.lease
    calls, last_call = cluster.spans.calls(lease.worker_id) if lease else (0, 0.0)
    return ActorState(
        actor_id=actor.spec.actor_id.hex(),
        name=actor.spec.name,
        namespace=actor.spec.namespace,
        class_name=actor.spec.class_name,
        state=actor.state,
        incarnation=actor.incarnation,
        node_id=lease.node.node_id.hex() if lease else "",
        pid=lease.pid if lease else 0,
        job=actor.job.job_id.hex(),
        resources=amounts_for_people(actor.spec.scheduling_class.resources),
        devices=[share.index for share in lease.shares] if lease else [],
        cause=actor.cause,
        created=actor.created,
        calls=calls,
        last_call=last_call,
        away=[share.index for share in lease.away] if lease else [],
        wanted_back=lease is not None and lease.wanted_since is not None,
        kept=actor.kept,
    )


def _jobs(cluster: Cluster) -> list[JobState]:
    return [
        JobState(
            job=job.job_id.hex(),
            name=job.name,
            kind=job.kind,
            pid=job.pid,
            namespace=job.namespace,
            connected=job.peer is not None,
            since=cluster.turn.wall(job.since),
            leases=len(job.leases),
            waiting=sum(demand.shortfall for demand in job.demands.values()),
            share=cluster.shares.of(job) / MILLION,
            weight=job.weight,
        )
        for job in cluster.jobs
    ]


def _demand(cluster: Cluster, demand: Demand, explanation: Explanation) -> DemandState:
    return DemandState(
        job=demand.job.job_id.hex(),
        label=demand.scheduling_class.label,
        resources=amounts_for_people(demand.scheduling_class.resources),
        count=demand.shortfall,
        since=cluster.turn.wall(demand.since),
        reason=explanation.line,
    )


def _group(cluster: Cluster, group: Group) -> GroupState:
    return GroupState(
        group_id=group.spec.group_id.hex(),
        name=group.spec.name,
        namespace=group.spec.namespace,
        strategy=group.spec.strategy,
        state=group.state,
        bundles=[amounts_for_people(amounts) for amounts in group.spec.bundles],
        nodes=[bundle.node.node_id.hex() if bundle.node is not None else "" for bundle in group.bundles],
        job=group.job.job_id.hex(),
        created=group.created,
        reason=why_group_waits(cluster, group) if group.waits else "",
    )


def _objects(cluster: Cluster) -> list[ObjectState]:
    objects = [
        ObjectState(
            object_id=info.object_id.hex(),
            node_id=node.node_id.hex(),
            name=info.name,
            owner=info.owner.hex(),
            size_bytes=info.size_bytes,
            pins=info.pins,
        )
        for node in cluster.nodes
        if node.sample is not None
        for info in node.sample.objects
    ]
    objects.sort(key=lambda shown: (-shown.size_bytes, shown.object_id))
    return objects[:MAXIMUM_OBJECTS]
