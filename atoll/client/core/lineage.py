"""How a result that was lost is computed again: what is remembered of tasks that have ended, and what follows.

A result in the store of a node can be lost: the node's agent dies, a file that it was spilled to is torn. Whoever
reads it says so, and its owner runs the task again that computed it, under the same ids: whoever has a ref waits a
little longer, and that is all.

* Remembered is a task with a result in the store (a result in a message cannot be lost) that may run again, as long
  as one of these results is referred to. The oldest are given up when the arguments of all take `MAXIMUM_BYTES`.
* What such a task takes must be there again, too. An object that nobody refers to any more, but a remembered task
  takes, keeps no memory: a stored value is given up (`FREED`) and computed again, by its own task, if need be. So a
  whole chain is computed again from what is left of it.
* It makes only what is missing (`Rerun.kept`). What stays of its results is what somebody may have read: writing it
  anew would take its room away first, and lose it where there is no more, and change which refs are inside.
* To run again costs the task one of its retries. What was put has no task, and what is `FREED` and was put cannot be
  had again.

Each object that such a run takes is counted until it has ended (`Hold`), so that nothing computed for it goes before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from atoll.client.core.objects import ObjectTable
from atoll.client.core.records import FREED, PENDING, STORED, TOKEN, ObjectEntry, Rerun, Stream, TaskRecord
from atoll.client.core.settlement import Settlement, error_payload
from atoll.ids import OBJECT_ID_BYTES
from atoll.protocol.machine import Instant

MAXIMUM_BYTES = 64 * 1024 * 1024
"""What is remembered takes no more than this, arguments and all."""

RECORD_BYTES = 1024
"""A record without its arguments, roughly."""

SAME_LOSS_S = 1.0
"""Another process that says that an object is lost so soon after it was computed again has not seen the new one."""


class Remembered:
    """A task that has ended and may be run again.

    Attributes:
        record: As it ran last.
        takes: Ids of the objects of this process that it takes, at the top level and inside of others.
        results: Its objects in the store that are referred to or needed.
        again_at: When it last had results after it had been run again; None if it never was.
        runs: How often it was run again.
    """

    __slots__ = ("again_at", "record", "results", "runs", "takes")

    def __init__(self, record: TaskRecord, takes: list[bytes]) -> None:
        self.record = record
        self.takes = takes
        self.results: dict[bytes, None] = {}
        self.again_at: Instant | None = None
        self.runs = 0

    @property
    def is_running(self) -> bool:
        """Whether it runs again now: a task that has ended keeps nothing alive."""
        return self.runs > 0 and self.record.keepalive is not None

    @property
    def size_bytes(self) -> int:
        """What it takes to remember it."""
        return RECORD_BYTES + len(self.record.arguments)


class Hold:
    """Counts for objects; dropping it drops them. What a record keeps alive goes when the record says so."""

    __slots__ = ("_dropped", "_object_ids")

    def __init__(self, object_ids: list[bytes], dropped: list[bytes]) -> None:
        self._object_ids = object_ids
        self._dropped = dropped

    def __del__(self) -> None:
        self._dropped.extend(self._object_ids)


class Lineage:
    """What a client remembers of tasks that have ended.

    Args:
        objects: The table; tells which objects go.
        settlement: Where objects fail that cannot be had again.
        submit: Runs a task again.
    """

    def __init__(self, objects: ObjectTable, settlement: Settlement, submit: Callable[[TaskRecord], None]) -> None:
        self._objects = objects
        self._settlement = settlement
        self._submit = submit
        self._tasks: dict[bytes, Remembered] = {}
        self._size_bytes = 0
        objects.forget_origin = self._result_gone

    @property
    def size_bytes(self) -> int:
        """What is remembered, in bytes."""
        return self._size_bytes

    # ------------------------------------------------------------------------------------------ remembering

    def remember(self, record: TaskRecord, object_ids: list[bytes], now: Instant) -> None:
        """Note results of a task that are in the store now."""
        task = self._tasks.get(record.task_id)
        if task is not None and task.runs:
            task.again_at = now
        if record.actor_id or not record.may_run_again:
            return
        entries = self._objects.entries
        wanted = [object_id for object_id in object_ids if object_id in entries and self._objects.owns(object_id)]
        if not wanted:
            return
        if task is None:
            task = self._tasks[record.task_id] = Remembered(record, self._taken_by(record))
            self._size_bytes += task.size_bytes
            for object_id in task.takes:
                self._objects.need(object_id)
        for object_id in wanted:
            task.results[object_id] = None
            self._objects.origins[object_id] = record.task_id
        while self._size_bytes > MAXIMUM_BYTES and len(self._tasks) > 1:
            self._forget(next(iter(self._tasks.values())))

    def _taken_by(self, record: TaskRecord) -> list[bytes]:
        """Return the ids of the objects that must be there for a task to run again.

        Those of other processes are not kept for that, and neither are actors.
        """
        taken = []
        for object_id in dict.fromkeys([*(record.dependencies or ()), *(record.inside or ())]):
            entry = self._objects.entries.get(object_id)
            if entry is not None and entry.state != TOKEN and self._objects.owns(object_id):
                taken.append(object_id)
        return taken

    def _result_gone(self, object_id: bytes) -> None:
        """An object with an origin is neither referred to nor needed any more."""
        task = self._tasks.get(self._objects.origins.pop(object_id))
        if task is not None:
            task.results.pop(object_id, None)
            if not task.results:
                self._forget(task)

    def _forget(self, task: Remembered) -> None:
        if self._tasks.pop(task.record.task_id, None) is None:
            return
        self._size_bytes -= task.size_bytes
        for object_id in task.results:
            self._objects.origins.pop(object_id, None)
        for object_id in task.takes:
            self._objects.need_no_more(object_id)

    # ---------------------------------------------------------------------------------------------- running again

    def lost(self, object_id: bytes, now: Instant, *, elsewhere: bool = False) -> None:
        """An owned object that should be in the store is not: run its task again, or make it an error.

        Args:
            object_id: The object. Another that is needed for it is recovered, too.
            now: The time.
            elsewhere: Another process says so, and may speak of what was lost before.
        """
        entry = self._objects.entries.get(object_id)
        if entry is None or entry.state not in (STORED, FREED):
            return
        task = self._origin(object_id)
        is_new = elsewhere and task is not None and task.again_at is not None and now - task.again_at < SAME_LOSS_S
        if is_new and entry.state == STORED:
            return
        self._recover(object_id, entry)

    def _recover(self, object_id: bytes, entry: ObjectEntry) -> None:
        plan, awaited, problem = self._plan(object_id)
        if problem:
            entry.state = PENDING
            text = f"object {object_id.hex()} is lost, and it cannot be computed again: {problem}"
            self._settlement.broken(object_id, error_payload("ObjectReconstructionFailedError", text))
            return
        holds = [self._hold(step) for step in plan]  # first of all: what is lost may contain what its task takes
        self._pend(object_id, entry, None)
        for name, running in awaited:
            self._await(name, running)
        again = [self._again(step, hold) for step, hold in zip(plan, holds, strict=True)]
        for record in again:  # all are expected before the first one is submitted
            self._submit(record)

    def revive(self) -> None:
        """Have objects computed again, or fail, that had no value any more and are referred to again.

        A process that cannot be reached is taken for dead, and what it held for let go. It may live, and say what it
        has. A task that runs again refers to what it takes, too; that is being made, or was found.
        """
        revived, self._objects.revived = self._objects.revived, []
        for object_id in revived:
            entry = self._objects.entries.get(object_id)
            if entry is not None and entry.state == PENDING and entry.producer is None:
                self._recover(object_id, entry)

    def _origin(self, object_id: bytes) -> Remembered | None:
        task_id = self._objects.origins.get(object_id)
        return None if task_id is None else self._tasks.get(task_id)

    def ended(self, record: TaskRecord) -> None:
        """A task that ran again is over: what was lost meanwhile and it did not make anew needs another run."""
        rerun = record.rerun
        assert rerun is not None
        for object_id in rerun.late:
            entry = self._objects.entries.get(object_id)
            if entry is not None and entry.state == PENDING and entry.producer is record:
                self._recover(object_id, entry)

    def _plan(self, lost: bytes) -> tuple[list[Remembered], list[tuple[bytes, TaskRecord]], str]:
        """Return the tasks that must run again, what those will make that run again now, or why it is not possible."""
        plan: dict[bytes, Remembered] = {}
        awaited: list[tuple[bytes, TaskRecord]] = []
        missing = [lost]
        while missing:
            object_id = missing.pop()
            task = self._origin(object_id)
            if task is None:
                what = "it" if object_id == lost else f"what its task takes, object {object_id.hex()},"
                return [], [], f"{what} was put, or returned by an actor, by a task with max_retries=0 or too long ago"
            record = task.record
            if task.is_running:
                awaited.append((object_id, record))
                continue
            if record.task_id in plan:
                continue
            if record.retries_left == 0:
                return [], [], f"{record.name} has no retry left; give it a higher max_retries"
            if record.cancelled:
                return [], [], f"{record.name} was cancelled"
            if record.stream is not None and not record.stream.ended:
                return [], [], f"{record.name} still runs"
            plan[record.task_id] = task
            gone = next((name for name in record.dependencies or () if name not in self._objects.entries), None)
            if gone is not None:
                return [], [], f"what {record.name} takes, object {gone.hex()}, is of another process and not kept here"
            missing += [name for name in task.takes if self._objects.entries[name].state == FREED]
        return list(plan.values()), awaited, ""

    def _await(self, object_id: bytes, running: TaskRecord) -> None:
        """Have what is missing made by a task that runs again already; by another run, if this one leaves it out."""
        self._pend(object_id, self._objects.entries[object_id], running)
        assert running.rerun is not None
        if running.stream is not None or _return_index(object_id) in running.rerun.kept:
            running.rerun.late.append(object_id)

    def _pend(self, object_id: bytes, entry: ObjectEntry, producer: TaskRecord | None) -> None:
        entry.state = PENDING
        entry.value = b""
        entry.producer = producer
        self._objects.release_contained(entry)

    def _hold(self, task: Remembered) -> Hold:
        """Count for everything that a task takes."""
        held = [*dict.fromkeys([*task.takes, *(task.record.dependencies or ())])]
        for object_id in held:
            self._objects.refer(object_id)
        return Hold(held, self._objects.dropped)

    def _again(self, task: Remembered, hold: Hold) -> TaskRecord:
        """Return a task's next attempt, with everything ready for it to be submitted."""
        old = task.record
        record = old.again()
        record.keepalive = hold
        task.record = record
        task.runs += 1
        missing = []
        for object_id in task.results:
            entry = self._objects.entries[object_id]
            if entry.state in (FREED, PENDING):
                self._pend(object_id, entry, record)
                missing.append(object_id)
        if old.stream is not None:
            record.stream = Stream(record, 0, replayed=[_return_index(name) - 1 for name in missing])
            record.stream.received = old.stream.received
        made = {_return_index(object_id) for object_id in missing}
        record.rerun = Rerun([index for index in range(max(0, record.returns)) if index not in made], [])
        return record

    def check_invariants(self) -> Iterator[str]:
        """Yield a line for each contradiction."""
        needed: dict[bytes, int] = {}
        for task in self._tasks.values():
            if not task.results:
                yield f"{task.record} is remembered, and it has no results"
            for object_id in task.takes:
                needed[object_id] = needed.get(object_id, 0) + 1
        if needed != self._objects.needed:
            yield "what remembered tasks take is counted wrongly"
        for object_id, entry in self._objects.entries.items():
            if entry.state == FREED and object_id not in needed:
                yield f"object {object_id.hex()} is freed and nobody needs it"
            if entry.state == FREED and (entry.count or entry.holders):
                yield f"object {object_id.hex()} is freed and somebody refers to it"


def _return_index(object_id: bytes) -> int:
    """Return which return value of its task an object is; value 0 of a generator is return value 1."""
    return int.from_bytes(object_id[OBJECT_ID_BYTES - 4 :], "big")
