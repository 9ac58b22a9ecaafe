"""Who reads the sockets: whoever waits, and a background thread when nobody does.

A result that a thread waits for is worth most when that thread itself takes it off the socket: no second thread has to
be woken, no lock handed over. So there is one `epoll`, and one *leader* at a time that polls it:

    a thread in `get()`        leads until its results are there; if another thread leads already, it waits until it
                               is told that they are, or that it is its turn to lead
    the background thread      leads when no thread does and none has for a while

The background thread must not fight with a loop of short `get()`s for the lead, so it only looks every `TICK_S`
whether somebody has led since it looked last; while that goes on it stays out of the way. When it leads, a thread
that wants to wait asks it, through an eventfd, to stop.

Between two polls nobody reads for some ticks. What a thread waits for does not wait for that: it is led by the waiter.
For what a callback waits for, a future or an `await`, the ticks are short (`hurry`).
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable

from atoll.protocol.machine import Instant

TICK_S = 0.005
_LEAVES_WITHIN_S = 1.0
"""How often the background thread looks whether it is needed."""

HURRIED_TICK_S = 0.001
"""The same while a callback waits. Not shorter, or a loop of submissions with futures would be disturbed."""

QUIET_TICKS = 2
"""So many ticks without a thread that leads or submits, and the background thread leads."""

_ASLEEP_AFTER_TICKS = 2
"""After so many ticks without traffic the background leader sleeps until something comes. Few: in a worker, each tick
interrupts the task."""

_LONGEST_POLL_S = 3600.0

Handler = Callable[[int], None]


class Waiter:
    """A thread that waits for something.

    Attributes:
        remaining: How many things it still waits for; it is done at zero or less. Changed under the session's lock.
    """

    __slots__ = ("_turn", "remaining")

    def __init__(self, remaining: int) -> None:
        self.remaining = remaining
        self._turn: threading.Lock | None = None

    def wake(self) -> None:
        """Let the thread look again: it is done, or it is to lead. Say before in `remaining` what is new."""
        turn = self._turn
        if turn is not None:  # a thread that leads needs no waking: it looks after each poll
            with contextlib.suppress(RuntimeError):  # it was woken already and has not looked yet
                turn.release()

    def count_down(self) -> None:
        """One of the things is there. Called under the session's lock."""
        self.remaining -= 1
        if self.remaining <= 0:
            self.wake()

    def prepare(self) -> None:
        """Make it wakeable. Look at `remaining` after this and before `sleep`, or a waking before this is lost."""
        if self._turn is None:
            self._turn = threading.Lock()
            self._turn.acquire()

    def sleep(self, timeout_s: float) -> None:
        """Wait to be woken."""
        assert self._turn is not None, "prepare comes first"
        self._turn.acquire(timeout=timeout_s)


class Reactor:
    """The one place where sockets are polled.

    Args:
        next_deadline: When `on_deadline` is wanted; asked before each poll.
        on_deadline: Called, by the leader, when that instant has come.
        on_pause: Called, by the leader, after each round of handlers and by the background thread at each tick.
        on_tick: Called by the background thread at each tick, before `on_pause`.

    Attributes:
        closed: Nothing is read any more.
        asleep: The background thread leads and sleeps without end: what is to be sent must be sent now.
    """

    def __init__(
        self,
        next_deadline: Callable[[], Instant | None],
        on_deadline: Callable[[], None],
        on_pause: Callable[[], None],
        on_tick: Callable[[], None],
    ) -> None:
        self._next_deadline = next_deadline
        self._on_deadline = on_deadline
        self._on_pause = on_pause
        self._on_tick = on_tick
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._wake_descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.register(self._wake_descriptor, self._woken)
        self._lead = threading.Lock()
        self._followers: deque[Waiter] = deque()
        self._turns = 0
        self._background_leads = False
        self._yield = False
        self._parked = False
        self._hurries = False
        self._unpark = threading.Event()
        self.closed = False
        self.asleep = False
        self._thread = threading.Thread(target=self._background, name="atoll-reader", daemon=True)

    def start(self) -> None:
        """Start the background thread."""
        self._thread.start()

    # --------------------------------------------------------------------------------------------- sockets

    def register(self, descriptor: int, handler: Handler, *, writing: bool = False) -> None:
        """Call `handler(mask)` when the descriptor can be read (or, with `writing`, written)."""
        self._handlers[descriptor] = handler
        self._epoll.register(descriptor, select.EPOLLIN | (select.EPOLLOUT if writing else 0))

    def want_write(self, descriptor: int, writing: bool) -> None:
        """Say whether the descriptor is to be watched for writing too."""
        self._epoll.modify(descriptor, select.EPOLLIN | (select.EPOLLOUT if writing else 0))

    def unregister(self, descriptor: int) -> None:
        """Forget a descriptor; call it before closing it."""
        if self._handlers.pop(descriptor, None) is not None:
            with contextlib.suppress(OSError, ValueError):
                self._epoll.unregister(descriptor)

    def wake(self) -> None:
        """Make whoever polls look around: something has changed that no socket tells of. Safe in signal handlers."""
        with contextlib.suppress(OSError, ValueError):
            os.eventfd_write(self._wake_descriptor, 1)

    def _poll(self, timeout_s: float) -> bool:
        """Poll once and call handlers; a negative timeout is for ever. True if there was anything."""
        ready = self._epoll.poll(timeout_s)
        for descriptor, mask in ready:
            handler = self._handlers.get(descriptor)
            if handler is not None:
                handler(mask)
        return bool(ready)

    def _woken(self, _mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_descriptor)

    def _timeout(self, until: float | None) -> float:
        """Return how long to poll: to `until` or the next deadline; a deadline that has come is served first."""
        deadline = self._next_deadline()
        if deadline is None and until is None:
            return -1.0
        now = time.monotonic()
        if deadline is not None and deadline <= now:
            self._on_deadline()
            deadline = self._next_deadline()
        wait = _LONGEST_POLL_S
        if deadline is not None and deadline - now < wait:
            wait = deadline - now
        if until is not None and until - now < wait:
            wait = until - now
        return max(0.0, wait)

    # --------------------------------------------------------------------------------------------- waiting

    def wait(self, waiter: Waiter, until: float | None, stop: Callable[[], bool] | None = None) -> bool:
        """Wait until a waiter is done, leading if nobody else does.

        Args:
            waiter: What is waited for.
            until: An instant of `time.monotonic`, or None for ever.
            stop: Asked after each wake-up; True ends the wait.

        Returns:
            Whether it is done.
        """
        self._turns += 1
        while waiter.remaining > 0 and not self.closed and not (stop is not None and stop()):
            if until is not None and time.monotonic() >= until:
                return False
            if self._take_lead():
                try:
                    self._lead_for(waiter, until, stop)
                finally:
                    self._give_up_lead()
            elif waiter.remaining > 0:
                self._follow(waiter, until)
        return waiter.remaining <= 0

    def _lead_for(self, waiter: Waiter, until: float | None, stop: Callable[[], bool] | None) -> None:
        self._on_pause()
        while waiter.remaining > 0 and not self.closed:
            if stop is not None and stop():
                return
            if until is not None and time.monotonic() >= until:
                return
            if self._poll(self._timeout(until)):
                self._on_pause()
        self._turns += 1

    def _follow(self, waiter: Waiter, until: float | None) -> None:
        waiter.prepare()
        self._followers.append(waiter)
        try:
            # What ended the wait, or gave up the lead, before the lines above did not know whom to wake.
            if waiter.remaining > 0 and self._lead.locked():
                left = 1.0 if until is None else min(1.0, max(0.0, until - time.monotonic()))
                waiter.sleep(left)
        finally:
            with contextlib.suppress(ValueError):
                self._followers.remove(waiter)

    def turn(self) -> None:
        """Read what has come without waiting, unless another thread reads. For long loops of submissions."""
        self._turns += 1
        if self._take_lead():
            try:
                while self._poll(0):
                    self._on_pause()
            finally:
                self._give_up_lead()

    def touch(self) -> None:
        """Note that a thread is active and will read by itself soon: the background thread stays out of the way."""
        self._turns += 1

    def hurry(self) -> None:
        """Note that a callback waits, for which no thread leads: the background thread is to lead soon."""
        if not self._hurries and not self._background_leads:
            self._hurries = True
            self._unpark.set()

    def _take_lead(self) -> bool:
        if self._lead.acquire(blocking=False):
            return True
        if not self._background_leads:
            return False
        self._yield = True
        self.wake()
        return self._lead.acquire(timeout=TICK_S)

    def _give_up_lead(self) -> None:
        self._lead.release()
        followers = self._followers
        if followers:
            with contextlib.suppress(IndexError):
                followers[0].wake()
        elif self._parked:
            self._unpark.set()

    # ------------------------------------------------------------------------------------------ background

    def _background(self) -> None:
        seen, quiet = self._turns, 0
        while not self.closed:
            self._unpark.wait(HURRIED_TICK_S if self._hurries else TICK_S)
            self._unpark.clear()
            quiet = quiet + 1 if self._turns == seen else 0
            seen = self._turns
            self._on_tick()
            self._on_pause()
            if self._lead.locked():
                if quiet:
                    self._park()
            elif quiet >= (1 if self._hurries else QUIET_TICKS) and self._lead.acquire(blocking=False):
                self._background_leads = True
                self._hurries = False
                try:
                    self._lead_in_background()
                finally:
                    self._background_leads = False
                    self._yield = False
                    self._give_up_lead()

    def _park(self) -> None:
        """Sleep while one thread leads for long; it wakes us when it stops."""
        self._parked = True
        if self._lead.locked() and not self.closed:
            self._unpark.wait()
        self._parked = False

    def _lead_in_background(self) -> None:
        quiet = 0
        while not self._yield and not self.closed:
            if quiet < _ASLEEP_AFTER_TICKS:
                timeout = min(TICK_S, self._timeout(time.monotonic() + TICK_S))
            else:
                self.asleep = True
                self._on_pause()  # what was left unsent before `asleep` was seen
                timeout = self._timeout(None)
            busy = self._poll(timeout)
            self.asleep = False
            quiet = 0 if busy else quiet + 1
            self._on_tick()
            self._on_pause()

    def close(self) -> None:
        """End the background thread and close the poll. Sockets are the caller's; who waits is sent away."""
        self.closed = True
        self._yield = True
        self._unpark.set()
        self.wake()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()
        self._lead.acquire(timeout=_LEAVES_WITHIN_S)  # who leads leaves, unless it is this thread itself
        self._handlers.clear()
        self._epoll.close()
        os.close(self._wake_descriptor)
