"""The functions of `import atoll`: Ray's names, arguments and meanings."""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from atoll.actor import ActorClass, ActorHandle, handle_of, kill, method
from atoll.client import values
from atoll.client.connection import failure
from atoll.client.core.events import CancelRequested
from atoll.client.current import current_session, existing_session, set_current_session
from atoll.client.session import Session
from atoll.client.task_output import TaskPrinter
from atoll.client.uplinks import Introduction
from atoll.environment import capture_environment
from atoll.exceptions import ClusterNotFoundError, GetTimeoutError
from atoll.ids import new_process_id
from atoll.object_ref import ObjectRef
from atoll.object_ref_generator import ObjectRefGenerator
from atoll.options import ActorOptions, TaskOptions
from atoll.protocol.cluster_file import ClusterFile, default_path
from atoll.protocol.messages import ActorChanged, GetActor, StopCluster
from atoll.protocol.serialization import serialize
from atoll.remote_function import RemoteFunction

if TYPE_CHECKING:
    from atoll.typed import Decorator, NumberedDecorator

__all__ = [
    "cancel",
    "get",
    "get_actor",
    "init",
    "is_initialized",
    "kill",
    "method",
    "put",
    "remote",
    "shutdown",
    "wait",
]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
Waitable = TypeVar("Waitable", bound=ObjectRef[Any] | ObjectRefGenerator[Any])


def init(
    address: str | None = None,
    *,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    object_store_memory: int | None = None,
    namespace: str | None = None,
    runtime_env: Mapping[str, Any] | str | None = None,
    weight: float | None = None,
    log_to_driver: bool = True,
    ignore_reinit_error: bool = True,
    start: bool = True,
    **others: Any,
) -> Session:
    """Connect to this user's cluster, starting one if none runs. Everything else calls it when it must.

    Args:
        address: Ray's: `"auto"` for a cluster that has to run already. There is one for each user and host.
        num_cpus: CPUs that a cluster offers that is started here; those of the machine if not said.
        num_gpus: Ray's: GPUs are those that the machine has.
        object_store_memory: The most that its object store takes, in bytes.
        namespace: Where the names of this session's actors live.
        runtime_env: What its workers have beyond the environment of this process: `env_vars`, `working_dir`,
            `py_modules`, `pip`. Tasks and actors add to it, or replace it field by field.
        weight: What this session may have beside others that want the same: with 2, twice as much as one with 1.
            As `ATOLL_WEIGHT` says if not given, or 1. Whoever runs the cluster may have said otherwise
            (`ATOLL_WEIGHTS`).
        log_to_driver: Whether what tasks and actors print is printed here, each line with where it comes from.
        ignore_reinit_error: Whether a second call is fine.
        start: Whether to start a cluster if there is none.
        others: Arguments of Ray's that say nothing here, about its dashboard and its logging.

    Returns:
        The session, which shows what it is connected to.

    Raises:
        RuntimeError: There is a session, and `ignore_reinit_error` is not set.
        ClusterNotFoundError: No cluster runs, and `start` is not set.
        ClusterStartError: None could be started; ends with the daemon's log.
        ClusterError: The cluster that runs cannot be used; says why and what to do.
        TypeError: A field of `runtime_env` is of another type, or there is no such argument.
        ValueError: A field of `runtime_env` or an argument makes no sense.
    """
    from atoll.config import check_weight, session_weight
    from atoll.init_options import check_names, must_exist

    check_names(others)
    start = start and not must_exist(address)
    running = existing_session()
    if running is not None:
        if not ignore_reinit_error:
            raise RuntimeError("this process has a session already; call atoll.shutdown() first")
        return running
    kind, name = _who_we_are()
    asked_weight = check_weight(weight) if weight is not None else session_weight()
    cluster, started = _find_or_start(start, kind, num_cpus, num_gpus, object_store_memory)
    environment = capture_environment()
    if runtime_env:
        from atoll.runtime_env.environments import extended, packages_directory

        environment = extended(environment, runtime_env, packages_directory(cluster.directory))
    session = Session(cluster, new_process_id(), Introduction(kind, name, namespace or "", environment, asked_weight))
    session.start()
    session.ends_cluster = started and kind == "script"
    session.default_output = TaskPrinter(notebook=kind == "kernel") if log_to_driver else None
    _make_current(session)
    return session


def _make_current(session: Session) -> None:
    """Have everything use a session, which looks after its cluster and ends with this process."""
    from atoll.client.lifeline import Lifeline

    session.leave = shutdown
    session.daemon_away = Lifeline(session.cluster, default_path(), lambda error: session.close(str(error))).pull
    set_current_session(session)
    atexit.unregister(shutdown)
    atexit.register(shutdown)


def _find_or_start(
    start: bool, kind: str, num_cpus: float | None, num_gpus: float | None, object_store_memory: int | None
) -> tuple[ClusterFile, bool]:
    """Return the cluster, and whether it was started here."""
    from atoll.client import launch
    from atoll.init_options import settings_said, warn_of_a_running_cluster

    said = settings_said(num_cpus, num_gpus, object_store_memory)
    if start:
        cluster, started = launch.start_or_attach(linger_s=said.linger_s, started_by=kind, settings=said)
    else:
        found = launch.find_cluster()
        if found is None:
            raise ClusterNotFoundError("no cluster of yours runs on this host; start one with `atoll up`")
        cluster, started = found, False
    if not started:
        warn_of_a_running_cluster(num_cpus, object_store_memory)
    return cluster, started


def _who_we_are() -> tuple[str, str]:
    """Return whether this is a kernel or a script, and the notebook's or script's name."""
    interactive = sys.modules.get("IPython")
    shell = interactive.get_ipython() if interactive is not None else None
    if shell is not None and hasattr(shell, "kernel"):
        return "kernel", os.path.basename(os.environ.get("JPY_SESSION_NAME", "")) or "notebook"  # noqa: PTH119
    return "script", os.path.basename(sys.argv[0] if sys.argv else "") or "python"  # noqa: PTH119


def shutdown() -> None:
    """Leave the cluster. What was made here goes, except objects with a name and detached actors.

    A cluster that a script has started ends with the script, unless somebody else uses it or such a thing is there.
    """
    session = existing_session()
    if session is None:
        return
    set_current_session(None)
    if session.ends_cluster:
        session.tell_scheduler(StopCluster(session.next_request(), only_if_unused=True))
    session.close()


def is_initialized() -> bool:
    """Whether this process has a session."""
    return existing_session() is not None


@overload
def remote(target: type, /) -> ActorClass: ...  # type: ignore[overload-overlap]  # a class can be called, too
@overload
def remote(target: Callable[P, R], /) -> RemoteFunction[P, R]: ...
@overload
def remote(*, num_returns: int | str, **options: Any) -> NumberedDecorator: ...
@overload
def remote(**options: Any) -> Decorator: ...


def remote(*args: Any, **options: Any) -> Any:
    """Make a function a remote function, or a class an actor class.

    As a decorator, bare (`@atoll.remote`) or with options (`@atoll.remote(num_gpus=1)`).

    Raises:
        TypeError: It is neither a function nor a class.
        ValueError: There is no such option, or its value makes no sense.
    """
    if len(args) == 1 and not options and callable(args[0]):
        return _make_remote(args[0], {})
    if args or not options:
        raise TypeError("use @atoll.remote, or with options by name: @atoll.remote(num_gpus=1)")
    return lambda target: _make_remote(target, options)


def _make_remote(target: Callable[..., Any], options: dict[str, Any]) -> RemoteFunction[..., Any] | ActorClass:
    if isinstance(target, type):
        return ActorClass(target, ActorOptions().updated(options))
    if callable(target):
        return RemoteFunction(target, TaskOptions().updated(options))
    raise TypeError(f"@atoll.remote is for functions and classes, not for {type(target).__name__}")


@overload
def get(refs: ObjectRef[T], *, timeout: float | None = None) -> T: ...
@overload
def get(refs: ObjectRefGenerator[T], *, timeout: float | None = None) -> ObjectRefGenerator[T]: ...
@overload
def get(refs: Sequence[ObjectRef[T]], *, timeout: float | None = None) -> list[T]: ...


def get(
    refs: ObjectRef[Any] | ObjectRefGenerator[Any] | Sequence[ObjectRef[Any]], *, timeout: float | None = None
) -> Any:
    """Wait for values and return them. Large arrays in them are read-only views of shared memory.

    Args:
        refs: One ref, or a list of them. An `ObjectRefGenerator` is returned as it is: its values come one by one.
        timeout: In seconds; None waits for ever.

    Returns:
        The value, or the list of values in the refs' order.

    Raises:
        GetTimeoutError: A value was not there in time; its task goes on.
        TaskError: A task raised; also an instance of the user's own exception.
        ValueError: It is neither a ref nor a list, or `timeout` is below 0.
        TypeError: Something in the list is no ref, or `timeout` is no number.
    """
    until = None
    if timeout is not None:
        timeout = _seconds(timeout)
        until = time.monotonic() + timeout
    if type(refs) is ObjectRef:
        session = refs._session
        object_id = refs._id
        if not session.ready(object_id):
            _wait_all(session, [object_id], timeout)
        return values.load(session, object_id, until)
    if type(refs) is ObjectRefGenerator:
        return refs
    if not isinstance(refs, list | tuple):
        hint = "; write atoll.get(list(refs.values()))" if isinstance(refs, dict) else ""
        raise ValueError(f"get takes an ObjectRef or a list of them, not {type(refs).__name__}{hint}")
    object_ids = [_id_of(ref) for ref in refs]
    if not object_ids:
        return []
    session = refs[0]._session
    _wait_all(session, object_ids, timeout)
    return values.load_all(session, object_ids, until)


def _id_of(ref: Any) -> bytes:
    if type(ref) is not ObjectRef:
        raise TypeError(f"a list of ObjectRefs is expected, and there is a {type(ref).__name__} in it")
    return ref._id


def _seconds(timeout: Any) -> float:
    """Return a timeout that was given."""
    if not hasattr(timeout, "__float__"):
        raise TypeError(f"timeout={timeout!r}: give seconds as a number, or None")
    seconds = float(timeout)
    if not seconds >= 0:  # nor is it no number at all
        raise ValueError(f"timeout={timeout}: give seconds from 0, or None")
    return seconds


def _wait_all(session: Session, object_ids: list[bytes], timeout_s: float | None) -> None:
    with session.hooks.blocking():
        done = session.wait_for(object_ids, len(object_ids), timeout_s)
    if not done:
        missing = sum(not session.ready(object_id) for object_id in object_ids)
        raise GetTimeoutError(f"{missing} of {len(object_ids)} values were not there within {timeout_s:g} s")


def put(value: T) -> ObjectRef[T]:
    """Make a value an object of the cluster: large buffers are copied, once, into shared memory.

    An array that `atoll.empty` has made is there already and not copied; it is read-only from then on.

    Raises:
        TypeError: It is a ref already.
        SerializationError: It does not pickle.
        ObjectStoreFullError: There is no room for it.
    """
    if type(value) is ObjectRef:
        raise TypeError("put of an ObjectRef: it is an object already; to put a ref into the store, put a list of it")
    return current_session().put_serialized(value, serialize(value), hand_over=True)


def wait(
    refs: Sequence[Waitable],
    *,
    num_returns: int = 1,
    timeout: float | None = None,
    fetch_local: bool = True,
) -> tuple[list[Waitable], list[Waitable]]:
    """Wait until some values are there.

    Args:
        refs: Distinct refs. Of an `ObjectRefGenerator`, the next value is waited for.
        num_returns: How many to wait for.
        timeout: In seconds; None waits for ever.
        fetch_local: Ray's; values are on this node always.

    Returns:
        At most `num_returns` refs that are ready (or have failed), and the others, each in the order of `refs`.

    Raises:
        ValueError: There are duplicates, or fewer refs than `num_returns`.
        TypeError: `refs` is no list of refs, or `num_returns` or `timeout` no number.
    """
    if not isinstance(refs, list | tuple):
        hint = "; write atoll.wait([ref])" if isinstance(refs, ObjectRef | ObjectRefGenerator) else ""
        raise TypeError(f"wait takes a list of ObjectRefs, not one {type(refs).__name__}{hint}")
    if timeout is not None:
        timeout = _seconds(timeout)
    object_ids = [ref._next_id() if type(ref) is ObjectRefGenerator else _id_of(ref) for ref in refs]
    if not object_ids:
        return [], []
    if len(set(object_ids)) != len(object_ids):
        raise ValueError("wait needs distinct refs: there are duplicates")
    if not hasattr(num_returns, "__index__"):
        raise TypeError(f"num_returns={num_returns!r}: give a whole number from 1 to the {len(object_ids)} refs")
    if not 0 < num_returns <= len(object_ids):
        raise ValueError(f"num_returns={num_returns}: give a whole number from 1 to the {len(object_ids)} refs")
    session = refs[0]._session
    with session.hooks.blocking():
        session.wait_for(object_ids, num_returns, timeout)
    ready: list[Waitable] = []
    rest: list[Waitable] = []
    for ref, object_id in zip(refs, object_ids, strict=True):
        (ready if len(ready) < num_returns and session.ready(object_id) else rest).append(ref)
    return ready, rest


def cancel(ref: ObjectRef[Any] | ObjectRefGenerator[Any], *, force: bool = False, recursive: bool = True) -> None:
    """Cancel the task that computes a value: one that runs gets KeyboardInterrupt, one that waits never begins.

    Args:
        ref: The value, or the generator; `get` raises `TaskCancelledError` from then on, unless it was there already.
        force: End the worker process instead of interrupting it.
        recursive: Cancel what the task has submitted itself, too.

    Raises:
        TypeError: It is no ref.
        ValueError: `force` with the call of an actor's method: the actor would die of it.
    """
    if type(ref) is ObjectRefGenerator:
        ref = ref.completed()
    if type(ref) is not ObjectRef:
        raise TypeError(f"cancel takes an ObjectRef, not {type(ref).__name__}; an actor is ended by atoll.kill")
    if force:
        entry = ref._session.core.objects.entries.get(ref._id)
        if entry is not None and entry.producer is not None and entry.producer.actor_id:
            raise ValueError("force=True would end the whole actor, not the call; end an actor by atoll.kill")
    ref._session.handle(CancelRequested(ref._id, force, recursive))


def get_actor(name: str, namespace: str | None = None) -> ActorHandle:
    """Return the handle of a named actor.

    Raises:
        TypeError: The name, or the namespace, is no text.
        ValueError: No living actor has the name.
    """
    session = current_session()
    for what, value in (("name", name), ("namespace", namespace or "")):
        if not isinstance(value, str):
            raise TypeError(f"get_actor({what}={value!r}): give str, not {type(value).__name__}")
    if not name:
        raise ValueError("get_actor needs a name")
    request = GetActor(session.next_request(), name, session.namespace if namespace is None else namespace)
    answer = session.ask_scheduler(request)
    error = failure(answer)
    if error is not None:
        raise ValueError(str(error))
    assert isinstance(answer, ActorChanged)
    return handle_of(answer.actor_id, answer.class_name, answer.interface, session)
