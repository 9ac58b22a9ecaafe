"""The scheduler's core: one event in, the actions it calls for out.

    Received ──▶ table of message types ──▶ ClientDesk ─┐              ┌─▶ place what waits ─▶ recall for who waits
                                       └──▶ AgentDesk ──┼──▶ tables ───┤
    PeerLost, DeadlineReached ──────────────────────────┘              └─▶ actions, in the order they were decided

After every event, whatever it was, the queues are served as far as free resources go. So no code that frees or wants
something has to think of who could use it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from atoll.exceptions import InternalError
from atoll.protocol import messages as m
from atoll.protocol.environment_messages import AddEnvironment, GetEnvironment
from atoll.protocol.leave_messages import DevicesKept, DevicesReleased, DevicesWanted
from atoll.protocol.machine import (
    Action,
    DeadlineReached,
    Event,
    Instant,
    Peer,
    PeerConnected,
    PeerLost,
    Received,
    Story,
)
from atoll.scheduler.core import actor as actor_records
from atoll.scheduler.core import demands, draining, strays
from atoll.scheduler.core import group as group_records
from atoll.scheduler.core import names as name_records
from atoll.scheduler.core import shares as share_records
from atoll.scheduler.core import usage as usage_records
from atoll.scheduler.core.agents import AgentDesk
from atoll.scheduler.core.clients import ClientDesk, request_of
from atoll.scheduler.core.cluster import GRACE_S, Cluster
from atoll.scheduler.core.events import RecordsRestored, StopAsked
from atoll.scheduler.core.jobs import Job, PeerRecord
from atoll.scheduler.core.lifetime import Lifetime
from atoll.scheduler.policy.fair_share import Rules

FACTS_TABLE = "facts"
EPOCH_KEY = "epoch"

Handler = Callable[[PeerRecord, Any], None]


class Statistics(msgspec.Struct, frozen=True):
    """Counts, for people and tests."""

    peers: int
    nodes: int
    jobs: int
    leases: int
    demands: int
    waiting: int
    actors: int
    groups: int
    names: int
    spans: int
    refused_messages: int


class Scheduler:
    """Decides who gets which worker, and keeps actors and names.

    The first event must be `RecordsRestored`.

    Args:
        now: The time.
        wall_offset: What to add to an `Instant` for seconds since 1970; only for what people see.
        cluster_id: As people see it.
        version: Of Atoll.
        linger_s: How long to stay without a job; None for ever.
        local_offset_s: What local time is ahead of UTC: days of use begin at midnight.
        rules: What was said about the shares of sessions.
    """

    def __init__(
        self,
        now: Instant,
        *,
        wall_offset: float = 0.0,
        cluster_id: str = "",
        version: str = "",
        linger_s: float | None = None,
        local_offset_s: float = 0.0,
        rules: Rules = Rules(),  # noqa: B008 - a value that never changes
    ) -> None:
        self.cluster = Cluster(cluster_id, version, now, wall_offset, local_offset_s, rules)
        self._turn = self.cluster.turn
        self._story = Story()
        self._events = self._story.events
        self._agents = AgentDesk(self.cluster)
        self._clients = ClientDesk(self.cluster, self._agents, self._lost)
        self._lifetime = Lifetime(self.cluster, linger_s)
        self._turn.set_earlier("nodes", self._turn.in_s(GRACE_S))
        self._refused_messages = 0
        self._handlers = self._table()

    def _table(self) -> dict[str, dict[type[m.Message], Handler]]:
        """Return who may say what, and who handles it: by role, and by type."""
        users, clients, workers, agents = ("client", "worker"), ("client",), ("worker",), ("agent",)
        c, a = self._clients, self._agents
        table: dict[type[m.Message], tuple[tuple[str, ...], Handler]] = {
            m.RegisterJob: (clients, self._registers(c.register_job)),
            m.ActForJob: (workers, c.act_for_job),
            m.SetDemand: (users, c.set_demand),
            m.ReturnLease: (users, c.return_lease),
            m.TaskBlocked: (workers, c.task_blocked),
            m.TaskUnblocked: (workers, c.task_unblocked),
            m.CreateActor: (users, c.create_actor),
            AddEnvironment: (users, c.add_environment),
            GetEnvironment: (users, c.get_environment),
            m.GetActor: (users, c.get_actor),
            m.WatchActor: (users, c.watch_actor),
            m.KillActor: (users, c.kill_actor),
            m.CreateGroup: (users, c.create_group),
            m.RemoveGroup: (users, c.remove_group),
            m.WaitGroup: (users, c.wait_group),
            m.FindGroup: (users, c.find_group),
            m.ReleaseActor: (users, c.release_actor),
            m.ClaimName: (users, c.claim_name),
            m.PublishName: (users, c.publish_name),
            m.AbandonName: (users, c.abandon_name),
            m.DropName: (users, c.drop_name),
            m.ListNames: (users, c.list_names),
            m.Explain: (users, c.explain),
            m.ReleaseDevice: (users, c.release_device),
            m.ExplainAll: (users, c.explain_all),
            m.GetState: (users, c.get_state),
            m.GetUsage: (users, c.get_usage),
            m.DrainNode: (users, c.drain_node),
            m.WatchState: (users, c.watch_state),
            m.StopCluster: (clients, self._lifetime.stop_cluster),
            m.RegisterNode: (agents, self._registers(a.register_node)),
            m.NodeSampled: (agents, a.node_sampled),
            m.LeaseStarted: (agents, a.lease_started),
            m.LeaseFailed: (agents, a.lease_failed),
            m.LeaseEnded: (agents, a.lease_ended),
            DevicesReleased: (agents, a.devices_released),
            DevicesWanted: (agents, a.devices_wanted),
            DevicesKept: (agents, a.devices_kept),
            m.ActorStarted: (agents, a.actor_started),
            m.ActorFailed: (agents, a.actor_failed),
            m.SpansRecorded: (agents, a.spans_recorded),
            m.ObjectAdopted: (agents, a.object_adopted),
            m.ObjectsEvacuated: (agents, a.objects_evacuated),
            m.LocateNode: (agents, a.locate_node),
            m.ObjectGone: (agents, a.object_gone),
        }
        return {
            role: {kind: handler for kind, (roles, handler) in table.items() if role in roles}
            for role in ("client", "worker", "agent")
        }

    # ------------------------------------------------------------------------------------------- the shape of a core

    def handle(self, event: Event, now: Instant) -> list[Action]:
        """Take one event and return what is to be done about it, in order."""
        turn = self._turn
        turn.now = now
        self._events.append((now, event))
        if type(event) is Received:
            self._received(event.peer, event.message)
        else:
            self._took_place(event)
        if not self._lifetime.stopping:
            self.cluster.settle()
            if self.cluster.nodes.none_since is not None:
                self._agents.expect_nodes()
        actions, turn.actions = turn.actions, []
        return actions

    def _took_place(self, event: Event) -> None:
        """Take what is no message."""
        match event:
            case PeerConnected():
                self._connected(event)
            case PeerLost():
                self._lost(event)
            case DeadlineReached():
                self._deadlines_reached()
            case RecordsRestored():
                self._restored(event)
            case StopAsked():
                self._lifetime.stop(event.cause)
            case _:
                raise self._story.broken(f"a scheduler knows no {type(event).__name__}")

    def next_deadline(self) -> Instant | None:
        """Return when `DeadlineReached` is wanted, or None for never."""
        return min(self._turn.deadlines.values(), default=None)

    def check_invariants(self) -> None:
        """Raise `InternalError` if the state contradicts itself; a cluster that ends keeps no order any more."""
        cluster = self.cluster
        if self._lifetime.stopping:
            return
        try:
            for node in cluster.nodes:
                node.check_invariants()
            cluster.groups.check_invariants()
            cluster.leases.check_invariants()
            cluster.leases.check_charges(iter(cluster.jobs))
            cluster.actors.check_invariants()
            cluster.names.check_invariants(cluster.peers)
            cluster.ledger.check_invariants(node.occupied for node in cluster.nodes)
            for lease in cluster.leases:
                if lease.record is not None and cluster.peers.get(lease.record.peer) is not lease.record:
                    raise InternalError(f"lease {lease.lease_id} is held by a peer that is gone")
        except InternalError as error:
            raise self._story.broken(str(error)) from error

    def statistics(self) -> Statistics:
        """Return counts that describe the state."""
        cluster = self.cluster
        return Statistics(
            peers=len(cluster.peers),
            nodes=len(cluster.nodes),
            jobs=len(list(cluster.jobs)),
            leases=len(cluster.leases),
            demands=len(cluster.demands),
            waiting=len(cluster.demands.queues),
            actors=len(list(cluster.actors)),
            groups=len(cluster.groups),
            names=len(cluster.names.infos()),
            spans=len(cluster.spans),
            refused_messages=self._refused_messages,
        )

    # -------------------------------------------------------------------------------------------------- events

    def _received(self, peer: Peer, message: m.Message) -> None:
        record = self.cluster.peers.get(peer)
        if record is None:
            return
        handler = record.handlers.get(type(message))
        if handler is None:
            self._refuse(record, message, "ProtocolError", f"a {record.role} cannot say {type(message).__name__}")
        elif self._lifetime.stopping and record.role != "agent":
            self._refuse(record, message, "ClusterLostError", "the cluster is stopping")
        else:
            handler(record, message)

    def _registers(self, handler: Handler) -> Handler:
        """Return what handles a registration: the cluster may live on for who came, and some may have waited for it."""

        def handle(record: PeerRecord, message: m.Message) -> None:
            handler(record, message)
            self._lifetime.jobs_changed()
            for waiting, deferred in self._clients.deferred():
                self._received(waiting.peer, deferred)

        return handle

    def _refuse(self, record: PeerRecord, message: m.Message, kind: str, text: str) -> None:
        """Answer what cannot be done; nothing changes."""
        self._refused_messages += 1
        request = request_of(message)
        if request is not None:
            self._turn.fail(record.peer, request, kind, text)

    def _connected(self, event: PeerConnected) -> None:
        assert event.peer not in self.cluster.peers, "a shell gives a number once"
        record = PeerRecord(event.peer, event.role, event.process_id)
        record.handlers = self._handlers.get(event.role, {})
        self.cluster.peers[event.peer] = record
        if event.role == "worker":
            self.cluster.leases.claim(record)

    def _lost(self, event: PeerLost) -> None:
        cluster = self.cluster
        record = cluster.peers.pop(event.peer, None)
        if record is None:
            return
        if self._lifetime.stopping:
            self._lifetime.exit_if_alone()
            return
        if record.role == "agent":
            self._agents.node_lost(record, event.cause)
        cluster.leases.holder_lost(record)
        cluster.actors.peer_lost(record)
        strayed = record.process_id in cluster.actors.strays
        if strayed and not any(other.process_id == record.process_id for other in cluster.peers.values()):
            cluster.actors.process_gone(record.process_id)
        cluster.groups.peer_lost(record)
        cluster.names.peer_lost(record.peer)
        self._agents.peer_lost(record.peer)
        job = record.job
        if record.role == "client" and job is not None and job.peer == record.peer:
            cluster.job_ended(job)
            for agent in cluster.agents():
                self._turn.send(agent.peer, m.JobEnded(job.job_id))
            self._lifetime.jobs_changed()
        if record.watch_interval_s:
            self._clients.send_watched()

    def _deadlines_reached(self) -> None:
        now, deadlines = self._turn.now, self._turn.deadlines
        for name in [name for name, when in deadlines.items() if when <= now]:
            if name == "fairness":
                continue  # `recall` sees that it is due, looks, and sets the next
            deadlines.pop(name, None)
            match name:
                case "watch":
                    self._clients.send_watched()
                case "awaited actors":
                    self.cluster.actors.awaited_due()
                case "linger":
                    self._lifetime.stop("nobody used it")
                case demands.TIMER:
                    self.cluster.demands.begin_due()
                case strays.TIMER:
                    self.cluster.actors.strays_due()
                case "nodes":
                    self._agents.nodes_due()
                case "locality":  # who waited for a node that is near has waited enough
                    self.cluster.demands.queues.unblock()
                case draining.TIMER:
                    self.cluster.drains.look()
                case usage_records.TIMER:
                    self.cluster.ledger.write_down()
                    self.cluster.shares.write_down()
                case "grace":
                    self._grace_over()
                case "stop":
                    self._lifetime.exit_if_alone(at_once=True)

    def _grace_over(self) -> None:
        """Who had a part in the cluster before the scheduler was restarted, and is not back, is gone."""
        cluster = self.cluster
        cluster.actors.grace_over()
        cluster.groups.grace_over()
        for job in cluster.jobs:
            job.ended = job.peer is None
        cluster.ledger.keep_only(cluster.jobs)
        cluster.drains.grace_over()
        for lease in cluster.leases.unclaimed():
            cluster.leases.end(lease, kill=True)
        for record in list(cluster.peers.values()):
            deferred, record.deferred = record.deferred, []
            for message in deferred:
                self._received(record.peer, message)

    # ----------------------------------------------------------------------------------------- after a restart

    def _restored(self, event: RecordsRestored) -> None:
        epoch = 0
        for table, key, value in event.records:
            try:
                if table == FACTS_TABLE and key == EPOCH_KEY:
                    epoch = int(value)
                elif table == actor_records.TABLE:
                    self._restore_actor(value)
                elif table == group_records.TABLE:
                    saved = group_records.read_saved(value)
                    self.cluster.groups.restore(saved, self._job_before(saved.job))
                elif table == draining.SUCCESSORS_TABLE:
                    self.cluster.drains.restore_successor(key, value)
                elif table == draining.TABLE:
                    self.cluster.drains.restore(key, value)
                elif table == usage_records.TABLE:
                    self.cluster.ledger.restore(value)
                elif table == usage_records.NOTEBOOKS_TABLE:
                    self.cluster.ledger.restore_notebook(key, value)
                elif table == share_records.TABLE:
                    self.cluster.shares.restore(key, value)
                elif table == name_records.TABLE:
                    self.cluster.names.restore(key, value)
                else:
                    raise msgspec.ValidationError("no such table")
            except (msgspec.DecodeError, ValueError) as error:
                self._turn.warn(f"the journal's record {key!r} of {table!r} cannot be read and is dropped: {error}")
                self._turn.remove_record(table, key)
        self._turn.persist(FACTS_TABLE, EPOCH_KEY, str(epoch + 1).encode())
        self.cluster.leases.begin_epoch(epoch + 1)
        self._turn.set_earlier("grace", self._turn.in_s(GRACE_S))

    def _restore_actor(self, value: bytes) -> None:
        saved = actor_records.read_saved(value)
        if saved.environment is not None:
            self.cluster.environments.add(saved.environment)
        self.cluster.actors.restore(saved, self._job_before(saved.job))

    def _job_before(self, job_id: bytes) -> Job:
        """Return a job of the predecessor's time, whose client may come back."""
        job = self.cluster.jobs.open(job_id, self._turn.now)
        self.cluster.mark_ended(job)
        return job
