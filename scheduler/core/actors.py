"""Actors: one process each, that lives as long as it has handles; a detached one until it is killed.

    CreateActor ─▶ pending ─ lease, constructor ─▶ alive ─ its process died ─▶ restarting ─ lease, constructor ─▶ alive
                      │ constructor raised            │ killed, released,            │
                      │                               │ no restart left              │
                      └───────────────┬───────────────┴──────────────────────────────┘
                                      ▼
                                    dead     (its name is free; remembered for a while, so that callers hear why)

Handles are counted by the process that made the actor, which says when there is none (`ReleaseActor`). If that process
is gone, the actor goes too: nobody counts any more. So it does when its job ends, unless a detached actor made it.

The specification of every actor is written down before its creation is acknowledged, so that a restarted scheduler
finds it again, and with it the process that runs on meanwhile.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from atoll.exceptions import InternalError
from atoll.protocol.machine import Instant
from atoll.protocol.messages import DEVICES_TAKEN, CreateActor, Done, KillActor, ReleaseActor, StartActor
from atoll.protocol.values import CELLS_NAMESPACE, Environment
from atoll.scheduler.core.actor import ALIVE, DEAD, PENDING, RESTARTING, TABLE, Actor, SavedActor, encode_saved
from atoll.scheduler.core.demands import DemandTable
from atoll.scheduler.core.jobs import Job, PeerRecord
from atoll.scheduler.core.lease import HELD, Lease
from atoll.scheduler.core.leases import MAXIMUM_START_FAILURES, LeaseTable
from atoll.scheduler.core.strays import Strays
from atoll.scheduler.core.turn import Turn

MAXIMUM_DEAD = 256

CREATED_WITHIN_S = 5.0
"""An actor of which somebody has a handle is waited for so long."""


class ActorTable:
    """All actors.

    Args:
        turn: Where actions go.
        leases: Their homes.
        demands: What they want for a home.

    Attributes:
        strays: What nodes that were lost have left of them.
    """

    def __init__(self, turn: Turn, leases: LeaseTable, demands: DemandTable) -> None:
        self._turn = turn
        self._leases = leases
        self._demands = demands
        self._actors: dict[bytes, Actor] = {}
        self._dead: OrderedDict[bytes, Actor] = OrderedDict()
        self._names: dict[tuple[str, str], Actor] = {}
        self._made_by: dict[bytes, dict[bytes, Actor]] = {}
        self._awaited: dict[bytes, list[tuple[PeerRecord, int, Instant]]] = {}
        self.strays = Strays(turn)

    def __iter__(self) -> Iterator[Actor]:
        return iter(self._actors.values())

    def dead(self) -> Iterator[Actor]:
        """Return those that are remembered, the longest dead first."""
        return iter(self._dead.values())

    def name_of(self, actor_id: bytes) -> str:
        """Return what people call an actor: its name, or its class; of a background cell what that is called."""
        actor = self._find(actor_id)
        if actor is None:
            return actor_id.hex()
        name = "" if self.is_cell(actor_id) else actor.spec.name
        return name or actor.spec.class_name

    def is_cell(self, actor_id: bytes) -> bool:
        """Whether an actor is a background cell: to people that is none."""
        actor = self._find(actor_id)
        return actor is not None and actor.spec.namespace == CELLS_NAMESPACE

    def home_of(self, actor_id: bytes) -> Lease | None:
        """Return the lease in which an actor lives, if it does."""
        actor = self._actors.get(actor_id)
        return actor.lease if actor is not None else None

    def detached(self) -> bool:
        """Whether any living actor is detached."""
        return any(actor.outlives_its_job for actor in self)

    # ------------------------------------------------------------------------------------------------ requests

    def create(self, record: PeerRecord, job: Job, message: CreateActor, environment: Environment | None) -> None:
        """Begin to make an actor, or answer with the one that there is."""
        spec = message.spec
        known = self._find(spec.actor_id)
        if known is not None:
            self._watch(known, record, message.request)
            return
        holder = self._names.get((spec.namespace, spec.name)) if spec.name else None
        if holder is not None and message.get_if_exists:
            self._watch(holder, record, message.request)
            return
        if holder is not None:
            text = (
                f"the name {spec.name!r} is taken by an actor of class {holder.spec.class_name} ({holder.state}); "
                "get it, kill it, or choose another name"
            )
            self._turn.fail(record.peer, message.request, "ActorError", text)
            return
        reason = self._demands.why_impossible(spec.scheduling_class)
        if reason:
            self._turn.fail(record.peer, message.request, "TaskUnschedulableError", reason)
            return
        actor = Actor(spec, job, self._turn.wall(self._turn.now), environment)
        actor.of_detached = self._comes_of_detached(record.process_id)
        self._add(actor)
        self._write_down(actor)
        self._watch(actor, record, message.request)
        for other, request, _until in self._awaited.pop(spec.actor_id, ()):
            self._watch(actor, other, request)
        self._demands.want_for_actor(spec.actor_id, job, spec.scheduling_class)

    def _add(self, actor: Actor) -> None:
        self._actors[actor.spec.actor_id] = actor
        self._made_by.setdefault(actor.maker, {})[actor.spec.actor_id] = actor
        if actor.spec.name:
            self._names[actor.full_name] = actor

    def _comes_of_detached(self, process_id: bytes) -> bool:
        """Whether a process is the worker of an actor that outlives its job, or works for one."""
        seen: dict[bytes, None] = {}
        while process_id and process_id not in seen:
            seen[process_id] = None
            lease = self._leases.of_worker(process_id)
            if lease is None:
                return False
            if lease.actor_id:
                actor = self._actors.get(lease.actor_id)
                return actor is not None and actor.outlives_its_job
            process_id = lease.holder
        return False

    def find(self, actor_id: bytes) -> Actor | None:
        """Return an actor that is not dead."""
        return self._actors.get(actor_id)

    def get(self, record: PeerRecord, request: int, name: str, namespace: str) -> None:
        """Answer with the actor of a name."""
        actor = self._names.get((namespace, name))
        if actor is None:
            others = sorted(other for space, other in self._names if space == namespace)
            hint = f"; there are {', '.join(others[:10])}" if others else "; no actor has a name now"
            self._turn.fail(record.peer, request, "ActorError", f"no actor has the name {name!r}{hint}")
            return
        self._watch(actor, record, request)

    def watch(self, record: PeerRecord, request: int, actor_id: bytes) -> None:
        """Answer with the state of an actor, and tell of changes from now on.

        A handle may be faster than the request that makes its actor: who was given it speaks on another connection.
        """
        actor = self._find(actor_id)
        if actor is not None:
            self._watch(actor, record, request)
            return
        until = self._turn.in_s(CREATED_WITHIN_S)
        self._awaited.setdefault(actor_id, []).append((record, request, until))
        self._turn.set_earlier("awaited actors", until)

    def awaited_due(self) -> None:
        """Give up waiting for actors that nobody has created."""
        for actor_id, waiting in list(self._awaited.items()):
            text = f"the cluster knows no actor {actor_id.hex()}; it may have died long ago"
            for record, request, until in waiting:
                if until <= self._turn.now:
                    self._turn.fail(record.peer, request, "ActorDiedError", text)
                else:
                    self._turn.set_earlier("awaited actors", until)
            self._awaited[actor_id] = [entry for entry in waiting if entry[2] > self._turn.now]
            if not self._awaited[actor_id]:
                del self._awaited[actor_id]

    def kill(self, record: PeerRecord, message: KillActor) -> None:
        """End an actor's process; with `no_restart`, the actor too."""
        actor = self._find(message.actor_id)
        if actor is None:
            text = f"the cluster knows no actor {message.actor_id.hex()}; it may have died long ago"
            self._turn.fail(record.peer, message.request, "ActorDiedError", text)
            return
        if actor.state != DEAD:
            actor.leaving = actor.lease or actor.leaving
            self._stop_process(actor)
            if message.no_restart:
                self._die(actor, message.cause or "it was killed")
            else:
                self._restart_or_die(actor, "its process was killed")
        self._turn.send(record.peer, Done(message.request))

    def release(self, record: PeerRecord, message: ReleaseActor) -> None:
        """No handle of an actor is left: let its process end by itself."""
        actor = self._actors.get(message.actor_id)
        if actor is None or actor.maker != record.process_id or actor.spec.detached:
            return
        self._stop_process(actor, gently=actor.state == ALIVE)
        self._die(actor, "its last handle is gone")

    # -------------------------------------------------------------------------------------------------- events

    def maker_gone(self, process_id: bytes) -> None:
        """A worker is gone: nobody counts the handles of the actors that it made."""
        for actor in list(self._made_by.get(process_id, {}).values()):
            if not actor.spec.detached:
                self._stop_process(actor)
                self._die(actor, "the process that made it is gone")

    def home_ready(self, lease: Lease) -> None:
        """The worker for an actor is there: run the constructor in it."""
        actor = self._actors.get(lease.actor_id)
        if actor is None or lease.state != HELD:
            self._leases.end(lease, kill=False)
            return
        actor.lease = lease
        actor.begun = True
        self._write_down(actor)
        self._turn.send(lease.node.peer, StartActor(lease.lease_id, actor.spec, actor.incarnation))

    def is_dead(self, actor_id: bytes) -> bool:
        """Whether an actor is known to be dead."""
        return actor_id in self._dead

    def living(self, actor_id: bytes) -> Actor | None:
        """Return an actor that is not dead."""
        return self._actors.get(actor_id)

    def move(self, actor: Actor, cause: str) -> None:
        """Make an actor again elsewhere, for no fault of its own: that counts as none of its restarts."""
        actor.leaving = actor.lease or actor.leaving
        self._stop_process(actor, gently=True)
        self._restart(actor, cause)

    def end(self, actor: Actor, cause: str) -> None:
        """End an actor whose node is taken away."""
        self._stop_process(actor)
        self._die(actor, cause)

    def constructed(self, actor_id: bytes, lease: Lease) -> None:
        """The constructor returned: the actor can be called."""
        actor = self._actors.get(actor_id)
        if actor is None or actor.lease is not lease or actor.state == ALIVE:
            return
        actor.state = ALIVE
        actor.failures = 0
        actor.cause = ""
        self._tell(actor)

    def construction_failed(self, actor_id: bytes, lease: Lease, text: str, error: bytes) -> None:
        """The constructor raised, or the actor is refused: it is dead, and callers get its exception, or the reason.

        Args:
            actor_id: The actor.
            lease: Its lease.
            text: What was raised, or why it is refused.
            error: The exception that was raised; empty for a refusal.
        """
        actor = self._actors.get(actor_id)
        if actor is None or actor.lease is not lease:
            return
        actor.error = error
        self._stop_process(actor)
        self._die(actor, f"its constructor raised {text}" if error else text)

    def home_lost(self, lease: Lease, kind: str, text: str) -> None:
        """The lease of an actor is over, without having been ended by us."""
        actor = self._actors.get(lease.actor_id)
        if actor is None or (actor.lease is not lease and actor.lease is not None):
            return
        cause = f"{kind}: {text}" if kind else (text or "its process ended")
        started, actor.lease = actor.lease is not None, None
        if started:
            constructing = actor.state != ALIVE and kind == "WorkerCrashedError"
            self._restart_or_die(actor, f"while its constructor ran, {text}" if constructing else cause)
            return
        if kind == DEVICES_TAKEN:
            return  # other devices may do, and it goes on waiting for them
        actor.failures += 1
        if kind not in ("", "WorkerCrashedError") or actor.failures >= MAXIMUM_START_FAILURES:
            self._die(actor, f"no process could be made for it: {cause}")

    def home_left(self, lease: Lease) -> None:
        """A process that was being killed is gone: its actor may begin anew."""
        actor = self._actors.get(lease.actor_id)
        if actor is not None and actor.leaving is lease:
            actor.leaving = None
            self._begin_anew(actor)

    def left_behind(self, lease: Lease) -> None:
        """The node of a home is lost, which is about to be said: its process may live on for a moment."""
        actor = self._actors.get(lease.actor_id)
        if actor is not None and lease.worker_id and (actor.lease is lease or actor.leaving is lease):
            self.strays.add(actor, lease.worker_id)

    def process_gone(self, worker_id: bytes) -> None:
        """A process has no connection to us any more."""
        actor = self.strays.gone(worker_id)
        if actor is not None:
            self._begin_anew(actor)

    def strays_due(self) -> None:
        """Processes that a lost node has left behind had their time to end."""
        for actor in self.strays.due():
            self._begin_anew(actor)

    def found_ending(self, lease: Lease) -> None:
        """The node of a process that was left behind is back, and is told to end it."""
        actor = self.strays.gone(lease.worker_id)
        if actor is not None:
            lease.actor_id = actor.spec.actor_id  # what the node says of a home that is being made names no actor
            actor.leaving = lease

    def impossible(self, actor_id: bytes, reason: str) -> None:
        """No node can ever give the actor what it needs."""
        actor = self._actors.get(actor_id)
        if actor is not None:
            self._die(actor, f"TaskUnschedulableError: {reason}")

    def group_removed(self, group_id: bytes, text: str) -> None:
        """Whatever lives in a placement group, or was to, goes with it."""
        for actor in list(self):
            if actor.spec.scheduling_class.group == group_id:
                self._stop_process(actor)
                self._die(actor, f"TaskPlacementGroupRemoved: {text}")

    def job_ended(self, job: Job) -> None:
        """What is not detached goes with its job."""
        for actor in list(self):
            if actor.job is job and not actor.outlives_its_job:
                self._stop_process(actor)
                self._die(actor, "its job has ended")

    def peer_lost(self, record: PeerRecord) -> None:
        """Whoever is gone watches nothing."""
        for actor_id in record.watching:
            actor = self._find(actor_id)
            if actor is not None:
                actor.watchers.pop(record.peer, None)
        for actor_id, waiting in list(self._awaited.items()):
            self._awaited[actor_id] = [entry for entry in waiting if entry[0] is not record]
            if not self._awaited[actor_id]:
                del self._awaited[actor_id]

    # -------------------------------------------------------------------------------------------- after a restart

    def restore(self, saved: SavedActor, job: Job) -> None:
        """Take up an actor from the journal; its process may come back with its node."""
        actor = Actor(saved.spec, job, saved.created, saved.environment)
        actor.state = RESTARTING
        actor.cause = "the scheduler was restarted"
        actor.incarnation = saved.incarnation
        actor.restarts = saved.restarts
        actor.begun = saved.begun
        actor.of_detached = saved.of_detached
        self._add(actor)
        if not actor.begun:
            actor.state = RESTARTING if actor.incarnation else PENDING
            self._want_home(actor)

    def found_again(self, actor_id: bytes, lease: Lease) -> bool:
        """A node says that an actor lives on there; False if it is not wanted."""
        actor = self._actors.get(actor_id)
        if actor is None or actor.lease is not None:
            return False
        self._demands.give_up_for_actor(actor_id)
        lease.actor_id = actor_id
        actor.lease = lease
        actor.state = ALIVE
        actor.cause = ""
        self._tell(actor)
        return True

    def grace_over(self) -> None:
        """Actors whose process did not come back are made again, or dead; anonymous ones of jobs that are gone die."""
        for actor in list(self):
            if actor.job.peer is None and not actor.outlives_its_job:
                self._stop_process(actor)
                self._die(actor, "its job has ended")
            elif actor.of_detached and not actor.spec.detached and self._leases.of_worker(actor.maker) is None:
                self._stop_process(actor)
                self._die(actor, "the process that made it is gone")
            elif (
                actor.state == RESTARTING
                and actor.lease is None
                and actor.leaving is None
                and not actor.stray
                and not self._demands.wants_for_actor(actor.spec.actor_id)
            ):
                self._restart_or_die(actor, "its process did not come back after the scheduler was restarted")

    # --------------------------------------------------------------------------------------------------- inside

    def _find(self, actor_id: bytes) -> Actor | None:
        return self._actors.get(actor_id) or self._dead.get(actor_id)

    def _watch(self, actor: Actor, record: PeerRecord, request: int) -> None:
        self._turn.send(record.peer, actor.changed(request))
        if actor.state != DEAD:
            actor.watchers[record.peer] = record
            record.watching[actor.spec.actor_id] = None

    def _tell(self, actor: Actor) -> None:
        for peer in actor.watchers:
            self._turn.send(peer, actor.changed())

    def _write_down(self, actor: Actor) -> None:
        saved = SavedActor(
            actor.spec,
            actor.job.job_id,
            actor.incarnation,
            actor.restarts,
            actor.created,
            actor.environment,
            actor.begun,
            actor.of_detached,
        )
        self._turn.persist(TABLE, actor.spec.actor_id.hex(), encode_saved(saved))

    def _stop_process(self, actor: Actor, *, gently: bool = False) -> None:
        lease, actor.lease = actor.lease, None
        if lease is not None:
            self._leases.end(lease, kill=True, gently=gently)
        self._demands.give_up_for_actor(actor.spec.actor_id)

    def _restart_or_die(self, actor: Actor, cause: str) -> None:
        limit = actor.spec.maximum_restarts
        if limit >= 0 and actor.restarts >= limit:
            self._die(actor, cause)
            return
        actor.restarts += 1
        self._restart(actor, cause)

    def _restart(self, actor: Actor, cause: str) -> None:
        actor.incarnation += 1
        actor.kept = ""
        actor.begun = False
        actor.state = RESTARTING
        actor.cause = cause
        self._write_down(actor)
        self._tell(actor)
        self._begin_anew(actor)

    def _begin_anew(self, actor: Actor) -> None:
        """Let an actor that is made again have a home, once no process of it is left."""
        if actor.state == RESTARTING and actor.leaving is None and not actor.stray:
            self._want_home(actor)

    def _want_home(self, actor: Actor) -> None:
        self._demands.want_for_actor(actor.spec.actor_id, actor.job, actor.spec.scheduling_class)

    def _die(self, actor: Actor, cause: str) -> None:
        actor_id = actor.spec.actor_id
        self._demands.give_up_for_actor(actor_id)
        self.strays.forget(actor)
        actor.state = DEAD
        actor.cause = cause
        del self._actors[actor_id]
        made = self._made_by[actor.maker]
        del made[actor_id]
        if not made:
            del self._made_by[actor.maker]
        if self._names.get(actor.full_name) is actor:
            del self._names[actor.full_name]
        self._dead[actor_id] = actor
        while len(self._dead) > MAXIMUM_DEAD:
            self._dead.popitem(last=False)
        self._turn.remove_record(TABLE, actor_id.hex())
        self._tell(actor)
        for record in actor.watchers.values():
            record.watching.pop(actor_id, None)
        actor.watchers.clear()
        self._demands.refuse_beside(actor_id, f"it was to run beside an actor that is dead: {cause}")

    def check_invariants(self) -> None:
        """Raise `InternalError` if an actor has two homes, or none and waits for none, or a name is not its own."""
        for actor in self:
            waits = self._demands.wants_for_actor(actor.spec.actor_id)
            homes = [lease for lease in self._leases if lease.actor_id == actor.spec.actor_id and lease.state == HELD]
            if len(homes) > 1 or (homes and actor.lease is not homes[0]):
                raise InternalError(f"actor {actor.spec.actor_id.hex()} has {len(homes)} live incarnations")
            if actor.state == ALIVE and not homes:
                raise InternalError(f"actor {actor.spec.actor_id.hex()} is alive without a process")
            if actor.lease is not None and waits:
                raise InternalError(f"actor {actor.spec.actor_id.hex()} has a home and wants another")
            if actor.stray and (waits or homes or actor.stray not in self.strays):
                raise InternalError(f"actor {actor.spec.actor_id.hex()} begins beside a process that was left behind")
        for (_namespace, name), actor in self._names.items():
            if actor.state == DEAD or actor.spec.name != name:
                raise InternalError(f"the name {name!r} belongs to no living actor")
