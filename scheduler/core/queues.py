"""The queues of what waits: ordered, so that what is to be served next is found without looking at the rest.

    level (a priority)  ─▶  sessions, by share  ─▶  a queue for each class, by its front
                                                     (deadline, leases it has, arrival)

A queue whose *turn* it is goes before all others of its level, once: something was asked back for it.

When a session's share changes, one entry moves, however much it waits for. All requests of a class need the same, so
when one does not fit, none does: the class is *blocked* until a node is freed on which it does fit, and what is blocked
costs nothing. Changes are noted with the class, and put in order when somebody asks who is next and the class is not
blocked: on a full cluster most leases come and go while nobody would read the order.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from sortedcontainers import SortedList

from atoll.exceptions import InternalError
from atoll.resources import CPU
from atoll.scheduler.core.demand import ClassKey, Demand, Place
from atoll.scheduler.core.jobs import Job
from atoll.scheduler.core.nodes import Node


class _Class:
    """What is known of all requests of a class.

    Attributes:
        sample: One of them: all need the same.
        number: Its own; 0 once nobody waits for it, and it is forgotten.
        wanted: What each takes, in any of the ways that will do.
        cpu: Units without which it fits nowhere, asked first; 0 if there are several ways.
        least: Names and units of everything else, likewise.
        plain: Whether that is all that it needs of a node which is not full.
        changed: Demands that belong elsewhere, or nowhere, by arrival; they are not in order yet.
        lines: How many sessions wait for it.
        restless: Whether it depends on what else runs: then any change may make it fit.
        tied: Whether what a node has free does not say if it fits: it takes from a placement group, or is restless.
        freed: Nodes on which it may fit, since it fits on no other; None if it may fit anywhere.
    """

    __slots__ = ("changed", "cpu", "freed", "least", "lines", "number", "plain", "restless", "sample", "tied", "wanted")

    def __init__(self, number: int, sample: Demand) -> None:
        self.number = number
        self.sample = sample
        self.wanted = tuple(shape.wanted for _class, shape in sample.choices)
        first = self.wanted[0]
        several = len(self.wanted) > 1
        self.cpu = 0 if several else first.amounts.get(CPU, 0)
        self.least = () if several else tuple(each for each in first.amounts.items() if each[0] != CPU)
        self.plain = not (several or first.needs_devices or first.device_types)
        self.changed: dict[int, Demand] = {}
        self.restless = any(shape.depends_on_company for _class, shape in sample.choices)
        self.tied = self.restless or bool(sample.group)
        self.lines = 0
        self.freed: dict[int, Node] | None = None

    def fits_on(self, node: Node) -> bool:
        """Whether it fits on a node that is not full."""
        free = node.supply.live
        if self.cpu and free.get(CPU, 0) < self.cpu:
            return False
        for name, units in self.least:
            if name not in free or free[name] < units:
                return False
        if self.plain:
            return True
        fits = node.supply.fits
        for wanted in self.wanted:  # noqa: SIM110 - for every class, for every lease that ends
            if fits(wanted):
                return True
        return False


class _Line:
    """What one session wants of one class: usually one demand, of which nothing has to be put in order.

    Attributes:
        order: The places of the demands, once there are several.
        front: The place by which the line stands among those of its session.
    """

    __slots__ = ("demands", "front", "kind", "order", "session")

    def __init__(self, kind: _Class, session: _Session) -> None:
        self.kind = kind
        self.session = session
        self.order: Any = None
        self.demands: dict[int, Demand] = {}
        self.front: Place | None = None

    def put(self, demand: Demand, wanted: Place | None) -> None:
        """Put a demand where it belongs now, or take it out."""
        if self.order is not None and demand.listed is not None:
            self.order.remove(demand.listed)
        demand.listed = wanted
        if wanted is None:
            self.demands.pop(demand.arrival, None)
            demand.line = None
        else:
            demand.line = self
            self.demands[demand.arrival] = demand
            if self.order is not None:
                self.order.add(wanted)
            elif len(self.demands) > 1:
                self.order = SortedList(each.listed for each in self.demands.values())

    def places(self) -> list[Place]:
        """Return the places of all demands, in order."""
        if self.order is not None:
            return list(self.order)
        return [each.listed for each in self.demands.values() if each.listed is not None]

    def first(self) -> Place | None:
        """Return the place of the first."""
        if self.order is not None:
            return self.order[0] if self.order else None
        for demand in self.demands.values():
            return demand.listed
        return None


class _Session:
    """What one session waits for on one level.

    Attributes:
        order: The fronts of its queues, and their classes; a plain list, since it has few.
    """

    __slots__ = ("job", "lines", "listed", "order")

    def __init__(self, job: Job) -> None:
        self.job = job
        self.lines: dict[int, _Line] = {}
        self.order: list[tuple[Place, int]] = []
        self.listed: tuple[int, int, int] | None = None


class _Level:
    """Everything of one priority.

    Attributes:
        turns: The queues whose turn it is, by session and class.
        order: The sessions' shares, when they were served last, and their numbers; a plain list, since there are few.
    """

    __slots__ = ("order", "sessions", "turns")

    def __init__(self) -> None:
        self.turns: dict[tuple[int, int], None] = {}
        self.sessions: dict[int, _Session] = {}
        self.order: list[tuple[int, int, int]] = []


class DemandQueues:
    """All that waits for a lease to be started: every demand with a shortfall is in exactly one queue.

    Attributes:
        ready: The classes that are not known to fit nowhere, by number.
        restless: How many classes depend on what else runs: whoever changes that says `company_changed`.
    """

    def __init__(self) -> None:
        self._levels: dict[int, _Level] = {}
        self._by_priority: list[_Level] = []
        self._classes: dict[ClassKey, _Class] = {}
        self.ready: dict[int, _Class] = {}
        self._blocked: dict[int, _Class] = {}
        self._last_number = 0
        self._count = 0
        self.restless = 0
        self._changed: dict[int, _Class] = {}
        self._moved: dict[int, Job] = {}

    # ------------------------------------------------------------------------------------------------ what changes

    def update(self, demand: Demand) -> None:
        """Note that a demand belongs elsewhere, or nowhere if nothing is short; it must not be in order yet."""
        short = demand.wanted > len(demand.starting) and not demand.early  # `waits`
        if short != demand.counted:
            demand.counted = short
            self._count += 1 if short else -1
        if demand.listed is not None:
            kind = demand.kind
        elif short:
            kind = self._class_of(demand)  # so that it is known to be ready
        else:
            return
        kind.changed[demand.arrival] = demand
        self._changed[kind.number] = kind

    def moved(self, jobs: Iterable[Job]) -> None:
        """Note that the shares of sessions have changed."""
        for job in jobs:
            self._moved[job.number] = job

    def _class_of(self, demand: Demand) -> _Class:
        known: _Class | None = demand.kind
        if known is not None and known.number:
            return known
        kind = demand.kind = self._classes.get(demand.class_key)
        if kind is None:
            self._last_number += 1
            kind = demand.kind = self._classes[demand.class_key] = _Class(self._last_number, demand)
            self.ready[kind.number] = kind
            self.restless += kind.restless
        return kind

    def _put_in_order(self) -> None:
        """Put everything that has changed where it belongs."""
        for kind in list(self._changed.values()):
            self._put_class_in_order(kind)
        if self._moved:
            self._put_sessions_in_order()

    def _put_class_in_order(self, kind: _Class) -> None:
        del self._changed[kind.number]
        changed, kind.changed = kind.changed, {}
        for demand in changed.values():
            self._place(demand)

    def _put_sessions_in_order(self) -> None:
        for job in self._moved.values():
            for level in self._by_priority:
                session = level.sessions.get(job.number)
                if session is not None:
                    self._list_session(level, session)
        self._moved.clear()

    def _place(self, demand: Demand) -> None:
        starting = len(demand.starting)
        place: Place | None = None
        if demand.wanted > starting and not demand.early:  # `demand.waits`, and `demand.place`
            place = demand.due, len(demand.held) + starting, demand.arrival
        if place == demand.listed:
            if place is None:
                self._forget_unused(demand)
            return
        if place is None or demand.listed is None:
            self._enter_or_leave(demand, place)
            return
        line: _Line = demand.line
        if line.order is not None:
            line.put(demand, place)
            self._list_line(line)
            return
        demand.listed = place  # it is alone there, as nearly all are: the line moves with it
        order, number = line.session.order, line.kind.number
        del order[bisect_left(order, (line.front, number))]
        line.front = place
        insort(order, (place, number))

    def _enter_or_leave(self, demand: Demand, wanted: Place | None) -> None:
        """A demand begins to wait, or waits no more."""
        kind = self._class_of(demand)
        key = -demand.class_key[0]
        level = self._levels.get(key)
        if level is None:
            level = self._levels[key] = _Level()
            self._rank_levels()
        session = level.sessions.get(demand.job.number)
        if session is None:
            session = level.sessions[demand.job.number] = _Session(demand.job)
        line = session.lines.get(kind.number)
        if line is None:
            line = session.lines[kind.number] = _Line(kind, session)
            kind.lines += 1
        line.put(demand, wanted)
        if self._list_line(line):
            level.turns.pop((session.job.number, kind.number), None)
        self._list_session(level, session)
        if session.listed is None:
            del level.sessions[demand.job.number]
            if not level.sessions:
                del self._levels[key]
                self._rank_levels()
        if wanted is None:
            self._forget_unused(demand)

    def _rank_levels(self) -> None:
        self._by_priority = [self._levels[key] for key in sorted(self._levels)]

    @staticmethod
    def _list_line(line: _Line) -> bool:
        """Put a queue where it belongs among those of its session. Returns whether it is empty, and forgotten."""
        session = line.session
        front = line.first()
        if front == line.front:
            return front is None
        if line.front is not None:
            del session.order[bisect_left(session.order, (line.front, line.kind.number))]
        line.front = front
        if front is not None:
            insort(session.order, (front, line.kind.number))
            return False
        del session.lines[line.kind.number]
        line.kind.lines -= 1
        return True

    @staticmethod
    def _list_session(level: _Level, session: _Session) -> None:
        job = session.job
        wanted = (job.share, job.served, job.number) if session.order else None
        if wanted == session.listed:
            return
        if session.listed is not None:
            del level.order[bisect_left(level.order, session.listed)]
        session.listed = wanted
        if wanted is not None:
            insort(level.order, wanted)

    def _forget_unused(self, demand: Demand) -> None:
        kind = demand.kind
        if kind is not None and kind.number and not kind.lines:
            del self._classes[demand.class_key]
            self.ready.pop(kind.number, None)
            self._blocked.pop(kind.number, None)
            self._changed.pop(kind.number, None)
            self.restless -= kind.restless
            kind.number = 0

    # --------------------------------------------------------------------------------------------- what is blocked

    def block(self, demand: Demand) -> None:
        """Leave out the class of a waiting demand until it may fit again."""
        self._block(self._class_of(demand))

    def _block(self, kind: _Class) -> None:
        self.ready.pop(kind.number, None)
        kind.freed = None
        self._blocked[kind.number] = kind

    def unblock(self) -> None:
        """Anything may have become possible: everything is to be tried again."""
        for kind in self._blocked.values():
            kind.freed = None
            self.ready[kind.number] = kind
        self._blocked.clear()
        for kind in self.ready.values():
            kind.freed = None

    def freed(self, node: Node) -> None:
        """Some of a node is free again: what fits there now is to be tried again."""
        for kind in self.ready.values():
            if kind.freed is not None:
                kind.freed[node.order] = node
        blocked = self._blocked
        if not blocked or node.full:
            return
        free = node.supply.live
        cpu, fitting = max(0, free.get(CPU, 0)), []
        for kind in blocked.values():
            if kind.cpu > cpu or kind.tied:
                continue
            for name, units in kind.least:
                if name not in free or free[name] < units:
                    break
            else:
                if kind.plain or kind.fits_on(node):
                    fitting.append(kind)
        for kind in fitting:
            del blocked[kind.number]
            kind.freed = {node.order: node}
            self.ready[kind.number] = kind

    def company_changed(self) -> None:
        """Something runs on a node that did not, or the other way round."""
        if not self.restless:
            return
        for kind in [kind for kind in self._blocked.values() if kind.restless]:
            del self._blocked[kind.number]
            self.ready[kind.number] = kind

    def freed_in_group(self, group_id: bytes) -> None:
        """Some of a placement group is free again."""
        for kind in list(self._blocked.values()):
            if kind.sample.group == group_id:
                del self._blocked[kind.number]
                self.ready[kind.number] = kind

    def taken(self, demand: Demand, node: Node) -> None:
        """A demand has got something of a node: its turn is over, and others may not fit there any more."""
        self._moved[demand.job.number] = demand.job  # it was served
        level = self._levels.get(-demand.class_key[0])
        if level is not None and level.turns:
            level.turns.pop((demand.job.number, self._class_of(demand).number), None)
        order, cpu = node.order, max(0, node.supply.live.get(CPU, 0))
        for kind in list(self.ready.values()):
            freed = kind.freed
            if freed is not None and order in freed and (kind.cpu > cpu or node.full or not kind.fits_on(node)):
                del freed[order]
                if not freed:
                    self._block(kind)

    def give_turn(self, demand: Demand) -> None:
        """Something was asked back for a demand that waits: its queue goes first, once."""
        self._put_in_order()
        level = self._levels.get(-demand.class_key[0])
        if level is not None and demand.listed is not None:
            level.turns[demand.job.number, self._class_of(demand).number] = None

    # ------------------------------------------------------------------------------------------------- who is next

    def only_node(self, demand: Demand) -> Node | None:
        """Return the only node on which a demand may fit; None if that is not known."""
        freed = demand.kind.freed
        if freed is None or len(freed) != 1:
            return None
        (node,) = freed.values()
        return node  # type: ignore[no-any-return]

    def next_unblocked(self) -> Demand | None:
        """Return the demand to serve next, of a class that is not blocked."""
        if not self.ready:
            return None
        ready = self.ready
        if self._changed:
            for kind in tuple(ready.values()):
                if kind.changed:
                    self._put_class_in_order(kind)
        if self._moved:
            self._put_sessions_in_order()
        for level in self._by_priority:
            for session, line in level.turns:
                if line in ready:
                    return self._front(level.sessions[session].lines[line])
            for _share, _served, number in level.order:
                waiting = level.sessions[number]
                for _front, line in waiting.order:
                    if line in ready:
                        return self._front(waiting.lines[line])
        return None

    @staticmethod
    def _front(line: _Line) -> Demand:
        assert line.front is not None, "an empty queue is not kept"
        return line.demands[line.front[-1]]

    def waiting(self) -> Iterator[Demand]:
        """Yield all that waits, in order, as if nothing were blocked."""
        for session in self._in_order():
            places = sorted((place, line.kind.number) for line in session.lines.values() for place in line.places())
            for place, kind in places:
                yield session.lines[kind].demands[place[-1]]

    def fronts(self, limit: int) -> Iterator[Demand]:
        """Yield the first of what each session waits for in each class, in order, at most `limit` of a queue."""
        for session in self._in_order():
            for _front, kind in list(session.order):
                line = session.lines[kind]
                for place in line.places()[:limit] if line.order is None else list(islice(line.order, limit)):
                    yield line.demands[place[-1]]

    def _in_order(self) -> Iterator[_Session]:
        if self._changed or self._moved:
            self._put_in_order()
        for level in list(self._by_priority):
            for _share, _served, number in list(level.order):
                yield level.sessions[number]

    def __len__(self) -> int:
        return self._count

    def check_invariants(self, demands: list[Demand]) -> None:
        """Raise `InternalError` unless exactly the demands with a shortfall are queued, once, in the right place."""
        queued = list(self.waiting())
        expected = [demand for demand in demands if demand.waits]
        if (
            len(queued) != self._count
            or len(queued) != len(expected)
            or {d.arrival for d in queued} != {d.arrival for d in expected}
        ):
            raise InternalError(f"{len(queued)} demands are queued, {len(expected)} wait")
        for demand in queued:
            if demand.listed != demand.place:
                raise InternalError(f"demand {demand.arrival} is queued at {demand.listed}")
        for level in self._levels.values():
            if not level.order or len(level.order) != len(level.sessions):
                raise InternalError("a level is kept on which nobody waits")
            if any(kind not in level.sessions[number].lines for number, kind in level.turns):
                raise InternalError("it is the turn of a queue that is not there")
            for session in level.sessions.values():
                if session.listed != (session.job.share, session.job.served, session.job.number):
                    raise InternalError(f"session {session.job.number} is queued at {session.listed}")
                if any(not line.demands for line in session.lines.values()):
                    raise InternalError("an empty queue is kept")
        numbers = {kind.number for kind in self._classes.values()}
        if {*self.ready} | {*self._blocked} != numbers or {*self.ready} & {*self._blocked}:
            raise InternalError("a class is neither ready nor blocked, or both")
        waits = {demand.class_key for demand in queued}
        if self._classes.keys() != waits:
            raise InternalError(f"{len(self._classes)} classes are known, and {len(waits)} are waited for")
