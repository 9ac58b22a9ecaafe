"""Identifiers: bytes whose prefix says who made them.

    ProcessId  8 bytes   random, one for every process that speaks in a cluster
    TaskId    16 bytes   process id of the submitter + its counter
    ObjectId  20 bytes   task id + index of the return value (a `put` is a task that returns at once)
    ActorId   16 bytes   process id of the creator + its counter, the same one; its handles' token is an ObjectId of it
    NodeId     8 bytes   the process id of the node's first agent

So an object's owner is read off its id, and no table is needed to find whom to ask. Ids are made without a system
call: a counter behind a prefix that was drawn once.
"""

from __future__ import annotations

import itertools
import secrets
from typing import NewType

ProcessId = NewType("ProcessId", bytes)
TaskId = NewType("TaskId", bytes)
ObjectId = NewType("ObjectId", bytes)
ActorId = NewType("ActorId", bytes)
NodeId = NewType("NodeId", bytes)
LeaseId = NewType("LeaseId", int)

PROCESS_ID_BYTES = 8
TASK_ID_BYTES = 16
OBJECT_ID_BYTES = 20
ACTOR_ID_BYTES = 16

NO_OBJECT = ObjectId(b"")
_FIRST = bytes(4)


def new_process_id() -> ProcessId:
    """Return a random process id."""
    return ProcessId(secrets.token_bytes(PROCESS_ID_BYTES))


class IdFactory:
    """Makes the ids of one process: unique in the cluster because the process id is.

    Safe to call from several threads.
    """

    def __init__(self, process_id: ProcessId) -> None:
        if len(process_id) != PROCESS_ID_BYTES:
            raise ValueError(f"a process id has {PROCESS_ID_BYTES} bytes, not {len(process_id)}")
        self.process_id = process_id
        self._counter = itertools.count(1)

    def task_id(self) -> TaskId:
        """Return a task id that was never returned before."""
        return TaskId(self.process_id + next(self._counter).to_bytes(8, "big"))

    def actor_id(self) -> ActorId:
        """Return an actor id that was never returned before."""
        return ActorId(self.process_id + next(self._counter).to_bytes(8, "big"))

    def object_id(self) -> ObjectId:
        """Return the id for a value that is put, not computed."""
        return ObjectId(self.process_id + next(self._counter).to_bytes(8, "big") + _FIRST)


def return_id(task_id: TaskId, index: int) -> ObjectId:
    """Return the id of a task's return value number `index`, from 0."""
    return ObjectId(task_id + (index.to_bytes(4, "big") if index else _FIRST))


def token_of(actor_id: bytes) -> ObjectId:
    """Return the id of the object that stands for the handles of an actor."""
    return return_id(TaskId(actor_id), 0)


def task_of(object_id: ObjectId) -> TaskId:
    """Return the id of the task that an object is a return value of."""
    return TaskId(object_id[:TASK_ID_BYTES])


def owner_of(object_id: ObjectId) -> ProcessId:
    """Return the id of the process that owns an object: the one that submitted its task or put it."""
    return ProcessId(object_id[:PROCESS_ID_BYTES])
