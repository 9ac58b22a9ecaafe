"""`@atoll.remote` on a class: actors, processes that keep state and answer calls in order.

An actor lives as long as a handle of it does, anywhere: in a variable, in an object, in the hands of another process. A
handle keeps a *token* alive, an object without a value that the actor's creator owns; when the last ref to it is gone
the creator tells the scheduler. So handles are counted by what counts refs. A call keeps its handle until it has ended.

Detached actors have no token: they live until they are killed. Handles that are found by name have none either.
"""

from __future__ import annotations

import hashlib
from typing import Any, NoReturn

import msgspec

from atoll.actor_methods import describe, is_asyncio, method, methods_of, options_in, said_of
from atoll.client import arguments, context
from atoll.client.connection import failure
from atoll.client.core.events import CreationGivenUp, CreationRequested, MethodCalled
from atoll.client.core.records import Manner, TaskRecord
from atoll.client.current import current_session
from atoll.client.session import Session
from atoll.exceptions import ActorAlreadyExistsError, ActorDiedError, ActorError, PendingCallsLimitExceeded
from atoll.ids import return_id
from atoll.object_ref import ObjectRef
from atoll.options import ActorOptions, CallOptions
from atoll.protocol.messages import ActorChanged, CreateActor, KillActor
from atoll.protocol.serialization import is_serializing, serialize_code
from atoll.protocol.values import ActorInterface, ActorPayload, ActorSpec, MethodSpec
from atoll.remote_function import number_of_returns, submit_without_number

__all__ = ["ActorClass", "ActorHandle", "ActorMethod", "exit_actor", "kill", "method"]


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
        constructor: Any = getattr(user_class, "__init__")  # noqa: B009 - to a type checker, it may be a subclass's
        self._signature = arguments.Signature(constructor, skip_first=True)
        self._takes_nothing = constructor is object.__init__
        self._asyncio = is_asyncio(user_class)
        self._groups = _groups(options, user_class)
        self._any_order = self._order()
        self._methods: dict[str, MethodSpec] | None = None

    def _order(self) -> bool:
        """Whether calls may overtake each other: always where several run at once."""
        said = self._options.allow_out_of_order_execution
        several = self._asyncio or (self._options.max_concurrency or 1) > 1 or bool(self._groups)
        if said is False and several:
            raise ValueError(
                "allow_out_of_order_execution=False: an actor that answers several calls at once, by threads or by "
                "coroutines, cannot promise their order"
            )
        return several if said is None else said

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise TypeError: say `.remote()`."""
        raise TypeError(
            f"an actor class cannot be instantiated directly: write {self.__name__}.remote(...) instead of "
            f"{self.__name__}(...)"
        )

    def __mro_entries__(self, bases: tuple[Any, ...]) -> NoReturn:
        """Raise TypeError: derive from the plain class."""
        raise TypeError(
            f"{self.__name__} is an actor class, from which no class can be derived: derive from the plain class, and "
            "make an actor class of what comes of it with atoll.remote(...)"
        )

    def options(self, **changes: Any) -> ActorClass:
        """Return this class with other options.

        Raises:
            ValueError: There is no such option, or its value makes no sense.
        """
        return ActorClass(self._user_class, self._options.updated(changes, later=True))

    def remote(self, /, *args: Any, **kwargs: Any) -> ActorHandle:
        """Make an actor and return its handle at once; the constructor runs when its arguments are there.

        Raises:
            TypeError: The constructor does not take these arguments.
            ActorAlreadyExistsError: Another actor has the name; also a ValueError.
            SerializationError: The class or an argument does not pickle.
        """
        self._check(args, kwargs)
        session = current_session()
        code, captured = serialize_code(self._user_class)
        data, dependencies, keepalive = arguments.pack(session, args, kwargs)
        spec = self._spec(session, code)
        target = _Target(spec.actor_id, spec.class_name, spec.interface, session)
        record = TaskRecord(
            session.ids.task_id(),
            f"{self.__name__}.__init__",
            data,
            actor_id=spec.actor_id,
            dependencies=dependencies,
            returns=0,
            keepalive=(captured, keepalive),
        )
        try:
            if not spec.detached:
                target.token = session.hold_actor(spec.actor_id)
            if spec.name:
                return self._create_named(session, spec, record, code, target)
            request = CreateActor(session.next_request(), session.job, spec)
            with session.interrupts:
                session.handle(CreationRequested(record, request, code))
            return ActorHandle(target)
        except BaseException:  # an interrupt, say: nobody has a handle, but the traceback has the token
            target.token = None
            if spec.detached:
                with session.interrupts:
                    session.handle(CreationGivenUp(spec.actor_id))
            raise

    def _spec(self, session: Session, code: bytes) -> ActorSpec:
        options = self._options
        if options.release_gpu_when_idle_s and self._asyncio:
            raise ValueError("release_gpu_when_idle_s is for an actor that answers one call after the other")
        environment = options.environment_in(session)
        digest = hashlib.blake2b(code, digest_size=16).digest()
        if self._methods is None:
            self._methods = describe(self._user_class)
        interface = ActorInterface(
            self._methods, options.max_task_retries, options.max_pending_calls or -1, self._any_order
        )
        return ActorSpec(
            actor_id=session.ids.actor_id(),
            name=options.name or "",
            namespace=session.namespace if options.namespace is None else options.namespace,
            class_name=self.__name__,
            scheduling_class=options.scheduling_class(environment, self.__name__, 0, session.scope, digest),
            payload=b"",
            detached=options.lifetime == "detached",
            maximum_restarts=options.max_restarts,
            interface=interface,
            maximum_concurrency=options.max_concurrency or 0,
            concurrency_groups=self._groups,
            idle_s=float(options.release_gpu_when_idle_s),
        )

    def _create_named(
        self, session: Session, spec: ActorSpec, record: TaskRecord, code: bytes, target: _Target
    ) -> ActorHandle:
        """Ask for an actor with a name, and return when it is known whose the name is."""
        dependencies = record.dependencies
        if dependencies:
            session.wait_for(dependencies, len(dependencies), None)
        locations = [session.location(object_id) for object_id in dependencies or ()]
        payload = msgspec.msgpack.encode(ActorPayload(code, record.arguments, locations))
        request = CreateActor(
            session.next_request(),
            session.job,
            msgspec.structs.replace(spec, payload=payload),
            self._options.get_if_exists,
        )
        with session.interrupts, session.lock:
            session.core.actors.follow_new(spec.actor_id, request.request, keepalive=record.keepalive)
        answer = session.ask_scheduler(request)
        error = failure(answer)
        if error is not None:
            raise ActorAlreadyExistsError(str(error)) if isinstance(error, ActorError) else error
        assert isinstance(answer, ActorChanged)
        if answer.actor_id != spec.actor_id:
            return handle_of(answer.actor_id, answer.class_name, answer.interface, session)
        return ActorHandle(target)

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


def _groups(options: ActorOptions, user_class: type) -> dict[str, int]:
    """Return how many calls of each group may run at once.

    Raises:
        TypeError: A limit is no number, or a group has no name.
        ValueError: A limit is less than 1, or a method names a group that there is not.
    """
    given = options.concurrency_groups or {}
    groups = dict(given) if isinstance(given, dict) else {each["name"]: each["max_concurrency"] for each in given}
    for name, limit in groups.items():
        if not isinstance(name, str) or not isinstance(limit, int) or isinstance(limit, bool):
            raise TypeError(f"concurrency_groups={groups!r}: give a number for each name, such as {{'io': 2}}")
        if limit < 1:
            raise ValueError(f"concurrency_groups: {name!r} has the limit {limit}; give a whole number from 1")
    for name, member in methods_of(user_class).items():
        group = said_of(member).concurrency_group
        if group is not None and group not in groups:
            raise ValueError(
                f"{user_class.__name__}.{name} names the concurrency group {group!r}, which there is not; add it to "
                "concurrency_groups= of the class"
            )
    return groups


class _Target:
    """What a handle and its methods share. They refer to this and not to each other, so that no cycle keeps them.

    Attributes:
        token: Keeps the actor alive; None for who does not.
    """

    __slots__ = ("actor_id", "class_name", "interface", "packed", "session", "token")

    def __init__(
        self, actor_id: bytes, class_name: str, interface: ActorInterface | None, session: Session, packed: bytes = b""
    ) -> None:
        self.actor_id = actor_id
        self.class_name = class_name
        self.interface = interface
        self.packed = packed
        self.session = session
        self.token: ObjectRef[Any] | None = None

    def known(self) -> ActorInterface:
        """Return what is known of the methods, read when it is needed."""
        if self.interface is None:
            self.interface = _interfaces.decode(self.packed)
        return self.interface

    def portable(self) -> bytes:
        """Return the interface as it travels."""
        if not self.packed:
            self.packed = msgspec.msgpack.encode(self.interface)
        return self.packed


_interfaces = msgspec.msgpack.Decoder(ActorInterface)


class ActorHandle:
    """A handle of an actor: its methods have `.remote()`. Handles can be passed to tasks and other actors.

    Args:
        target: Which actor.
    """

    def __init__(self, target: _Target) -> None:
        self._target = target

    @property
    def _actor_id(self) -> bytes:
        return self._target.actor_id

    def __getattr__(self, name: str) -> ActorMethod:
        target: _Target | None = self.__dict__.get("_target")
        described = target.known().methods.get(name) if target is not None else None
        if target is None or described is None:
            class_name = target.class_name if target is not None else ""
            raise AttributeError(f"the actor {class_name} has no method {name!r}")
        signature = arguments.Signature.described(name, described.parameters)
        made = ActorMethod(target, name, options_in(described), signature, described.generator)
        self.__dict__[name] = made
        return made

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._target.known().methods]

    def __reduce__(self) -> tuple[Any, ...]:
        target = self._target
        # A pickle that is not ours would let go of the token before anybody reads it: that handle keeps nothing alive.
        token = target.token if is_serializing() else None
        return _rebuild_handle, (target.actor_id, target.class_name, target.portable(), token)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and other._actor_id == self._actor_id

    def __hash__(self) -> int:
        return hash(self._actor_id)

    def __repr__(self) -> str:
        return f"Actor({self._target.class_name}, {self._actor_id.hex()})"


class ActorMethod:
    """A method of an actor.

    Args:
        target: The actor.
        name: The method.
        options: Of its calls.
        signature: What it takes.
        generator: Whether it yields.
        retried: Pickled classes of exceptions after which a call may be made again, if they are not the method's own.
    """

    __slots__ = (
        "_generator",
        "_label",
        "_manner",
        "_maximum_pending",
        "_name",
        "_on_output",
        "_options",
        "_retried",
        "_retries",
        "_retry_exceptions",
        "_returns",
        "_signature",
        "_stream_limit",
        "_target",
    )

    def __init__(
        self,
        target: _Target,
        name: str,
        options: CallOptions,
        signature: arguments.Signature,
        generator: bool,
        retried: bytes = b"",
    ) -> None:
        interface = target.known()
        self._target = target
        self._name = name
        self._options = options
        self._signature = signature
        self._generator = generator
        self._label = options.name or name
        self._returns = number_of_returns(name, generator, options.num_returns)
        self._stream_limit = options._generator_backpressure_num_objects or 0
        self._retries = interface.retries if options.max_task_retries is None else options.max_task_retries
        self._retry_exceptions = options.retry_exceptions
        self._retried = retried
        self._maximum_pending = interface.maximum_pending
        self._on_output = options._on_output
        self._manner: Manner | None = None
        if options.name or options.concurrency_group or interface.any_order or retried:
            self._manner = Manner(name, options.concurrency_group or "", interface.any_order, retried)

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise TypeError: say `.remote()`."""
        raise TypeError(f"a method of an actor cannot be called directly: write actor.{self._name}.remote(...)")

    def options(self, **changes: Any) -> ActorMethod:
        """Return this method with other options for its calls.

        Raises:
            ValueError: There is no such option, or its value makes no sense.
        """
        options = self._options.updated(changes)
        retried = self._retried
        if "retry_exceptions" in changes:
            classes = options.retry_exceptions
            retried = b"" if isinstance(classes, bool) else serialize_code(tuple(classes))[0]
        return ActorMethod(self._target, self._name, options, self._signature, self._generator, retried)

    def remote(self, /, *args: Any, **kwargs: Any) -> ObjectRef[Any]:
        """Call the method and return at once.

        Returns:
            A ref to the result; a list of refs if `num_returns` is not 1 (None if it is 0); an `ObjectRefGenerator`
            if the method yields.

        Raises:
            TypeError: The method does not take these arguments.
            SerializationError: An argument does not pickle.
            PendingCallsLimitExceeded: More calls of this process wait than `max_pending_calls`.
        """
        self._signature.check(args, kwargs)
        target = self._target
        session = target.session
        if session.closed:
            session = target.session = current_session()
        if self._maximum_pending >= 0:
            self._check_pending(session)
        data, dependencies, keepalive = arguments.pack(session, args, kwargs)
        task_id = session.ids.task_id()
        returns = self._returns
        task = context.current_task()
        record = TaskRecord(
            task_id,
            self._label,
            data,
            actor_id=target.actor_id,
            dependencies=dependencies,
            returns=returns,
            retries_left=self._retries,
            retry_exceptions=bool(self._retry_exceptions),
            manner=self._manner,
            keepalive=(target, keepalive),
            on_output=self._on_output or session.default_output,
            parent=b"" if task is None else task.task_id,
            stream_limit=self._stream_limit,
        )
        # The refs come first: an interrupt at any moment lets go of them, and with them of what was submitted.
        if returns == 1:
            ref: ObjectRef[Any] = ObjectRef(record.result_id, session)
            session.submit(MethodCalled(record))
            return ref
        if returns <= 0:
            return submit_without_number(MethodCalled(record), session)  # type: ignore[no-any-return]
        refs: list[ObjectRef[Any]] = [ObjectRef(return_id(task_id, i), session) for i in range(returns)]
        session.submit(MethodCalled(record))
        return refs  # type: ignore[return-value]

    def _check_pending(self, session: Session) -> None:
        with session.lock:
            pending = session.core.actors.pending(self._target.actor_id)
        if pending >= self._maximum_pending:
            raise PendingCallsLimitExceeded(
                f"{self._name} is not called: {pending} calls of the actor {self._target.class_name} wait already, and "
                f"max_pending_calls={self._maximum_pending}; get some results first"
            )

    def __repr__(self) -> str:
        return f"<method {self._name} of Actor({self._target.class_name}, {self._target.actor_id.hex()})>"


def handle_of(actor_id: bytes, class_name: str, interface: ActorInterface, session: Session) -> ActorHandle:
    """Return a handle of an actor that was found. It keeps nothing alive."""
    return ActorHandle(_Target(actor_id, class_name, interface, session))


def kill(actor: ActorHandle, *, no_restart: bool = True) -> None:
    """End an actor at once: what it runs is lost, what waits for it fails with `ActorDiedError`.

    Raises:
        ValueError: It is no actor's handle.
    """
    if not isinstance(actor, ActorHandle):
        raise ValueError(f"kill takes an actor's handle, not {type(actor).__name__}; a task is ended by atoll.cancel")
    end_actor(actor, no_restart=no_restart)


def end_actor(actor: ActorHandle, *, no_restart: bool = True, cause: str = "") -> None:
    """As `kill`, with what callers are told and what is shown of it: `it was killed` if nothing is said."""
    session = actor._target.session
    if session.closed:
        session = actor._target.session = current_session()
    answer = session.ask_scheduler(KillActor(session.next_request(), actor._actor_id, no_restart, cause))
    error = failure(answer)
    if error is not None and not isinstance(error, ActorDiedError):
        raise error


def exit_actor() -> NoReturn:
    """End the actor that this runs in, for good. Its callers get `ActorDiedError`.

    Raises:
        TypeError: This is no actor.
    """
    if context.current_actor() is None:
        raise TypeError("exit_actor ends the actor that calls it, and this is no actor")
    raise ActorExit


class ActorExit(BaseException):
    """Raised by `exit_actor` through the method that calls it. Its text, if it has one, is what callers are told."""


def _rebuild_class(user_class: type, options: dict[str, Any]) -> ActorClass:
    return ActorClass(user_class, ActorOptions(**options))


def _rebuild_handle(actor_id: bytes, class_name: str, packed: bytes, token: ObjectRef[Any] | None) -> ActorHandle:
    target = _Target(actor_id, class_name, None, current_session(), packed)
    target.token = token
    return ActorHandle(target)
