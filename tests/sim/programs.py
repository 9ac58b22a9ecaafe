"""SIMULATED threads of a client: generators that yield what they wait for, and are resumed when it is there.

A program never raises for what the cluster does to it: it gets outcomes. (A kept exception would keep, by its
traceback, the refs of every frame that it went through, and refs must go when the program lets go of them.)
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

from atoll.client.core.events import HoldRequested, ObjectsWanted
from atoll.client.core.records import PENDING
from atoll.object_ref import ObjectRef
from atoll.protocol.messages import Failed

if TYPE_CHECKING:
    from tests.sim.client_process import ClientProcess

Wake = Callable[[Any], None]
Code = Generator["Command", Any, Any]

LINK_WITHIN_S = 15.0
"""As long a request waits for a daemon that is being restarted."""


class Interrupted(Exception):
    """Thrown into a program's user code: it is cancelled."""


class View:
    """A live view of an object in a store, as an array that a program has: its pin goes with it."""

    __slots__ = ("_process", "object_id")

    def __init__(self, process: ClientProcess, object_id: bytes) -> None:
        self._process = process
        self.object_id = object_id

    def __del__(self) -> None:
        self._process.store.released.append(self.object_id)


class Outcome:
    """What `get` found.

    Attributes:
        error: The class of the error; empty for a value.
        tag: The object that it says it is the value of.
        refs: The refs inside.
        view: What keeps it mapped, if it is in a store.
    """

    __slots__ = ("error", "refs", "tag", "view")

    def __init__(self, error: str, tag: bytes = b"", refs: Sequence[ObjectRef[Any]] = (), view: Any = None) -> None:
        self.error = error
        self.tag = tag
        self.refs = list(refs)
        self.view = view


class Command:
    """Something that a program waits for."""

    def begin(self, process: ClientProcess, wake: Wake) -> None:
        """Have `wake` called with the answer."""
        raise NotImplementedError


class Sleep(Command):
    """Time that passes."""

    def __init__(self, duration_s: float) -> None:
        self._duration_s = duration_s

    def begin(self, process: ClientProcess, wake: Wake) -> None:
        process.after(self._duration_s, "wakes up", lambda: wake(None))


class Objects(Command):
    """Objects that are ready, or have failed; answered by False when the time was over before."""

    def __init__(self, object_ids: Sequence[bytes], count: int, timeout_s: float | None) -> None:
        self._object_ids = object_ids
        self._timeout_s = timeout_s
        self._remaining = count

    def begin(self, process: ClientProcess, wake: Wake) -> None:
        entries = process.core.objects.entries
        self._wake = wake
        for object_id in self._object_ids:
            if entries[object_id].state != PENDING:
                self._remaining -= 1
            else:
                process.waiters.setdefault(object_id, []).append(self._one_less)
                process.deliver(ObjectsWanted([object_id]))
        if self._remaining <= 0:
            self._over(process, True)
        elif self._timeout_s is not None:
            process.after(self._timeout_s, "timeout", lambda: self._over(process, False))

    def _one_less(self, process: ClientProcess) -> None:
        self._remaining -= 1
        if self._remaining == 0:
            self._over(process, True)

    def _over(self, process: ClientProcess, done: bool) -> None:
        self._remaining = -1
        for object_id in self._object_ids:
            waiting = process.waiters.get(object_id, [])
            if self._one_less in waiting:
                waiting.remove(self._one_less)
                if not waiting:
                    del process.waiters[object_id]
        self._wake(done)


class Request(Command):
    """The answer of a daemon to a control message; `Failed` if the daemon is lost."""

    def __init__(self, role: str, make: Callable[[int], Any]) -> None:
        self._role = role
        self._make = make

    def begin(self, process: ClientProcess, wake: Wake) -> None:
        self._ask(process, wake, process.simulation.clock.now + LINK_WITHIN_S)

    def _ask(self, process: ClientProcess, wake: Wake, until: float) -> None:
        uplink = process.uplinks[self._role]
        if uplink.linked:
            number = process.core.outbox.next_request()
            process.requests[number] = (uplink.peer, wake)
            process.send(uplink.peer, self._make(number))
        elif process.simulation.clock.now >= until:
            wake(Failed(0, "ClusterLostError", f"the {self._role} is gone"))
        else:
            process.after(0.02, "looks again", lambda: self._ask(process, wake, until))


class Hold(Command):
    """A holder is registered at the owner of each object."""

    def __init__(self, object_ids: Sequence[bytes], holder: bytes) -> None:
        self._object_ids = object_ids
        self._holder = holder
        self._remaining = len(object_ids)

    def begin(self, process: ClientProcess, wake: Wake) -> None:
        self._wake = wake
        if not self._object_ids:
            wake(None)
        for object_id in self._object_ids:
            process.hold_waiters.setdefault((object_id, self._holder), []).append(self._one_less)
            process.deliver(HoldRequested(object_id, self._holder))

    def _one_less(self) -> None:
        self._remaining -= 1
        if self._remaining == 0:
            self._wake(None)


class Program:
    """A generator that runs in a process.

    Args:
        process: Where.
        name: For the transcript.
        code: The generator.
        done: Called with what it returned, or with `Interrupted` itself if it was interrupted.

    Attributes:
        interruptible: Whether it is in user code.
    """

    def __init__(self, process: ClientProcess, name: str, code: Code, done: Callable[[Any], None] | None) -> None:
        self._process = process
        self.name = name
        self._code = code
        self._done = done
        self._turn = 0
        self.finished = False
        self.interruptible = False

    def start(self, delay_s: float = 0.0) -> None:
        """Begin, a moment later."""
        self._process.after(delay_s, f"{self.name} begins", lambda: self._resume(0, None))

    def interrupt(self) -> None:
        """Throw `Interrupted` into it, if it is in user code."""
        if self.interruptible and not self.finished:
            self.interruptible = False
            self._turn += 1
            self._advance(lambda: self._code.throw(Interrupted()))

    def _resume(self, turn: int, value: Any) -> None:
        if turn == self._turn and not self.finished:
            self._turn += 1
            self._advance(lambda: self._code.send(value))

    def _advance(self, step: Callable[[], Command]) -> None:
        process = self._process
        try:
            command = step()
        except StopIteration as stop:
            self._finish(stop.value)
            return
        except Interrupted:
            self._finish(Interrupted)
            return
        if not process.alive:
            return
        turn = self._turn

        def wake(value: Any) -> None:
            delay_s = process.random.uniform(0.0, 30e-6)
            process.after(delay_s, f"{self.name} goes on", lambda: self._resume(turn, value))

        command.begin(process, wake)

    def _finish(self, result: Any) -> None:
        self.finished = True
        self._process.programs.pop(self, None)
        if self._done is not None and self._process.alive:
            self._done(result)
