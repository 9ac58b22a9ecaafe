"""What must hold after every step, seen from outside; and what must hold in the end, when everything is well again.

The cores check themselves (`check_invariants`). Here is what no core can see alone: that what one believes is what
the others do.
"""

from __future__ import annotations

from typing import Any

from atoll.client.core.lineage import Hold
from atoll.client.core.records import FAILED, PENDING, STORED, TaskRecord
from atoll.ids import PROCESS_ID_BYTES, token_of
from atoll.protocol.values import ObjectLocation
from atoll.resources import CPU, UNITS_PER_ONE
from atoll.testing import Machine
from tests.sim.client_process import ClientProcess
from tests.sim.daemon_processes import AgentProcess
from tests.sim.worker_process import WorkerProcess
from tests.sim.world import World


class Names:
    """Who computes which name, and which names must be there in the end."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._computing: dict[str, tuple[ClientProcess, int, Any]] = {}
        self.given_away: dict[bytes, None] = {}
        self._published: dict[str, tuple[float, ObjectLocation]] = {}
        self._drops_under_way: dict[str, int] = {}
        self._dropped_at: dict[str, float] = {}

    def begin(self, name: str, process: ClientProcess) -> None:
        """A process was asked to compute a name. Nobody else may be at it, as far as the scheduler can know."""
        now = (process, self._world.scheduler_restarts, process.uplinks["scheduler"].peer)
        other = self._computing.get(name)
        if other is not None and other[0].alive and other[0].uplinks["scheduler"].peer == other[2]:
            assert other[1] != now[1], f"{other[0].name} and {process.name} compute {name!r} at once"
        self._computing[name] = now

    def end(self, name: str, process: ClientProcess) -> None:
        """It has computed, or given up."""
        if self._computing.get(name, (None,))[0] is process:
            del self._computing[name]

    def overtaken(self, name: str) -> None:
        """Somebody publishes it: who computes it now has not been asked by the last who was."""
        self._computing.pop(name, None)

    def published(self, name: str, location: ObjectLocation, asked_at: float) -> None:
        """A publication was acknowledged."""
        self._published[name] = (asked_at, location)

    def drop_begins(self, name: str) -> None:
        """Somebody asks that a name is dropped."""
        self._drops_under_way[name] = self._drops_under_way.get(name, 0) + 1

    def drop_ends(self, name: str) -> None:
        """That was answered."""
        self._drops_under_way[name] -= 1
        self._dropped_at[name] = self._world.simulation.clock.now

    def must_be_there(self) -> dict[str, ObjectLocation]:
        """Return what was published, acknowledged, and cannot have been dropped since."""
        return {
            name: location
            for name, (asked_at, location) in self._published.items()
            if not self._drops_under_way.get(name) and self._dropped_at.get(name, 0.0) < asked_at
            if location.object_id not in self._world.lost_on_disk
            and location.object_id not in self._world.lost_in_store
        }


def check_step(world: World, touched: dict[Machine, None]) -> None:
    """Look at what the step has touched."""
    agents = False
    for machine in touched:
        if isinstance(machine, ClientProcess):
            world.note_ends(machine)
            check_places(machine)
            check_refs(world, machine)
            if isinstance(machine, WorkerProcess) and machine.devices:
                agents = True
        elif machine is world.scheduler and machine.alive:
            check_groups(world)
        elif isinstance(machine, AgentProcess):
            agents = True
            check_node(world, machine)
            check_bundles(world, machine)
    if agents:
        check_devices(world)
        check_incarnations(world)


def check_places(process: ClientProcess) -> None:
    """Every task or call that has not ended is in exactly one place, and one that has ended is in none."""
    core = process.core
    places: dict[bytes, int] = {}
    unwanted: dict[bytes, None] = {}

    def count(record: TaskRecord) -> None:
        places[record.task_id] = places.get(record.task_id, 0) + 1
        if isinstance(record.keepalive, Hold):  # it runs again for a result that nobody may want any more by now
            unwanted[record.task_id] = None

    for queue in core.tasks.queues.values():
        for record in queue.ready:
            count(record)
    for link in core.links.by_peer.values():
        for record in link.outstanding.values():
            count(record)
    for lease, _until in core.tasks._lost.values():
        for record in lease.outstanding.values():
            count(record)
    for view in core.actors.views.values():
        for record in view.queue:
            if record.unresolved >= 0 and record.keepalive is not None:
                count(record)
        for record in view.stranded:
            count(record)
    for task_id, record in unfinished(process).items():
        found = places.pop(task_id, 0)
        waits = record.unresolved > 0
        expected = 1 if not waits or record.actor_id else 0
        assert found == expected, f"{process.name}: {record} is in {found} places, not {expected}"
    left = next((task_id for task_id, found in places.items() if found > 1 or task_id not in unwanted), None)
    assert left is None, f"{process.name}: task {left.hex() if left else ''} has ended and is still to be done"


def unfinished(process: ClientProcess) -> dict[bytes, TaskRecord]:
    """Return the tasks and calls that have not ended, those that run again for a lost result among them."""
    again = {task_id: task.record for task_id, task in process.core._lineage._tasks.items() if task.is_running}
    return {**process.records, **again}


def check_refs(world: World, process: ClientProcess) -> None:
    """What a live ref stands for is there, or is being made, or its loss is known."""
    for object_id, entry in process.core.objects.entries.items():
        if not entry.count or entry.state == FAILED or object_id in world.names.given_away:
            continue
        owner = world.processes.get(object_id[:PROCESS_ID_BYTES])
        if entry.state == PENDING and owner is process:
            record = entry.producer
            assert record is not None, f"{process.name}: nothing makes {object_id.hex()}, for which there are refs"
            assert record.task_id in unfinished(process), (
                f"{process.name}: {record} has ended and {object_id.hex()} waits"
            )
        elif (
            owner is not None
            and owner is not process
            and (process.name, owner.name) not in world.strained
            and not (entry.registrations == 0 and works_for_the_dead(world, process))
        ):
            assert object_id in owner.core.objects.entries, (
                f"{process.name} has {entry.count} refs to {object_id.hex()}, unknown to its owner {owner.name}"
            )
        if entry.state == STORED:
            check_stored(world, process, object_id, entry.value)


def works_for_the_dead(world: World, process: ClientProcess) -> bool:
    """Whether a worker runs a task whose caller, who keeps its arguments alive, has died a moment ago."""
    if not isinstance(process, WorkerProcess) or process.running is None:
        return False
    return process.process_of(process.running[0]) not in world.processes


def check_stored(world: World, process: ClientProcess, object_id: bytes, location: Any) -> None:
    """The bytes are where the location says, as long as node and owner are well."""
    agent = next((agent for agent in world.agents.values() if agent.process_id == location.node_id), None)
    owner = world.processes.get(object_id[:PROCESS_ID_BYTES])
    if agent is None or owner is None or (owner.name, agent.host) in world.estranged or owner.host != agent.host:
        return
    if (process.name, owner.name) in world.strained:
        return
    if object_id in world.lost_on_disk:
        return
    stored = agent.core.store._objects.get(object_id)
    if object_id in world.lost_in_store:
        return
    assert stored is not None, f"{process.name} has a ref to {object_id.hex()}, which is not in the store"


def check_node(world: World, agent: AgentProcess) -> None:
    """What the leases of a node hold in fact is no more than the node has, lent CPUs left out."""
    used = 0
    for lease in agent.core.leases.leases():
        worker = agent.workers.get(lease.worker.worker_id) if lease.worker is not None else None
        if lease.state == "running" and worker is not None and not worker.has_waited:
            used += lease.scheduling_class.resources.get(CPU, 0)
    total = agent.core.node.resources[CPU]
    if agent.host not in world.renewed:
        assert used <= total, f"{agent.name}: leases hold {used / UNITS_PER_ONE:g} CPU of {total / UNITS_PER_ONE:g}"


def check_bundles(world: World, agent: AgentProcess) -> None:
    """What runs in a bundle of a placement group takes no more than the bundle has set apart."""
    used: dict[tuple[bytes, int], int] = {}
    for lease in agent.core.leases.leases():
        worker = agent.workers.get(lease.worker.worker_id) if lease.worker is not None else None
        if lease.state == "running" and worker is not None and not worker.has_waited and lease.begun.bundle >= 0:
            key = lease.scheduling_class.group, lease.begun.bundle
            used[key] = used.get(key, 0) + lease.scheduling_class.resources.get(CPU, 0)
    for (group_id, index), units in used.items():
        most = world.groups[group_id].bundles[index].get(CPU, 0)
        if agent.host not in world.renewed:
            assert units <= most, f"{agent.name}: leases in a bundle of {most} hold {units}"


def check_groups(world: World) -> None:
    """A placement group that is created has all of its bundles on nodes that are there, one that waits has none.

    A group that lost a part keeps the others; what is set apart on a node is some group's.
    """
    assert world.scheduler is not None
    cluster = world.scheduler.core.cluster
    places: dict[bytes, int] = {}
    for node in cluster.nodes:
        for bundle in cluster.groups.holders():
            if bundle.node is node:
                assert bundle.number in node.reservations, f"bundle {bundle.number} has nothing on {node.name}"
                places[bundle.group.spec.group_id] = places.get(bundle.group.spec.group_id, 0) + 1
    for group in cluster.groups:
        found, whole = places.get(group.spec.group_id, 0), len(group.spec.bundles)
        expected = {"CREATED": [whole], "PENDING": [0]}.get(group.state, range(1, whole))
        assert found in expected, f"group {group.spec.group_id.hex()} is {group.state} with {found} of {whole} bundles"


def check_devices(world: World) -> None:
    """A whole device has one holder; shares of one are together no more than the device."""
    held: dict[str, dict[str, int]] = {}
    for process in world.processes.values():
        if isinstance(process, WorkerProcess):
            for uuid, units in process.shares.items():
                held.setdefault(uuid, {})[process.name] = units
    for uuid, holders in held.items():
        assert sum(holders.values()) <= UNITS_PER_ONE, f"device {uuid} is held by {holders}"


def check_incarnations(world: World) -> None:
    """An actor has one process; another may be left only on a node that the scheduler has lost."""
    homes: dict[bytes, WorkerProcess] = {}
    for process in world.processes.values():
        if not isinstance(process, WorkerProcess) or not process.actor_id:
            continue
        other = homes.get(process.actor_id)
        if other is not None:
            apart = process.cut_off_at is not None or other.cut_off_at is not None
            assert apart, f"actor {process.actor_id.hex()} lives in {other.name} and {process.name}"
        homes[process.actor_id] = process


# -------------------------------------------------------------------------------------------------- in the end


def settled(world: World) -> str:
    """Return what is not at rest yet, or nothing."""
    scheduler = world.scheduler
    if scheduler is None or not scheduler.alive:
        return "there is no scheduler"
    cluster = scheduler.core.cluster
    if len(cluster.nodes) < len(world.options.hosts):
        return f"there are {len(cluster.nodes)} nodes of {len(world.options.hosts)}"
    return unsettled_processes(world) or unsettled_leases(world)


def unsettled_processes(world: World) -> str:
    """Return which process still waits for something, or nothing."""
    for process in world.processes.values():
        if process.records:
            shown = [(record, record.actor_id.hex(), record.unresolved) for record in process.records.values()]
            return f"{process.name} waits for {shown[:3]}"
        if process.requests or process.hold_waiters:
            return f"{process.name} waits for answers to {process.requests}, holds {process.hold_waiters}"
        if process.programs and not isinstance(process, WorkerProcess):
            return f"{process.name} runs {[program.name for program in process.programs]}, {list(process.waiters)}"
    return ""


def unsettled_leases(world: World) -> str:
    """Return what waits at the scheduler, or is held idle, or not known on both sides; or nothing."""
    assert world.scheduler is not None
    cluster = world.scheduler.core.cluster
    if len(cluster.groups):
        return f"{len(cluster.groups)} placement groups are left"
    if len(cluster.demands.queues):
        return f"{len(cluster.demands.queues)} demands wait"
    for lease in cluster.leases:
        if not lease.actor_id:
            return f"lease {lease.lease_id} is {lease.state} for {lease.holder.hex()}"
    for agent in world.agents.values():
        for node_lease in agent.core.leases.leases():
            known = cluster.leases.get(node_lease.lease_id)
            if known is None:
                return f"{agent.name} has lease {node_lease.lease_id}, which the scheduler does not know"
    for actor in cluster.actors:
        if actor.state != "alive":
            return f"actor {actor.spec.actor_id.hex()} is {actor.state}"
    return ""


def kept_by_actors(world: World) -> dict[bytes, None]:
    """Return the objects that actors have refs to on purpose, and what those contain."""
    kept: dict[bytes, None] = {}
    waiting = [ref.binary() for worker in world.workers() for ref in worker.kept]
    while waiting:
        object_id = waiting.pop()
        if object_id not in kept:
            kept[object_id] = None
            for process in world.processes.values():
                entry = process.core.objects.entries.get(object_id)
                waiting += (entry.contained or ()) if entry is not None else ()
    return kept


def unreleased(world: World) -> str:
    """Return which objects are still known to somebody although no program has a ref, or nothing."""
    kept = kept_by_actors(world)
    for process in world.processes.values():
        for object_id, entry in process.core.objects.entries.items():
            if object_id not in kept:
                return (
                    f"{process.name} knows {object_id.hex()}: {entry.count} refs, holders {entry.holders}, "
                    f"state {entry.state}, registrations {entry.registrations}"
                )
    return ""


def uncollected(world: World) -> str:
    """Return which actor lives without a handle, or nothing. Those of makers that are gone end with their jobs."""
    assert world.scheduler is not None
    kept = kept_by_actors(world)
    for actor in world.scheduler.core.cluster.actors:
        maker = world.processes.get(actor.maker)
        token = token_of(actor.spec.actor_id)
        if not actor.spec.detached and maker is not None and token not in kept:
            held = maker.core.objects.entries.get(token)
            return f"actor {actor.spec.actor_id.hex()} of {maker.name} lives, its token is {held}"
    return ""


def left_behind(world: World) -> str:
    """Return which actor lives on although its job has ended and nothing detached has made it, or nothing."""
    assert world.scheduler is not None
    for actor in world.scheduler.core.cluster.actors:
        if not actor.outlives_its_job:
            return f"actor {actor.spec.actor_id.hex()} is {actor.state}, and its job is over"
    return ""


def unfreed(world: World) -> str:
    """Return what lies in a store without a name, or nothing. All clients are gone."""
    assert world.scheduler is not None
    cluster = world.scheduler.core.cluster
    named = {
        record.location.object_id: record.name
        for record in cluster.names._names.values()
        if record.location is not None and not record.location.inline
    }
    for agent in world.agents.values():
        for stored in agent.core.store.objects():
            owner_lives = stored.owner in world.processes
            away = stored.owner not in world.at_home.get(agent.host, {})
            if stored.object_id not in named and not owner_lives and not (away and len(world.options.hosts) > 1):
                return f"{agent.name} stores {stored.object_id.hex()} (owned: {stored.owned}, name: {stored.name})"
    return ""


def names_lost(world: World) -> str:
    """Return what was published, acknowledged, and never dropped, and is not there; or nothing."""
    assert world.scheduler is not None
    names = world.scheduler.core.cluster.names._names
    for name, location in world.names.must_be_there().items():
        if world.agents_lost or world.simulation.faults["torn spill file"]:
            continue  # its only copy may have been on the disk that was damaged (claim R10)
        record = names.get(name)
        if record is None or record.location is None:
            return f"the name {name!r} was published and has no object"
        object_id = record.location.object_id
        if object_id in world.lost_on_disk or object_id in world.lost_in_store:
            continue
        kept = record.location.inline or any(object_id in agent.core.store._objects for agent in world.agents.values())
        if not kept:
            return f"the object {location.object_id.hex()} of {name!r} is in no store"
    return ""


def actors_lost(world: World) -> str:
    """Return which named actor, whose creation was acknowledged and which nobody killed, is not there; or nothing."""
    assert world.scheduler is not None
    if world.options.failing_zygotes:
        return ""  # a process that cannot be made is the end of an actor
    alive = {actor.spec.actor_id: actor for actor in world.scheduler.core.cluster.actors}
    for actor_id, name in world.named_actors.items():
        if actor_id not in world.killed_actors and actor_id not in alive:
            return f"the actor {actor_id.hex()}, named {name!r}, is gone"
    return ""
