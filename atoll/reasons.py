"""Why something waits, and what would be: `atoll.why(ref)` and `atoll.simulate(num_gpus=2)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from atoll.actor import ActorHandle
from atoll.client.connection import failure
from atoll.client.core.records import FAILED, PENDING, TaskRecord
from atoll.client.current import current_session
from atoll.object_ref import ObjectRef
from atoll.option_schema import ACTOR, TASK
from atoll.options import ActorOptions, TaskOptions
from atoll.protocol.explanation import DONE, RUNS, WAITS, Explanation, decode_explanation
from atoll.protocol.messages import Explain, ExplainAll, Explained, ExplainedAll, Failed

if TYPE_CHECKING:
    from atoll.client.session import Session

__all__ = ["simulate", "why", "why_all"]


def why(of: ObjectRef[Any] | ActorHandle) -> Explanation:
    """Say why a task or an actor waits: on each node what is missing and who holds it, what would let it begin now,
    and when it can begin at the earliest. Shown as text, it is a short report.

    Args:
        of: A ref to a task's result, or an actor's handle.

    Raises:
        TypeError: It is neither.
    """
    if isinstance(of, ActorHandle):
        return _with_kept(current_session(), of._actor_id, of._target.class_name)
    if not isinstance(of, ObjectRef):
        raise TypeError(f"why takes an ObjectRef or an actor's handle, not {type(of).__name__}")
    return _of_object(of._session, of._id)


def why_all() -> list[Explanation]:
    """Say why each of the things waits that wait for the scheduler now, of all notebooks, in the order of service."""
    session = current_session()
    answer = session.ask_scheduler(ExplainAll(session.next_request()))
    error = failure(answer)
    if error is not None:
        raise error
    assert isinstance(answer, ExplainedAll)
    return [decode_explanation(each) for each in answer.explanations]


def simulate(**options: Any) -> Explanation:
    """Say what would become of a task with these options if it were submitted now. Nothing is submitted.

    Args:
        options: As in `@atoll.remote`: `simulate(num_gpus=2, gpu_memory="40G")`. With one that only actors have, as
            `release_gpu_when_idle_s` or `lifetime`, it is an actor that would be made.

    Raises:
        ValueError: There is no such option, or its value makes no sense.
    """
    of_actor = any(name in ACTOR and name not in TASK for name in options)
    checked: ActorOptions | TaskOptions = (ActorOptions() if of_actor else TaskOptions()).updated(options)
    session = current_session()
    label, default_cpus = checked.name or "what if", 0 if of_actor else 1
    shape = checked.scheduling_class(session.environment, label, default_cpus, session.scope)
    return _ask(session, Explain(session.next_request(), scheduling_class=shape), "")


def _ask(session: Session, request: Explain, instead: str) -> Explanation:
    answer = session.ask_scheduler(request)
    if isinstance(answer, Failed) and instead:
        return Explanation("", RUNS, instead)
    error = failure(answer)
    if error is not None:
        raise error
    assert isinstance(answer, Explained)
    return decode_explanation(answer.explanation)


def _of_object(session: Session, object_id: bytes) -> Explanation:
    with session.lock:
        entry = session.core.objects.entries.get(object_id)
        record = entry.producer if entry is not None else None
        if entry is None or entry.state != PENDING:
            failed = entry is not None and entry.state == FAILED
            return Explanation("", DONE, "it has failed: atoll.get raises why" if failed else "it has a value")
        if record is None:
            return Explanation("", RUNS, "another process computes it; ask there")
        known = _known_here(session, record)
    if known and (record.peer is None or not record.actor_id):
        return Explanation(record.name, RUNS if record.unresolved <= 0 else WAITS, known)
    if record.actor_id:  # one that was pushed may wait in the worker: its actor has given its GPUs up
        return _of_actor(session, record.actor_id, record.name, known)
    request = Explain(session.next_request(), record.class_key, code=record.function)
    return _ask(session, request, f"{record.name} is about to begin, or has begun")


def _known_here(session: Session, record: TaskRecord) -> str:
    """Return what this process knows itself of a task that has not ended; empty if the scheduler knows better."""
    if record.unresolved > 0:
        return f"waits for the values of {record.unresolved} of its arguments"
    if record.peer is None:
        return ""
    link = session.core.links.by_peer.get(record.peer)
    before = [other for other in link.outstanding if other < record.sequence] if link is not None else []
    if before:
        return f"is with a worker, behind {len(before)} other{'s' if len(before) > 1 else ''}"
    return "runs now"


def _with_kept(session: Session, actor_id: bytes, name: str) -> Explanation:
    """Explain an actor, and why it could not give its GPUs up."""
    found = _of_actor(session, actor_id, name)
    kept = next((each.kept for each in session.state().actors if each.actor_id == actor_id.hex()), "")
    return (
        msgspec.structs.replace(found, text=f"{found.text}; it keeps its GPUs while it is idle: {kept}")
        if kept
        else found
    )


def _of_actor(session: Session, actor_id: bytes, name: str, known: str = "") -> Explanation:
    """Explain an actor, or a call of it; `known` is what this process knows of the call if nothing keeps the actor."""
    request = Explain(session.next_request(), actor_id=actor_id)
    found = _ask(session, request, f"the actor of {name} has its process; what waits, waits for its turn there")
    return Explanation(name, RUNS, known) if known and found.state == RUNS else found
