"""`@atoll.remote` on a function: calls that run on workers."""

from __future__ import annotations

import functools
import hashlib
import inspect
import warnings
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from atoll.client import arguments, context
from atoll.client.core.events import FunctionDefined, MethodCalled, TaskSubmitted
from atoll.client.core.records import DYNAMIC as DYNAMIC_RETURNS
from atoll.client.core.records import STREAMING as STREAMING_RETURNS
from atoll.client.core.records import TaskRecord
from atoll.client.current import current_session
from atoll.client.retry import RetryOn
from atoll.ids import return_id
from atoll.object_ref import ObjectRef
from atoll.object_ref_generator import ObjectRefGenerator
from atoll.options import STREAMING, TaskOptions
from atoll.protocol.serialization import serialize_code
from atoll.resources import format_bytes

if TYPE_CHECKING:
    from atoll.client.session import Session
    from atoll.typed import NumberedFunction

LARGE_FUNCTION_BYTES = 10 * 1000 * 1000
"""A function with so much in its closure is warned of: most likely it captures an array by accident. Ray's limit."""

MAXIMUM_FUNCTION_BYTES = 95 * 1024 * 1024
"""One with so much is refused, as in Ray."""

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class RemoteFunction(Generic[P, R]):
    """A function whose `.remote()` runs it on a worker of the cluster.

    Args:
        function: The user's.
        options: What its tasks take.
    """

    def __init__(self, function: Callable[P, R], options: TaskOptions) -> None:
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise ValueError("an async function cannot be a task; make it a method of an actor, or a plain function")
        self._function = function
        self._options = options
        self._name = options.name or str(getattr(function, "__qualname__", type(function).__name__))
        self._returns = number_of_returns(self._name, inspect.isgeneratorfunction(function), options.num_returns)
        self._signature = arguments.Signature(function)
        self._prepared: _Prepared | None = None
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raise TypeError: say `.remote()`."""
        raise TypeError(
            f"a remote function cannot be called directly: write {self._name}.remote(...) and atoll.get(...) the result"
        )

    @overload
    def options(self, *, num_returns: int | str, **changes: Any) -> NumberedFunction[P]: ...
    @overload
    def options(self, **changes: Any) -> RemoteFunction[P, R]: ...

    def options(self, **changes: Any) -> RemoteFunction[P, R]:
        """Return this function with other options.

        Raises:
            ValueError: There is no such option, or its value makes no sense.
        """
        changed: RemoteFunction[P, R] = RemoteFunction(self._function, self._options.updated(changes, later=True))
        prepared = self._prepared
        same = changed._name == self._name and _same_code(changed._options, self._options)
        if same and prepared is not None and not prepared.session.closed:
            changed._prepared = prepared.with_options(changed._options)
        return changed

    @overload
    def remote(  # type: ignore[overload-overlap]  # what is generated is streamed, whatever else it may be
        self: RemoteFunction[P, Generator[T, Any, Any]], /, *args: P.args, **kwargs: P.kwargs
    ) -> ObjectRefGenerator[T]: ...
    @overload
    def remote(  # type: ignore[overload-overlap]
        self: RemoteFunction[P, Iterator[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> ObjectRefGenerator[T]: ...
    @overload
    def remote(self, /, *args: P.args, **kwargs: P.kwargs) -> ObjectRef[R]: ...
    @overload
    def remote(self, first: ObjectRef[Any], /, *args: Any, **kwargs: Any) -> ObjectRef[R]: ...
    @overload
    def remote(self, first: Any, second: ObjectRef[Any], /, *args: Any, **kwargs: Any) -> ObjectRef[R]: ...
    @overload
    def remote(self, first: Any, second: Any, third: ObjectRef[Any], /, *args: Any, **kwargs: Any) -> ObjectRef[R]: ...

    def remote(self, /, *args: Any, **kwargs: Any) -> Any:
        """Submit a call and return at once.

        Returns:
            A ref to the result; a list of refs if `num_returns` is not 1 (None if it is 0); an `ObjectRefGenerator`
            for a generator function.

        Raises:
            TypeError: The function cannot be called with these arguments.
            ValueError: The function captures too much.
            SerializationError: The function or an argument does not pickle.
        """
        self._signature.check(args, kwargs)
        session = current_session()
        prepared = self._prepared
        if prepared is None or prepared.scope is not session.scope:
            prepared = self._prepared = _Prepared.make(session, self._function, self._name, self._options)
        options = self._options
        data, dependencies, keepalive = arguments.pack(session, args, kwargs)
        task_id = session.ids.task_id()
        task = context.current_task()
        record = TaskRecord(
            task_id,
            self._name,
            data,
            function=prepared.digest,
            dependencies=dependencies,
            returns=self._returns,
            class_key=prepared.class_key,
            retries_left=options.max_retries,
            retry_exceptions=bool(options.retry_exceptions),
            keepalive=keepalive,
            inside=None if keepalive is None else [ref._id for ref in keepalive[1]],
            on_output=options._on_output or session.default_output,
            parent=b"" if task is None else task.task_id,
            stream_limit=options._generator_backpressure_num_objects or 0,
        )
        # The refs come first: an interrupt at any moment lets go of them, and with them of what was submitted.
        if self._returns == 1:
            ref: ObjectRef[Any] = ObjectRef(record.result_id, session)
            session.submit(TaskSubmitted(record))
            return ref
        if self._returns <= 0:
            return submit_without_number(TaskSubmitted(record), session)
        refs: list[ObjectRef[Any]] = [ObjectRef(return_id(task_id, i), session) for i in range(self._returns)]
        session.submit(TaskSubmitted(record))
        return refs

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._function, self._options.portable())

    def __repr__(self) -> str:
        return f"<remote function {self._name}>"


def number_of_returns(name: str, generator: bool, wanted: int | str | None) -> int:
    """Return how many values a call of a function returns, or `STREAMING` or `DYNAMIC`.

    Args:
        name: The function's, for people.
        generator: Whether it yields.
        wanted: What its options say.

    Raises:
        ValueError: It is no generator function, and its values are to be streamed.
    """
    if wanted is None:
        return STREAMING_RETURNS if generator else 1
    if isinstance(wanted, int):
        return wanted
    if not generator:
        raise ValueError(f'num_returns="{wanted}" is for generator functions: {name} has no yield')
    if wanted == STREAMING:
        return STREAMING_RETURNS
    text = 'num_returns="dynamic" is deprecated: use "streaming", whose values come while the task runs'
    warnings.warn(text, DeprecationWarning, stacklevel=5)
    return DYNAMIC_RETURNS


def submit_without_number(event: TaskSubmitted | MethodCalled, session: Session) -> Any:
    """Submit a call that has no fixed number of refs, and return what `.remote()` does: None, or a generator."""
    record = event.record
    if record.returns == DYNAMIC_RETURNS:
        ref: ObjectRef[Any] = ObjectRef(return_id(record.task_id, 0), session)
        session.submit(event)
        return ref
    try:
        session.submit(event)
        return None if record.stream is None else ObjectRefGenerator(record.stream, session)
    except BaseException:
        if record.stream is not None:  # it was submitted, and nobody will read it
            ObjectRefGenerator(record.stream, session)
        raise


class _Prepared:
    """What is the same for all calls in one session and scope: the code's digest and the scheduling class."""

    __slots__ = ("class_key", "digest", "keepalive", "name", "scope", "session")

    def __init__(self, session: Session, digest: bytes, name: str, class_key: int, keepalive: list[Any]) -> None:
        self.session = session
        self.scope = session.scope
        self.digest = digest
        self.name = name
        self.class_key = class_key
        self.keepalive = keepalive

    @classmethod
    def make(cls, session: Session, function: Callable[..., Any], name: str, options: TaskOptions) -> _Prepared:
        """Pickle the function, once a session."""
        retried = options.retry_exceptions
        payload, contained = serialize_code(
            function if isinstance(retried, bool) else RetryOn(function, tuple(retried))
        )
        _check_size(name, len(payload))
        parts = (name.encode(), options.max_calls, options._code, payload)
        digest = hashlib.blake2b(b"%s\0%d\0%s\0%s" % parts, digest_size=16).digest()
        session.handle(FunctionDefined(digest, name, payload, options.max_calls))
        return cls(session, digest, name, _class_key(session, name, options, digest), contained)

    def with_options(self, options: TaskOptions) -> _Prepared:
        """Return the same code with the scheduling class of other options."""
        class_key = _class_key(self.session, self.name, options, self.digest)
        return _Prepared(self.session, self.digest, self.name, class_key, self.keepalive)


def _same_code(one: TaskOptions, other: TaskOptions) -> bool:
    """Whether a function travels in the same form with either options."""
    if one._code != other._code:
        return False
    retried = (one.retry_exceptions, other.retry_exceptions)
    return all(isinstance(value, bool) for value in retried) or retried[0] == retried[1]


def _check_size(name: str, size_bytes: int) -> None:
    if size_bytes <= LARGE_FUNCTION_BYTES:
        return
    text = (
        f"the remote function {name} takes {format_bytes(size_bytes)} to send: it captures a large value from around "
        "it. Pass that as an argument instead, or put it once with atoll.put and capture the ref"
    )
    if size_bytes > MAXIMUM_FUNCTION_BYTES:
        raise ValueError(f"{text}; the limit is {format_bytes(MAXIMUM_FUNCTION_BYTES)}")
    warnings.warn(text, UserWarning, stacklevel=4)


def _class_key(session: Session, name: str, options: TaskOptions, code: bytes) -> int:
    shape = options.scheduling_class(options.environment_in(session), name, 1, session.scope, code)
    with session.lock:
        return session.core.tasks.class_key(shape)


def _rebuild(function: Callable[..., Any], options: dict[str, Any]) -> RemoteFunction[Any, Any]:
    return RemoteFunction(function, TaskOptions(**options))
