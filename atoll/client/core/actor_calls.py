"""Calls to actors: in order for each caller, directly to the actor's process, over its restarts.

The client follows every actor that it has called (`WatchActor`). While the actor is pending or restarting, calls
queue here; when it is alive they go down its channel in the order in which they were made. A call whose arguments
are not there yet holds back those behind it: the order is a promise.

When the process dies, calls that were pushed may have run. They fail, or, with `max_task_retries`, are made again
before those that came later.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from atoll.client.core.links import Link, Links, Outbox
from atoll.client.core.records import TaskRecord
from atoll.client.core.settlement import Settlement, error_payload
from atoll.protocol.channel_messages import CancelTask
from atoll.protocol.machine import Instant
from atoll.protocol.messages import ActorChanged, CreateActor, Failed, KillActor, ReleaseActor, WatchActor
from atoll.protocol.values import ActorPayload

_encode = msgspec.msgpack.Encoder().encode

MAXIMUM_DEAD = 256
"""So many dead actors are remembered; of others the scheduler is asked again."""

NEWS_WITHIN_S = 5.0
"""How long calls on a lost channel wait for the scheduler to say what became of the actor."""


class ActorView:
    """What this client knows of an actor.

    Attributes:
        actor_id: Its id.
        state: As in `ActorChanged`, or `unknown` before the first news.
        incarnation: The process that the channel belongs to.
        worker_id: The process.
        queue: Calls that were not pushed, in order.
        link: The channel, while it stands.
        stranded: Calls that were on a channel that is gone, until it is known what became of the actor.
        class_name: For people.
        cause: Why it is dead, and its constructor's pickled exception if that is why.
        creation: Until it is asked for: its constructor's arguments, the request, and its class's code.
        keepalive: What its constructor's arguments refer to: an actor that begins anew is given them again.
        released: No handle is left, and the scheduler was told, or will be when it is there.
        given_up: Likewise of a detached actor, which nobody was ever given a handle of: it is killed.
    """

    __slots__ = (
        "actor_id",
        "address",
        "cause",
        "class_name",
        "creation",
        "error",
        "given_up",
        "incarnation",
        "keepalive",
        "link",
        "lost_at",
        "queue",
        "released",
        "state",
        "stranded",
        "worker_id",
    )

    def __init__(self, actor_id: bytes) -> None:
        self.actor_id = actor_id
        self.state = "unknown"
        self.incarnation = -1
        self.worker_id = b""
        self.address = ""
        self.queue: deque[TaskRecord] = deque()
        self.link: Link | None = None
        self.stranded: list[TaskRecord] = []
        self.lost_at: Instant | None = None
        self.cause = ""
        self.class_name = "the actor"
        self.error = b""
        self.creation: tuple[TaskRecord, CreateActor, bytes] | None = None
        self.keepalive: Any = None
        self.released = False
        self.given_up = False


class ActorCalls:
    """All actors that a client calls.

    Args:
        outbox: Where actions go.
        links: The channels to workers.
        settlement: Where calls end.
    """

    def __init__(self, outbox: Outbox, links: Links, settlement: Settlement) -> None:
        self._outbox = outbox
        self._links = links
        self._settlement = settlement
        self.views: dict[bytes, ActorView] = {}
        self._by_worker: dict[bytes, ActorView] = {}
        self._dead: dict[bytes, None] = {}
        self._creations: dict[int, tuple[ActorView, CreateActor | None]] = {}
        self._watches: dict[int, ActorView] = {}
        self.deadline: Instant | None = None

    def follow(self, actor_id: bytes) -> ActorView:
        """Return what is known of an actor, and have the scheduler tell its state from now on."""
        view = self.views.get(actor_id)
        if view is None:
            view = self.views[actor_id] = ActorView(actor_id)
            self._watch(view)
        return view

    def create(self, record: TaskRecord, message: CreateActor, code: bytes) -> None:
        """Have an actor made when its constructor's arguments are there. Nobody waits for the scheduler's answer."""
        view = self.views[record.actor_id] = ActorView(record.actor_id)
        view.creation = (record, message, code)
        view.keepalive, record.keepalive = record.keepalive, None
        if record.dependencies and self._settlement.wait_for_dependencies(record) and record.unresolved > 0:
            return
        self._advance(view)

    def _advance(self, view: ActorView) -> None:
        """Ask for an actor whose arguments are there; one of whose arguments has failed will never be."""
        assert view.creation is not None
        record, message, code = view.creation
        if record.unresolved > 0:
            return
        names = record.dependencies or []
        failed = self._settlement.first_failure(names)
        if failed is None and not self._settlement.has_values(names):
            self._settlement.wait_for_dependencies(record)  # it was there, and was lost while others were waited for
            return
        view.creation = None
        if failed is not None:
            view.state = "dead"
            view.error = failed
            self._died(view)
            return
        locations = [self._settlement.location(name) for name in names]
        payload = _encode(ActorPayload(code, record.arguments, locations))
        message = msgspec.structs.replace(message, spec=msgspec.structs.replace(message.spec, payload=payload))
        self._creations[message.request] = (view, message)
        self._outbox.tell_scheduler(message)

    def release(self, actor_id: bytes) -> None:
        """The last handle of an actor that was made here is gone, and no call of it is pending: it is to end."""
        view = self.views.get(actor_id)
        if view is None or view.released:
            return
        if view.creation is not None:  # it was never asked for; its arguments need not come any more
            view.creation[0].unresolved = -1
        if view.state == "dead" or view.creation is not None:
            self._forget(actor_id)
            return
        view.released = True
        asked = next((key for key, (other, message) in self._creations.items() if other is view and not message), None)
        if asked is not None:  # an interrupt: whether it was asked for is not known, nor whether the answer is about it
            del self._creations[asked]
            self._watch(view)
        self._tell_released(view)

    def give_up(self, actor_id: bytes) -> None:
        """Whoever makes a detached actor was interrupted: it is not asked for, or it is to end."""
        view = self.views.get(actor_id)
        if view is not None:
            view.given_up = True
            self.release(actor_id)

    def _tell_released(self, view: ActorView) -> None:
        if view.given_up:
            kill = KillActor(self._outbox.next_request(), view.actor_id, cause="the call that made it was interrupted")
            self._outbox.tell_scheduler(kill)
        else:
            self._outbox.tell_scheduler(ReleaseActor(view.actor_id))

    def _forget(self, actor_id: bytes) -> None:
        self._dead.pop(actor_id, None)
        view = self.views.pop(actor_id, None)
        if view is not None and self._by_worker.get(view.worker_id) is view:
            del self._by_worker[view.worker_id]

    def follow_new(
        self, actor_id: bytes, request: int, message: CreateActor | None = None, keepalive: Any = None
    ) -> None:
        """Begin to follow an actor that is being created by a request: its creator is told of it without asking.

        With the `message`, the request is made again at a scheduler that has not answered the first one: nobody else
        waits for the answer, and a scheduler that knows the actor says so.
        """
        view = self.views[actor_id] = ActorView(actor_id)
        view.keepalive = keepalive
        self._creations[request] = (view, message)

    def refused(self, failure: Failed) -> None:
        """Note that an actor was not created, or that the scheduler knows nothing of one that we follow."""
        view, _message = self._creations.pop(failure.request, (None, None))
        view = view or self._watches.pop(failure.request, None)
        if view is not None and view.state != "dead":
            view.state = "dead"
            view.error = error_payload(failure.kind, failure.text)
            self._died(view)

    def refuse_all(self, kind: str, text: str) -> None:
        """The scheduler will not answer what it was asked about actors."""
        for request in [*self._creations, *self._watches]:
            self.refused(Failed(request, kind, text))

    def _watch(self, view: ActorView) -> None:
        request = self._outbox.next_request()
        self._watches[request] = view
        self._outbox.tell_scheduler(WatchActor(request, view.actor_id))

    def relink(self) -> None:
        """Follow all living actors anew, at a scheduler that may have been restarted and not have heard of some."""
        self._watches.clear()
        unanswered = {view.actor_id: message for view, message in self._creations.values() if message is not None}
        for view in self.views.values():
            if view.actor_id in unanswered:
                self._outbox.tell_scheduler(unanswered[view.actor_id])
            elif view.state != "dead" and view.creation is None:
                self._watch(view)
            if view.released:
                self._tell_released(view)

    def call(self, record: TaskRecord) -> None:
        """Take a new call."""
        view = self.follow(record.actor_id)
        if record.dependencies and self._settlement.wait_for_dependencies(record) and record.unresolved <= 0:
            return  # a dependency has failed, and the call with it
        if view.state == "dead":
            self._fail(view, record)
            return
        view.queue.append(record)
        if view.link is None:
            self._reach(view)
        else:
            self.flush(view)

    def pending(self, actor_id: bytes) -> int:
        """Return how many calls of an actor have been made here and have not ended."""
        view = self.views.get(actor_id)
        if view is None:
            return 0
        return len(view.queue) + len(view.stranded) + (len(view.link.outstanding) if view.link is not None else 0)

    def again(self, record: TaskRecord) -> None:
        """A call did not begin, since what it takes was not there: it waits for that before all that are queued."""
        view = self.views[record.actor_id]
        if record.cancelled:
            self._settlement.failed_with(record, "TaskCancelledError", f"{record.name} was cancelled")
            return
        if self._settlement.wait_for_dependencies(record) and record.unresolved <= 0:
            return  # it has failed: its argument cannot be had again
        if view.state == "dead":
            self._fail(view, record)
            return
        view.queue.appendleft(record)
        self.flush(view)

    def flush(self, view: ActorView) -> None:
        """Push queued calls, in order, as far as their dependencies are there. A process that is gone gets none."""
        link = view.link
        if link is None or view.state != "alive" or link.process_id != view.worker_id:
            if view.creation is not None:
                self._advance(view)
            return
        queue = view.queue
        while queue and queue[0].unresolved <= 0:
            names = queue[0].dependencies
            if names and not queue[0].unresolved and not self._settlement.has_values(names):
                self._settlement.wait_for_dependencies(queue[0])
                continue
            record = queue.popleft()
            if record.unresolved == 0:  # below zero: it has ended already
                self._links.push(link, record)
        if queue and queue[0].manner is not None and queue[0].manner.any_order:
            self._overtake(view, link)

    def _overtake(self, view: ActorView, link: Link) -> None:
        """Push the calls that have their arguments, past those that wait for theirs: this actor promises no order."""
        for record in view.queue:
            if record.dependencies and not record.unresolved and not self._settlement.has_values(record.dependencies):
                self._settlement.wait_for_dependencies(record)  # it was there and is lost: it is made again
        waiting = [record for record in view.queue if record.unresolved > 0]
        if len(waiting) < len(view.queue):
            ready, view.queue = [record for record in view.queue if record.unresolved == 0], deque(waiting)
            for record in ready:
                self._links.push(link, record)

    def retry(self, record: TaskRecord) -> bool:
        """Make a call again that has raised, if it may be tried once more; False if not."""
        view = self.views[record.actor_id]
        if record.cancelled or record.retries_left == 0 or view.state == "dead":
            return False
        self._again(record)
        view.queue.append(record)
        self.flush(view)
        return True

    @staticmethod
    def _again(record: TaskRecord) -> None:
        if record.retries_left > 0:
            record.retries_left -= 1
        record.attempt += 1
        record.peer = None

    # ------------------------------------------------------------------------------------------------ news

    def changed(self, news: ActorChanged, now: Instant) -> None:
        """Take the scheduler's news of an actor."""
        created, _message = self._creations.pop(news.request, (None, None))
        if created is not None and created.actor_id != news.actor_id:  # its name was another's, who is to be used
            self._forget(created.actor_id)
        self._watches.pop(news.request, None)
        view = self.views.get(news.actor_id)
        if view is None:
            view = self.views[news.actor_id] = ActorView(news.actor_id)
        if news.incarnation < view.incarnation or view.state == "dead":
            return
        restarted = news.incarnation > view.incarnation and view.incarnation >= 0
        view.state = news.state
        view.class_name = news.class_name
        view.incarnation = news.incarnation
        if news.state == "dead":
            view.cause, view.error = news.cause, news.error
            self._died(view)
        elif news.state == "alive":
            self._came_alive(view, news, now)
        if (news.state == "restarting" or restarted) and view.link is None:
            self._settle_stranded(view)

    def _came_alive(self, view: ActorView, news: ActorChanged, now: Instant) -> None:
        if view.worker_id != news.worker_id:
            if view.link is None:
                self._by_worker.pop(view.worker_id, None)
            view.worker_id = news.worker_id
            view.address = news.address
            self._by_worker[news.worker_id] = view
        if view.link is None:
            self._reach(view)
        elif view.link.process_id != view.worker_id:
            self._wait_for_loss(view, now)  # the last answers of the process before may still be in its channel
        else:
            self.flush(view)

    def _reach(self, view: ActorView) -> None:
        """Have a channel to a living actor opened, unless one is being opened."""
        if view.state == "alive":
            link = self._links.want(view.worker_id, view.address)
            if link is not None:
                self.channel_opened(link)

    def _wait_for_loss(self, view: ActorView, now: Instant) -> None:
        view.lost_at = now
        until = Instant(now + NEWS_WITHIN_S)
        self.deadline = until if self.deadline is None else min(self.deadline, until)

    def _died(self, view: ActorView) -> None:
        view.lost_at = None
        view.keepalive = None
        stranded, view.stranded = view.stranded, []
        queued, view.queue = list(view.queue), deque()
        if view.link is None:
            for record in [*stranded, *queued]:
                self._fail(view, record)
            if view.released:
                self._forget(view.actor_id)
            else:
                self._dead[view.actor_id] = None
                if len(self._dead) > MAXIMUM_DEAD:
                    self._forget(next(iter(self._dead)))
        else:  # its last answers may still be in the channel: what is on it fails when the channel goes
            for record in queued:
                self._fail(view, record)

    def _fail(self, view: ActorView, record: TaskRecord) -> None:
        if record.unresolved < 0:
            return
        record.unresolved = -1
        if view.error:
            self._settlement.failed(record, view.error)
        else:
            self._settlement.actor_died(record, f"{view.class_name}.{record.name}", view.cause)

    # -------------------------------------------------------------------------------------------- channels

    def channel_opened(self, link: Link) -> None:
        """Push what waits for the actor at the other end."""
        view = self._by_worker.get(link.process_id)
        if view is None or view.link is not None or view.state != "alive" or link.process_id != view.worker_id:
            return
        view.link = link
        self._settle_stranded(view)
        self.flush(view)

    def channel_lost(self, link: Link, now: Instant) -> None:
        """The actor's process or its channel is gone: keep what was on it until it is known which."""
        view = self._by_worker.get(link.process_id)
        if view is None or view.link is not link:
            return
        self._strand(view, link)
        if view.state == "dead":
            self._died(view)
        elif view.state == "restarting" or link.process_id != view.worker_id:
            self._settle_stranded(view)
            self._reach(view)
        else:
            self._wait_for_loss(view, now)
            self._reach(view)

    def _strand(self, view: ActorView, link: Link) -> None:
        view.link = None
        calls = {sequence: record for sequence, record in link.outstanding.items() if record.actor_id}
        for sequence in calls:
            del link.outstanding[sequence]  # an answer that still comes is nobody's
        view.stranded.extend(calls.values())
        if link.process_id != view.worker_id:
            self._by_worker.pop(link.process_id, None)

    def connect_failed(self, process_id: bytes, now: Instant) -> None:
        """The actor's process does not answer: news of it will come."""
        view = self._by_worker.get(process_id)
        if view is not None and view.state == "alive":
            self._wait_for_loss(view, now)

    def _settle_stranded(self, view: ActorView) -> None:
        """The actor comes back as a new process: retry or fail the calls that the old one had."""
        view.lost_at = None
        stranded, view.stranded = view.stranded, []
        again = []
        for record in stranded:
            if record.retries_left and not record.cancelled:
                self._again(record)
                again.append(record)
            else:
                text = f"{record.name}: the actor's process or the connection to it was lost; the call may have run"
                self._settlement.failed_with(record, "ActorUnavailableError", text)
        view.queue.extendleft(reversed(again))

    def deadline_reached(self, now: Instant) -> None:
        """Give up on channels that were lost without news, and on processes that are gone and whose channels stay."""
        self.deadline = None
        for view in self.views.values():
            if view.lost_at is None:
                continue
            until = Instant(view.lost_at + NEWS_WITHIN_S)
            if until > now:
                self.deadline = until if self.deadline is None else min(self.deadline, until)
                continue
            view.lost_at = None
            if view.link is not None:
                if view.link.process_id != view.worker_id:
                    self._strand(view, view.link)
                    self._settle_stranded(view)
                    self._reach(view)
                continue
            unreachable = [*view.stranded, *(view.queue if view.state == "alive" else ())]
            view.stranded = []
            if view.state == "alive":
                view.queue.clear()
            for record in unreachable:
                if record.unresolved >= 0:
                    record.unresolved = -1
                    text = f"{record.name}: the connection to the actor was lost; the call may have run"
                    self._settlement.failed_with(record, "ActorUnavailableError", text)

    # ------------------------------------------------------------------------------------------ cancelling

    def cancel(self, record: TaskRecord, recursive: bool) -> None:
        """Cancel a call wherever it is. An actor is never killed for it."""
        record.cancelled = True
        if record.peer is not None:
            self._outbox.send(record.peer, CancelTask(record.sequence, False, recursive, record.task_id))
            return
        view = self.views[record.actor_id]
        if record in view.queue:
            view.queue.remove(record)
        record.unresolved = -1
        self._settlement.failed_with(record, "TaskCancelledError", f"{record.name} was cancelled before it began")
        self.flush(view)
