"""SIMULATED shell around a real client core: what `atoll.client.session` does, without threads and sockets.

It keeps connections to scheduler and agent and opens them again, passes messages to the core, carries out what the
core wants, and offers programs what `import atoll` offers users.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

from atoll.client.core.client import ClientCore
from atoll.client.core.events import (
    AgentLinked,
    AnnounceObjects,
    CancelRequested,
    ConfirmHold,
    ConnectFailed,
    ConnectProcess,
    CreationRequested,
    FinishCall,
    FunctionDefined,
    MethodCalled,
    ObjectMissing,
    ObjectPut,
    RefsReleased,
    SchedulerLinked,
    ShowOutput,
    TaskSubmitted,
    ValueTaken,
)
from atoll.client.core.records import END, FAILED, INLINE, PENDING, STORED, STREAMING, TaskRecord
from atoll.ids import IdFactory, ObjectId, ProcessId, return_id, token_of
from atoll.object_ref import ObjectRef
from atoll.protocol.channel_messages import INLINE_BYTES
from atoll.protocol.machine import Action, Peer, PeerConnected, PeerLost, Received
from atoll.protocol.messages import (
    AttachProcess,
    CreateActor,
    DeleteObjects,
    Failed,
    JobRegistered,
    ProcessAttached,
    ReleaseObjects,
    ReturnPins,
    SegmentsDestroyed,
)
from atoll.protocol.serialization import deserialize
from atoll.protocol.values import ActorSpec, ObjectLocation, SchedulingClass
from atoll.testing import Machine
from tests.sim.programs import Code, Command, Interrupted, Objects, Outcome, Program
from tests.sim.simulated_store import Memory, SimulatedStore
from tests.sim.values import Plan, Value, encode, read_value

if TYPE_CHECKING:
    from tests.sim.world import World

RECONNECT_EVERY_S = 0.1
LOSSES = 5
FUNCTION = b"digest-of-the-fn"


class WithSegment:
    """An agent's message with a descriptor beside it."""

    def __init__(self, message: Any, memory: Memory) -> None:
        self.message = message
        self.memory = memory

    def __repr__(self) -> str:
        return f"{self.message!r} with a descriptor"


class Uplink:
    """The connection to a daemon."""

    def __init__(self, role: str, address: str) -> None:
        self.role = role
        self.address = address
        self.peer = Peer(0)
        self.linked = False


class ClientProcess(Machine):
    """A process with a client core.

    Args:
        world: Where it lives.
        name: In the transcript.
        host: Its host; its agent is that host's.
        process_id: Its id.
        role: `client` or `worker`.
    """

    core: ClientCore

    def __init__(self, world: World, name: str, host: str, process_id: bytes, role: str) -> None:
        super().__init__(
            world.simulation, name, ClientCore(ProcessId(process_id)), role=role, process_id=process_id, host=host
        )
        self.world = world
        self.random = world.simulation.random_for(name)
        self.ids = IdFactory(ProcessId(process_id))
        self.store = SimulatedStore(self)
        self.environment = ""
        self.job = process_id
        self.node_id = b""
        self.uplinks = {
            "scheduler": Uplink("scheduler", "scheduler"),
            "agent": Uplink("agent", f"agent/{host}"),
        }
        self.requests: dict[int, tuple[Peer, Callable[[Any], None]]] = {}
        self.waiters: dict[bytes, list[Callable[[ClientProcess], None]]] = {}
        self.hold_waiters: dict[tuple[bytes, bytes], list[Callable[[], None]]] = {}
        self.programs: dict[Program, None] = {}
        self.records: dict[bytes, TaskRecord] = {}
        self.current_task = b""
        self._released: deque[bytes] = deque()
        self._direct: dict[Peer, bytes] = {}
        self._batches: dict[Peer, list[Any]] = {}
        self._started = False
        self.network.listen(self, f"process/{process_id.hex()}")
        world.simulation.add(self)

    def open(self) -> None:
        """Connect to scheduler and agent."""
        for uplink in self.uplinks.values():
            self._dial(uplink)

    def _dial(self, uplink: Uplink) -> None:
        self.network.dial(self, uplink.address, uplink)

    # ------------------------------------------------------------------------------------------- connections

    def connected(self, peer: Peer, role: str, process_id: bytes, tag: Any) -> None:
        if isinstance(tag, Uplink):
            tag.peer = peer
            self._proved(tag)
            return
        self._direct[peer] = process_id
        self.deliver(PeerConnected(peer, "", process_id))

    def _proved(self, uplink: Uplink) -> None:
        if uplink.role == "agent":
            self.send(uplink.peer, AttachProcess(self.core.outbox.next_request(), self.process_id, 1))
        else:
            self.introduce(uplink)

    def introduce(self, uplink: Uplink) -> None:
        """Say to the scheduler who this is."""
        self._linked(uplink)

    def _linked(self, uplink: Uplink) -> None:
        uplink.linked = True
        self.deliver(SchedulerLinked(uplink.peer) if uplink.role == "scheduler" else AgentLinked(uplink.peer))
        if not self._started and self.is_ready():
            self._started = True
            self.started()

    def is_ready(self) -> bool:
        """Whether the session has begun."""
        return all(uplink.linked for uplink in self.uplinks.values())

    def started(self) -> None:
        """The session has begun."""

    def refused(self, tag: Any, cause: str) -> None:
        if isinstance(tag, Uplink):
            self.after(RECONNECT_EVERY_S, "dials again", lambda: self._dial(tag))
        else:
            self.deliver(ConnectFailed(tag, cause))

    def lost(self, peer: Peer, cause: str) -> None:
        for uplink in self.uplinks.values():
            if uplink.peer == peer:
                self._uplink_lost(uplink)
                return
        self._batches.pop(peer, None)
        self._direct.pop(peer, None)
        self.caller_lost(peer)
        self.deliver(PeerLost(peer, cause))

    def _uplink_lost(self, uplink: Uplink) -> None:
        peer, uplink.peer = uplink.peer, Peer(0)
        uplink.linked = False
        if uplink.role == "agent":
            self.store.agent_lost()
        self.deliver(PeerLost(peer))
        for number, (asked, wake) in list(self.requests.items()):
            if asked == peer:
                del self.requests[number]
                wake(Failed(number, "ClusterLostError", f"the {uplink.role} was lost"))
        self.after(RECONNECT_EVERY_S, "dials again", lambda: self._dial(uplink))

    def caller_lost(self, peer: Peer) -> None:
        """A worker's: a direct channel is gone."""

    # ----------------------------------------------------------------------------------------------- messages

    def received(self, peer: Peer, message: Any) -> None:
        if type(message) is list:
            self.deliver(Received(peer, message))
            return
        if isinstance(message, WithSegment):
            self.store.take_segment(message.message, message.memory)
            message = message.message
        if isinstance(message, JobRegistered):
            self.environment = message.environment
            self._linked(self.uplinks["scheduler"])
        elif isinstance(message, ProcessAttached):
            self.node_id = self.core.objects.home = message.node_id
            self._linked(self.uplinks["agent"])
        elif isinstance(message, ReturnPins):
            self.world.outcomes["pins asked back"] += 1
            self.store.forget(message.object_ids)
        elif isinstance(message, SegmentsDestroyed):
            self.store.unmap(message.segment_ids)
        else:
            self.deliver(Received(peer, message))

    def send(self, peer: Peer, message: Any) -> None:
        if peer in self._direct:
            self._batches.setdefault(peer, []).append(message)
            return
        if isinstance(message, DeleteObjects):
            self.store.forget(message.object_ids)
        self.network.send(self, peer, message)

    def tell(self, role: str, message: Any) -> None:
        """Say something to a daemon, if it is there."""
        if self.uplinks[role].linked:
            self.send(self.uplinks[role].peer, message)

    def finish_step(self) -> None:
        if self._released:
            released, self._released = list(self._released), deque()
            self.deliver(RefsReleased(released))
        gone = self.store.collect()
        if gone and self.uplinks["agent"].linked:
            self.network.send(self, self.uplinks["agent"].peer, ReleaseObjects(gone))
        if self._batches:
            batches, self._batches = self._batches, {}
            for peer, batch in batches.items():
                self.network.send(self, peer, batch)

    def carry_out(self, action: Action) -> None:
        if type(action) is AnnounceObjects:
            for object_id in action.object_ids:
                for wake in self.waiters.pop(object_id, ()):
                    wake(self)
        elif type(action) is FinishCall:
            self._finish(action.peer, action.answer)
        elif type(action) is ConnectProcess:
            address = action.address or f"process/{action.process_id.hex()}"
            self.network.dial(self, address, action.process_id)
        elif type(action) is ConfirmHold:
            for one_less in self.hold_waiters.pop((action.object_id, action.holder), ()):
                one_less()
        elif type(action) is ShowOutput:
            self.world.output_shown(self, action.record, action.kind, action.payload)
        else:
            super().carry_out(action)

    def _finish(self, peer: Peer, answer: Any) -> None:
        if peer in self._direct:
            self.pushed(peer, answer)
            return
        number = getattr(answer, "request", 0)
        if number in self.requests:
            _peer, wake = self.requests.pop(number)
            wake(answer)
        else:
            self.told(peer, answer)

    def pushed(self, peer: Peer, message: Any) -> None:
        """A worker's: a caller has pushed something."""

    def told(self, peer: Peer, message: Any) -> None:
        """News from a daemon that answers nothing of ours."""

    def process_of(self, peer: Peer) -> bytes:
        """Return who is at the other end of a direct channel; empty if it is gone."""
        return self._direct.get(peer, b"")

    def ended(self, crashed: bool) -> None:
        self.store.close()
        self.world.process_ended(self, crashed)

    # ------------------------------------------------------------------------------- what programs can do: refs

    def release(self, object_id: bytes) -> None:
        """An `ObjectRef` is gone: called by its `__del__`, as the real session's."""
        if self.alive:
            self._released.append(object_id)
            self.simulation.touch(self)

    def borrow(self, object_ids: Sequence[bytes]) -> list[ObjectRef[Any]]:
        """Return refs that have come from another process, or have come back."""
        found = []
        for object_id in object_ids:
            self.core.objects.refer(object_id)
            self.borrowed(object_id)
            found.append(ObjectRef(ObjectId(object_id), self))  # type: ignore[arg-type]
        return found

    def borrowed(self, object_id: bytes) -> None:
        """A worker's: a ref has come in."""

    def run(self, name: str, code: Code, done: Callable[[Any], None] | None = None, delay_s: float = 0.0) -> Program:
        """Begin a program."""
        program = Program(self, name, code, done)
        self.programs[program] = None
        program.start(delay_s)
        return program

    def shape(self, plan: Plan) -> SchedulingClass:
        """Return the scheduling class of a plan."""
        resources = {name: units for name, units in (("CPU", plan.cpus), ("GPU", plan.gpus)) if units}
        return SchedulingClass(
            resources,
            self.environment,
            label="simulated",
            group=plan.group,
            bundle=plan.bundle,
            preemptible=plan.preemptible,
        )

    def submit(
        self, plan: Plan, arguments: Sequence[ObjectRef[Any]] = (), inside: Sequence[ObjectRef[Any]] = ()
    ) -> list[ObjectRef[Any]]:
        """Submit a task: `arguments` are refs at the top level, `inside` are refs in a container."""
        if FUNCTION not in self.core.links._functions:
            self.deliver(FunctionDefined(FUNCTION, "simulated", b"code"))
        record = self._record(plan, arguments, inside, function=FUNCTION)
        record.class_key = self.core.tasks.class_key(self.shape(plan))
        self.deliver(TaskSubmitted(record))
        return self._returned(record)

    def hold_actor(self, actor_id: bytes) -> ObjectRef[Any]:
        """Return the token of an actor that this process makes."""
        token = token_of(actor_id)
        self.core.objects.add_token(token)
        return ObjectRef(token, self)  # type: ignore[arg-type]

    def make_actor(self, spec: ActorSpec, program: bytes, arguments: Sequence[ObjectRef[Any]] = ()) -> ObjectRef[Any]:
        """Make an actor without a name, and return its handle."""
        token = self.hold_actor(spec.actor_id)
        record = TaskRecord(
            self.ids.task_id(),
            "simulated.__init__",
            program,
            actor_id=spec.actor_id,
            dependencies=[ref.binary() for ref in arguments] or None,
            returns=0,
            keepalive=[*arguments],
        )
        request = CreateActor(self.core.outbox.next_request(), self.job, spec)
        self.deliver(CreationRequested(record, request, b"code"))
        return token

    def call(
        self,
        actor_id: bytes,
        plan: Plan,
        arguments: Sequence[ObjectRef[Any]] = (),
        inside: Sequence[ObjectRef[Any]] = (),
        handle: ObjectRef[Any] | None = None,
    ) -> list[ObjectRef[Any]]:
        """Call an actor, through a handle, or without one."""
        record = self._record(plan, arguments, inside, actor_id=actor_id)
        record.keepalive = (*record.keepalive, handle)
        self.world.call_made(self, record)
        self.deliver(MethodCalled(record))
        return self._returned(record)

    def _record(
        self,
        plan: Plan,
        arguments: Sequence[ObjectRef[Any]],
        inside: Sequence[ObjectRef[Any]],
        *,
        streaming: bool = False,
        **more: Any,
    ) -> TaskRecord:
        plan.refs = [ref.binary() for ref in inside]
        keepalive = ([*arguments], [*inside]) if arguments or inside else ([], [])
        record = TaskRecord(
            self.ids.task_id(),
            "simulated",
            encode(plan),
            dependencies=[ref.binary() for ref in arguments] or None,
            returns=STREAMING if streaming else len(plan.sizes),
            inside=list(plan.refs),
            retries_left=plan.retries,
            retry_exceptions=plan.retry_exceptions,
            keepalive=keepalive,
            parent=self.current_task,
            **more,
        )
        self.world.submitted(self, record, plan)
        self.records[record.task_id] = record
        return record

    def stream(
        self, plan: Plan, limit: int, arguments: Sequence[ObjectRef[Any]] = (), inside: Sequence[ObjectRef[Any]] = ()
    ) -> SimulatedGenerator:
        """Submit a generator, whose values are of the plan's sizes."""
        if FUNCTION not in self.core.links._functions:
            self.deliver(FunctionDefined(FUNCTION, "simulated", b"code"))
        record = self._record(plan, arguments, inside, function=FUNCTION, streaming=True, stream_limit=limit)
        record.class_key = self.core.tasks.class_key(self.shape(plan))
        self.deliver(TaskSubmitted(record))
        return SimulatedGenerator(self, record)

    def _returned(self, record: TaskRecord) -> list[ObjectRef[Any]]:
        return [ObjectRef(return_id(record.task_id, index), self) for index in range(record.returns)]  # type: ignore[arg-type]

    def put(self, size: int, inside: Sequence[ObjectRef[Any]] = ()) -> Generator[Command, Any, ObjectRef[Any] | None]:
        """Put a value; None if there was no room."""
        object_id = self.ids.object_id()
        value = Value(object_id, [ref.binary() for ref in inside], size)
        if size <= INLINE_BYTES:
            location = ObjectLocation(object_id, inline=encode(value))
        else:
            error = yield from self.store.write(value, keep=True)
            if error:
                return None
            location = ObjectLocation(object_id, self.node_id, size)
        self.deliver(ObjectPut(object_id, location, value.refs))
        return ObjectRef(object_id, self)  # type: ignore[arg-type]

    def refer_to(self, location: ObjectLocation) -> ObjectRef[Any]:
        """Return a ref to an object that belongs to the cluster."""
        if self.core.objects.refer(location.object_id).state == PENDING:
            self.core.objects.resolve(location.object_id, location, [])
        return ObjectRef(ObjectId(location.object_id), self)  # type: ignore[arg-type]

    def cancel(self, ref: ObjectRef[Any], force: bool) -> None:
        """Cancel the task that computes an object."""
        self.world.cancelled(ref.task_id())
        self.deliver(CancelRequested(ref.binary(), force))

    # ------------------------------------------------------------------------------------------- ... and values

    def get(
        self, refs: Sequence[ObjectRef[Any]], timeout_s: float | None = None
    ) -> Generator[Command, Any, list[Outcome] | None]:
        """Return the outcomes of objects; None when the time was over before."""
        object_ids = [ref.binary() for ref in refs]
        with self.blocking():
            done = yield Objects(object_ids, len(object_ids), timeout_s)
        if not done:
            return None
        outcomes: list[Outcome] = []
        for object_id in object_ids:
            outcome = yield from self.load(object_id)
            outcomes.append(outcome)
            del outcome  # its refs are the list's alone
        return outcomes

    def blocking(self) -> Any:
        """A context in which this process waits for others."""
        return _NOTHING

    def load(self, object_id: bytes) -> Generator[Command, Any, Outcome]:
        """Return what an object that is ready turned out to be."""
        entry = self.core.objects.entries[object_id]
        view = None
        while entry.state == PENDING:  # another program has found that it is lost
            with self.blocking():
                yield Objects([object_id], 1, None)
        if entry.state == INLINE:
            assert isinstance(entry.value, bytes)
            value = read_value(entry.value)
        elif entry.state == STORED:
            error, found, view = yield from self.store.read(object_id, entry.value.node_id)  # type: ignore[union-attr]
            for _attempt in range(LOSSES):
                if error != "ObjectLostError":
                    break
                self.deliver(ObjectMissing(object_id))
                with self.blocking():
                    yield Objects([object_id], 1, None)
                if entry.state != STORED:
                    return (yield from self.load(object_id))
                error, found, view = yield from self.store.read(object_id, entry.value.node_id)  # type: ignore[union-attr]
            if found is None:
                return Outcome(error)
            value = found
        else:
            assert isinstance(entry.value, bytes)
            return Outcome(type(deserialize(entry.value)).__name__)
        self.world.value_seen(self, object_id, value)
        return Outcome("", value.tag, self.borrow(value.refs), view)


class SimulatedGenerator:
    """SIMULATED: an `ObjectRefGenerator`, without its waiting.

    Args:
        process: Who reads it.
        record: Its task.
    """

    def __init__(self, process: ClientProcess, record: TaskRecord) -> None:
        assert record.stream is not None
        self._process = process
        self.stream = record.stream
        self.whole = ObjectRef(record.result_id, process)  # type: ignore[arg-type, var-annotated]

    def __del__(self) -> None:
        self._process.release(self.stream.handle)

    def take(self, timeout_s: float | None = None) -> Generator[Command, Any, ObjectRef[Any] | None]:
        """Return a ref to the next value; None at the end, or when the time was over."""
        process = self._process
        object_id = return_id(self.stream.record.task_id, self.stream.taken + 1)
        with process.blocking():
            done = yield Objects([object_id], 1, timeout_s)
        entry = process.core.objects.entries[object_id]
        if not done or (entry.state == FAILED and entry.value == END):
            return None
        process.deliver(ValueTaken(self.stream))
        return ObjectRef(object_id, process)  # type: ignore[arg-type]


class _Nothing:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *problem: object) -> None:
        pass


_NOTHING = _Nothing()
__all__ = ["ClientProcess", "Interrupted", "Uplink", "WithSegment"]
