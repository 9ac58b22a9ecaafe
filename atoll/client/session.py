"""A process's session with its cluster: the shell around the client's core.

It carries out what the core decides, and wakes the threads that wait. Everything that touches the core happens under
one lock, which is never held while anything waits. Sockets are read by whoever waits (see `reactor`).

    thread ── submit / wait_for / put ──▶ Session ── events ──▶ ClientCore
                                            │ ◀──── actions ──────┘
                                            ├─▶ Switchboard: channels to workers and owners
                                            ├─▶ Uplinks: scheduler and node agent
                                            └─▶ StoreClient: shared memory

A kernel or script has one session; a worker has one too, with the same code, and sets the hooks by which it takes what
is pushed to it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from atoll.client.channel import Channel
from atoll.client.connection import failure
from atoll.client.core.client import ClientCore
from atoll.client.core.events import (
    AgentLinked,
    AnnounceObjects,
    ConfirmHold,
    ConnectFailed,
    ConnectProcess,
    DemandsRefused,
    FinishCall,
    HoldRequested,
    MethodCalled,
    ObjectPut,
    ObjectsWanted,
    RefsReleased,
    SchedulerLinked,
    SendFailed,
    ShowOutput,
    TaskSubmitted,
)
from atoll.client.core.records import FAILED, PENDING
from atoll.client.hooks import Hooks
from atoll.client.interrupts import Interrupts
from atoll.client.loaders import Loaders
from atoll.client.outputs import Outputs
from atoll.client.reactor import Reactor, Waiter
from atoll.client.requests import Requests
from atoll.client.store import StoreClient
from atoll.client.switchboard import Switchboard
from atoll.client.task_output import TaskForwarder, TaskPrinter
from atoll.client.uplinks import AGENT, SCHEDULER, Introduction, Uplink, Uplinks
from atoll.exceptions import (
    AtollError,
    ClusterLostError,
    ObjectStoreFullError,
    ProtocolError,
    VersionMismatchError,
)
from atoll.ids import IdFactory, ObjectId, ProcessId, token_of
from atoll.object_ref import ObjectRef
from atoll.placement import Scope
from atoll.protocol.channel_messages import INLINE_BYTES
from atoll.protocol.cluster_file import ClusterFile
from atoll.protocol.environment_messages import AddEnvironment
from atoll.protocol.handshake import Identity
from atoll.protocol.machine import (
    Action,
    DeadlineReached,
    Event,
    Instant,
    Peer,
    PeerConnected,
    PeerLost,
    Received,
    Send,
)
from atoll.protocol.messages import (
    DeleteObjects,
    Failed,
    GetState,
    JobRegistered,
    Message,
    ObjectCreated,
    ObjectFound,
    ProcessAttached,
    SegmentNotTaken,
    State,
)
from atoll.protocol.refusals import refusal
from atoll.protocol.serialization import Serialized, pack_inline
from atoll.protocol.state import ClusterState, decode_state
from atoll.protocol.values import Environment, ObjectLocation

SUBMISSIONS_A_TURN = 64
"""So many submissions after one another, and the submitting thread reads what has come."""

LOOKS_EVERY = 4
"""In a burst, after so many submissions it is looked whether what waits is due."""

BURST_S = 0.0001
"""Submissions that follow each other so closely are a burst."""

TIMER_S = 0.25
"""How long after `set_timer` the timer fires."""


class Session:
    """A process's connection to its cluster.

    Args:
        cluster: Where it is, and its key.
        process_id: Of this process.
        introduction: What it says of itself.

    Attributes:
        core: The decisions. Touch it only under `lock`.
        ids: Makes ids.
        hooks: What a worker adds.
        outputs: What tasks have emitted and nobody has shown yet.
        environment: Digest of the environment of this session's workers.
        environments: Others that its tasks and actors name, by digest.
        node_id: The node that this process is on.
        job: The job that this process acts for: its own, or its lease's.
        scope: Where what is submitted here goes if nothing is said; another object whenever that changes.
        namespace: Where the names of that job's actors live.
        default_output: Takes what tasks write that said nothing else about it.
        leave: How `with` ends: more than `close` where the API has begun the session.
        ends_cluster: The cluster was started for this process alone, and ends with it.
        daemon_away: Called, with the lock held, every few seconds while a daemon is away.
    """

    def __init__(self, cluster: ClusterFile, process_id: ProcessId, introduction: Introduction) -> None:
        self.cluster = cluster
        self.process_id = process_id
        self.introduction = introduction
        self.ids = IdFactory(process_id)
        self.core = ClientCore(process_id)
        self.lock = threading.Lock()
        self.hooks = Hooks()
        self.outputs = Outputs()
        self.store = StoreClient(self)
        self.environment = ""
        self.environments: dict[str, Environment] = {}
        self.node_id = b""
        self.job = process_id
        self.scope = Scope()
        self.namespace = introduction.namespace
        self.default_output: TaskPrinter | TaskForwarder | None = None
        self.leave: Callable[[], None] = self.close
        self.ends_cluster = False
        self.daemon_away: Callable[[], None] = lambda: None
        self.closed = False
        self.reactor = Reactor(self._next_deadline, self._deadline_reached, self._pause, self._tick)
        self.interrupts = Interrupts(self.reactor.wake)
        identity = Identity("worker" if introduction.kind == "worker" else "client", process_id)
        self._switchboard = Switchboard(self.lock, self.reactor, cluster.key_bytes(), identity, self.address)
        self._switchboard.on_proved = self._proved
        self._switchboard.on_message = self._message_came
        self._switchboard.on_lost = self._channel_lost
        self._switchboard.on_unsendable = self._cannot_send
        paths = {SCHEDULER: cluster.scheduler_socket, AGENT: cluster.agent_socket}
        self._uplinks = Uplinks(self._switchboard, introduction, process_id, paths, self.core.outbox.next_request)
        self._uplinks.on_linked = self._linked
        self._uplinks.on_lost = self._uplink_lost
        self._uplinks.on_refused = self._refused
        self._uplinks.on_away = self._uplink_away
        self._requests = Requests(self.lock, self._switchboard, self._uplinks, self.reactor, self.interrupts)
        self._starting: Waiter | None = None
        self._start_error: AtollError | None = None
        self._wakers: dict[bytes, list[Callable[[], None]]] = {}
        self._channels = self._switchboard.channels
        self._unsent = self._switchboard.unsent
        self._hold_waiters: dict[tuple[bytes, bytes], list[Waiter]] = {}
        self._released: deque[bytes] = deque()
        self._follow_ups: deque[Event] = deque()
        self._submissions = 0
        self._submitted_at = 0.0
        self._timer_at: float | None = None
        self._loaders: Loaders | None = None

    # ------------------------------------------------------------------------------------------- beginning

    def address_of(self, process_id: bytes) -> str:
        """Return the path of the socket at which a process of this node listens."""
        return str(Path(self.cluster.directory) / "workers" / f"{process_id.hex()}.sock")

    @property
    def address(self) -> str:
        """The path of the socket at which this process listens."""
        return self.address_of(self.process_id)

    def __repr__(self) -> str:
        state = "closed" if self.closed else "connected"
        return f"<Session with cluster {self.cluster.cluster_id[:8]}, {state}>"

    def start(self, timeout_s: float = 10.0) -> None:
        """Connect to scheduler and agent, and wait until both know this process.

        Raises:
            ClusterLostError: One of them does not answer in time.
            AuthenticationError: The key is not this cluster's.
            VersionMismatchError: The cluster runs another version.
        """
        waiter = self._starting = Waiter(len(self._uplinks.by_role))
        with self.lock:
            self._switchboard.listen()
            for uplink in self._uplinks.by_role.values():
                self._uplinks.connect(uplink)
        self.reactor.start()
        done = self.reactor.wait(waiter, time.monotonic() + timeout_s, lambda: self._start_error is not None)
        self._starting = None
        if done:
            return
        self.close()
        if self._start_error is not None:
            raise self._start_error
        where = self.cluster.directory
        raise ClusterLostError(f"the cluster at {where} did not answer within {timeout_s:g} s; run `atoll doctor`")

    def _linked(self, uplink: Uplink, answer: Any) -> None:
        assert uplink.channel is not None
        if isinstance(answer, JobRegistered):
            self.environment = answer.environment
        elif isinstance(answer, ProcessAttached):
            self.node_id = self.core.objects.home = answer.node_id
        if uplink.role == SCHEDULER:
            for message in self.hooks.say_again():
                self._switchboard.send_control(uplink.channel, message)
        kind = SchedulerLinked if uplink.role == SCHEDULER else AgentLinked
        for environment in self.environments.values() if uplink.role == SCHEDULER else ():
            again = AddEnvironment(self.core.outbox.next_request(), environment)
            self._switchboard.send_control(uplink.channel, again)  # before the demands that name it
        self._handle(kind(uplink.channel.peer))
        if self._starting is not None:
            self._starting.remaining -= 1
            self._starting.wake()

    def _refused(self, uplink: Uplink, error: AtollError) -> None:
        if self._starting is not None:
            self._start_error = error
        elif uplink.role == SCHEDULER and uplink.refusal is not None:
            self._handle(DemandsRefused(type(error).__name__, str(error)))
        self.reactor.wake()

    def _uplink_away(self) -> None:
        self.daemon_away()

    def _uplink_lost(self, uplink: Uplink, peer: Peer) -> None:
        if uplink.role == AGENT:
            self.store.agent_lost()
            self.hooks.agent_lost()
        self._handle(PeerLost(peer))

    # ------------------------------------------------------------------------- the switchboard's (lock is held)

    def _proved(self, channel: Channel) -> None:
        uplink = self._uplinks.of(channel)
        if uplink is not None:
            self._uplinks.proved(uplink)
        else:
            self._handle(PeerConnected(channel.peer, "", channel.process_id))

    def _message_came(self, channel: Channel, message: Any) -> None:
        if channel.control:
            uplink = self._uplinks.of(channel)
            if uplink is None or self._uplinks.take(uplink, message):
                return
            if isinstance(message, ObjectCreated | ObjectFound) and message.has_descriptor:
                try:
                    self.store.take_segment(message, channel.take_descriptor)
                except ObjectStoreFullError as error:
                    self._requests.tell_locked(AGENT, SegmentNotTaken(message.segment_id))
                    message = Failed(message.request, type(error).__name__, str(error))
            elif self.store.take_news(message):
                self._release_views()
                return
        elif self.hooks.pushed is not None:
            message = self.hooks.pushed(channel.peer, message)
            if not message:
                return
        self._handle(Received(channel.peer, message))

    def _channel_lost(self, channel: Channel, error: AtollError | None) -> None:
        uplink = self._uplinks.of(channel)
        if uplink is not None:
            self._uplinks.lost(uplink, error)
        elif channel.proved:
            self.hooks.caller_lost(channel.peer)
            self._handle(PeerLost(channel.peer))
        elif channel.process_id:
            cause = f"{type(error).__name__}: {error}" if isinstance(error, VersionMismatchError) else str(error or "")
            self._handle(ConnectFailed(channel.process_id, cause))

    # ------------------------------------------------------------------------------------ actions (lock is held)

    def _handle(self, event: Event) -> None:
        """Give the core an event and carry out what follows."""
        self._perform(self.core.handle(event, Instant(time.monotonic())))
        while self._follow_ups:
            self._perform(self.core.handle(self._follow_ups.popleft(), Instant(time.monotonic())))

    def _perform(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if type(action) is Send:
                channel = self._channels.get(action.peer)
                if channel is None:
                    continue
                if channel.control:
                    self._send_control(channel, action.message)
                else:
                    channel.batch.append(action.message)
                    self._unsent[channel] = None
            elif type(action) is AnnounceObjects:
                wakers = self._wakers
                for object_id in action.object_ids:
                    for wake in wakers.pop(object_id, ()):
                        wake()
            else:
                self._perform_rare(action)

    def _perform_rare(self, action: Action) -> None:
        if isinstance(action, FinishCall):
            if not self._uplinks.answer(getattr(action.answer, "request", 0), action.answer):
                self.hooks.control(action.peer, action.answer)
        elif isinstance(action, ShowOutput):
            callback = action.record.on_output
            if callback is not None and callback is self.default_output:
                callback = self.default_output.of(action.source)
            if callback is not None:
                self.outputs.add(callback, action.kind, action.payload)
        elif isinstance(action, ConnectProcess):
            try:
                path = action.address or self.address_of(action.process_id)
                self._switchboard.dial(path, process_id=action.process_id)
            except OSError as error:
                self._follow_ups.append(ConnectFailed(action.process_id, f"{path}: {error.strerror}"))
        elif isinstance(action, ConfirmHold):
            for waiter in self._hold_waiters.pop((action.object_id, action.holder), ()):
                waiter.remaining -= 1
                waiter.wake()
        else:
            raise AssertionError(f"{action!r} is no action of a client's core")

    def _send_control(self, channel: Channel, message: Any) -> None:
        if isinstance(message, DeleteObjects):
            self.store.forget(message.object_ids)
            self._release_views()
        try:
            self._switchboard.send_control(channel, message)
        except ProtocolError as error:
            self._follow_ups.append(Received(channel.peer, refusal(message, str(error))))

    def _cannot_send(self, channel: Channel, message: Any, error: ProtocolError) -> None:
        self._handle(SendFailed(channel.peer, message, str(error)))

    # ------------------------------------------------------------------------------------- between two polls

    def _pause(self) -> None:
        """Release what the garbage collector found, send what waits, show what tasks wrote."""
        if self._released or self._unsent or self.store.has_released:
            with self.lock:
                self._drain_released()
                self._release_views()
                self._switchboard.flush()
        if self.outputs:
            self.outputs.show()

    def _tick(self) -> None:
        """Send answers that wait for longer than they should; at the pause that follows they go."""
        if self.hooks.has_late_answers():
            with self.lock:
                self.hooks.send_late_answers()

    def _drain_released(self) -> None:
        released = self._released
        if released:
            object_ids = []
            while released:
                object_ids.append(released.popleft())
            self._handle(RefsReleased(object_ids))

    def _release_views(self) -> None:
        channel = self._uplinks.by_role[AGENT].channel
        for message in self.store.collect():
            if channel is not None and channel.proved:
                self._switchboard.send_control(channel, message)

    def release(self, object_id: bytes) -> None:
        """Note that an `ObjectRef` is gone. Called by the garbage collector, at any moment, in any thread."""
        self._released.append(object_id)
        if self.reactor.asleep and len(self._released) == 1:
            self.reactor.wake()

    def set_timer(self, *, from_elsewhere: bool = False) -> None:
        """Have the timer hook called `TIMER_S` from now, unless it is to be called already.

        With `from_elsewhere`, another thread may be asleep in a poll that does not know of it.
        """
        if self._timer_at is None:
            self._timer_at = time.monotonic() + TIMER_S
            if from_elsewhere:
                self.reactor.wake()

    def _next_deadline(self) -> Instant | None:
        deadline: float | None = self.core.next_deadline()
        timer, redial, proof = self._timer_at, self._uplinks.deadline, self._switchboard.deadline
        if timer is not None and (deadline is None or timer < deadline):
            deadline = timer
        if redial is not None and (deadline is None or redial < deadline):
            deadline = redial
        if proof is not None and (deadline is None or proof < deadline):
            deadline = proof
        return None if deadline is None else Instant(deadline)

    def _deadline_reached(self) -> None:
        if self._timer_at is not None and self._timer_at <= time.monotonic():
            self._timer_at = None
            self.hooks.timer()
            self._pause()  # what it let go is told now: nothing else may happen for long
        with self.lock:
            now = time.monotonic()
            self._uplinks.retry(now)
            self._switchboard.cut_off(now)
            deadline = self.core.next_deadline()
            if deadline is not None and deadline <= now:
                self._handle(DeadlineReached())
            self._switchboard.flush()

    # -------------------------------------------------------------------------------- submitting and waiting

    def submit(self, event: TaskSubmitted | MethodCalled) -> None:
        """Give the core a submission. It is sent at once, unless it is one of a burst of short ones.

        In a burst what waits is sent soon, by the submissions that follow, by who waits for a result, or at the
        background thread's next tick.
        """
        with self.lock:
            self._handle(event)
            now = time.monotonic()
            unsent = self._unsent
            if unsent:
                burst = now - self._submitted_at < BURST_S
                if burst and not self.reactor.asleep and not self.core.is_urgent(event.record):
                    if not self._submissions % LOOKS_EVERY:
                        self._switchboard.flush_if_due(now)
                else:
                    self._switchboard.flush()
            self._submitted_at = now
            self._submissions += 1
            if self._released:  # after the task has gone: the worker begins meanwhile
                self._drain_released()
                if unsent and self.reactor.asleep:
                    self._switchboard.flush()
        self.reactor.touch()
        if not self._submissions % SUBMISSIONS_A_TURN:
            self.reactor.turn()

    def handle(self, event: Event) -> None:
        """Give the core an event and send what follows."""
        with self.lock:
            self._handle(event)
            self._switchboard.flush()

    def wait_for(self, object_ids: Sequence[bytes], count: int, timeout_s: float | None) -> bool:
        """Wait until `count` of the objects are ready, or have failed.

        Returns:
            False when the time was over before.

        Raises:
            KeyboardInterrupt: The user pressed interrupt; nothing is lost.
            ClusterLostError: The session was closed meanwhile.
        """
        waiter = Waiter(count)
        one_less = waiter.count_down
        with self.lock:
            entries, wakers = self.core.objects.entries, self._wakers
            missing = []
            for object_id in object_ids:
                if entries[object_id].state == PENDING:
                    missing.append(object_id)
                    wakers.setdefault(object_id, []).append(one_less)
            waiter.remaining -= len(object_ids) - len(missing)
            if missing:
                self._handle(ObjectsWanted(missing))
            self._switchboard.flush()
        if waiter.remaining <= 0:
            self._forget_waker(missing, one_less)
            return True
        until = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            with self.interrupts as interrupted:
                done = self.reactor.wait(waiter, until, interrupted)
        finally:
            self._forget_waker(missing, one_less)
            self.outputs.show()
        if self.closed:
            raise ClusterLostError(self._uplinks.ended)
        return done

    def _forget_waker(self, object_ids: Sequence[bytes], waker: Callable[[], None]) -> None:
        if self._wakers:  # usually all have been called, and are gone
            with self.lock:
                for object_id in object_ids:
                    waiting = self._wakers.get(object_id)
                    if waiting is not None:
                        with contextlib.suppress(ValueError):
                            waiting.remove(waker)
                        if not waiting:
                            del self._wakers[object_id]

    def when_ready(self, object_id: bytes, callback: Callable[[], None]) -> None:
        """Call back, once, from whichever thread reads, when the object is ready or has failed.

        The callback must not block and must not call back into the session; it may hand over to another thread.
        """
        with self.lock:
            if self.core.objects.entries[object_id].state == PENDING:
                self._wakers.setdefault(object_id, []).append(callback)
                self._handle(ObjectsWanted([object_id]))
                self._switchboard.flush()
                self.reactor.hurry()
                return
        callback()

    def ready(self, object_id: bytes) -> bool:
        """Whether the object has a value or has failed."""
        return self.core.objects.entries[object_id].state != PENDING

    def resolved(self, object_id: bytes) -> tuple[int, Any]:
        """Return state and value of an object that is ready (`records.INLINE`, `STORED` or `FAILED`)."""
        entry = self.core.objects.entries[object_id]
        assert entry.state != PENDING
        return entry.state, entry.value

    def loaders(self) -> Loaders:
        """Return the threads that load values for futures."""
        if self._loaders is None:
            self._loaders = Loaders()
        return self._loaders

    # ------------------------------------------------------------------------------------------------ objects

    def put_serialized(self, value: Any, serialized: Serialized, *, hand_over: bool = False) -> ObjectRef[Any]:
        """Put a value that is serialized already: a small one stays here, a large one goes to the store.

        One that lies in the store already, in memory of `atoll.empty`, is sealed there if the caller hands it over.

        Raises:
            ObjectStoreFullError: There is no room for it.
        """
        contained = [ref.binary() for ref in serialized.contained] if serialized.contained else []
        if serialized.total_bytes <= INLINE_BYTES:
            object_id = self.ids.object_id()
            data = pack_inline(serialized, value) if serialized.buffers else serialized.data
            ref: ObjectRef[Any] = ObjectRef(object_id, self)  # first, so that an interrupt lets go of what is put
            with self.lock:
                self.core.objects.put(object_id, data, contained)
            return ref
        handed_over = self.store.hand_over(value, serialized) if hand_over else None
        object_id = self.ids.object_id() if handed_over is None else handed_over[0].object_id
        try:
            size = self.store.write(object_id, serialized, keep=True) if handed_over is None else handed_over[1]
            ref = ObjectRef(object_id, self)
            with self.interrupts, self.lock:
                self._handle(ObjectPut(object_id, ObjectLocation(object_id, self.node_id, size), contained))
                if handed_over is not None:
                    handed_over[0].owned = True
            return ref
        except BaseException:  # an interrupt, say: whoever keeps the traceback shall not keep the bytes
            self.store.give_up(object_id)
            raise

    def borrow(self, object_id: bytes) -> None:
        """Count a ref that has come from another process, or has come back."""
        with self.lock:
            self.core.objects.refer(object_id)
        self.hooks.borrowed(object_id)

    def hold_actor(self, actor_id: bytes) -> ObjectRef[Any]:
        """Return the token of an actor that this process makes: it lives as long as refs to the token do."""
        token = token_of(actor_id)
        ref: ObjectRef[Any] = ObjectRef(token, self)  # first, so that an interrupt lets go of it
        with self.lock:
            self.core.objects.add_token(token)
        return ref

    def location(self, object_id: bytes) -> ObjectLocation:
        """Return where an object that is ready is.

        Raises:
            AtollError: It has failed: its error.
        """
        from atoll.client.values import load_error

        with self.lock:
            entry = self.core.objects.entries[object_id]
            if entry.state != FAILED:
                return self.core.objects.location(object_id)
        assert isinstance(entry.value, bytes)
        raise load_error(entry.value)

    def refer_to(self, location: ObjectLocation) -> ObjectRef[Any]:
        """Return a ref to an object whose place is known: one that belongs to the cluster."""
        object_id = ObjectId(location.object_id)
        with self.lock:
            if self.core.objects.refer(object_id).state == PENDING:
                self.core.objects.resolve(object_id, location, [])
        return ObjectRef(object_id, self)

    def hold(self, object_id: bytes, holder: bytes) -> Waiter:
        """A worker's: register a holder at an object's owner; the waiter is done when the owner knows."""
        waiter = Waiter(1)
        with self.lock:
            self._hold_waiters.setdefault((object_id, holder), []).append(waiter)
            self._handle(HoldRequested(object_id, holder))
            self._switchboard.flush()
        return waiter

    def unregistered(self, object_ids: Sequence[bytes]) -> list[bytes]:
        """A worker's: return the borrowed objects to which refs are left here and whose owner does not know it."""
        with self.lock:
            self._drain_released()
            entries = self.core.objects.entries
            owns = self.core.objects.owns
            found = [(object_id, entries.get(object_id)) for object_id in object_ids]
            return [
                object_id
                for object_id, entry in found
                if entry is not None and entry.count and not entry.registrations and not owns(object_id)
            ]

    # ------------------------------------------------------------------------------------ scheduler and agent

    def next_request(self) -> int:
        """Return a number for a control request."""
        with self.lock:
            return self.core.outbox.next_request()

    def ask_scheduler(self, message: Any, timeout_s: float | None = 30.0) -> Message:
        """Send a control request and wait for its answer, which may be a `Failed`.

        Raises:
            ClusterLostError: The scheduler is gone.
            TimeoutError: No answer in time.
            KeyboardInterrupt: The user pressed interrupt.
        """
        return self._requests.ask(SCHEDULER, message, timeout_s)

    def ask_agent(self, message: Any, timeout_s: float | None = 60.0) -> Message:
        """As `ask_scheduler`, to the node agent."""
        return self._requests.ask(AGENT, message, timeout_s)

    def tell_scheduler(self, message: Any) -> None:
        """Send a control message that is not answered, if the scheduler is there."""
        self._requests.tell(SCHEDULER, message)

    def tell_agent(self, message: Any) -> None:
        """Send a control message that is not answered, if the agent is there."""
        self._requests.tell(AGENT, message)

    def tell_scheduler_locked(self, message: Any) -> None:
        """As `tell_scheduler`, for whoever holds the lock."""
        self._requests.tell_locked(SCHEDULER, message)

    def state(self) -> ClusterState:
        """Return the cluster as people see it.

        Raises:
            ClusterLostError: The scheduler is gone.
        """
        answer = self.ask_scheduler(GetState(self.next_request()))
        error = failure(answer)
        if error is not None:
            raise error
        assert isinstance(answer, State)
        return decode_state(answer.state)

    # ------------------------------------------------------------------------------------------ a worker's own

    def reply(self, peer: Peer, messages: Sequence[Any]) -> None:
        """Answer a caller now."""
        with self.lock:
            self.reply_locked(peer, messages)
            self._switchboard.flush()

    def reply_locked(self, peer: Peer, messages: Sequence[Any]) -> None:
        """As `reply`, for whoever holds the lock; sent at the next pause."""
        channel = self._channels.get(peer)
        if channel is not None:
            channel.batch.extend(messages)
            self._unsent[channel] = None

    def process_of(self, peer: Peer) -> bytes:
        """Return the process id at the other end of a channel; empty if it is gone."""
        channel = self._switchboard.channels.get(peer)
        return channel.process_id if channel is not None else b""

    # ------------------------------------------------------------------------------------------------ the end

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the cluster as `atoll.shutdown` does: `with atoll.init(): ...`."""
        if not self.closed:
            self.leave()

    def close(self, why: str = "the session was closed while something waited for its values") -> None:
        """Leave the cluster: close all channels. Anonymous objects and tasks of this process end with it.

        Args:
            why: What is told to those that wait.
        """
        with self.lock:
            if self.closed:
                return
            self._switchboard.flush()
            self._uplinks.fail_all(why)
            self.closed = True
        self.reactor.close()
        with self.lock:
            self._switchboard.close()
            for waiting in self._wakers.values():
                for wake in waiting:
                    wake()
            self._wakers.clear()
        if self._loaders is not None:
            self._loaders.close(wait=threading.current_thread() is threading.main_thread())
        self.store.close()
