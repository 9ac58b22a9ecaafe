"""SIMULATED worker: a real client core, and a simulated executor of tasks that speaks the worker's side.

What `nodeagent.worker` and `nodeagent.executor` do with threads and signals is done here in virtual time: what is
pushed runs in order, one at a time; answers wait a moment for others; who waits lends its CPU and gives back what is
queued behind it; refs are registered at their owners before an answer leaves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from atoll.exceptions import TaskCancelledError, TaskError
from atoll.ids import ACTOR_ID_BYTES, TaskId, return_id, token_of
from atoll.object_ref import ObjectRef
from atoll.protocol.channel_messages import (
    INLINE_BYTES,
    CallMethod,
    CancelTask,
    CloseStream,
    DeclareFunction,
    DependencyLost,
    OpenStream,
    ReadStream,
    RunTask,
    TakeBackTasks,
    TaskOutput,
    TaskRaised,
    TaskReturned,
    TasksTakenBack,
    TaskStored,
    WorkerRetires,
)
from atoll.protocol.leave_messages import DevicesOffloaded, DevicesRestored, OffloadDevices, RestoreDevices, WantDevices
from atoll.protocol.machine import Peer
from atoll.protocol.messages import (
    ActForJob,
    ActorConstructed,
    BeginLease,
    ConstructActor,
    FinishLease,
    Message,
    StopWorker,
    TaskBlocked,
    TaskUnblocked,
    WorkerStarted,
)
from atoll.protocol.serialization import serialize
from atoll.protocol.values import ActorPayload, ActorSpec, ObjectLocation, SchedulingClass
from tests.sim import values
from tests.sim.client_process import ClientProcess
from tests.sim.programs import Code, Hold, Interrupted, Program, Sleep
from tests.sim.simulated_streams import SimulatedStreams
from tests.sim.values import Plan, Value, encode, read_plan, read_program

if TYPE_CHECKING:
    from tests.sim.world import World

START_WITHIN_S = 10.0
ANSWER_WITHIN_S = 0.0005
ANSWERS_AT_ONCE = 64
LATE_S = 0.002
_payloads = msgspec.msgpack.Decoder(ActorPayload)
CANCELLED = serialize(TaskCancelledError("the task was cancelled")).data
RAISED = serialize(TaskError("simulated", "it raised")).data


class WorkerProcess(ClientProcess):
    """A worker.

    Args:
        world: Where it lives.
        host: Its node's host.
        worker_id: Given by the agent.
        pid: Likewise.
        environment: Digest.
        devices: The UUIDs that it may see.
    """

    def __init__(
        self, world: World, host: str, worker_id: bytes, pid: int, environment: str, devices: list[str]
    ) -> None:
        super().__init__(world, f"worker-{worker_id.decode()}", host, worker_id, "worker")
        self.pid = pid
        self.environment = environment
        self.devices = devices
        self.lease_id = 0
        self.shares: dict[str, int] = {}
        self.actor_id = b""
        self.incarnation = -1
        self.constructed = False
        self.stopping = False
        self.cut_off_at: float | None = None
        self.has_waited = False
        self.queue: deque[tuple[Peer, Any]] = deque()
        self.away: dict[str, int] = {}
        self._devices_wanted = False
        self.running: tuple[Peer, int] | None = None
        self._program: Program | None = None
        self._known: dict[bytes, None] = {}
        self._borrowed: dict[bytes, None] = {}
        self._answers: dict[Peer, list[Any]] = {}
        self._answered_at = 0.0
        self._began = 0.0
        self.kept: list[ObjectRef[Any]] = []
        self._cancelled: dict[tuple[Peer, int], None] = {}
        self._blocked = 0
        self.retired = False
        self.streams = SimulatedStreams(self)
        self.open()
        self.after(START_WITHIN_S, "must have started", self._check_started)

    def _check_started(self) -> None:
        if not self._started:
            self.simulation.stop(self)

    def is_ready(self) -> bool:
        return self.uplinks["agent"].linked

    def started(self) -> None:
        self.tell("agent", WorkerStarted(f"process/{self.process_id.hex()}", self.pid))

    def introduce(self, uplink: Any) -> None:
        if self.job != self.process_id:
            self.send(uplink.peer, ActForJob(self.job))
        if self._blocked:
            self.send(uplink.peer, TaskBlocked(self.lease_id))
        super().introduce(uplink)

    def _uplink_lost(self, uplink: Any) -> None:
        if uplink.role == "agent":
            self.simulation.stop(self)  # its node is gone, and so is its reason to be
            return
        super()._uplink_lost(uplink)

    # ---------------------------------------------------------------------------------------------- what comes

    def told(self, peer: Peer, message: Message) -> None:
        if isinstance(message, BeginLease):
            self.lease_id = message.lease_id
            if self.job != message.job:
                self.job = message.job
                self.tell("scheduler", ActForJob(self.job))
            self.has_waited = False
            self.cut_off_at = None
            self.shares = {share.uuid: share.units for share in message.devices}
        elif isinstance(message, FinishLease):
            self.lease_id = 0
            self.shares = {}
        elif isinstance(message, ConstructActor):
            self._later(lambda: self._construct(message))
        elif isinstance(message, OffloadDevices):
            self._later(lambda: self._give_devices_up(message))
        elif isinstance(message, RestoreDevices):
            self._devices_are_back(message)
        elif isinstance(message, StopWorker):
            self.stopping = True
            self._look()

    def _give_devices_up(self, message: OffloadDevices) -> None:
        """As `nodeagent.absence`: calls wait from now on, until the devices are back."""
        busy = bool(self.queue)
        own, fails = self.random.random() < 0.5, self.random.random() < 0.1
        if busy or (own and fails):
            self.tell("agent", DevicesOffloaded(message.lease_id, own, "" if busy else "RuntimeError: no", busy))
            return
        self.simulation.faults["devices given up"] += 1
        self.away, self._devices_wanted = self.shares, False
        self.shares = {}
        self.tell("agent", DevicesOffloaded(message.lease_id, own))

    def _devices_are_back(self, message: RestoreDevices) -> None:
        self.shares, self.away = self.away, {}
        fails = self.random.random() < 0.05
        if fails:
            self.world.killed_actors[self.actor_id] = None
        self.tell("agent", DevicesRestored(message.lease_id, "RuntimeError: no" if fails else ""))
        self._look()

    def pushed(self, peer: Peer, message: Any) -> None:
        if self.retired and isinstance(message, RunTask):
            self.send(peer, WorkerRetires())
            self.send(peer, TasksTakenBack([message.sequence]))
            self.streams.forget(peer, message.sequence)
        elif isinstance(message, RunTask | CallMethod):
            self.queue.append((peer, message))
            self._look()
        elif isinstance(message, DeclareFunction):
            self._known[message.digest] = None
        elif isinstance(message, CancelTask):
            self._cancel(peer, message)
        elif isinstance(message, TakeBackTasks):
            self._give_back(peer, message.count)
        elif isinstance(message, OpenStream | ReadStream | CloseStream):
            self.streams.take(peer, message)

    def _later(self, work: Callable[[], None]) -> None:
        self.queue.append((Peer(0), work))
        self._look()

    def _look(self) -> None:
        self.after(self.random.uniform(1e-6, 20e-6), "looks", self._next)

    def _cancel(self, peer: Peer, message: CancelTask) -> None:
        for index, (other, waiting) in enumerate(self.queue):
            if other == peer and getattr(waiting, "sequence", None) == message.sequence:
                del self.queue[index]
                self.streams.forget(peer, message.sequence)
                self.send(peer, TaskRaised(message.sequence, CANCELLED, 0, False))
                return
        if self.running == (peer, message.sequence):
            if message.force:
                self.simulation.crash(self)
                return
            self._interrupt()

    def _interrupt(self) -> None:
        if self.running is not None and self._program is not None:
            self._cancelled[self.running] = None
            self._program.interrupt()

    def _give_back(self, peer: Peer, count: int) -> None:
        given: list[int] = []
        kept: list[tuple[Peer, Any]] = []
        while self.queue and len(given) < count:
            item = self.queue.pop()
            if item[0] == peer and type(item[1]) is RunTask:
                given.append(item[1].sequence)
                self.streams.forget(peer, item[1].sequence)
            else:
                kept.append(item)
        self.queue.extend(reversed(kept))
        self._send_answers()
        self.send(peer, TasksTakenBack(given))

    def caller_lost(self, peer: Peer) -> None:
        self.queue = deque(item for item in self.queue if item[0] != peer)
        self._answers.pop(peer, None)
        self.streams.caller_lost(peer)
        if self.running is not None and self.running[0] == peer and not self.actor_id:
            self._interrupt()

    # ---------------------------------------------------------------------------------------------- the main thread

    def _next(self) -> None:
        if self._program is not None:
            return
        if self.away and self.queue and not self.stopping:
            if not self._devices_wanted:
                self._devices_wanted = True
                self.simulation.faults["devices wanted back"] += 1
                self.tell("agent", WantDevices(self.lease_id))
            return
        if not self.queue:
            self._send_answers()
            if self.stopping:
                self.simulation.stop(self)
            return
        peer, message = self.queue.popleft()
        if not isinstance(message, RunTask | CallMethod):
            message()
            return
        self.running = (peer, message.sequence)
        self.current_task = message.task_id
        self._began = self.simulation.clock.now
        self._program = self.run("task", self._run(peer, message), lambda answer: self._ran(peer, message, answer))

    def _ran(self, peer: Peer, message: RunTask | CallMethod, answer: Any) -> None:
        self._cancelled.pop((peer, message.sequence), None)
        self.running = None
        self.current_task = b""
        self._program = None
        if isinstance(message, RunTask) and read_plan(message.arguments).retires:
            self._retire(peer)
        if answer is Interrupted:
            answer = TaskRaised(message.sequence, CANCELLED, 0, False)
        if self.process_of(peer):
            now = self.simulation.clock.now
            waiting = self._answers.setdefault(peer, [])
            waiting.append(answer)
            if len(waiting) == 1 and len(self._answers) == 1:
                self._answered_at = now
            if len(waiting) >= ANSWERS_AT_ONCE or now - min(self._answered_at, self._began) > ANSWER_WITHIN_S:
                self._send_answers()
            else:
                self.after(self.random.uniform(LATE_S, 5 * LATE_S), "looks for late answers", self._send_answers)
        self._next()

    def _retire(self, peer: Peer) -> None:
        self.retired = True
        if self.process_of(peer):
            self.send(peer, WorkerRetires())
        for other in dict.fromkeys(other for other, message in self.queue if type(message) is RunTask):
            self._give_back(other, len(self.queue))

    def _send_answers(self) -> None:
        answers, self._answers = self._answers, {}
        for peer, waiting in answers.items():
            if self.process_of(peer):
                for answer in waiting:
                    self.send(peer, answer)

    # ---------------------------------------------------------------------------------------------- one task

    def _run(self, peer: Peer, message: RunTask | CallMethod) -> Code:
        """Run a task and return the answer."""
        caller = self.process_of(peer)
        began = self.simulation.clock.now
        plan = read_plan(message.arguments)
        if isinstance(message, RunTask):
            assert message.function in self._known, "a task comes after its function"
        views = []
        for location in message.dependencies:
            if location.node_id:
                error, value, view = yield from self.store.read(location.object_id, location.node_id)
                if error == "ObjectLostError":
                    self.streams.forget(peer, message.sequence)
                    self.world.bounced[message.task_id] = None
                    return DependencyLost(message.sequence, [location.object_id])
                if value is None:
                    return self._raised(message, began, error)
                views.append(view)
                self.borrow(value.refs)
        refs = self.borrow(plan.refs)
        attempt = self.world.begun(self, message, caller)
        if message.returns < 0:
            fails = bool(plan.failing) and attempt <= plan.failures
            answer = yield from self.streams.run(peer, message, plan, caller, fails)
            del views, refs
            if answer is None:
                return self._raised(message, began, "TaskError")
            yield from self._register_borrowed()
            return answer
        result, error = yield from self._body(plan, peer, message.sequence, attempt, refs)
        del views
        if error:
            del refs, result
            return self._raised(message, began, error)
        answer = yield from self._answer(message, plan, result, caller, began)
        del refs, result
        yield from self._register_borrowed()
        return answer

    def _raised(self, message: RunTask | CallMethod, began: float, error: str) -> TaskRaised:
        payload = RAISED if error == "TaskError" else serialize(self.world.make_error(error)).data
        return TaskRaised(message.sequence, payload, self._microseconds(began))

    def _microseconds(self, began: float) -> int:
        return int((self.simulation.clock.now - began) * 1e6)

    def _body(self, plan: Plan, peer: Peer, sequence: int, attempt: int, refs: list[ObjectRef[Any]]) -> Code:
        """User code. Returns the refs that its first value contains, and the error that it raises."""
        program = self._program
        if program is not None:
            program.interruptible = True
        try:
            inside: list[ObjectRef[Any]] = []
            for number in range(plan.outputs):
                self.send(peer, TaskOutput(sequence, "stdout", b"%d" % number))
                yield Sleep(plan.duration_s / (plan.outputs + 1))
            yield Sleep(plan.duration_s)
            if attempt <= plan.failures and plan.failing:
                if plan.failing == "crash":
                    self.simulation.crash(self)
                    yield Sleep(0.0)
                return inside, "TaskError"
            children = [ref for child in plan.children for ref in self._submit_child(plan, child, refs[:1])]
            if plan.wait and children:
                outcomes = yield from self.get(children)
                if any(outcome.error for outcome in outcomes):
                    self.simulation.note(self.name, "children failed", [outcome.error for outcome in outcomes])
                    return [], "TaskError"
                del outcomes
            if plan.makes:
                made = self._make_actor()
                plan.actor = made.binary()[:ACTOR_ID_BYTES]
                inside.append(made)
                refs = [made, *refs]
                del made
            if plan.actor and (yield from self._call_actor(plan.actor, refs)):
                return [], "TaskError"
            if plan.give_children:
                inside += children
            del children
            for _number in range(plan.puts):
                put = yield from self.put(10)
                inside.append(put)
                del put
            if plan.give_arguments:
                inside += refs
            if plan.keep and self.actor_id:
                self.kept = [*self.kept[-4:], *refs]
            return inside, ""
        finally:
            if program is not None:
                program.interruptible = False

    def _call_actor(self, actor_id: bytes, refs: list[ObjectRef[Any]]) -> Code:
        """Call an actor, through the handle if there is one among the refs, and return whether a call has failed."""
        handle = next((ref for ref in refs if ref.binary() == token_of(actor_id)), None)
        calls = [ref for _ in range(2) for ref in self.call(actor_id, Plan(retries=0), (), refs[:1], handle)]
        del handle, refs
        outcomes = yield from self.get(calls)
        errors = [outcome.error for outcome in outcomes if outcome.error]
        if errors:
            self.simulation.note(self.name, "calls failed", errors)
        return bool(errors)

    def _make_actor(self) -> ObjectRef[Any]:
        actor_id = self.ids.actor_id()
        self.world.fragile_actors[actor_id] = None
        shape = SchedulingClass({}, self.environment)
        return self.make_actor(ActorSpec(actor_id, "", "", "Simulated", shape, b""), encode(values.Program(Plan())))

    def _submit_child(self, plan: Plan, child: Plan, refs: list[ObjectRef[Any]]) -> list[ObjectRef[Any]]:
        return self.submit(child, arguments=refs) if plan.pass_arguments else self.submit(child, inside=refs)

    def _answer(
        self, message: RunTask | CallMethod, plan: Plan, inside: list[ObjectRef[Any]], caller: bytes, began: float
    ) -> Code:
        taken = self._microseconds(began)
        if message.returns == 1 and not inside and plan.sizes[0] <= INLINE_BYTES:
            tag = return_id(TaskId(message.task_id), 0)
            return TaskReturned(message.sequence, encode(Value(tag, [], plan.sizes[0])), taken)
        locations, contained = [], []
        for index, size in enumerate(plan.sizes):
            object_id = return_id(TaskId(message.task_id), index)
            refs = list(dict.fromkeys(ref.binary() for ref in inside)) if index < 2 else []
            if isinstance(message, RunTask) and index in message.kept:
                locations.append(ObjectLocation(object_id))
                contained.append([])
                continue
            value = Value(object_id, refs, size)
            if size <= INLINE_BYTES:
                locations.append(ObjectLocation(object_id, inline=encode(value)))
            else:
                error = yield from self.store.write(value, keep=False, attempt=message.attempt)
                if error:
                    return self._raised(message, began, error)
                locations.append(ObjectLocation(object_id, self.node_id, size))
            contained.append(refs)
        flat = [object_id for refs in contained for object_id in refs if not object_id.startswith(caller)]
        yield Hold(flat, caller)
        return TaskStored(message.sequence, locations, contained, taken)

    def borrowed(self, object_id: bytes) -> None:
        self._borrowed[object_id] = None

    def _register_borrowed(self) -> Code:
        """Register this worker for the borrowed refs that are still here and that their owners do not know of."""
        if not self._borrowed:
            return
        borrowed, self._borrowed = self._borrowed, {}
        self.finish_step()
        entries = self.core.objects.entries
        owns = self.core.objects.owns
        left = [
            object_id
            for object_id in borrowed
            if (entry := entries.get(object_id)) is not None
            and entry.count
            and not entry.registrations
            and not owns(object_id)
        ]
        yield Hold(left, self.process_id)

    # ---------------------------------------------------------------------------------------------- actors, waiting

    def _construct(self, message: ConstructActor) -> None:
        self.actor_id = message.spec.actor_id
        self.incarnation = message.incarnation
        program = read_program(_payloads.decode(message.spec.payload).arguments)
        fails = message.incarnation in program.fails_in_incarnations

        def constructed(result: Any) -> None:
            self._program = None
            if result:
                self.tell("agent", ActorConstructed(message.spec.actor_id, "it raised", RAISED))
            else:
                self.constructed = True
                self.tell("agent", ActorConstructed(message.spec.actor_id))
            self._next()

        self._program = self.run("constructor", self._constructor(program.construction, fails), constructed)

    def _constructor(self, plan: Plan, fails: bool) -> Code:
        yield Sleep(plan.duration_s)
        if plan.failing == "crash" and fails:
            self.simulation.crash(self)
            yield Sleep(0.0)
        return "TaskError" if fails else ""

    def blocking(self) -> Any:
        return _Blocking(self)

    def block(self) -> None:
        """A program waits: its CPU is lent to others, and what is queued behind it is given back."""
        self._blocked += 1
        self.has_waited = True
        if self._blocked == 1:
            self._send_answers()
            for peer in dict.fromkeys(peer for peer, message in self.queue if type(message) is RunTask):
                self._give_back(peer, len(self.queue))
            self.tell("scheduler", TaskBlocked(self.lease_id))

    def unblock(self) -> None:
        """It goes on."""
        self._blocked -= 1
        if self._blocked == 0 and self.alive:
            self.tell("scheduler", TaskUnblocked(self.lease_id))


class _Blocking:
    def __init__(self, worker: WorkerProcess) -> None:
        self._worker = worker

    def __enter__(self) -> None:
        self._worker.block()

    def __exit__(self, *problem: object) -> None:
        self._worker.unblock()
