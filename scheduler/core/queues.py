"""The queues of what waits: ordered, so that what is to be served next is found without looking at the rest.

    level (a priority)  ─▶  sessions, by share  ─▶  a line for each class, by its front
                                                     (deadline, leases it has, arrival)

A line whose *turn* it is goes before all others of its level, once: something was asked back for it.

When a session's share changes, one entry moves, however much it waits for. All requests of a class need the same, so
when one does not fit, none does: the class is *blocked*, and what is blocked costs nothing. When something becomes free
on a node, the blocked classes that fit there are served as far as they do, and are blocked as before. Which line of a
session goes first is found out when somebody asks who is next, among the few classes that fit: on a full cluster most
leases come and go while nobody would read the order.
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
from atoll.scheduler.core.supply import Supply

NEVER = 1 << 62


class _Class:
    """What is known of all requests of a class.

    Attributes:
        sample: One of them: all need the same.
        number: Its own; 0 once nobody waits for it, and it is forgotten.
        cpu: Units without which it fits on no node, asked first; 0 if there are several ways, and more than there can
            be if what a node has free does not matter, since it takes from a placement group.
        more: Names and units of everything else, likewise.
        ways: What each takes, in any of the ways that will do; empty if the amounts say all.
        cpu_only: Whether it takes CPU only.
        lines: How many sessions wait for it.
        restless: Whether it depends on what else runs: then any change may make it fit.
    """

    __slots__ = ("cpu", "cpu_only", "lines", "more", "number", "restless", "sample", "ways")

    def __init__(self, number: int, sample: Demand) -> None:
        self.number = number
        self.sample = sample
        ways = tuple(shape.wanted for _class, shape in sample.choices)
        first, several = ways[0], len(ways) > 1
        self.cpu = NEVER if sample.group else 0 if several else first.amounts.get(CPU, 0)
        self.more = () if several else tuple(each for each in first.amounts.items() if each[0] != CPU)
        self.ways = ways if several or first.needs_devices or first.device_types else ()
        self.cpu_only = not (self.more or self.ways)
        self.restless = any(shape.depends_on_company for _class, shape in sample.choices)
        self.lines = 0

    def fits(self, supply: Supply) -> bool:
        """Whether it fits where there is as much CPU as it needs."""
        free = supply.live
        for name, units in self.more:
            if name not in free or free[name] < units:
                return False
        ways = self.ways
        for wanted in ways:  # a generator takes twice as long
            if supply.fits(wanted):
                return True
        return not ways


class _Line:
    """What one session wants of one class: usually one demand.

    Attributes:
        front: The demand that goes first.
        order: The places of the demands, once there are several.
    """

    __slots__ = ("demands", "front", "kind", "order")

    def __init__(self, kind: _Class, front: Demand) -> None:
        self.kind = kind
        self.front = front
        self.order: Any = None
        self.demands: dict[int, Demand] = {}

    def add(self, demand: Demand) -> None:
        """A demand begins to wait."""
        demand.line = self
        demand.listed = demand.place
        self.demands[demand.arrival] = demand
        if self.order is not None:
            self.order.add(demand.listed)
        elif len(self.demands) > 1:
            self.front.listed = self.front.place  # it was alone, and nobody has kept it up
            self.order = SortedList(each.listed for each in self.demands.values())
        self._find_front()

    def move(self, demand: Demand) -> None:
        """The place of a demand may have changed."""
        if demand.listed != demand.place:
            self.order.remove(demand.listed)
            demand.listed = demand.place
            self.order.add(demand.listed)
            self._find_front()

    def remove(self, demand: Demand) -> None:
        """A demand waits no more."""
        demand.line = None
        del self.demands[demand.arrival]
        if self.order is not None:
            self.order.remove(demand.listed)
            self._find_front()

    def _find_front(self) -> None:
        if self.order:
            self.front = self.demands[self.order[0][-1]]

    def first(self, limit: int) -> list[Demand]:
        """Return the first demands, in order, at most so many."""
        if self.order is None:
            return [self.front]
        return [self.demands[place[-1]] for place in islice(self.order, limit)]

    def check_invariants(self) -> None:
        """Raise `InternalError` unless it is in order."""
        places = sorted(demand.place for demand in self.demands.values())
        if not places or self.front.place != places[0]:
            raise InternalError("a line is empty, or the wrong demand is in front")
        if self.order is not None and list(self.order) != places:
            raise InternalError(f"demands are queued at {list(self.order)}, and their places are {places}")


class _Session:
    """What one session waits for on one level.

    Attributes:
        lines: By the numbers of their classes.
        listed: How the level knows it.
    """

    __slots__ = ("job", "lines", "listed")

    def __init__(self, job: Job) -> None:
        self.job = job
        self.lines: dict[int, _Line] = {}
        self.listed: tuple[int, int, int] | None = None


class _Level:
    """Everything of one priority.

    Attributes:
        order: The sessions' shares, when they were served last, and their numbers; a plain list, since there are few.
    """

    __slots__ = ("order", "sessions")

    def __init__(self) -> None:
        self.sessions: dict[int, _Session] = {}
        self.order: list[tuple[int, int, int]] = []


class DemandQueues:
    """All that waits for a lease to be started: every demand with a shortfall is in exactly one line.

    Attributes:
        ready: The classes that may fit anywhere, by number. All others are blocked.
        freed_node: The node on which something became free last, while blocked classes may fit there; on no other.
        restless: How many classes depend on what else runs: whoever changes that says `company_changed`.
    """

    def __init__(self) -> None:
        self._levels: dict[int, _Level] = {}
        self._by_priority: list[_Level] = []
        self._turns: dict[tuple[int, int], None] = {}  # by session and class
        self._classes: dict[ClassKey, _Class] = {}
        self.ready: dict[int, _Class] = {}
        self._blocked: dict[int, _Class] = {}
        self.freed_node: Node | None = None
        self._fitting: dict[int, _Class] = {}  # there
        self._last_number = 0
        self._count = 0
        self.restless = 0

    # ------------------------------------------------------------------------------------------------ what changes

    def update(self, demand: Demand) -> None:
        """Put a demand where it belongs: nowhere, if nothing is short."""
        line: _Line | None = demand.line
        if demand.wanted > len(demand.starting) and not demand.early:  # `waits`
            if line is None:
                self._enter(demand)
            elif line.order is not None:
                line.move(demand)
        elif line is not None:
            self._leave(demand, line)

    def moved(self, job: Job) -> None:
        """The share of a session has changed, or it was served, or it waits for more or for less."""
        number = job.number
        for level in self._by_priority:
            if number in level.sessions:
                session = level.sessions[number]
                wanted = (job.share, job.served, number) if session.lines else None
                if wanted != session.listed:
                    order = level.order
                    if session.listed is not None:
                        del order[bisect_left(order, session.listed)]
                    if wanted is not None:
                        insort(order, wanted)
                    session.listed = wanted

    def _enter(self, demand: Demand) -> None:
        """A demand begins to wait."""
        self._count += 1
        kind = self._class_of(demand)
        key, number = -demand.class_key[0], demand.job.number
        level = self._levels.get(key)
        if level is None:
            level = self._levels[key] = _Level()
            self._by_priority = [self._levels[key] for key in sorted(self._levels)]
        session = level.sessions.get(number)
        if session is None:
            session = level.sessions[number] = _Session(demand.job)
        line = session.lines.get(kind.number)
        if line is None:
            line = session.lines[kind.number] = _Line(kind, demand)
            kind.lines += 1
        line.add(demand)
        self.moved(demand.job)

    def _leave(self, demand: Demand, line: _Line) -> None:
        """A demand waits no more."""
        self._count -= 1
        line.remove(demand)
        if line.demands:
            return
        kind, key, number = line.kind, -demand.class_key[0], demand.job.number
        level = self._levels[key]
        session = level.sessions[number]
        del session.lines[kind.number]
        self._turns.pop((number, kind.number), None)
        kind.lines -= 1
        if not kind.lines:
            self._forget(kind)
        self.moved(demand.job)
        if not session.lines:
            del level.sessions[number]
            if not level.sessions:
                del self._levels[key]
                self._by_priority.remove(level)

    def _class_of(self, demand: Demand) -> _Class:
        kind = self._classes.get(demand.class_key)
        if kind is None:
            self._last_number += 1
            kind = self._classes[demand.class_key] = _Class(self._last_number, demand)
            self.ready[kind.number] = kind
            self.restless += kind.restless
        return kind

    def _forget(self, kind: _Class) -> None:
        """Nobody waits for a class."""
        del self._classes[kind.sample.class_key]
        self.ready.pop(kind.number, None)
        self._blocked.pop(kind.number, None)
        self._fitting.pop(kind.number, None)
        self.restless -= kind.restless

    # --------------------------------------------------------------------------------------------- what is blocked

    def block(self, demand: Demand) -> None:
        """Leave out the class of a waiting demand until it may fit again."""
        kind = self._classes[demand.class_key]
        self.ready.pop(kind.number, None)
        self._blocked[kind.number] = kind
        self._fitting.pop(kind.number, None)

    def unblock(self) -> None:
        """Anything may have become possible: everything is to be tried again."""
        self.freed_node = None
        self.ready.update(self._blocked)
        self._blocked.clear()

    def freed(self, node: Node) -> None:
        """Some of a node is free again: what fits there now is to be tried again."""
        if not self._blocked:
            return
        if self.freed_node is None or self.freed_node is node:
            self.freed_node = node
            self._fitting = self._blocked.copy()
        else:  # there, or here
            self.unblock()

    def anything_fits(self) -> bool:
        """Whether there is a class that is not known to fit nowhere: to be asked before `next_fitting`."""
        node = self.freed_node
        if node is not None:
            cpu, supply, fitting = node.free_cpu(), node.supply, {}
            for kind in self._fitting.values():
                if kind.cpu <= cpu and (kind.cpu_only or kind.fits(supply)):
                    fitting[kind.number] = kind
            self._fitting = fitting
            if not fitting:
                self.freed_node = None
        return self.freed_node is not None or bool(self.ready)

    def company_changed(self) -> None:
        """Something runs on a node that did not, or the other way round."""
        if self.restless:
            self._unblock_some([kind for kind in self._blocked.values() if kind.restless])

    def freed_in_group(self, group_id: bytes) -> None:
        """Some of a placement group is free again."""
        self._unblock_some([kind for kind in self._blocked.values() if kind.sample.group == group_id])

    def _unblock_some(self, kinds: Iterable[_Class]) -> None:
        for kind in kinds:
            self._blocked.pop(kind.number, None)
            self.ready[kind.number] = kind

    def taken(self, demand: Demand) -> None:
        """A demand has got something: its turn is over."""
        self.moved(demand.job)
        if self._turns:
            kind = self._classes.get(demand.class_key)
            if kind is not None:
                self._turns.pop((demand.job.number, kind.number), None)

    def give_turn(self, demand: Demand) -> None:
        """Something was asked back for a demand that waits: its line goes first, once."""
        if demand.line is not None:
            self._turns[demand.job.number, demand.line.kind.number] = None

    # ------------------------------------------------------------------------------------------------- who is next

    def next_fitting(self) -> tuple[Demand, Node | None]:
        """Return the demand to serve next, of a class that is not known to fit nowhere, and where, if that is known.

        To be called when `anything_fits`. Where there are several ways, one of them fits there.
        """
        ready, node = self.ready, self.freed_node
        kinds = ready if node is None else {**ready, **self._fitting} if ready else self._fitting
        for level in self._by_priority:
            for number, kind in self._turns:
                if kind in kinds and number in level.sessions and kind in level.sessions[number].lines:
                    return level.sessions[number].lines[kind].front, None if kind in ready else node
            for _share, _served, number in level.order:
                lines, first = level.sessions[number].lines, None
                for kind in kinds:
                    if kind in lines:
                        demand = lines[kind].front
                        place = demand.due, demand.leases, demand.arrival  # `demand.place`
                        if first is None or place < first:
                            first, chosen, where = place, demand, kind
                if first is not None:
                    return chosen, None if where in ready else node
        raise InternalError("a class is known for which nobody waits")

    def waiting(self) -> Iterator[Demand]:
        """Yield all that waits, in order, as if nothing were blocked."""
        for session in self._in_order():
            demands = [demand for line in session.lines.values() for demand in line.demands.values()]
            yield from sorted(demands, key=_place_of)

    def fronts(self, limit: int) -> Iterator[Demand]:
        """Yield the first of what each session waits for in each class, in order, at most `limit` of a line."""
        for session in self._in_order():
            for line in sorted(session.lines.values(), key=lambda line: line.front.place):
                yield from line.first(limit)

    def _in_order(self) -> Iterator[_Session]:
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
        for level in self._levels.values():
            if not level.order or len(level.order) != len(level.sessions):
                raise InternalError("a level is kept on which nobody waits")
            for session in level.sessions.values():
                if session.listed != (session.job.share, session.job.served, session.job.number):
                    raise InternalError(f"session {session.job.number} is queued at {session.listed}")
                for line in session.lines.values():
                    line.check_invariants()
        sessions = [session for level in self._by_priority for session in level.sessions.values()]
        if not self._turns.keys() <= {(session.job.number, kind) for session in sessions for kind in session.lines}:
            raise InternalError("it is the turn of a line that is not there")
        numbers = {kind.number for kind in self._classes.values()}
        if {*self.ready} | {*self._blocked} != numbers or {*self.ready} & {*self._blocked}:
            raise InternalError("a class is neither ready nor blocked, or both")
        waits = {demand.class_key for demand in queued}
        if self._classes.keys() != waits:
            raise InternalError(f"{len(self._classes)} classes are known, and {len(waits)} are waited for")


def _place_of(demand: Demand) -> Place:
    return demand.place
