"""What waits for a worker's main thread: tasks and calls, in the order in which they came, and work of its own between.

The main thread takes the oldest from the left, without a lock, since it does so for every task. Others add on the right
and take out what is cancelled, wanted back or nobody's any more, with the session's lock held and while the main thread
goes on taking. So they never walk along the queue itself: they look at a copy, or take from the right and put what they
keep back there. What the main thread takes meanwhile is older than all of that, and nothing overtakes anything. Finds
it the queue empty, it takes the lock before it rests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from atoll.protocol.channel_messages import RunTask
from atoll.protocol.machine import Peer

OWN = Peer(0)
"""Stands for the worker itself. No connection has this number."""


class TaskQueue:
    """All that waits.

    Attributes:
        items: Who sent it, and the task or call; or `OWN`, and a function. For the main thread to take from the left,
            and for the session to append to.
    """

    def __init__(self) -> None:
        self.items: deque[tuple[Peer, Any]] = deque()

    def add_own(self, work: Callable[[], None]) -> None:
        """Have the main thread do something when its turn comes."""
        self.items.append((OWN, work))

    def remove(self, peer: Peer, sequence: int) -> bool:
        """Take out a task or call that was cancelled. False if it does not wait: the main thread may just have it."""
        for item in list(self.items):
            if item[0] == peer and getattr(item[1], "sequence", None) == sequence:
                try:
                    self.items.remove(item)
                except ValueError:
                    return False
                return True
        return False

    def take_back(self, peer: Peer, count: int) -> list[int]:
        """Take out tasks of a caller, at most `count`, the last first. Calls to an actor stay: their order counts.

        Returns:
            The numbers of the tasks.
        """
        taken: list[int] = []
        kept: list[tuple[Peer, Any]] = []
        while len(taken) < count and (item := self._last()) is not None:
            if item[0] == peer and type(item[1]) is RunTask:
                taken.append(item[1].sequence)
            else:
                kept.append(item)
        self.items.extend(reversed(kept))
        return taken

    def drop(self, peer: Peer) -> None:
        """Take out all that a caller has sent, who is lost."""
        kept: list[tuple[Peer, Any]] = []
        while (item := self._last()) is not None:
            if item[0] != peer:
                kept.append(item)
        self.items.extend(reversed(kept))

    def callers(self) -> list[Peer]:
        """Return those of whom tasks wait, in the order in which they came."""
        return list(dict.fromkeys(peer for peer, message in list(self.items) if type(message) is RunTask))

    def _last(self) -> tuple[Peer, Any] | None:
        try:
            return self.items.pop()
        except IndexError:
            return None
