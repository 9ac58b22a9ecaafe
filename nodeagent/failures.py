"""What goes wrong in tasks and calls, as it is answered; and which method a call means."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

from atoll.actor_methods import said_of
from atoll.exceptions import AtollError, SerializationError, TaskCancelledError, TaskError, WorkerCrashedError
from atoll.nodeagent import device_errors
from atoll.nodeagent.leaving import READY, TERMINATE, is_ready, terminate
from atoll.protocol.channel_messages import CallMethod, TaskRaised
from atoll.protocol.serialization import deserialize, serialize


def error_payload(error: BaseException, name: str, where: str) -> bytes:
    """Return the pickled `TaskError` for what user code raised, without frames of ours; other errors as they are."""
    if isinstance(error, SerializationError | TaskCancelledError) and error.__traceback__ is None:
        return serialize(error).data
    if isinstance(error, SystemExit):
        error = WorkerCrashedError(f"{name} called sys.exit({error.code!r})")
    device_errors.noticed(error)
    text = "".join(traceback.format_exception(type(error), error, _users_part(error.__traceback__)))
    made = TaskError(name, text, error, where)
    try:
        return serialize(made).data
    except SerializationError:
        return serialize(TaskError(name, text, None, where)).data


def _users_part(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback from its first frame that is not of this package's running of tasks."""
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith(
        ("atoll.nodeagent.", "atoll.client.")
    ):
        trace = trace.tb_next
    return trace


def method_of(actor: Any, message: CallMethod) -> Callable[..., Any]:
    """Return what a call calls.

    Raises:
        AttributeError: The actor has no such method.
    """
    if actor is None:
        raise AtollError(f"no actor lives in this process to call {message.method} of")
    try:
        method: Callable[..., Any] = getattr(actor, message.method)
    except AttributeError:
        if message.method in TERMINATE:
            return terminate
        if message.method in READY:
            return is_ready
        raise
    return method


def retried_by(actor: Any, message: CallMethod) -> tuple[type[Exception], ...]:
    """Return the classes of exceptions after which a call of a method may be made again, if it may at all."""
    if message.retried:
        return deserialize(message.retried)  # type: ignore[no-any-return]
    classes = said_of(getattr(type(actor), message.method, None)).retry_exceptions
    return (Exception,) if isinstance(classes, bool) else tuple(classes)


def cancelled_answer(sequence: int, contained: list[list[bytes]] | None = None) -> TaskRaised:
    """Return the answer of a task that was cancelled, after it had yielded values with these refs inside."""
    error = serialize(TaskCancelledError("the task was cancelled")).data
    return TaskRaised(sequence, error, 0, False, contained=contained or [])


def microseconds(began: float) -> int:
    """Return the time since an instant."""
    return max(0, int((time.monotonic() - began) * 1e6))
