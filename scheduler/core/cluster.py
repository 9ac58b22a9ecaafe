"""The parts of the core, put together: what the desks of `scheduler.py` work on, and `state.py` describes."""

from __future__ import annotations

from collections.abc import Iterator

from atoll.protocol.machine import Instant, Peer
from atoll.protocol.messages import DefineEnvironment
from atoll.protocol.values import MemoryLoss
from atoll.scheduler.core.actors import ActorTable
from atoll.scheduler.core.demands import DemandTable
from atoll.scheduler.core.draining import Drains
from atoll.scheduler.core.durations import Durations
from atoll.scheduler.core.group import Group
from atoll.scheduler.core.groups import GroupTable
from atoll.scheduler.core.jobs import EnvironmentTable, Job, JobTable, PeerRecord
from atoll.scheduler.core.lease import HELD, Lease
from atoll.scheduler.core.leases import LeaseTable
from atoll.scheduler.core.lending import Lending
from atoll.scheduler.core.measured import UseMeter
from atoll.scheduler.core.names import NameTable
from atoll.scheduler.core.nodes import NodeTable
from atoll.scheduler.core.peaks import PeakTable
from atoll.scheduler.core.placement import Placement
from atoll.scheduler.core.preempting import choose_preemptions
from atoll.scheduler.core.recalling import Recalling
from atoll.scheduler.core.reservations import ReservationTable
from atoll.scheduler.core.shares import ShareTable
from atoll.scheduler.core.spans import SpanTable
from atoll.scheduler.core.starting import Starting
from atoll.scheduler.core.turn import Turn
from atoll.scheduler.core.usage import Ledger
from atoll.scheduler.policy.fair_share import Rules

GRACE_S = 10.0
"""How long processes of a restarted scheduler's cluster, and nodes that were lost, may take to come back."""


class Cluster:
    """Everything that the scheduler knows.

    Args:
        cluster_id: As people see it.
        version: Of Atoll.
        now: The time at the start.
        wall_offset: As in `Turn`.
        local_offset_s: What local time is ahead of UTC.
        rules: What was said about the shares of sessions.

    Attributes:
        ended: Sessions without a client, by id: they are forgotten when nothing of them is left.
    """

    def __init__(
        self, cluster_id: str, version: str, now: Instant, wall_offset: float, local_offset_s: float, rules: Rules
    ) -> None:
        self.cluster_id = cluster_id
        self.version = version
        self.turn = Turn(now, wall_offset)
        self.peers: dict[Peer, PeerRecord] = {}
        self.nodes = NodeTable(now)
        self.jobs = JobTable()
        self.environments = EnvironmentTable()
        placement = self.placement = Placement(self.nodes)
        self.ledger = Ledger(self.turn, local_offset_s)
        self.shares = ShareTable(self.turn, self.nodes, self.jobs, rules)
        self.groups = GroupTable(self.turn, self.nodes, placement, self.shares, self.ledger)
        self.demands = DemandTable(self.turn, placement, self.groups)
        self.queues = self.demands.queues
        self.leases = LeaseTable(self.turn, self.nodes, self.groups, self.demands, self.shares, self.ledger)
        self.lending = Lending(self.turn, self.leases, self.demands, self.shares, self.ledger)
        self.starting = Starting(self.turn, self.nodes, placement, self.groups, self.demands, self.leases, self.shares)
        self.durations = Durations()
        self.reservations = ReservationTable(
            self.turn, self.leases, self.demands, self.groups, placement, self.durations
        )
        self.starting.promises = self.reservations.by_node
        self.starting.may_go = self.reservations.allows
        self.starting.wait_s = self.reservations.wait_s
        self.recalling = Recalling(
            self.turn, self.jobs, self.nodes, self.shares, self.demands, self.leases, self.reservations
        )
        self.actors = ActorTable(self.turn, self.leases, self.demands)
        self.leases.name_of_actor = self.actors.name_of
        self.leases.is_cell = self.actors.is_cell
        self.demands.is_dead = self.actors.is_dead
        self.names = NameTable(self.turn, self.nodes)
        self.spans = SpanTable(self.turn)
        self.meter = UseMeter(self.ledger, self.leases, self.spans)
        self.drains = Drains(
            self.turn, self.nodes, self.leases, self.demands, self.actors, self.groups, self.names, self.spans
        )
        self.peaks = PeakTable(self.nodes)
        self.demands.resolve = self.peaks.resolve
        self.ended: dict[bytes, Job] = {}

    def agents(self) -> Iterator[PeerRecord]:
        """Yield the agents whose nodes take part."""
        return (record for record in self.peers.values() if record.node_id is not None)

    def define(self, digest: str) -> None:
        """Tell all agents of an environment for which workers will be wanted soon."""
        environment = self.environments.get(digest)
        assert environment is not None, "an environment is known before it is defined"
        for agent in self.agents():
            self.turn.send(agent.peer, DefineEnvironment(digest, environment, True))

    def settle(self) -> None:
        """Give what is free to who waits, and ask back what others wait for. After every event, most of which change
        nothing that bears on it: what has nothing to do is not even asked."""
        now, queues, recalling = self.turn.now, self.queues, self.recalling
        if self.groups.anything_waits and self.groups.place():  # first, since they need more of it at once
            queues.unblock()
        if self.reservations.rests_until <= now:
            self.reservations.update()
        if self.leases.wanting:
            self.lending.return_devices()
        if queues.ready or queues.freed_node is not None:
            self.starting.place()
        if self.leases.preemptible:
            self._preempt()
        if recalling.rests_until <= now:
            recalling.recall()
        if self.ended:
            self._forget_ended()

    def _preempt(self) -> None:
        """End what may be ended, for what else waits."""
        for lease, demand in choose_preemptions(self.leases, self.demands, self.nodes):
            if not self.reservations.of(demand):
                self.reservations.promise(demand, lease.node)
            self.leases.preempt(lease, demand)

    def remove_group(self, group: Group, cause: str) -> None:
        """Remove a placement group: what runs in it ends, what waits for it fails."""
        text = f"its placement group {group.spec.name or group.spec.group_id.hex()} was removed: {cause}"
        self.actors.group_removed(group.spec.group_id, text)
        for bundle in group.bundles:
            for lease in list(bundle.leases.values()):
                self.leases.take_from_group(lease, text)
        self.demands.refuse_group(group.spec.group_id, text)
        self.groups.forget(group)
        self.leases.room_was_made()

    def lease_over(self, lease: Lease, kind: str, text: str, memory: MemoryLoss | None = None) -> None:
        """A lease is over on its node: free it, and let its holder or its actor know unless we ended it."""
        actor_of = lease.actor_id if lease.state != "ending" else b""
        if memory is not None and (lease.scheduling_class.auto or lease.actor_id):
            self.peaks.ran_out(lease.scheduling_class.code, memory)
        self.leases.over(lease, kind, text, memory)
        self.spans.worker_done(lease.worker_id, "failed" if kind else "finished")
        if actor_of:
            self.actors.home_lost(lease, kind, text)
        elif lease.actor_id:
            self.actors.home_left(lease)
        if lease.worker_id and (lease.actor_id or lease.killed or kind):
            self.actors.maker_gone(lease.worker_id)

    def job_ended(self, job: Job) -> None:
        """The client of a job is gone, and with it all that does not outlive it."""
        job.peer = None
        job.ended = True
        self.actors.job_ended(job)
        staying = self._staying(job)
        for lease in list(job.leases.values()):
            if lease.lease_id not in staying:
                self.leases.end(lease, kill=lease.state == HELD)
        workers = {staying[lease_id].worker_id: None for lease_id in staying}
        for demand in list(job.demands.values()):
            record = demand.record
            if record is not None and record.process_id not in workers:
                self.demands.refuse(demand, "ClusterLostError", "the notebook or script of this job has gone")
        self.ended[job.job_id] = job

    def _staying(self, job: Job) -> dict[int, Lease]:
        """Return what lives on: homes of actors that outlive the job, and leases that their workers hold, and so on."""
        staying = {
            actor.lease.lease_id: actor.lease
            for actor in self.actors
            if actor.job is job and actor.outlives_its_job and actor.lease is not None
        }
        for actor in self.actors:
            if actor.job is job and actor.outlives_its_job:
                staying.update(
                    (lease.lease_id, lease) for lease in job.leases.values() if lease.actor_id == actor.spec.actor_id
                )
        while True:
            workers = {lease.worker_id: None for lease in staying.values() if lease.worker_id}
            more = {
                lease.lease_id: lease
                for lease in job.leases.values()
                if lease.lease_id not in staying and lease.holder and lease.holder in workers
            }
            if not more:
                return staying
            staying.update(more)

    def _forget_ended(self) -> None:
        """Drop jobs of which nothing is left, and environments that nothing names any more."""
        for job in list(self.ended.values()):
            if job.ended:
                self._remove_groups(job)
            if job.peer is not None:
                del self.ended[job.job_id]
            elif not job.leases and not job.demands and not job.history.held() and not self._something_lives(job):
                del self.ended[job.job_id]
                self.jobs.forget(job)
                self.ledger.job_forgotten(job.job_id)
                self.shares.gone(job)
                self._forget_environments()

    def _something_lives(self, job: Job) -> bool:
        return any(actor.job is job for actor in self.actors) or any(group.job is job for group in self.groups)

    def _remove_groups(self, job: Job) -> None:
        """Remove the anonymous placement groups of a job that is over, once no actor that outlives it needs them."""
        for group in [group for group in self.groups if group.job is job and not group.outlives_its_job]:
            if not any(actor.spec.scheduling_class.group == group.spec.group_id for actor in self.actors):
                self.remove_group(group, "its job has ended")

    def mark_ended(self, job: Job) -> None:
        """Watch a job without a client, to drop it when nothing of it is left."""
        self.ended[job.job_id] = job

    def _forget_environments(self) -> None:
        used = {job.environment: None for job in self.jobs}
        used.update((digest, None) for job in self.jobs for digest in job.environments)
        used.update((lease.scheduling_class.environment, None) for lease in self.leases)
        used.update((actor.spec.scheduling_class.environment, None) for actor in self.actors)
        used.update((demand.scheduling_class.environment, None) for demand in self.demands)
        self.environments.keep_only(used)
