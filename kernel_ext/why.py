"""What `%why` and `dry` find out: which request is meant, and where it stands.

t42   a cell of this kernel       its ref is asked for
      a cell of another notebook  its file says who has sent it, where it began, how it ended
fit   a variable                  a handle, a ref, an actor
llm   an actor, by its name
train what a cell is called       everything of that name that waits
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec

from atoll.kernel_ext import detached
from atoll.kernel_ext.background.story import NAMESPACE
from atoll.kernel_ext.background.story import WAITS as ROOM
from atoll.kernel_ext.cell_course import Course, Sent, course_of
from atoll.kernel_ext.engine.contract import Engine
from atoll.kernel_ext.engine.current import current_engine
from atoll.kernel_ext.grammar import MagicUsageError, ParsedLine
from atoll.kernel_ext.placing import options_of
from atoll.kernel_ext.records import RecordReader
from atoll.kernel_ext.why_view import WhyView
from atoll.protocol.explanation import DONE, RUNS, WAITS, Explanation, duration_text
from atoll.protocol.state import ActorState, LeaseState


def dry(said: ParsedLine, label: str, default_cpus: float = 1) -> WhyView:
    """Return what would become of a cell if it were sent now.

    Args:
        said: Its line.
        label: What it is called.
        default_cpus: What it holds if its line does not say.
    """
    engine = current_engine()
    host = said.get("on")
    if host is not None:
        return WhyView(explain(engine, str(host), {}), engine.job())
    options = {"num_cpus": default_cpus, **options_of(said, engine.state), "name": label}
    options.pop("max_retries", None)
    return WhyView([engine.simulate(options)], engine.job(), dry=True)


def explain(engine: Engine, name: str, namespace: Mapping[str, Any]) -> list[Explanation]:
    """Return where what is called so stands.

    Args:
        engine: The cluster.
        name: A number, variable, actor or label.
        namespace: The user's.

    Raises:
        MagicUsageError: Nothing is called so.
    """
    if detached.is_number(name):
        return _of_cell(engine, name)
    value = namespace.get(name)
    record = getattr(value, "record", "")
    if record and detached.is_number(str(record)):
        return _of_cell(engine, str(record))
    if _is_of_the_api(value):
        return [_placed(engine, engine.why(value))]
    waiting = [each for each in engine.why_all() if each.what == name]
    actors = [actor for actor in engine.state().actors if actor.name == name]
    if not waiting and actors:
        return [_of_actor(engine, actors[-1])]
    if not waiting:
        leases = [lease for lease in engine.state().leases if name in (lease.label, lease.doing)]
        if not leases:
            raise MagicUsageError(
                f"nothing that waits or runs is called {name!r}; %why alone shows all that waits, %jobs what runs"
            )
        return [_running(engine, lease, name) for lease in leases]
    return waiting


def _is_of_the_api(value: Any) -> bool:
    import atoll

    return isinstance(value, (atoll.ObjectRef, atoll.ActorHandle))


def _of_cell(engine: Engine, record: str) -> list[Explanation]:
    directory = engine.directory()
    try:
        course = course_of(RecordReader(directory, record))
    except (FileNotFoundError, NotADirectoryError):
        raise MagicUsageError(f"there is no cell {record}. {detached.known_cells(directory)}") from None
    sent = course.sent or Sent("", record)
    host = None
    if course.head is not None:
        host = _host_of(engine, record)
        sent = Sent(host.job if host is not None else "", course.head.label)
    who = sent.place or _session(engine, sent.job)
    named = partial(msgspec.structs.replace, what=f"{sent.label} ({record})", who=who, job=sent.job)
    if course.ending is not None:
        how = "it has failed: %tb" if course.ending.status == "failed" else "it has ended: %logs"
        return [named(Explanation("", DONE, f"{how} {record} shows it"))]
    if course.attempts:
        return [named(_of_attempt(engine, course))]
    if course.head is not None and host is not None and host.name != record:
        return [named(Explanation("", WAITS, f"{course.head.waits_for} first"))]
    running = detached.running_cell(record)
    if running is not None:
        return [named(engine.why(running.ref))]
    waiting = [each for each in engine.why_all() if each.job == sent.job and each.what == sent.label]
    if waiting:
        return [named(each) for each in waiting]
    text = "it does not wait for the scheduler: it is about to begin, waits for what others compute, or was taken back"
    return [named(Explanation("", WAITS, text))]


def _host_of(engine: Engine, record: str) -> ActorState | None:
    """Return the actor that a background cell is, or the one in which it waits for others."""
    names = (record, record + ROOM)
    own = [actor for actor in engine.state().actors if actor.namespace == NAMESPACE and actor.name in names]
    return min(own, key=lambda actor: (actor.state == "dead", actor.name != record), default=None)


def _session(engine: Engine, job: str) -> str:
    """Return what a session is called."""
    return next((each.name for each in engine.state().jobs if each.job == job), "a notebook that is gone")


def _of_attempt(engine: Engine, course: Course) -> Explanation:
    """Return where a cell runs that has begun."""
    began = course.attempts[-1]
    lease = next((lease for lease in engine.state().leases if lease.pid == began.pid), None)
    times = f", attempt {len(course.attempts)}" if len(course.attempts) > 1 else ""
    if lease is None:
        return Explanation("", DONE, f"its process {began.pid} on {began.node} is gone{times}")
    return _running(engine, lease, "", f" for {duration_text(max(0.0, time.time() - began.at))}{times}")


def _of_actor(engine: Engine, actor: ActorState) -> Explanation:
    name = f"actor {actor.name}"
    if actor.state == "dead":
        return Explanation("", DONE, f"it has died{': ' + actor.cause if actor.cause else ''}", what=name)
    lease = next((lease for lease in engine.state().leases if lease.actor == actor.actor_id), None)
    if lease is not None:
        found = _running(engine, lease, name)
        kept = f"{found.text}; it keeps its GPUs while it is idle: {actor.kept}"
        return msgspec.structs.replace(found, text=kept) if actor.kept else found
    return Explanation("", WAITS, f"it is {actor.state}", what=name)


def _running(engine: Engine, lease: LeaseState, label: str, since: str = "") -> Explanation:
    """Return where something runs, from the lease of its worker."""
    state = engine.state()
    node = next((node.name for node in state.nodes if node.node_id == lease.node_id), lease.node_id[:8])
    devices = f", GPU {', '.join(map(str, lease.devices))}" if lease.devices else ""
    since = since or f" for {duration_text(max(0.0, state.now - lease.since))}"
    text = f"runs on {node}, pid {lease.pid}{devices}{since}"
    return Explanation("", RUNS, text, what=label, who=_session(engine, lease.job), job=lease.job)


def _placed(engine: Engine, found: Explanation) -> Explanation:
    """Return an explanation with the place of what runs, where the cluster knows it."""
    if found.state != RUNS or not found.request:
        return found
    own = (lease for lease in engine.state().leases if lease.job == engine.job())
    leases = [lease for lease in own if lease.doing == found.request]
    return _running(engine, leases[0], found.request) if len(leases) == 1 else found
