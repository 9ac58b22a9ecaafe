"""The simulated cluster as a whole, seen by nobody inside it: who lives, what was submitted, what was seen."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from atoll import exceptions
from atoll.client.core.records import PENDING, TaskRecord
from atoll.ids import PROCESS_ID_BYTES, return_id, task_of
from atoll.protocol.channel_messages import CallMethod, RunTask
from atoll.protocol.messages import JobRegistered, RegisterJob
from atoll.protocol.values import Environment, GroupSpec
from atoll.scheduler.policy.fair_share import Rules
from atoll.testing import Machine, Simulation
from tests.sim.client_process import ClientProcess, Uplink
from tests.sim.daemon_processes import AgentProcess, SchedulerProcess, SimulatedJournal
from tests.sim.options import Options
from tests.sim.values import Plan, Value
from tests.sim.worker_process import WorkerProcess

ENVIRONMENT = Environment("/usr/bin/python3", [], "/", {})


class Submission(msgspec.Struct):
    """A task or call that some process submitted.

    Attributes:
        owner: Who.
        plan: What it does.
        arguments: Its dependencies.
        actor_id: Of a call.
        begun: How often its code began.
        cancelled: Whether somebody wanted it no more.
        ended: How it ended: `value` or the class of the error; empty while it has not.
        parent: The task that has submitted it; empty if none has.
    """

    owner: bytes
    plan: Plan
    arguments: list[bytes]
    actor_id: bytes = b""
    begun: int = 0
    cancelled: bool = False
    ended: str = ""
    parent: bytes = b""


class DriverProcess(ClientProcess):
    """SIMULATED notebook or script: a client with programs of its own."""

    def __init__(self, world: World, name: str, host: str, process_id: bytes) -> None:
        super().__init__(world, name, host, process_id, "client")
        self.open()

    def introduce(self, uplink: Uplink) -> None:
        request, weight = self.core.outbox.next_request(), self.world.weights.get(self.name, 1.0)
        self.send(uplink.peer, RegisterJob(request, self.process_id, "script", self.name, 1, "", ENVIRONMENT, weight))

    def received(self, peer: Any, message: Any) -> None:
        super().received(peer, message)
        if isinstance(message, JobRegistered) and self._started:
            self.world.reregistered(self)

    def started(self) -> None:
        self.world.driver_started(self)


class World:
    """Everything.

    Args:
        options: What the seed has made of it.
        repeat: The command that repeats the run.
    """

    def __init__(self, options: Options, repeat: str = "") -> None:
        self.options = options
        self.simulation = Simulation(options.seed, repeat=repeat)
        self.faults_random = self.simulation.random_for("faults")
        self.scheduler_host = options.hosts[0]
        self.journal = SimulatedJournal()
        self.device_locks: dict[str, dict[bytes, None]] = {}
        self.scheduler: SchedulerProcess | None = None
        self.agents: dict[str, AgentProcess] = {}
        self.processes: dict[bytes, ClientProcess] = {}
        self.submissions: dict[bytes, Submission] = {}
        self.killed_actors: dict[bytes, None] = {}
        self.lost_on_disk: dict[bytes, None] = {}
        self.lost_in_store: dict[bytes, None] = {}
        self.bounced: dict[bytes, None] = {}
        self.named_actors: dict[bytes, str] = {}
        self.fragile_actors: dict[bytes, None] = {}
        self.actor_arguments: dict[bytes, list[bytes]] = {}
        self.groups: dict[bytes, GroupSpec] = {}
        self.outcomes: Counter[str] = Counter()
        self.rules = Rules()
        self.weights: dict[str, float] = {}
        self.scheduler_restarts = 0
        self.agents_lost = 0
        self.came: list[str] = []
        self.strained: dict[tuple[str, str], None] = {}
        self.estranged: dict[tuple[str, str], None] = {}
        self.renewed: dict[str, None] = {}
        self.at_home: dict[str, dict[bytes, None]] = {}
        self.names: Any = None
        self.on_agent_ended: Any = None
        self._workers = 0
        self._nodes = 0
        self._drivers = 0
        self._last_call: dict[tuple[bytes, bytes], bytes] = {}
        self._outputs: dict[bytes, tuple[int, int]] = {}
        self.on_driver: Any = None

    # ------------------------------------------------------------------------------------------------ processes

    def start_scheduler(self) -> None:
        """Start a scheduler: the first, or the next one after a crash."""
        self.scheduler = SchedulerProcess(self, self.scheduler_restarts, self.journal)
        self.scheduler_restarts += 1

    def start_agent(self, host: str) -> None:
        """Start the agent of a host."""
        self._nodes += 1
        shape = self.options.nodes[host]
        node_id = b"node%04d" % self._nodes
        self.agents[host] = AgentProcess(self, host, node_id, shape.cpus, shape.gpus, self.options.store_bytes)

    def start_driver(self, host: str) -> DriverProcess:
        """Start a notebook or script."""
        self._drivers += 1
        driver = DriverProcess(self, f"driver-{self._drivers}", host, b"drive%03d" % self._drivers)
        self._came(driver)
        self.came.append(driver.name)
        return driver

    def _came(self, process: ClientProcess) -> None:
        self.processes[process.process_id] = process
        self.at_home.setdefault(process.host, {})[process.process_id] = None

    def new_worker_id(self) -> bytes:
        """Return an id for a worker."""
        self._workers += 1
        return b"wrk%05d" % self._workers

    def worker_began(self, worker: WorkerProcess, _agent: AgentProcess) -> None:
        """A worker was forked."""
        self._came(worker)

    def workers(self) -> list[WorkerProcess]:
        """Return the workers that live."""
        return [process for process in self.processes.values() if isinstance(process, WorkerProcess)]

    def drivers(self) -> list[DriverProcess]:
        """Return the drivers that live."""
        return [process for process in self.processes.values() if isinstance(process, DriverProcess)]

    def driver_started(self, driver: DriverProcess) -> None:
        """A driver's session stands: its work begins."""
        self.on_driver(driver)

    def reregistered(self, driver: DriverProcess) -> None:
        """A driver has come back to a restarted scheduler."""

    def process_ended(self, process: ClientProcess, crashed: bool) -> None:
        """A client or worker is dead."""
        self.processes.pop(process.process_id, None)
        for holders in self.device_locks.values():
            holders.pop(process.process_id, None)
        for task_id in process.records:
            if not self.submissions[task_id].ended:
                self.submissions[task_id].ended = "its owner is gone"
        if isinstance(process, WorkerProcess):
            agent = self.agents.get(process.host)
            if agent is not None and agent.alive:
                agent.worker_ended(process, crashed)

    def agent_ended(self, agent: AgentProcess) -> None:
        """An agent is dead."""
        if self.agents.get(agent.host) is agent:
            del self.agents[agent.host]
            self.agents_lost += 1
            self.renewed[agent.host] = None
            self.on_agent_ended(agent)

    def strain(self, one: Machine, other: Machine) -> None:
        """Note that the connection of two living processes broke: each takes the other for dead, and may lose by it."""
        for near, far in ((one, other), (other, one)):
            self.strained[near.name, far.name] = None
            if far.role == "agent":
                self.estranged[near.name, far.host] = None
            if near.role == "agent":
                self.renewed[near.host] = None
                for worker in self.workers():
                    if worker.host == near.host:
                        worker.cut_off_at = self.simulation.clock.now

    def strain_all(self) -> None:
        """Note that any connection between hosts may break."""
        machines = list(self.simulation.machines.values())
        for one in machines:
            for other in machines:
                if one.host != other.host:
                    self.strain(one, other)

    # ------------------------------------------------------------------------------------------- what happens

    def submitted(self, process: ClientProcess, record: TaskRecord, plan: Plan) -> None:
        """A task or call was made."""
        self.submissions[record.task_id] = Submission(
            process.process_id, plan, list(record.dependencies or ()), record.actor_id, parent=record.parent
        )
        if record.parent in self.submissions and self.submissions[record.parent].cancelled:
            self.submissions[record.task_id].cancelled = True

    def call_made(self, _process: ClientProcess, record: TaskRecord) -> None:
        """A call is about to be made."""

    def cancelled(self, task_id: bytes) -> None:
        """Somebody cancels a task, and with it what it has submitted."""
        self.submissions[task_id].cancelled = True
        for child_id, submission in self.submissions.items():
            if submission.parent == task_id and not submission.cancelled:
                self.cancelled(child_id)

    def begun(self, worker: WorkerProcess, message: RunTask | CallMethod, caller: bytes) -> int:
        """User code of a task begins. Returns which attempt it is."""
        submission = self.submissions[message.task_id]
        submission.begun += 1
        if submission.plan.retries == 0:
            assert submission.begun == 1, f"task {message.task_id.hex()} must not run twice, and runs again"
        if isinstance(message, CallMethod):
            key = (worker.process_id, caller)
            earlier = self._last_call.get(key, b"")
            again = (
                message.task_id in self.bounced or submission.begun > 1 or submission.plan.retries > 0
            )  # asked for again, after those that came later
            assert message.task_id > earlier or again, f"call {message.task_id.hex()} begins after {earlier.hex()}"
            self._last_call[key] = max(earlier, message.task_id)
            assert worker.constructed, "a call comes after the constructor"
        return submission.begun

    def value_seen(self, process: ClientProcess, object_id: bytes, value: Value) -> None:
        """Somebody has read an object."""
        assert value.tag == object_id, f"{process.name} reads {object_id.hex()} and sees {value.tag.hex()}"

    def output_shown(self, process: ClientProcess, record: TaskRecord, _kind: str, payload: bytes) -> None:
        """A piece of a task's output has come: in order within an attempt."""
        submission = self.submissions[record.task_id]
        attempt, last = self._outputs.get(record.task_id, (0, -1))
        number = int(payload)
        if submission.begun != attempt and number == 0:
            attempt, last = submission.begun, -1
        assert number == last + 1 or submission.begun > 1, f"output {number} of {record} comes after {last}"
        self._outputs[record.task_id] = (attempt, number)

    @staticmethod
    def make_error(kind: str) -> Exception:
        """Return an exception of a class of ours."""
        made: Exception = getattr(exceptions, kind)("simulated")
        return made

    # -------------------------------------------------------------------------------------------- expectations

    def is_safe(self, object_id: bytes) -> bool:
        """Whether an object must get a value as long as nothing was injected."""
        submission = self.submissions.get(task_of(object_id))  # type: ignore[arg-type]
        if object_id in self.names.given_away:
            return False  # its name may be dropped, or given to another, between the claim and the look
        if object_id[:PROCESS_ID_BYTES] not in self.processes:
            return False  # its owner ended, as workers do, by plans or when they are not needed
        if submission is None:
            return len(self.options.hosts) == 1
        plan = submission.plan
        if submission.cancelled or not plan.must_succeed:
            return False
        if submission.actor_id in self.killed_actors or plan.actor in self.killed_actors:
            return False
        maker = submission.actor_id[:PROCESS_ID_BYTES]
        if maker and submission.actor_id not in self.named_actors and maker not in self.processes:
            return False  # it goes with the process that made it
        if not all(self.is_safe(name) for name in self.actor_arguments.get(submission.actor_id, ())):
            return False
        concerned = submission.actor_id in self.fragile_actors or plan.actor in self.fragile_actors or plan.makes
        if concerned and not self.options.calm:
            return False  # a scheduler may die between writing that it begins a process and beginning it
        if not self.options.fits_everywhere(plan):
            return False
        if plan.pass_arguments and not all(self.is_safe(name) for name in plan.refs):
            return False
        return all(self.is_safe(name) for name in submission.arguments)

    def note_ends(self, process: ClientProcess) -> None:
        """Look which submissions of a process have ended since the last look."""
        for task_id, record in list(process.records.items()):
            if record.keepalive is not None:
                continue
            del process.records[task_id]
            submission = self.submissions[task_id]
            assert not submission.ended, f"{record} ends again"
            entries = process.core.objects.entries
            states = [
                entry.state
                for index in range(record.returns)
                if (entry := entries.get(return_id(record.task_id, index))) is not None  # type: ignore[arg-type]
            ]
            assert PENDING not in states, f"{record} has ended and a value of it is pending"
            submission.ended = "ended"
