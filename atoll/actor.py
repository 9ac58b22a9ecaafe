"""`@atoll.remote` on a class: actors, processes that keep state and answer calls in order."""

from __future__ import annotations

import inspect
from typing import Any, NoReturn

import msgspec

from atoll.client import arguments
from atoll.client.connection import failure
from atoll.client.core.events import MethodCalled
from atoll.client.core.records import TaskRecord
from atoll.client.current import current_session
from atoll.client.session import Session
from atoll.exceptions import ActorDiedError, ActorError
from atoll.ids import return_id
from atoll.object_ref import ObjectRef
from atoll.options import ActorOptions, CallOptions
from atoll.protocol.messages import ActorChanged, CreateActor, KillActor
from atoll.protocol.serialization import serialize_code
from atoll.protocol.values import ActorSpec, ObjectLocation


class ActorPayload(msgspec.Struct, array_like=True, frozen=True):
    """What a worker needs to make an actor: opaque to daemons.

    Attributes:
        code: The pickled class.
        arguments: Of the constructor, as `atoll.client.arguments` packs them.
        dependencies: The values of top-level refs among them.
    """

    code: bytes
    arguments: bytes
    dependencies: list[ObjectLocation]


class _MethodDefaults(msgspec.Struct, frozen=True):
    num_returns: int = 1


def method(*, num_returns: int = 1) -> Any:
    """Say of an actor's method how many values it returns, as `@atoll.method(num_returns=2)`."""

    def mark(function: Any) -> Any:
        function.__atoll_method__ = _MethodDefaults(num_returns=num_returns)
        return function

    return mark


class ActorClass:
    """A class whose `.remote()` makes an actor of it.

    Args:
        user_class: The user's.
        options: What its actors take.
    """

    def __init__(self, user_class: type, options: ActorOptions) -> None:
        self._user_class = user_class
        self._options = options
        self.__doc__ = user_class.__doc__
        self.__name__ = user_class.__name__
        self.__module__ = user_class.__module__
        self._methods = _public_methods(user_class)
        constructor: Any = getattr(user_class, "__init__")  # noqa: B009 - to a type checker, it may be a subclass's
        self._signature = arguments.Signature(constructor, skip_first=True)
        self._takes_nothing = constructor is object.__init__

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise TypeError: say `.remote()`."""
        raise TypeError(
            f"an actor class cannot be instantiated directly: write {self.__name__}.remote(...) instead of "
            f"{self.__name__}(...)"
        )

    def options(self, **changes: Any) -> ActorClass:
        """Return this class with other options.

        Raises:
            ValueError: There is no such option, or its value makes no sense.
        """
        return ActorClass(self._user_class, self._options.updated(changes, later=True))

    def remote(self, /, *args: Any, **kwargs: Any) -> ActorHandle:
        """Make an actor and return its handle at once; the constructor runs meanwhile.

        Raises:
            TypeError: The constructor does not take these arguments.
            ValueError: Another actor has the name.
            SerializationError: The class or an argument does not pickle.
        """
        self._check(args, kwargs)
        session = current_session()
        options = self._options
        code, captured = serialize_code(self._user_class)
        data, dependencies, keepalive = arguments.pack(session, args, kwargs)
        spec = ActorSpec(
            actor_id=session.ids.actor_id(),
            name=options.name or "",
            namespace=session.introduction.namespace if options.namespace is None else options.namespace,
            class_name=self.__name__,
            scheduling_class=options.scheduling_class(session.environment, self.__name__, 0, session.scope),
            payload=b"",
            detached=options.lifetime == "detached",
            maximum_restarts=options.max_restarts,
            methods=self._methods,
            maximum_concurrency=options.max_concurrency or 1,
        )
        handle = ActorHandle(
            spec.actor_id,
            self.__name__,
            self._methods,
            options.max_task_retries,
            session,
            keepalive=(captured, keepalive),
        )
        if dependencies:
            session.wait_for(dependencies, len(dependencies), None)
        with session.lock:
            locations = [session.core.objects.location(name) for name in dependencies or ()]
        payload = msgspec.msgpack.encode(ActorPayload(code, data, locations))
        spec = msgspec.structs.replace(spec, payload=payload)
        request = CreateActor(session.next_request(), session.job, spec, options.get_if_exists)
        return _create(session, request, handle)

    def _check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._takes_nothing:
            if args or kwargs:
                raise TypeError(f"{self.__name__}() takes no arguments")
        else:
            self._signature.check(args, kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_class, (self._user_class, self._options.portable())

    def __repr__(self) -> str:
        return f"<actor class {self.__name__}>"


def _create(session: Session, request: CreateActor, handle: ActorHandle) -> ActorHandle:
    """Ask for the actor. A name is answered for before we return; nobody waits for an anonymous one."""
    anonymous = not request.spec.name
    with session.lock:
        session.core.actors.follow_new(request.spec.actor_id, request.request, request if anonymous else None)
    if anonymous:
        session.tell_scheduler(request)
        return handle
    answer = session.ask_scheduler(request)
    error = failure(answer)
    if error is not None:
        raise ValueError(str(error)) if isinstance(error, ActorError) else error
    assert isinstance(answer, ActorChanged)
    if answer.actor_id == request.spec.actor_id:
        return handle
    return ActorHandle(answer.actor_id, answer.class_name, answer.methods, handle._retries, session)


class ActorHandle:
    """A handle of an actor: its methods have `.remote()`. Handles can be passed to tasks and other actors."""

    def __init__(
        self,
        actor_id: bytes,
        class_name: str,
        methods: dict[str, int],
        retries: int,
        session: Session,
        keepalive: Any = None,
    ) -> None:
        self._actor_id = actor_id
        self._class_name = class_name
        self._methods = methods
        self._retries = retries
        self._session = session
        self._keepalive = keepalive

    def __getattr__(self, name: str) -> ActorMethod:
        methods: dict[str, int] = self.__dict__.get("_methods", {})
        if name not in methods:
            raise AttributeError(f"the actor {self.__dict__.get('_class_name', '')} has no method {name!r}")
        made = ActorMethod(self, name, CallOptions(num_returns=methods[name]))
        self.__dict__[name] = made
        return made

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._methods]

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_handle, (self._actor_id, self._class_name, self._methods, self._retries)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and other._actor_id == self._actor_id

    def __hash__(self) -> int:
        return hash(self._actor_id)

    def __repr__(self) -> str:
        return f"Actor({self._class_name}, {self._actor_id.hex()})"


class ActorMethod:
    """A method of an actor.

    Args:
        handle: The actor.
        name: The method.
        options: Of its calls.
    """

    __slots__ = ("_handle", "_label", "_name", "_options")

    def __init__(self, handle: ActorHandle, name: str, options: CallOptions) -> None:
        self._handle = handle
        self._name = name
        self._options = options

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise TypeError: say `.remote()`."""
        raise TypeError(f"a method of an actor cannot be called directly: write .{self._name}.remote(...)")

    def options(self, **changes: Any) -> ActorMethod:
        """Return this method with other options for its calls.

        Raises:
            ValueError: There is no such option.
        """
        return ActorMethod(self._handle, self._name, self._options.updated(changes))

    def remote(self, /, *args: Any, **kwargs: Any) -> ObjectRef[Any]:
        """Call the method and return at once.

        Returns:
            A ref to the result; a list of refs if `num_returns` is not 1 (None if it is 0).

        Raises:
            SerializationError: An argument does not pickle.
        """
        handle = self._handle
        session = handle._session
        if session.closed:
            session = handle._session = current_session()
        data, dependencies, keepalive = arguments.pack(session, args, kwargs)
        task_id = session.ids.task_id()
        options = self._options
        returns = 1 if options.num_returns is None else int(options.num_returns)
        record = TaskRecord(
            task_id,
            self._name,
            data,
            actor_id=handle._actor_id,
            dependencies=dependencies,
            returns=returns,
            retries_left=handle._retries,
            keepalive=(handle, keepalive),
            on_output=options._on_output or session.default_output,
        )
        session.submit(MethodCalled(record))
        if returns == 1:
            return ObjectRef(record.result_id, session)
        if returns == 0:
            return None  # type: ignore[return-value]
        return [ObjectRef(return_id(task_id, i), session) for i in range(returns)]  # type: ignore[return-value]

    def __repr__(self) -> str:
        return f"<method {self._name} of {self._handle!r}>"


def kill(handle: ActorHandle, *, no_restart: bool = True) -> None:
    """End an actor at once: what it runs is lost, what waits for it fails with `ActorDiedError`.

    Raises:
        TypeError: It is no actor's handle.
    """
    if not isinstance(handle, ActorHandle):
        raise TypeError(f"kill takes an actor's handle, not {type(handle).__name__}; a task is ended by atoll.cancel")
    session = handle._session
    answer = session.ask_scheduler(KillActor(session.next_request(), handle._actor_id, no_restart))
    error = failure(answer)
    if error is not None and not isinstance(error, ActorDiedError):
        raise error


def _public_methods(user_class: type) -> dict[str, int]:
    """Return the names of the methods that can be called, with their numbers of returns."""
    found = {}
    for name, member in inspect.getmembers(user_class, callable):
        if name.startswith("__") and name != "__call__":
            continue
        if name == "__call__" and "__call__" not in user_class.__dict__:
            continue
        defaults: _MethodDefaults = getattr(member, "__atoll_method__", _MethodDefaults())
        found[name] = defaults.num_returns
    return found


def _rebuild_class(user_class: type, options: dict[str, Any]) -> ActorClass:
    return ActorClass(user_class, ActorOptions(**options))


def _rebuild_handle(actor_id: bytes, class_name: str, methods: dict[str, int], retries: int) -> ActorHandle:
    return ActorHandle(actor_id, class_name, methods, retries, current_session())
