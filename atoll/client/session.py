"""A process's session with its cluster: the shell around the client's core.

It carries out what the core decides: opens channels, sends, wakes threads. Everything that touches the core happens
under one lock, which is never held while anything waits. Sockets are read by whoever waits (see `reactor`).

    thread ── submit / get / put ──▶ Session ── events ──▶ ClientCore
                                        │ ◀── actions ──────┘
                                        ├─▶ Channel (scheduler, node agent, workers, owners)
                                        └─▶ StoreClient (shared memory)

A kernel or script has one session, its *driver*; a worker has one too, with the same code, and an `Executor` that takes
what is pushed to it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from atoll.client.channel import FLUSH_AFTER_S, FLUSH_COUNT, Channel
from atoll.client.connection import failure
from atoll.client.core.client import ClientCore
from atoll.client.core.events import (
    AgentLinked,
    AnnounceObject,
    ConfirmHold,
    ConnectFailed,
    ConnectProcess,
    FinishCall,
    ObjectPut,
    ObjectWanted,
    RefsReleased,
    SchedulerLinked,
    ShowOutput,
)
from atoll.client.core.records import FAILED, PENDING, OutputCallback, TaskRecord
from atoll.client.interrupts import Interrupts
from atoll.client.reactor import Reactor, Waiter
from atoll.client.store import StoreClient
from atoll.exceptions import AtollError, ClusterLostError, ObjectStoreFullError, VersionMismatchError
from atoll.ids import IdFactory, ObjectId, ProcessId
from atoll.object_ref import ObjectRef
from atoll.protocol.channel_messages import INLINE_BYTES
from atoll.protocol.cluster_file import ClusterFile
from atoll.protocol.handshake import PROOF_WITHIN_S, ClientHandshake, Identity, ServerHandshake
from atoll.protocol.machine import (
    Action,
    ClosePeer,
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
    AttachProcess,
    DeleteObjects,
    Environment,
    Failed,
    GetState,
    JobRegistered,
    Message,
    ObjectCreated,
    ObjectFound,
    ObjectLocation,
    ProcessAttached,
    RegisterJob,
    ReleaseObjects,
    State,
)
from atoll.protocol.serialization import Serialized, pack_inline
from atoll.protocol.state import ClusterState, decode_state

SUBMISSIONS_A_TURN = 64
"""So many submissions after one another, and the submitting thread reads what has come."""

TIMER_S = 0.25
"""How long after `set_timer` the timer fires."""

RECONNECT_EVERY_S = 0.1
LOST_AFTER_S = 15.0
"""So long a daemon may be away, to be restarted, before what waits for it fails."""


class Introduction:
    """What a session says of itself when it connects.

    Args:
        kind: `kernel`, `script` or `server`; `worker` for a worker, which registers no job.
        name: Notebook or script, for people.
        namespace: Of actors' names.
        environment: For its workers.
    """

    def __init__(self, kind: str, name: str = "", namespace: str = "", environment: Environment | None = None) -> None:
        self.kind = kind
        self.name = name
        self.namespace = namespace
        self.environment = environment


class _Uplink:
    """The connection to a daemon, which is opened again when it is lost."""

    __slots__ = ("channel", "linked", "lost_at", "path", "retry_at", "role")

    def __init__(self, role: str, path: str) -> None:
        self.role = role
        self.path = path
        self.channel: Channel | None = None
        self.linked = False
        self.lost_at: float | None = None
        self.retry_at = 0.0


class _Request:
    """A control request that was not answered yet."""

    __slots__ = ("answer", "peer", "waiter")

    def __init__(self, waiter: Waiter) -> None:
        self.waiter = waiter
        self.peer: Peer | None = None
        self.answer: Message | None = None


ControlHook = Callable[[Peer, Any], None]
"""Takes a control message that answers nothing of ours."""


class Session:
    """A process's connection to its cluster.

    Args:
        cluster: Where it is, and its key.
        process_id: Of this process.
        introduction: What it says of itself.

    Attributes:
        core: The decisions. Touch it only under `lock`.
        ids: Makes ids.
        environment: Digest of the environment of this session's workers.
        node_id: The node that this process is on.
        on_pushed: A worker's: takes what callers push, `(channel's peer, message)`.
        on_control: Takes news from scheduler and agent that answer nothing.
        on_channel_lost: A worker's: told of callers that are gone.
        on_borrowed: A worker's: told of refs that come in.
        on_agent_lost: A worker's: its node is gone.
        on_timer: Called a while after `set_timer`.
        blocking: A context in which this process waits for others; a worker lends its CPU meanwhile.
        default_output: Takes what tasks write that said nothing else about it.
        ends_cluster: The cluster was started for this process alone, and ends with it.
        job: The job that this process acts for: its own, or its lease's.
    """

    def __init__(self, cluster: ClusterFile, process_id: ProcessId, introduction: Introduction) -> None:
        self.cluster = cluster
        self.process_id = process_id
        self.introduction = introduction
        self.ids = IdFactory(process_id)
        self.core = ClientCore(process_id)
        self.lock = threading.Lock()
        self.store = StoreClient(self)
        self.environment = ""
        self.node_id = b""
        self.on_pushed: ControlHook = lambda _peer, _message: None
        self.on_control: ControlHook = lambda _peer, _message: None
        self.on_channel_lost: Callable[[Peer], None] = lambda _peer: None
        self.on_borrowed: Callable[[bytes], None] | None = None
        self.on_agent_lost: Callable[[], None] = lambda: None
        self.on_timer: Callable[[], None] = lambda: None
        self.report_spans: Callable[[list[Any]], None] = lambda _spans: None
        self.blocking: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
        self.default_output: OutputCallback | None = None
        self.ends_cluster = False
        self.job = process_id
        self._timer_at: float | None = None
        self.closed = False
        self._loaders: ThreadPoolExecutor | None = None
        self._outputs: deque[tuple[OutputCallback, str, bytes]] = deque()
        self._output_lock = threading.Lock()
        self._starting: Waiter | None = None
        self._start_error: AtollError | None = None
        self._key = cluster.key_bytes()
        self._identity = Identity("worker" if introduction.kind == "worker" else "client", process_id)
        self._peers = itertools.count(1)
        self._channels: dict[Peer, Channel] = {}
        self._dirty: dict[Channel, None] = {}
        self._waiters: dict[bytes, list[Callable[[], None]]] = {}
        self._hold_waiters: dict[tuple[bytes, bytes], list[Waiter]] = {}
        self._requests: dict[int, _Request] = {}
        self._released: deque[bytes] = deque()
        self._deferred: deque[Callable[[], None]] = deque()
        self._submissions = 0
        self._uplinks = {
            "scheduler": _Uplink("scheduler", cluster.scheduler_socket),
            "agent": _Uplink("agent", cluster.agent_socket),
        }
        self._retry_at: float | None = None
        self.reactor = Reactor(self._next_deadline, self._deadline_reached, self._pause)
        self.interrupts = Interrupts(self.reactor.wake)
        self._listener = self._listen()

    # ------------------------------------------------------------------------------------------- beginning

    def address_of(self, process_id: bytes) -> str:
        """Return the path of the socket at which a process of this node listens."""
        return str(Path(self.cluster.directory) / "workers" / f"{process_id.hex()}.sock")

    @property
    def address(self) -> str:
        """The path of the socket at which this process listens."""
        return self.address_of(self.process_id)

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        # Made 0600 before anybody can connect: the directory is ours alone, and nobody listens yet.
        listener.bind(self.address)
        os.chmod(self.address, 0o600)  # noqa: PTH101
        listener.listen(128)
        return listener

    def start(self, timeout_s: float = 10.0) -> None:
        """Connect to scheduler and agent, and wait until both know this process.

        Raises:
            ClusterLostError: One of them does not answer in time.
            AuthenticationError: The key is not this cluster's.
            VersionMismatchError: The cluster runs another version.
        """
        self.reactor.register(self._listener.fileno(), self._accept)
        waiter = Waiter(2 if self.introduction.kind != "worker" else 1)
        self._starting = waiter
        with self.lock:
            self._connect_uplink(self._uplinks["agent"])
            self._connect_uplink(self._uplinks["scheduler"])
        self.reactor.start()
        done = self.reactor.wait(waiter, time.monotonic() + timeout_s, lambda: self._start_error is not None)
        self._starting = None
        if self._start_error is not None:
            error = self._start_error
            self.close()
            raise error
        if not done:
            self.close()
            raise ClusterLostError(
                f"the cluster at {self.cluster.directory} did not answer within {timeout_s:g} s; run `atoll doctor`"
            )

    def _connect_uplink(self, uplink: _Uplink) -> None:
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            connected.connect(uplink.path)
        except OSError:
            connected.close()
            self._uplink_lost(uplink)
            return
        handshake = ClientHandshake(self._key, self._identity)
        uplink.channel = self._add_channel(connected, handshake, control=True)

    def _uplink_proved(self, uplink: _Uplink, channel: Channel) -> None:
        """Introduce ourselves; the answers make the link."""
        request = self.core.outbox.next_request()
        if uplink.role == "agent":
            channel.send_control(AttachProcess(request, self.process_id, os.getpid()))
        elif self.introduction.kind == "worker":
            self._uplink_linked(uplink)
        else:
            about = self.introduction
            channel.send_control(
                RegisterJob(
                    request, self.process_id, about.kind, about.name, os.getpid(), about.namespace, about.environment
                )
            )

    def _uplink_linked(self, uplink: _Uplink) -> None:
        assert uplink.channel is not None
        uplink.linked = True
        uplink.lost_at = None
        kind = SchedulerLinked if uplink.role == "scheduler" else AgentLinked
        self._handle(kind(uplink.channel.peer))
        counted = uplink.role == "agent" or self.introduction.kind != "worker"
        if self._starting is not None and counted:
            self._starting.remaining -= 1
            self._starting.wake()

    def _uplink_lost(self, uplink: _Uplink) -> None:
        uplink.channel = None
        uplink.linked = False
        now = time.monotonic()
        if uplink.lost_at is None:
            uplink.lost_at = now
        uplink.retry_at = now + RECONNECT_EVERY_S
        self._retry_at = min(self._retry_at or uplink.retry_at, uplink.retry_at)
        if now - uplink.lost_at > LOST_AFTER_S:
            self._give_up(uplink)

    def _give_up(self, uplink: _Uplink) -> None:
        """Fail what waits for a daemon that does not come back."""
        text = f"the {uplink.role} of the cluster is gone; run `atoll status`, and `atoll.init()` to begin anew"
        for number, request in list(self._requests.items()):
            if request.peer is None:
                self._answer(number, Failed(number, "ClusterLostError", text))

    # --------------------------------------------------------------------------------------------- sockets

    def _add_channel(
        self, connected: socket.socket, handshake: ClientHandshake | ServerHandshake, *, control: bool = False
    ) -> Channel:
        channel = Channel(Peer(next(self._peers)), connected, handshake, control=control)
        self._channels[channel.peer] = channel
        self.reactor.register(connected.fileno(), lambda mask: self._ready(channel, mask), writing=channel.wants_write)
        return channel

    def _accept(self, _mask: int) -> None:
        with self.lock:
            while True:
                try:
                    connected, _address = self._listener.accept()
                except (BlockingIOError, OSError):
                    return
                if _peer_uid(connected) != os.getuid() or self._unproved() >= 64:
                    connected.close()
                    continue
                connected.setblocking(False)
                self._add_channel(connected, ServerHandshake(self._key, self._identity))
                self._retry_at = min(self._retry_at or 1e18, time.monotonic() + PROOF_WITHIN_S)

    def _unproved(self) -> int:
        return sum(not channel.proved for channel in self._channels.values())

    def _connect(self, action: ConnectProcess) -> None:
        path = action.address or self.address_of(action.process_id)
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            connected.connect(path)
        except OSError as error:
            connected.close()
            cause = f"{path}: {error.strerror}"
            self._deferred.append(lambda: self._handle(ConnectFailed(action.process_id, cause)))
            return
        channel = self._add_channel(connected, ClientHandshake(self._key, self._identity, shares_values=True))
        channel.process_id = action.process_id

    def _ready(self, channel: Channel, mask: int) -> None:
        """A socket can be read or written."""
        with self.lock:
            if mask & 0x4:
                channel.write_ready()
                if not channel.wants_write:
                    self.reactor.want_write(channel.socket.fileno(), False)
            if mask & ~0x4:
                self._read(channel)

    def _read(self, channel: Channel) -> None:
        was_proved = channel.proved
        error: AtollError | None = None
        bodies: list[bytes] | None = None
        try:
            bodies = channel.read()
        except AtollError as problem:
            error = problem
        if bodies is None:
            self._lose(channel, error)
            return
        if channel.proved and not was_proved:
            self._proved(channel)
        for body in bodies:
            try:
                message = channel.messages(body)
            except msgspec.DecodeError as problem:
                self._lose(channel, AtollError(f"a peer sent what is no message: {problem}"))
                return
            self._take(channel, message)
        if channel.wants_write:
            self.reactor.want_write(channel.socket.fileno(), True)

    def _take(self, channel: Channel, message: Any) -> None:
        if channel.control:
            if isinstance(message, JobRegistered):
                self.environment = message.environment
                self._uplink_linked(self._uplinks["scheduler"])
                return
            if isinstance(message, ProcessAttached):
                self.node_id = message.node_id
                self._uplink_linked(self._uplinks["agent"])
                return
            if isinstance(message, ObjectCreated | ObjectFound) and message.has_descriptor:
                try:
                    self.store.take_segment(message, channel.take_descriptor())
                except ObjectStoreFullError as error:
                    message = Failed(message.request, "ObjectStoreFullError", str(error))
        self._handle(Received(channel.peer, message))

    def _proved(self, channel: Channel) -> None:
        for uplink in self._uplinks.values():
            if uplink.channel is channel:
                self._uplink_proved(uplink, channel)
                return
        self._handle(PeerConnected(channel.peer, "", channel.process_id))

    def _lose(self, channel: Channel, error: AtollError | None) -> None:
        self._drop(channel)
        for uplink in self._uplinks.values():
            if uplink.channel is channel:
                if self._starting is not None and error is not None:
                    self._start_error = error
                    self.reactor.wake()
                if uplink.role == "agent":
                    self.on_agent_lost()
                self._handle(PeerLost(channel.peer))
                self._fail_requests(channel.peer, uplink.role)
                self._uplink_lost(uplink)
                return
        if channel.proved:
            self.on_channel_lost(channel.peer)
            self._handle(PeerLost(channel.peer))
        elif channel.process_id:
            cause = f"{type(error).__name__}: {error}" if isinstance(error, VersionMismatchError) else str(error or "")
            self._handle(ConnectFailed(channel.process_id, cause))

    def _fail_requests(self, peer: Peer, role: str) -> None:
        for number, request in list(self._requests.items()):
            if request.peer == peer:
                text = f"the connection to the {role} was lost while it answered; try again"
                self._answer(number, Failed(number, "ClusterLostError", text))

    def _drop(self, channel: Channel) -> None:
        self._channels.pop(channel.peer, None)
        self._dirty.pop(channel, None)
        self.reactor.unregister(channel.socket.fileno())
        channel.close()

    # --------------------------------------------------------------------------------------------- actions

    def _handle(self, event: Event) -> None:
        """Give the core an event and carry out what follows. The lock is held."""
        self._perform(self.core.handle(event, Instant(time.monotonic())))  # type: ignore[arg-type]

    def _perform(self, actions: Sequence[Action]) -> None:
        channels = self._channels
        for action in actions:
            if type(action) is Send:
                channel = channels.get(action.peer)
                if channel is None:
                    continue
                if channel.control:
                    self._send_control(channel, action.message)
                else:
                    channel.batch.append(action.message)
                    self._dirty[channel] = None
            elif type(action) is AnnounceObject:
                for wake in self._waiters.pop(action.object_id, ()):
                    wake()
            elif type(action) is FinishCall:
                self._finish(action.peer, action.answer)
            elif type(action) is ShowOutput:
                self._show(action.record, action.kind, action.payload)
            elif type(action) is ConnectProcess:
                self._connect(action)
            elif type(action) is ConfirmHold:
                for waiter in self._hold_waiters.pop((action.object_id, action.holder), ()):
                    waiter.remaining -= 1
                    waiter.wake()
            elif type(action) is ClosePeer:
                self._drop(channels[action.peer])
        while self._deferred:
            self._deferred.popleft()()

    def _send_control(self, channel: Channel, message: Any) -> None:
        if isinstance(message, DeleteObjects):
            self.store.forget(message.object_ids)
            self._collect_views(channel)
        channel.send_control(message)
        if channel.wants_write:
            self.reactor.want_write(channel.socket.fileno(), True)

    def _collect_views(self, channel: Channel) -> None:
        gone = self.store.collect()
        if gone:
            channel.send_control(ReleaseObjects(gone))

    def _finish(self, peer: Peer, answer: Any) -> None:
        channel = self._channels.get(peer)
        if channel is not None and not channel.control:
            self.on_pushed(peer, answer)
            return
        number = getattr(answer, "request", 0)
        if number and number in self._requests:
            self._answer(number, answer)
        else:
            self.on_control(peer, answer)

    def _answer(self, number: int, answer: Message) -> None:
        request = self._requests.pop(number)
        request.answer = answer
        request.waiter.remaining = 0
        request.waiter.wake()

    def _show(self, record: TaskRecord, kind: str, payload: bytes) -> None:
        if record.on_output is not None:
            self._outputs.append((record.on_output, kind, payload))

    def _show_outputs(self) -> None:
        """Call the callbacks of what tasks emitted, in order, without the lock."""
        while self._outputs:
            with self._output_lock, contextlib.suppress(IndexError):
                callback, kind, payload = self._outputs.popleft()
                callback(kind, payload)

    # --------------------------------------------------------------------------------------------- flushing

    def _flush(self) -> None:
        """Send all batches. The lock is held."""
        if self._dirty:
            now = time.monotonic()
            for channel in list(self._dirty):
                channel.flush(now)
                if channel.wants_write:
                    self.reactor.want_write(channel.socket.fileno(), True)
            self._dirty.clear()

    def _flush_if_due(self, now: float) -> None:
        for channel in list(self._dirty):
            if len(channel.batch) >= FLUSH_COUNT or now - channel.flushed_at > FLUSH_AFTER_S or self.reactor.asleep:
                channel.flush(now)
                del self._dirty[channel]
                if channel.wants_write:
                    self.reactor.want_write(channel.socket.fileno(), True)

    def _pause(self) -> None:
        """Between two polls: release what the garbage collector found, and send what waits."""
        if self._dirty or self._released or self.store.has_released:
            with self.lock:
                self._drain_released()
                channel = self._uplinks["agent"].channel
                if channel is not None and channel.proved:
                    self._collect_views(channel)
                self._flush()
        if self._outputs:
            self._show_outputs()

    def _drain_released(self) -> None:
        released = self._released
        if released:
            object_ids = []
            while released:
                object_ids.append(released.popleft())
            self._handle(RefsReleased(object_ids))

    def release(self, object_id: bytes) -> None:
        """Note that an `ObjectRef` is gone. Called by the garbage collector, at any moment, in any thread."""
        self._released.append(object_id)
        if self.reactor.asleep and len(self._released) == 1:
            self.reactor.wake()

    # --------------------------------------------------------------------------------------------- deadlines

    def _next_deadline(self) -> Instant | None:
        deadline = self.core.next_deadline()
        for other in (self._retry_at, self._timer_at):
            if other is not None and (deadline is None or other < deadline):
                deadline = Instant(other)
        return deadline

    def set_timer(self) -> None:
        """Have `on_timer` called `TIMER_S` from now, unless it is to be called already."""
        if self._timer_at is None:
            self._timer_at = time.monotonic() + TIMER_S

    def _deadline_reached(self) -> None:
        if self._timer_at is not None and self._timer_at <= time.monotonic():
            self._timer_at = None
            self.on_timer()
        with self.lock:
            now = time.monotonic()
            if self._retry_at is not None and self._retry_at <= now:
                self._retry_at = None
                self._retry(now)
            deadline = self.core.next_deadline()
            if deadline is not None and deadline <= now:
                self._handle(DeadlineReached())
            self._flush()

    def _retry(self, now: float) -> None:
        for uplink in self._uplinks.values():
            if uplink.channel is None and not self.closed:
                if uplink.retry_at <= now:
                    self._connect_uplink(uplink)
                else:
                    self._retry_at = min(self._retry_at or uplink.retry_at, uplink.retry_at)
        for channel in list(self._channels.values()):
            if not channel.proved:
                until = channel.opened_at + PROOF_WITHIN_S
                if until <= now:
                    self._lose(channel, AtollError("it did not prove the key in time"))
                else:
                    self._retry_at = min(self._retry_at or until, until)

    # ------------------------------------------------------------------------------------ for API and worker

    def submit(self, event: Event) -> None:
        """Give the core a submission; it is sent at once, or with those that follow within 0.1 ms."""
        with self.lock:
            if self._released:
                self._drain_released()
            now = time.monotonic()
            self._perform(self.core.handle(event, Instant(now)))  # type: ignore[arg-type]
            if self._dirty:
                self._flush_if_due(now)
            self._submissions += 1
        if not self._submissions % SUBMISSIONS_A_TURN:
            self.reactor.turn()

    def handle(self, event: Event) -> None:
        """Give the core an event and send what follows."""
        with self.lock:
            self._handle(event)
            self._flush()

    def wait_for(self, object_ids: Sequence[bytes], count: int, timeout_s: float | None) -> bool:
        """Wait until `count` of the objects are ready, or have failed.

        Returns:
            False when the time was over before.

        Raises:
            KeyboardInterrupt: The user pressed interrupt; nothing is lost.
        """
        waiter = Waiter(count)

        def one_less() -> None:
            waiter.remaining -= 1
            if waiter.remaining <= 0:
                waiter.wake()

        with self.lock:
            entries = self.core.objects.entries
            for object_id in object_ids:
                if entries[object_id].state != PENDING:
                    waiter.remaining -= 1
                else:
                    self._waiters.setdefault(object_id, []).append(one_less)
                    self._handle(ObjectWanted(object_id))
            self._flush()
        if waiter.remaining <= 0:
            return True
        until = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            with self.interrupts as interrupted:
                return self.reactor.wait(waiter, until, interrupted)
        finally:
            self._forget_waiter(object_ids, one_less)
            self._show_outputs()

    def _forget_waiter(self, object_ids: Sequence[bytes], callback: Callable[[], None]) -> None:
        with self.lock:
            for object_id in object_ids:
                waiting = self._waiters.get(object_id)
                if waiting is not None:
                    with contextlib.suppress(ValueError):
                        waiting.remove(callback)
                    if not waiting:
                        del self._waiters[object_id]

    def put_serialized(self, value: Any, serialized: Serialized) -> ObjectRef[Any]:
        """Put a value that is serialized already: a small one stays here, a large one goes to the store.

        Raises:
            ObjectStoreFullError: There is no room for it.
        """
        object_id = self.ids.object_id()
        if serialized.total_bytes <= INLINE_BYTES:
            location = ObjectLocation(object_id, inline=pack_inline(serialized, value))
        else:
            size = self.store.write(object_id, serialized, keep=True)
            location = ObjectLocation(object_id, self.node_id, size)
        contained = [ref.binary() for ref in serialized.contained]
        with self.lock:
            self._handle(ObjectPut(object_id, location, contained))
        return ObjectRef(object_id, self)

    def borrow(self, object_id: bytes) -> None:
        """Count a ref that has come from another process, or has come back."""
        with self.lock:
            self.core.objects.refer(object_id)
        if self.on_borrowed is not None:
            self.on_borrowed(object_id)

    def refer_to(self, location: ObjectLocation) -> ObjectRef[Any]:
        """Return a ref to an object whose place is known: one that belongs to the cluster."""
        object_id = ObjectId(location.object_id)
        with self.lock:
            if self.core.objects.refer(object_id).state == PENDING:
                self.core.objects.resolve(object_id, location, [])
        return ObjectRef(object_id, self)

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

    def loaders(self) -> ThreadPoolExecutor:
        """Return the thread that loads values for futures."""
        if self._loaders is None:
            self._loaders = ThreadPoolExecutor(max_workers=1, thread_name_prefix="atoll-values")
        return self._loaders

    def when_ready(self, object_id: bytes, callback: Callable[[], None]) -> None:
        """Call back, once, from whichever thread reads, when the object is ready or has failed.

        The callback must not block and must not call back into the session; it may hand over to another thread.
        """
        with self.lock:
            if self.core.objects.entries[object_id].state == PENDING:
                self._waiters.setdefault(object_id, []).append(callback)
                self._handle(ObjectWanted(object_id))
                self._flush()
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

    def failed(self, object_id: bytes) -> bool:
        """Whether the object is an error."""
        return self.core.objects.entries[object_id].state == FAILED

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
        return self._ask("scheduler", message, timeout_s)

    def ask_agent(self, message: Any, timeout_s: float | None = 60.0) -> Message:
        """As `ask_scheduler`, to the node agent."""
        return self._ask("agent", message, timeout_s)

    def _ask(self, role: str, message: Any, timeout_s: float | None) -> Message:
        waiter = Waiter(1)
        request = _Request(waiter)
        until = None if timeout_s is None else time.monotonic() + timeout_s
        self._wait_linked(role, until)
        with self.lock:
            self._requests[message.request] = request
            channel = self._uplinks[role].channel
            if channel is None or not self._uplinks[role].linked:
                del self._requests[message.request]
                raise ClusterLostError(f"the {role} of the cluster is gone; run `atoll status`")
            request.peer = channel.peer
            self._send_control(channel, message)
        with self.interrupts as interrupted:
            self.reactor.wait(waiter, until, interrupted)
        with self.lock:
            self._requests.pop(message.request, None)
        if request.answer is None:
            raise TimeoutError(f"the {role} did not answer {type(message).__name__} within {timeout_s} s")
        return request.answer

    def _wait_linked(self, role: str, until: float | None) -> None:
        """Wait for a daemon that is being restarted."""
        uplink = self._uplinks[role]
        give_up = time.monotonic() + LOST_AFTER_S
        until = give_up if until is None else min(until, give_up)
        while not uplink.linked and not self.closed and time.monotonic() < until:
            self.reactor.wait(Waiter(1), min(until, time.monotonic() + 0.02), lambda: uplink.linked)

    def tell_scheduler(self, message: Any) -> None:
        """Send a control message that is not answered, if the scheduler is there."""
        self._tell("scheduler", message)

    def tell_agent(self, message: Any) -> None:
        """Send a control message that is not answered, if the agent is there."""
        self._tell("agent", message)

    def _tell(self, role: str, message: Any) -> None:
        with self.lock:
            channel = self._uplinks[role].channel
            if channel is not None and self._uplinks[role].linked:
                self._send_control(channel, message)

    def reply(self, peer: Peer, messages: Sequence[Any], *, flush: bool) -> None:
        """A worker's: queue answers to a caller, and send them now if `flush` is set."""
        with self.lock:
            self.reply_locked(peer, messages)
            if flush:
                self._flush()

    def reply_locked(self, peer: Peer, messages: Sequence[Any]) -> None:
        """As `reply`, for whoever holds the lock; sent at the next pause."""
        channel = self._channels.get(peer)
        if channel is not None:
            channel.batch.extend(messages)
            self._dirty[channel] = None

    def hold(self, event: Event, key: tuple[bytes, bytes]) -> Waiter:
        """A worker's: register a holder at an object's owner; the waiter is done when the owner knows."""
        waiter = Waiter(1)
        with self.lock:
            self._hold_waiters.setdefault(key, []).append(waiter)
            self._handle(event)
            self._flush()
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

    def process_of(self, peer: Peer) -> bytes:
        """Return the process id at the other end of a channel; empty if it is gone."""
        channel = self._channels.get(peer)
        return channel.process_id if channel is not None else b""

    # ------------------------------------------------------------------------------------------------ end

    def close(self) -> None:
        """Leave the cluster: close all channels. Anonymous objects and tasks of this process end with it."""
        if self.closed:
            return
        self.closed = True
        with self.lock:
            self._flush()
        self.reactor.close()
        with self.lock:
            for channel in list(self._channels.values()):
                channel.close()
            self._channels.clear()
            for number in list(self._requests):
                self._answer(number, Failed(number, "ClusterLostError", "the session was closed"))
            for waiting in self._waiters.values():
                for wake in waiting:
                    wake()
            self._waiters.clear()
        if self._loaders is not None:
            self._loaders.shutdown(wait=threading.current_thread() is threading.main_thread())
        self._listener.close()
        with contextlib.suppress(OSError):
            os.unlink(self.address)  # noqa: PTH108
        self.store.close()


def _peer_uid(connected: socket.socket) -> int:
    """Return the user id of the process at the other end of a Unix socket."""
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[4:8], "little")


_current: Session | None = None


def set_current_session(session: Session | None) -> None:
    """Make a session the one that this process's refs and calls use."""
    global _current
    _current = session


def current_session() -> Session:
    """Return this process's session, beginning one if there is none.

    Raises:
        ClusterError: There is no cluster, and none could be started.
    """
    if _current is None or _current.closed:
        from atoll import api

        api.init()
    assert _current is not None
    return _current


def existing_session() -> Session | None:
    """Return this process's session, or None."""
    return _current if _current is not None and not _current.closed else None
