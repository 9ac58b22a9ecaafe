"""What code that runs in a task can ask about the task, and tell whoever submitted it.

In a process that is no worker there is no task, and nothing is emitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from atoll.protocol.values import ActorInterface
from atoll.resources import Amounts

Emitter = Callable[[str, bytes], None]


class TaskContext(NamedTuple):
    """The task that runs.

    Attributes:
        name: Function, method or cell.
        task_id: Its id.
        job: The job that it belongs to.
        worker_id: The process that it runs in.
        gpu_ids: Numbers of the GPUs that it may use.
        method: The method, if it is a call; `name` may be another that was given to it.
    """

    name: str
    task_id: bytes
    job: bytes
    worker_id: bytes
    gpu_ids: list[int]
    method: str = ""


class ActorContext(NamedTuple):
    """The actor that lives in this process.

    Attributes:
        actor_id: Its id.
        name: Its name, or empty.
        class_name: Its class.
        interface: Its methods.
        restarted: Whether it is not the first of its processes.
    """

    actor_id: bytes
    name: str
    class_name: str
    interface: ActorInterface
    restarted: bool


_emitter: Emitter | None = None


_actor: ActorContext | None = None
_resources: Amounts = {}
_gpus: tuple[int, ...] = ()


def _no_task() -> TaskContext | None:
    return None


_current: Callable[[], TaskContext | None] = _no_task


def install(emitter: Emitter, current: Callable[[], TaskContext | None]) -> None:
    """Set what emits and what knows the task; a worker does, once."""
    global _emitter, _current
    _emitter, _current = emitter, current


def emit_output(kind: str, payload: bytes) -> None:
    """Send a piece of output to whoever submitted the task that runs in this thread, after all sent before.

    Outside of a task, nothing happens.
    """
    if _emitter is not None:
        _emitter(kind, payload)


def current_task() -> TaskContext | None:
    """Return the task that runs in this thread, or None."""
    return _current()


def enter_actor(actor: ActorContext) -> None:
    """Set the actor that lives in this process from now on; a worker does."""
    global _actor
    _actor = actor


def hold_resources(resources: Amounts) -> None:
    """Set what the process's lease holds, in units."""
    global _resources
    _resources = resources


def hold_gpus(numbers: Iterable[int]) -> None:
    """Set the numbers of the GPUs that the process's lease holds."""
    global _gpus
    _gpus = tuple(numbers)


def current_gpus() -> tuple[int, ...]:
    """Return the numbers of the GPUs that the process's lease holds; none in a process that is no worker."""
    return _gpus


def current_resources() -> Amounts:
    """Return what the process's lease holds, in units; nothing in a process that is no worker."""
    return _resources


def current_actor() -> ActorContext | None:
    """Return the actor that lives in this process, or None."""
    return _actor
