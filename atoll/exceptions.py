"""Everything that Atoll raises, in one tree. Names and meanings are Ray's where Ray has the thing.

AtollError                             RayError
├── TaskError                          RayTaskError: user code raised; is also an instance of the user's own exception
├── TaskCancelledError
├── GetTimeoutError                    (also a TimeoutError)
├── TaskUnschedulableError             no node could ever give what was asked for
├── ActorUnschedulableError
├── TaskPlacementGroupRemoved
├── ActorPlacementGroupRemoved
├── RuntimeEnvSetupError               the environment for a worker could not be made
├── WorkerCrashedError                 the process of a task died
├── OutOfMemoryError                   ... because it used more memory than it may, or the host ran out of it
├── NodeDiedError                      ... because its node is gone
├── ActorError                         RayActorError
│   ├── ActorDiedError
│   ├── ActorUnavailableError          for now; a later call may succeed
│   └── PendingCallsLimitExceeded
├── ActorAlreadyExistsError            (also a ValueError) the name is taken
├── ActorHandleNotFoundError           (also a ValueError) the handle is of no actor of this cluster
├── AsyncioActorExit
├── ObjectLostError
│   ├── OwnerDiedError
│   ├── ObjectFreedError
│   ├── ObjectFetchTimedOutError
│   └── ObjectReconstructionFailedError   it was computed by a task that cannot be run again
├── ObjectStoreFullError
├── OutOfDiskError                     ... and there is no room to spill either
├── StreamingGeneratorReplayInconsistentError   a generator that ran again yielded fewer values
├── SerializationError                 a value does not pickle; names it and says why (a PicklingError)
├── UnserializableException            a task failed, and its exception cannot be made here
├── ClusterError                       RaySystemError
│   ├── ClusterNotFoundError           nothing runs, and nothing was to be started
│   ├── ClusterStartError
│   ├── ClusterLostError               it was there and is gone
│   ├── AuthenticationError            a peer could not prove the cluster's key
│   ├── VersionMismatchError
│   └── InsecureDirectoryError         a directory or file that others can write to
├── ProtocolError                      a peer said what the protocol does not allow
└── InternalError                      our own fault: an invariant does not hold

The names on the right are Ray's for the same class; both can be imported from here.
"""

from __future__ import annotations

import pickle
from functools import cache
from typing import Any


class AtollError(Exception):
    """Whatever Atoll raises."""

    def _render_traceback_(self) -> list[str]:
        """Return the lines that IPython shows: without our own frames."""
        from atoll.tracebacks import rendered

        return rendered(self)


class TaskError(AtollError):
    """User code raised in a task or an actor's method.

    What a caller catches is an instance of this class *and* of the user's own exception class, as in Ray: see
    `as_instance_of_cause`.

    Attributes:
        cause: The user's exception, or None where it could not travel.
        remote_traceback: The traceback as text, with the lines of the user's code.
        task_name: The function or method.
        where: Where it ran, as people read it: `pid=42, node=dromedary`.
    """

    def __init__(
        self,
        task_name: str,
        remote_traceback: str,
        cause: BaseException | None = None,
        where: str = "",
    ) -> None:
        # Not `super()`: in `as_instance_of_cause` that would be the user's class, whose constructor is another.
        Exception.__init__(self, task_name, remote_traceback, where)
        self.cause = cause
        self.remote_traceback = remote_traceback
        self.task_name = task_name
        self.where = where

    @property
    def function_name(self) -> str:
        """The function or method: Ray's name for `task_name`."""
        return self.task_name

    @property
    def traceback_str(self) -> str:
        """The traceback as text: Ray's name for `remote_traceback`."""
        return self.remote_traceback

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        return f"{self.task_name}{place} failed:\n{self.remote_traceback.rstrip()}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_task_error, (self.task_name, self.remote_traceback, _portable(self.cause), self.where)

    def as_instance_of_cause(self) -> TaskError:
        """Return this error as an instance of the user's own class too, or itself where that is impossible."""
        cause = self.cause
        while isinstance(cause, TaskError) and cause.cause is not None:  # a task raised what `get` raised in it
            cause = cause.cause
        if cause is None or isinstance(cause, TaskError) or not isinstance(cause, Exception):
            return self
        cause_class: Any = type(cause)
        combined = _combine(cause_class)
        if combined is None:
            return self
        error: TaskError = combined.__new__(combined)
        try:
            error.__dict__.update(cause.__dict__)
        except AttributeError:
            return self
        TaskError.__init__(error, self.task_name, self.remote_traceback, cause, self.where)
        error.args = cause.args
        return error

    def as_instanceof_cause(self) -> TaskError:
        """As `as_instance_of_cause`: Ray's name for it."""
        return self.as_instance_of_cause()


class _Parts:
    """An exception in parts, for one whose class cannot be called with its `args`: a common slip, and no reason to
    lose its type."""

    def __init__(self, cause: BaseException) -> None:
        self.parts = (type(cause), cause.args, dict(vars(cause)))

    def whole(self) -> BaseException:
        """Put the exception together again, without its constructor."""
        cls, args, attributes = self.parts
        cause: BaseException = cls.__new__(cls, *args)
        vars(cause).update(attributes)
        return cause


def _portable(cause: BaseException | None) -> BaseException | _Parts | None:
    """Return what of the exception survives pickling: all, its parts, or nothing; its text travels anyway."""
    import cloudpickle

    if cause is None:
        return None

    def survives(form: Any) -> bool:
        try:
            pickle.loads(cloudpickle.dumps(form))
        except Exception:  # a user's exception may do anything when it is pickled
            return False
        return True

    return next((form for form in (cause, _Parts(cause)) if survives(form)), None)


def _rebuild_task_error(name: str, traceback: str, cause: BaseException | _Parts | None, where: str) -> TaskError:
    return TaskError(name, traceback, cause.whole() if isinstance(cause, _Parts) else cause, where)


def _rebuild_combined(*parts: Any) -> TaskError:
    return _rebuild_task_error(*parts).as_instance_of_cause()


@cache
def _combine(cause_class: Any) -> type[TaskError] | None:
    """Return a class that is both a TaskError and the user's class, or None where the layouts conflict."""

    def text(self: TaskError) -> str:
        return TaskError.__str__(self)

    def forward(self: TaskError, name: str) -> Any:
        return getattr(self.__dict__.get("cause"), name)

    def reduce(self: TaskError) -> tuple[Any, ...]:
        return _rebuild_combined, TaskError.__reduce__(self)[1]

    name = f"TaskError({cause_class.__name__})"
    body = {
        "__str__": text,
        "__reduce__": reduce,
        "__getattr__": forward,
        "__module__": __name__,
        "__qualname__": name,
        "__doc__": f"A task raised {cause_class.__name__}.",
    }
    try:
        combined: type[TaskError] = type(name, (TaskError, cause_class), body)
        combined.__new__(combined)
    except TypeError:
        return None
    return combined


class TaskCancelledError(AtollError):
    """The task was cancelled before or while it ran."""


class GetTimeoutError(AtollError, TimeoutError):
    """A result was not there in time. The task goes on."""


class TaskUnschedulableError(AtollError):
    """No node of the cluster could ever give the resources that were asked for."""


class ActorUnschedulableError(AtollError):
    """No node of the cluster could ever give the resources that an actor asks for."""


class TaskPlacementGroupRemoved(AtollError):
    """The placement group that the task was to run in has been removed."""


class ActorPlacementGroupRemoved(AtollError):
    """The placement group that the actor was to live in has been removed."""


class RuntimeEnvSetupError(AtollError):
    """The environment that a worker was to have could not be made."""


class WorkerCrashedError(AtollError):
    """The process that ran the task died.

    Attributes:
        advice: What to do about it, which the text ends with; empty where there is nothing to say.
    """

    def __init__(self, text: str = "", advice: str = "") -> None:
        super().__init__(text)
        self.advice = advice

    def __str__(self) -> str:
        return _advised(super().__str__(), self.advice)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (*self.args, self.advice)


def _advised(text: str, advice: str) -> str:
    return f"{text}. {advice}" if advice else text


class OutOfMemoryError(AtollError):
    """The process that ran the task was ended: it used more memory than was set aside for it, or the host had no more.

    Attributes:
        used_bytes: What it used at its peak; 0 if that is not known.
        asked_bytes: What was set aside for it; 0 if it had asked for nothing.
        advised_bytes: What it had better ask for.
    """

    def __init__(self, text: str = "", used_bytes: int = 0, asked_bytes: int = 0, advised_bytes: int = 0) -> None:
        super().__init__(text)
        self.used_bytes = used_bytes
        self.asked_bytes = asked_bytes
        self.advised_bytes = advised_bytes

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.used_bytes, self.asked_bytes, self.advised_bytes)


class NodeDiedError(AtollError):
    """The node that ran the task is gone."""


class ActorError(AtollError):
    """Something is wrong with an actor, not with the method that was called."""


class ActorDiedError(ActorError):
    """The actor is dead and will not come back.

    Attributes:
        cause: What its constructor raised, if that is why: also the `__cause__`.
        advice: What to do about it, which the text ends with; empty where there is nothing to say.
    """

    def __init__(self, text: str = "", cause: TaskError | None = None, advice: str = "") -> None:
        super().__init__(text)
        self.cause = cause
        self.advice = advice
        self.__cause__ = cause.as_instance_of_cause() if cause is not None else None

    @property
    def actor_init_failed(self) -> bool:
        """Whether the constructor raised."""
        return self.cause is not None

    def __str__(self) -> str:
        return _advised(super().__str__(), self.advice)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (*self.args, self.cause, self.advice)


class ActorUnavailableError(ActorError):
    """The actor cannot be reached now. The call may have run; a later call may succeed."""


class PendingCallsLimitExceeded(ActorError):
    """More calls wait for the actor than its `max_pending_calls`."""


class ActorAlreadyExistsError(AtollError, ValueError):
    """Another actor has the name."""


class ActorHandleNotFoundError(AtollError, ValueError):
    """The handle belongs to no actor of this cluster."""


class AsyncioActorExit(AtollError):
    """An actor with coroutine methods ends itself by `exit_actor`."""


class ObjectLostError(AtollError):
    """No copy of an object is left."""


class OwnerDiedError(ObjectLostError):
    """The process that owned an object died, and the object with it."""


class ObjectFreedError(ObjectLostError):
    """The object was given up on purpose while there were still refs to it."""


class ObjectFetchTimedOutError(ObjectLostError):
    """No copy of the object was found in time."""


class ObjectReconstructionFailedError(ObjectLostError):
    """No copy of an object is left, and the task that computed it cannot be run again; the message says why."""


class ObjectStoreFullError(AtollError):
    """The object store has no room for an object, now or ever; the message says which."""


class OutOfDiskError(AtollError):
    """The object store has no room for an object, and neither has the disk that it would spill to."""


class StreamingGeneratorReplayInconsistentError(AtollError):
    """A generator that had to run again yielded fewer values than the first time."""


class SerializationError(AtollError, TypeError, pickle.PicklingError):
    """A value cannot travel to another process."""


class UnserializableException(AtollError):
    """A task failed, and the exception that it raised cannot be made in this process; the text says what it was."""


class ClusterError(AtollError):
    """Something is wrong with the cluster itself."""


class ClusterNotFoundError(ClusterError):
    """No cluster of this user runs on this host."""


class ClusterStartError(ClusterError):
    """The cluster's daemons could not be started."""


class ClusterLostError(ClusterError):
    """The connection to the cluster is gone."""


class AuthenticationError(ClusterError):
    """A peer could not prove that it knows the cluster's key."""


class VersionMismatchError(ClusterError):
    """Two processes have versions that do not speak with each other; the message names both."""


class InsecureDirectoryError(ClusterError):
    """A directory or file that must be ours alone is not."""


class ProtocolError(AtollError):
    """A peer said what the protocol does not allow."""


class InternalError(AtollError):
    """An invariant of Atoll itself does not hold. The message ends with the story that led there."""


RayError = AtollError
RayTaskError = TaskError
RayActorError = ActorError
RaySystemError = ClusterError
