"""What a worker does with the tasks and calls that are pushed to it.

The main thread takes them in the order in which they came, runs them, and answers in batches: at once when nothing
else is waiting, else a few times a millisecond. While it runs user code, another thread of the session reads the
sockets, so that tasks can be taken back and cancelled meanwhile.

An actor that asked for concurrency has its calls run by so many threads instead.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

from atoll.actor_methods import is_asyncio
from atoll.client import arguments
from atoll.client.context import TaskContext, current_actor
from atoll.client.reactor import Waiter
from atoll.client.session import Session
from atoll.exceptions import TaskCancelledError
from atoll.nodeagent.absence import Absence
from atoll.nodeagent.answers import Answers
from atoll.nodeagent.failures import cancelled_answer, error_payload, method_of, microseconds, retried_by
from atoll.nodeagent.functions import Functions
from atoll.nodeagent.host_memory import OwnPeak
from atoll.nodeagent.leaving import ActorExit, announce_exit, shut_down
from atoll.nodeagent.results import DependencyMissing, RaisedMidway, ResultWriter
from atoll.nodeagent.spans import SpanRecorder
from atoll.nodeagent.streams import StreamRunner
from atoll.nodeagent.task_queue import OWN, TaskQueue
from atoll.protocol.channel_messages import (
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
    TasksTakenBack,
    WorkerRetires,
)
from atoll.protocol.machine import Peer
from atoll.protocol.messages import ActForJob, Message, ReportSpans, TaskBlocked, TaskUnblocked

if TYPE_CHECKING:
    from atoll.nodeagent.concurrency import Call, Concurrency
    from atoll.protocol.values import ActorSpec, ObjectLocation


class Executor:
    """Runs tasks for callers.

    Args:
        session: The worker's.
        where: This process, as people read it: `pid 42 on dromedary`.
        spans: Records what ran.

    Attributes:
        results: Turns values into answers.
        actor: What lives in this process, if it is an actor's.
        lease_id: The lease that it works for.
        job: The job, likewise.
        gpu_ids: Numbers of its GPUs.
    """

    def __init__(self, session: Session, where: str, spans: SpanRecorder) -> None:
        self._session = session
        self._store = session.store
        self._where = where
        self._spans = spans
        self._peak = OwnPeak()
        self._absence: Absence | None = None
        self.results = ResultWriter(session)
        self.results.stream = self._stream
        self.results.step = self._step
        self._streams = StreamRunner(session, self.results, self._step, self._payload)
        self._waiting = TaskQueue()
        self._queue = self._waiting.items
        self._answers = Answers(session)
        self._functions = Functions(self._used_up)
        self._idle: Waiter | None = None
        self._main_task: tuple[Peer, RunTask | CallMethod] | None = None
        self._main_thread = threading.main_thread()
        self._in_user_code = False
        self._cancelled: dict[tuple[Peer, int], bool] = {}
        """Whether it has been interrupted for that: only once, so that it can clean up."""
        self._blocked = 0
        self._blocked_lock = threading.Lock()
        self._stopping = False
        self._concurrency: Concurrency | None = None
        self.actor: Any = None
        self._actor_id = b""
        self.lease_id = 0
        self.job = b""
        self.gpu_ids: list[int] = []
        signal.signal(signal.SIGINT, self._interrupted)
        session.hooks.pushed = self._pushed
        session.hooks.caller_lost = self._caller_lost
        session.hooks.blocking = self._blocking
        session.hooks.say_again = self._say_again
        session.hooks.timer = self._report
        session.hooks.has_late_answers = lambda: self._answers.are_late
        session.hooks.send_late_answers = self._answers.send_locked

    # -------------------------------------------------------------------------- what comes (the lock is held)

    def _pushed(self, peer: Peer, messages: list[Any]) -> list[Any]:
        others: list[Any] = []
        for message in messages:
            kind = type(message)
            if kind is RunTask or kind is CallMethod:
                self._queue.append((peer, message))
            elif kind is DeclareFunction:
                self._functions.declare(message)
            elif kind is CancelTask:
                self._cancel(peer, message)
                others.append(message)  # the core cancels what the task has submitted
            elif kind is TakeBackTasks:
                self._give_back(peer, message.count)
            elif kind is OpenStream or kind is ReadStream or kind is CloseStream:
                self._streams.take(peer, message)
            else:
                others.append(message)
        if self._queue:
            self._wake()
        return others

    def later(self, work: Callable[[], None]) -> None:
        """Have the main thread do something between two tasks. The lock is held."""
        self._waiting.add_own(work)
        self._wake()

    def give_devices_up(self, lease_id: int) -> None:
        """Have an idle actor give its devices up, and hold its calls until they are back. The lock is held."""
        if self._absence is None:
            self._absence = Absence(self._session, self._step, lambda: bool(self._queue), self._wait_while)
        absence = self._absence
        self.later(lambda: absence.give_up(self.actor, lease_id))

    def devices_are_back(self) -> None:
        """Have the actor go on. The lock is held."""
        if self._absence is not None:
            self._absence.come_back()
            self._wake()

    def stop(self) -> None:
        """End `run` as soon as nothing runs. The lock is held."""
        self._stopping = True
        if self._absence is not None:
            self._absence.end()
        self._wake()

    def _wake(self) -> None:
        idle = self._idle
        if idle is not None:
            idle.remaining = 0
            idle.wake()

    def _refused(self, peer: Peer, messages: list[Any]) -> list[Any]:
        """Takes what comes in the place of `_pushed` once this worker has retired: tasks go back unbegun."""
        refused = [message.sequence for message in messages if type(message) is RunTask]
        if refused:
            # Who has a new lease of this worker has not been told, or it was about the lease before.
            self._session.reply_locked(peer, [WorkerRetires(), TasksTakenBack(refused)])
        left = self._pushed(peer, [message for message in messages if type(message) is not RunTask])
        for sequence in refused:
            self._streams.forget(peer, sequence)
        return left

    def retire_soon(self) -> None:
        """Take no task after the one that runs now: what waits goes back. Calls of an actor go on."""
        task = self._main_task
        if task is not None and type(task[1]) is RunTask:
            self._queue.appendleft((OWN, partial(self._retire, task[0])))

    def _retire(self, peer: Peer) -> None:
        """A function has been called here as often as it may be: what waits goes back, and nothing more is wanted."""
        with self._session.lock:
            self._session.hooks.pushed = self._refused
            self._session.reply_locked(peer, [WorkerRetires()])
            self._answers.send_locked()
            self._return_queued_locked()

    def _cancel(self, peer: Peer, message: CancelTask) -> None:
        sequence = message.sequence
        if self._waiting.remove(peer, sequence):
            self._streams.forget(peer, sequence)
            self._session.reply_locked(peer, [cancelled_answer(sequence)])
            return
        task = self._main_task
        concurrency = self._concurrency
        if concurrency is not None:  # behind the calls that came before it, and without the lock: it may answer
            self.later(lambda: concurrency.cancel(peer, sequence))
        elif task is not None and task[0] == peer and task[1].sequence == sequence:
            if message.force:
                signal.raise_signal(signal.SIGKILL)
            self._interrupt_main(peer, sequence)

    def _interrupt_main(self, peer: Peer, sequence: int) -> None:
        self._cancelled[peer, sequence] = False
        assert self._main_thread.ident is not None
        signal.pthread_kill(self._main_thread.ident, signal.SIGINT)

    def _give_back(self, peer: Peer, count: int) -> None:
        """Give back tasks of a caller that have not begun, the last first. Calls to an actor stay: order counts."""
        given = self._waiting.take_back(peer, count)
        for sequence in given:
            self._streams.forget(peer, sequence)
        self._answers.send_locked()
        self._session.reply_locked(peer, [TasksTakenBack(given)])

    def _caller_lost(self, peer: Peer) -> None:
        """What a lost caller has queued is not begun; what runs for it is interrupted."""
        self._waiting.drop(peer)
        self._streams.caller_lost(peer)
        task = self._main_task
        if task is not None and task[0] == peer and self.actor is None:
            self._interrupt_main(peer, task[1].sequence)

    # --------------------------------------------------------------------------------------- the main thread

    def run(self) -> None:
        """Run what comes until `stop`."""
        queue = self._queue
        while True:
            if not queue:
                self._answers.send()
                if self._stopping:
                    if self.actor is not None:
                        shut_down(self.actor)
                    return
                self._wait_for_work()
                continue
            try:
                item = queue[0]
                # Whoever cancels finds it among those that wait, or here, or in both places; never in neither.
                self._main_task = item if type(item[1]) is RunTask or type(item[1]) is CallMethod else None
                peer, message = item = queue.popleft()
            except IndexError:  # it was taken back at this moment
                self._main_task = None
                continue
            if type(message) is not RunTask and type(message) is not CallMethod:
                message()
            elif self._concurrency is not None and type(message) is CallMethod:
                self._main_task = None
                self._concurrency.begin(self._call_of(peer, message))
            else:
                self._run_one(peer, message)

    def _wait_for_work(self) -> None:
        self._wait_while(lambda: not (self._queue or self._stopping))

    def _wait_while(self, nothing: Callable[[], bool]) -> None:
        """Wait until somebody wakes the main thread, unless there is something already."""
        waiter = Waiter(1)
        with self._session.lock:
            if not nothing():
                return
            self._idle = waiter
        try:
            self._session.reactor.wait(waiter, None)
        finally:
            self._idle = None

    def _run_one(self, peer: Peer, message: RunTask | CallMethod) -> None:
        began = time.monotonic()
        self._main_task = (peer, message)  # another than the one that was looked at, if that was taken back
        code = message.function if type(message) is RunTask else b""
        self._spans.begin(self.job, self._functions.name_of(message), began, message.task_id, code)
        self._session.set_timer()
        answer = self._answer(peer, message, began)
        flush_streams()
        self._main_task = None
        if self._cancelled:
            self._cancelled.pop((peer, message.sequence), None)
        now = time.monotonic()
        self._spans.end(now, failed=type(answer) is TaskRaised)
        self._answers.add(peer, answer, began, now)

    def _call_of(self, peer: Peer, message: CallMethod) -> Call:
        from atoll.nodeagent.concurrency import Call

        return Call(peer, message, self._context_of(message))

    def _context_of(self, message: RunTask | CallMethod) -> TaskContext:
        method = message.method if type(message) is CallMethod else ""
        name = self._functions.name_of(message)
        return TaskContext(name, message.task_id, self.job, self._session.process_id, self.gpu_ids, method)

    # ---------------------------------------------------------------------------------------------- one task

    def _answer(self, peer: Peer, message: RunTask | CallMethod, began: float) -> Any:
        """Run a task and return what is to be answered. Nothing that user code raises gets past here."""
        results = self.results
        try:
            value = self._call(message)
            answer = results.answer(message, value, peer, int((time.monotonic() - began) * 1e6))
            del value
            if results.has_borrowed:
                results.register_borrowed()
        except BaseException as error:
            return self._raised(peer, message, error, began)
        return answer

    def _dependencies(self, locations: list[ObjectLocation]) -> list[Any]:
        values = self.results.load_all(locations)
        self._store.carry([location.object_id for location in locations])
        return values

    def _call(self, message: RunTask | CallMethod) -> Any:
        function = method_of(self.actor, message) if isinstance(message, CallMethod) else self._functions.of(message)
        args: tuple[Any, ...] = ()
        kwargs: dict[str, Any] = {}
        if self._store.carried and not message.dependencies:
            self._store.carry([])
        if message.arguments:
            values = self._dependencies(message.dependencies) if message.dependencies else []
            args, kwargs = arguments.unpack(message.arguments, values)
            del values
        self._in_user_code = True
        try:
            if self._cancelled:
                self._interrupted(signal.SIGINT, None)  # it came while code and arguments were loaded
            return function(*args, **kwargs)
        finally:
            self._in_user_code = False

    def _used_up(self) -> None:
        """A function has been called as often as it may be: when this call of it has ended, this worker retires."""
        assert self._main_task is not None, "a function of a task is called by a task"
        self.retire_soon()

    def _step(self, work: Callable[[], Any]) -> Any:
        """Do a piece of user code, interruptible in the main thread."""
        if threading.current_thread() is not self._main_thread:
            return work()
        self._in_user_code = True
        try:
            if self._cancelled:
                self._interrupted(signal.SIGINT, None)  # it came while a value was stored
            return work()
        finally:
            self._in_user_code = False

    def _stream(self, peer: Peer, message: RunTask | CallMethod, values: Any) -> Any:
        """Send a generator's values one by one; the answer for the task as a whole comes last."""
        began = time.monotonic()
        value, contained = self._streams.run(peer, message, values)
        return self.results.whole(message, value, contained, int((time.monotonic() - began) * 1e6))

    def _payload(self, message: RunTask | CallMethod, error: BaseException) -> bytes:
        return error_payload(error, self._functions.name_of(message), self._where)

    def _raised(self, peer: Peer, message: RunTask | CallMethod, error: BaseException, began: float) -> Any:
        key = (peer, message.sequence)
        if type(error) is DependencyMissing:
            self._streams.forget(peer, message.sequence)
            return DependencyLost(message.sequence, [error.object_id])
        values, contained = [], []
        if type(error) is RaisedMidway:
            values, contained, error = error.values, error.contained, error.error
        if isinstance(error, KeyboardInterrupt) or (key in self._cancelled and isinstance(error, TaskCancelledError)):
            return cancelled_answer(message.sequence, contained)
        if self._actor_id and isinstance(error, ActorExit | SystemExit):
            self._leave(error)
        if isinstance(message, CallMethod):
            retried = retried_by(self.actor, message)
        else:
            retried = self._functions.retried(message)
        payload, again = self._payload(message, error), isinstance(error, retried)
        return TaskRaised(message.sequence, payload, microseconds(began), again, values, contained)

    def _leave(self, error: ActorExit | SystemExit) -> None:
        """The actor ends itself: its process exits, and the call that did it is never answered."""
        self._answers.send()
        if isinstance(error, ActorExit):
            announce_exit(self._session, self._actor_id, str(error))
            shut_down(self.actor)
            raise SystemExit(0)
        raise error

    def _interrupted(self, _number: int, _frame: FrameType | None) -> None:
        """SIGINT: user code is interrupted, ours is not; nor is the task behind the one that was meant."""
        task = self._main_task
        if self._in_user_code and task is not None:
            key = (task[0], task[1].sequence)
            if self._cancelled.get(key) is False:
                self._cancelled[key] = True
                raise KeyboardInterrupt

    # ------------------------------------------------------------------------------------------------ actors

    def make_actor(self, user_class: type, make: Callable[[], Any], spec: ActorSpec) -> None:
        """Run a constructor; what it raises is the caller's to handle."""
        concurrency: Concurrency | None = None
        coroutines = is_asyncio(user_class)
        if coroutines or spec.maximum_concurrency > 1 or spec.concurrency_groups:
            from atoll.nodeagent.concurrent_calls import CallHost, concurrency_for

            host = CallHost(self._session, self.results, self._where, spec.actor_id, lambda: self.actor, self._streams)
            host.spans = self._spans
            concurrency = concurrency_for(spec, coroutines, host)
        self._in_user_code = True
        try:
            self.actor = concurrency.construct(make) if concurrency is not None else make()
        finally:
            self._in_user_code = False
        self._actor_id = spec.actor_id
        self._concurrency = concurrency

    # -------------------------------------------------------------------------------------- output and waiting

    def emit(self, kind: str, payload: bytes, source: str = "") -> None:
        """Send output of the task that this thread runs; of the main thread's, if this one runs none.

        Args:
            kind: What it is.
            payload: The output.
            source: What wrote it, for people, if that is not the task itself.
        """
        call = self._concurrency.current() if self._concurrency is not None else None
        message: RunTask | CallMethod
        if call is not None:
            peer, message = call.peer, call.message
        elif self._main_task is not None:
            peer, message = self._main_task
        else:
            return
        self._session.reply(peer, [TaskOutput(message.sequence, kind, payload, source or self._source(message))])

    def _source(self, message: RunTask | CallMethod) -> str:
        """Return what writes, for people, as Ray has it: the function or the actor's class, and the process."""
        actor = current_actor()
        name = actor.class_name if actor is not None else self._functions.name_of(message)
        return f"{name.rpartition('.')[2]} pid={os.getpid()}"

    def context(self) -> TaskContext | None:
        """Return the task that this code belongs to."""
        call = self._concurrency.current() if self._concurrency is not None else None
        if call is not None:
            return call.context
        if self._main_task is not None and threading.current_thread() is self._main_thread:
            return self._context_of(self._main_task[1])
        return None

    @contextmanager
    def _blocking(self) -> Iterator[None]:
        """A task waits: its CPU is lent to others, and what is queued behind it is given back."""
        if self._concurrency is not None:
            self._concurrency.about_to_block()
        with self._blocked_lock:
            self._blocked += 1
            first = self._blocked == 1
        if first:
            self._answers.send()
            self._return_queued()
            self._session.tell_scheduler(TaskBlocked(self.lease_id))
        try:
            yield
        finally:
            with self._blocked_lock:
                self._blocked -= 1
                last = self._blocked == 0
            if last:
                self._session.tell_scheduler(TaskUnblocked(self.lease_id))

    def _say_again(self) -> list[Message]:
        """Say to a scheduler that was restarted for whom this worker runs, and that its task waits, if it does.

        Others may need the CPU to end its wait.
        """
        job: list[Message] = [ActForJob(self.job)] if self.job else []
        return [*job, TaskBlocked(self.lease_id)] if self._blocked else job

    def _return_queued(self) -> None:
        with self._session.lock:
            self._return_queued_locked()

    def _return_queued_locked(self) -> None:
        for peer in self._waiting.callers():
            self._give_back(peer, len(self._queue))

    def _report(self) -> None:
        """A few times a second while tasks run, and once after: what ran and what runs.

        What a task leaves behind in reference cycles, a namespace with its functions say, may pin objects of any size,
        and an idle process collects no garbage by itself: so it is done when nothing has run for a while, and only
        where something is pinned, since with large libraries it takes a tenth of a second.
        """
        now = time.monotonic()
        spans = self._spans.take(now, time.time() - now, self._peak.take())
        if spans:
            self._session.tell_agent(ReportSpans(spans))
        if self._answers.are_late:
            with self._session.lock:
                self._answers.send_locked()  # they go at the pause that follows
        if not self._spans.running:
            self._store.carry([])
        if spans:
            self._session.set_timer()
        elif self._store.has_uses:
            gc.collect()


def flush_streams() -> None:
    """Send what a task has written and not ended with a line. It may have put anything in the streams' place."""
    with contextlib.suppress(AttributeError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
