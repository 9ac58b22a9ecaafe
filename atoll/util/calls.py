"""Ordinary calls as tasks, a bounded number at once: what `Executor`, `Pool` and the joblib backend stand on.

    submit ──▶ waiting ──window──▶ task on a worker ──value or error──▶ finish (in the session's thread for values)

Calls wait here, where they can be given up, until there is room in the window. The window is as wide as calls may run
at once, and wider while calls are short or may be repeated: then the next ones are already queued at a worker when it
becomes free, which is several times faster. A limit below the number of CPUs is kept strictly, since the cluster would
run more at once.

What a call raises arrives as it was raised, with the remote traceback as its cause.
"""

from __future__ import annotations

import functools
import hashlib
import secrets
import threading
import time
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from atoll.client import values
from atoll.client.current import current_session
from atoll.exceptions import (
    AtollError,
    ClusterLostError,
    SerializationError,
    TaskCancelledError,
    TaskError,
    WorkerCrashedError,
)
from atoll.options import TaskOptions
from atoll.protocol.serialization import serialize_code
from atoll.remote_function import RemoteFunction
from atoll.resources import CPU, UNITS_PER_ONE
from atoll.util import remote_calls
from atoll.util.remote_calls import CallFailed, Header, InitializerFailed

if TYPE_CHECKING:
    from atoll.client.session import Session
    from atoll.object_ref import ObjectRef

Finish = Callable[[Any, BaseException | None], None]

QUEUED_SHORT = 32
QUEUED_MEDIUM = 4
"""So many calls for each that may run, where a call takes less than `SHORT_S` or `MEDIUM_S`."""

SHORT_S = 0.002
MEDIUM_S = 0.02

_KEPT_CODES = 32


class RemoteTraceback(Exception):
    """The traceback of an exception in the worker that raised it; the exception's `__cause__`."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text.rstrip()}\n"""'


class Call:
    """A call that was submitted.

    Args:
        function: What to call.
        args: Positional arguments; refs among them are replaced by their values.
        kwargs: Arguments by name.
        begin: Asked when its turn has come; it is dropped if that returns False.
        finish: Told its value, or its error.
        mode: As in `remote_calls.Header`.
        name: What people see.
    """

    __slots__ = ("args", "begin", "finish", "function", "kwargs", "mode", "name", "ref")

    def __init__(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        begin: Callable[[], bool],
        finish: Finish,
        mode: int = remote_calls.ONE,
        name: str = "",
    ) -> None:
        self.function = function
        self.args = args
        self.kwargs = kwargs
        self.begin = begin
        self.finish = finish
        self.mode = mode
        self.name = name or str(getattr(function, "__qualname__", type(function).__name__))
        self.ref: ObjectRef[Any] | None = None


class CallQueue:
    """Runs calls as tasks.

    Args:
        limit: How many may run at once; as many as the cluster has CPUs for if None.
        options: Of the tasks, as for `@atoll.remote`.
        initializer: Run once in every worker process before its first call.
        initargs: Its arguments.

    Attributes:
        limit: How many may run at once.
        broken: Why nothing can be submitted any more: the initializer has failed.
    """

    def __init__(
        self,
        limit: int | None,
        options: Mapping[str, Any],
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        # A call runs at most once, unless it is said otherwise: the standard library's pools never repeat one.
        self._options: TaskOptions = TaskOptions(max_retries=0).updated(options)
        self._session = current_session()
        places = self._places()
        self.limit = places if limit is None else limit
        self._strict = self.limit < places
        self._initializer = initializer
        self._initargs = initargs
        self._pool = secrets.token_bytes(8) if initializer is not None else b""
        self._remotes: OrderedDict[str, RemoteFunction[..., Any]] = OrderedDict()
        self._codes: OrderedDict[Any, tuple[bytes, bytes]] = OrderedDict()
        self._lock = threading.RLock()
        self._idle = threading.Condition(self._lock)
        self._waiting: deque[Call] = deque()
        self._running: dict[Call, None] = {}
        self._finishing = 0
        self._call_s = 1.0
        self._last_end = 0.0
        self.broken: BaseException | None = None

    def _places(self) -> int:
        """Return how many of these tasks the cluster can run at once."""
        units = self._options.amounts(1.0).get(CPU, 0)
        total = sum(node.resources_total.get(CPU, 0) for node in self._session.state().nodes)
        return max(1, int(total * UNITS_PER_ONE // units)) if units else 1 << 20

    # ----------------------------------------------------------------------------------------- submitting

    def submit(self, call: Call) -> None:
        """Run a call when its turn comes. `finish` is called in another thread, or here if it cannot be sent."""
        with self._lock:
            self._waiting.append(call)
        self._pump()

    def _window(self) -> int:
        if self._strict:
            return self.limit
        if self._call_s > MEDIUM_S:  # what must not be repeated is alone on its worker
            return self.limit if self._options.max_retries == 0 else 2 * self.limit
        return self.limit * (QUEUED_SHORT if self._call_s < SHORT_S else QUEUED_MEDIUM)

    def _pump(self) -> None:
        """Start what there is room for."""
        while True:
            with self._lock:
                if not self._waiting or len(self._running) >= self._window():
                    return
                call = self._waiting.popleft()
                if not self._running:
                    self._last_end = time.monotonic()
                self._running[call] = None
            error = self._start(call)
            if error is not None:
                self._end(call, None, error)

    def _start(self, call: Call) -> BaseException | None:
        """Send a call; returns why it cannot be sent."""
        if not call.begin():
            with self._lock:
                del self._running[call]
                self._notify_if_idle()
            return None
        try:
            ref = self._remote(call.name).remote(self._header(call), *call.args, **call.kwargs)
        except Exception as error:  # a value's own code may do anything when it is pickled
            return error
        call.ref = ref
        call.args = call.kwargs = call.function = None  # type: ignore[assignment]
        session = ref._session
        # Loading may wait for the node agent, which a thread that reads sockets must not do.
        session.when_ready(ref._id, functools.partial(_hand_over, session, self._arrived, call))
        if self._call_s > MEDIUM_S:  # whoever makes long calls is often busy itself: a lease that has come begins now
            session.reactor.turn()
        return None

    def _remote(self, name: str) -> RemoteFunction[..., Any]:
        with self._lock:
            made = self._remotes.get(name)
            if made is None:
                options = self._options if self._options.name else self._options.updated({"name": name or "call"})
                made = self._remotes[name] = RemoteFunction(remote_calls.run, options)
                if len(self._remotes) > _KEPT_CODES:
                    self._remotes.popitem(last=False)
            return made

    def _header(self, call: Call) -> Header:
        function = call.function
        if self._initializer is None and not _by_value(function):
            return Header(function, b"", b"", call.mode)
        digest, payload = self._code(function)
        return Header(digest, payload, self._pool, call.mode)

    def _code(self, function: Any) -> tuple[bytes, bytes]:
        """Pickle a function by value, once as long as it is used."""
        keep = isinstance(function, types.FunctionType | types.BuiltinFunctionType)
        with self._lock:
            known = self._codes.get(function) if keep else None
        if known is not None:
            return known
        payload, _contained = serialize_code(remote_calls.Code(function, self._initializer, self._initargs))
        made = hashlib.blake2b(self._pool + payload, digest_size=16).digest(), payload
        if keep:
            with self._lock:
                self._codes[function] = made
                if len(self._codes) > _KEPT_CODES:
                    self._codes.popitem(last=False)
        return made

    # ---------------------------------------------------------------------------------------------- ending

    def _arrived(self, call: Call) -> None:
        """A result is there: load it. Runs in the session's thread for values."""
        ref, value = call.ref, None
        error: BaseException | None = None
        assert ref is not None, "only what was sent arrives"
        session = ref._session
        if self._initializer is None:  # its failure is to be seen before the next call goes out
            self._ended(call)
            self._pump()
        try:
            if session.ready(ref._id):
                session.outputs.deliver()
                value = values.load(session, ref._id)
            else:
                error = ClusterLostError("the session was closed before the call had ended")
        except BaseException as problem:  # loading runs user code: a result may exit when it is unpickled
            error = self._explained(problem)
        self._end(call, value, error)
        if self.broken is not None:
            self._fail_waiting(self.broken)
        self._pump()

    def _ended(self, call: Call) -> None:
        """The worker is free: it need not wait for what is done here with the result."""
        now = time.monotonic()
        with self._lock:
            if call not in self._running:
                return
            took_s = (now - self._last_end) * min(self.limit, len(self._running))
            del self._running[call]
            self._call_s += 0.3 * (took_s - self._call_s)
            self._last_end = now
            self._finishing += 1

    def _end(self, call: Call, value: Any, error: BaseException | None) -> None:
        self._ended(call)
        call.ref = None
        try:
            call.finish(value, error)
        finally:
            with self._lock:
                self._finishing -= 1
                self._notify_if_idle()

    def _nothing_left(self) -> bool:
        return not (self._running or self._waiting or self._finishing)

    def _notify_if_idle(self) -> None:
        if self._nothing_left():
            self._idle.notify_all()

    def _explained(self, error: BaseException) -> BaseException:
        """Return what the caller is told: the user's own exception, or what went wrong around the call."""
        if isinstance(error, TaskError):
            cause = error.cause
            if isinstance(cause, CallFailed):
                if cause.error is None:
                    return error
                cause.error.__cause__ = RemoteTraceback(cause.text)
                return cause.error
            if isinstance(cause, InitializerFailed):
                self.broken = _broken_pool("a worker's initializer raised", str(cause))
                return self.broken
            if isinstance(cause, SerializationError):
                return cause
            if cause is None and CallFailed.__name__ in error.remote_traceback:
                return error  # an exception that does not pickle: its text is there
            return _broken_pool("a worker could not read the call", str(error))
        if isinstance(error, WorkerCrashedError):
            return _broken_pool("the worker that ran the call died", str(error))
        if isinstance(error, SerializationError | TaskCancelledError):
            return error
        if isinstance(error, AtollError):
            return error
        made = _broken_pool("the call's result cannot be read here", f"{type(error).__name__}: {error}")
        made.__cause__ = error
        return made

    def _fail_waiting(self, error: BaseException) -> None:
        for call in self._take_waiting():
            if call.begin():
                call.finish(None, error)

    def _take_waiting(self) -> list[Call]:
        with self._lock:
            calls = list(self._waiting)
            self._waiting.clear()
            self._notify_if_idle()
        return calls

    def drop_waiting(self) -> list[Call]:
        """Give up the calls that have not begun, and return them."""
        return self._take_waiting()

    def cancel_running(self) -> None:
        """Interrupt the calls that run; each ends with `TaskCancelledError`."""
        from atoll import api

        with self._lock:
            refs = [call.ref for call in self._running if call.ref is not None]
        for ref in refs:
            api.cancel(ref)

    def wait_idle(self, timeout_s: float | None = None) -> bool:
        """Wait until nothing waits or runs; False when the time was over before."""
        with self._idle:
            return self._idle.wait_for(self._nothing_left, timeout_s)


def _hand_over(session: Session, work: Callable[[Call], None], call: Call) -> None:
    session.loaders().submit(work, call)


def _by_value(function: Any) -> bool:
    """Whether a function is pickled by value: no module has it under its name."""
    if not isinstance(function, types.FunctionType):
        return False
    return function.__module__ == "__main__" or "<" in function.__qualname__


def _broken_pool(what: str, text: str) -> BaseException:
    from concurrent.futures.process import BrokenProcessPool

    return BrokenProcessPool(f"{what}: {text}")
