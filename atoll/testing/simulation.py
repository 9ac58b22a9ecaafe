"""The loop of a simulation: what is due is done, in the order of (time, sequence), one step after another.

    heap ── step ──▶ Machine ── event ──▶ core.handle ── actions ──▶ Network (Send, ClosePeer), Machine.carry_out
                                                                          │
    after the step: every core that was touched checks its invariants, its timer is set anew, checkers look on

Nothing happens within a step but what that step causes: what a machine sends arrives in a later step. So each step is
atomic, as an event is for a real shell, and a crash falls between two steps or, on purpose, between two actions of
one (`Machine.fuse`).
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from atoll.exceptions import InternalError
from atoll.protocol.machine import (
    Action,
    ClosePeer,
    Core,
    DeadlineReached,
    Event,
    Instant,
    Peer,
    PeerConnected,
    PeerLost,
    Received,
    Send,
)
from atoll.testing.clock import VirtualClock
from atoll.testing.network import Network
from atoll.testing.transcript import Transcript

STEPS_AT_ONE_INSTANT = 20_000
"""A machine that has so many steps without time going on is spinning."""

Checker = Callable[["dict[Machine, None]"], None]
"""Called after every step with the machines that it touched; raises AssertionError or InternalError."""


class SimulationFailure(Exception):
    """Something that must never happen has happened. Tells the seed, how to repeat it, and the last steps."""


class Machine:
    """A process of the simulated cluster: a core, and how what it wants is carried out.

    This is the adapter that each kind of process writes: it overrides `carry_out` for the actions that are its own,
    and the hooks that it needs otherwise.

    Args:
        simulation: Where it takes part.
        name: Unique among living machines.
        core: Decides.
        role: What it says of itself when it connects.
        process_id: Likewise.
        host: Machines of one host are never cut off from each other.

    Attributes:
        alive: Until it crashes or stops.
        paused_until: It does nothing before (as a process that got SIGSTOP).
        fuse: With a number, so many more actions are carried out, and then it crashes, in the middle of a step.
    """

    def __init__(
        self, simulation: Simulation, name: str, core: Core[Any], *, role: str, process_id: bytes, host: str
    ) -> None:
        self.simulation = simulation
        self.network = simulation.network
        self.name = name
        self.core = core
        self.role = role
        self.process_id = process_id
        self.host = host
        self.alive = True
        self.paused_until = Instant(0.0)
        self.fuse: int | None = None
        self.timer_at: Instant | None = None
        self._last_peer = 0

    def __repr__(self) -> str:
        return f"<machine {self.name}>"

    # ---------------------------------------------------------------------------------------- for the outside

    def deliver(self, event: Event) -> None:
        """Give the core an event now and carry out what it wants. Only within a step."""
        simulation = self.simulation
        simulation.touch(self)
        simulation.note(self.name, type(event).__name__, event)
        self.perform(self.core.handle(event, simulation.clock.now))

    def perform(self, actions: Sequence[Action]) -> None:
        """Carry actions out, in order. A fuse may end the machine on the way."""
        for action in actions:
            if self.fuse is not None:
                self.fuse -= 1
                if self.fuse < 0:
                    self.simulation.note(self.name, "crashes before", action)
                    self.simulation.crash(self)
            if not self.alive:
                return
            self._perform(action)

    def _perform(self, action: Action) -> None:
        if type(action) is Send:
            self.send(action.peer, action.message)
        elif type(action) is ClosePeer:
            self.network.close(self, action.peer)
        else:
            self.carry_out(action)

    def after(self, delay_s: float, what: str, callback: Callable[[], None]) -> None:
        """Have something of this machine's own done later, unless it is dead by then."""
        self.simulation.schedule(Instant(self.simulation.clock.now + delay_s), self, what, callback)

    def new_peer(self) -> Peer:
        """Return a number for a connection that this machine has not used."""
        self._last_peer += 1
        return Peer(self._last_peer)

    # --------------------------------------------------------------------------------------------------- hooks

    def carry_out(self, action: Action) -> None:
        """Do what the core wants, beside `Send` and `ClosePeer`."""
        raise NotImplementedError(f"{self.name} cannot {type(action).__name__}")

    def send(self, peer: Peer, message: Any) -> None:
        """Send a message; by default at once, on its own."""
        self.network.send(self, peer, message)

    def connected(self, peer: Peer, role: str, process_id: bytes, _tag: Any) -> None:
        """A connection stands. `_tag` is what it was dialled with, None if it was accepted."""
        self.deliver(PeerConnected(peer, role, process_id))

    def received(self, peer: Peer, message: Any) -> None:
        """A message has come."""
        self.deliver(Received(peer, message))

    def lost(self, peer: Peer, cause: str) -> None:
        """A connection is gone."""
        self.deliver(PeerLost(peer, cause))

    def refused(self, tag: Any, cause: str) -> None:
        """What was dialled does not answer."""
        raise NotImplementedError(f"{self.name} does not dial: {tag} {cause}")

    def finish_step(self) -> None:
        """The step is over as far as this machine goes; what it has kept to do in one go is done now."""

    def ended(self, crashed: bool) -> None:
        """The machine is dead; what belongs to it alone is to go with it."""


class Simulation:
    """Everything that happens, in order.

    Args:
        seed: All randomness comes from it.
        repeat: The command that repeats this run, for who reads a failure.
        transcript_length: How many of the last lines a failure shows.

    Attributes:
        faults: How often a fault of each kind was injected.
        checkers: Called after every step.
        steps: How many there have been.
    """

    def __init__(self, seed: int, *, repeat: str = "", transcript_length: int = 300) -> None:
        self.seed = seed
        self.repeat = repeat
        self.clock = VirtualClock()
        self.transcript = Transcript(transcript_length)
        self.faults: Counter[str] = Counter()
        self.checkers: list[Checker] = []
        self.steps = 0
        self.machines: dict[str, Machine] = {}
        self._heap: list[tuple[Instant, int, Machine | None, str, Callable[[], None]]] = []
        self._sequence = 0
        self._touched: dict[Machine, None] = {}
        self._at_instant = 0
        self.random = self.random_for("simulation")
        self.network = Network(self)

    def random_for(self, purpose: str) -> random.Random:
        """Return a source of randomness that belongs to one purpose: what others draw does not change it."""
        return random.Random(f"{self.seed}/{purpose}")

    # ------------------------------------------------------------------------------------------------ building

    def add(self, machine: Machine) -> None:
        """Let a machine take part."""
        assert machine.name not in self.machines, f"{machine.name} is there already"
        self.machines[machine.name] = machine
        self.touch(machine)

    def schedule(self, when: Instant, machine: Machine | None, what: str, callback: Callable[[], None]) -> None:
        """Have something done at an instant; with a machine, only while it lives, and not while it is paused."""
        self._sequence += 1
        heapq.heappush(self._heap, (max(when, self.clock.now), self._sequence, machine, what, callback))

    def after(self, delay_s: float, what: str, callback: Callable[[], None]) -> None:
        """Have something done later that is no machine's own."""
        self.schedule(Instant(self.clock.now + delay_s), None, what, callback)

    # --------------------------------------------------------------------------------------------- what happens

    def note(self, who: str, what: str, detail: Any = None) -> None:
        """Write a line into the transcript."""
        self.transcript.add(self.clock.now, who, what, detail)

    def inject(self, kind: str, who: str, detail: Any = None) -> None:
        """Count a fault, and write it down."""
        self.faults[kind] += 1
        self.note(who, f"FAULT {kind}", detail)

    def touch(self, machine: Machine) -> None:
        """Note that this step concerns a machine."""
        self._touched[machine] = None

    def crash(self, machine: Machine) -> None:
        """End a machine at once, as `kill -9` does. What it has sent still arrives."""
        self._end(machine, crashed=True)

    def stop(self, machine: Machine) -> None:
        """End a machine that has done its work: its connections are closed in order."""
        self._end(machine, crashed=False)

    def _end(self, machine: Machine, *, crashed: bool) -> None:
        if not machine.alive:
            return
        self.note(machine.name, "is killed" if crashed else "exits")
        machine.alive = False
        del self.machines[machine.name]
        self._touched.pop(machine, None)
        self.network.gone(machine)
        machine.ended(crashed)

    def pause(self, machine: Machine, duration_s: float) -> None:
        """Stop a machine for a time, as SIGSTOP does: it neither acts nor reads, and nobody is told."""
        machine.paused_until = max(machine.paused_until, Instant(self.clock.now + duration_s))

    # ------------------------------------------------------------------------------------------------ the loop

    def step(self) -> bool:
        """Do what is due next; False if nothing is.

        Raises:
            SimulationFailure: Something that must never happen has happened.
        """
        if not self._heap:
            return False
        when, _sequence, machine, what, callback = heapq.heappop(self._heap)
        if machine is not None:
            if not machine.alive:
                return True
            if machine.paused_until > when:
                self.schedule(machine.paused_until, machine, what, callback)
                return True
            self.touch(machine)
        if when > self.clock.now:
            self._at_instant = 0
        self._at_instant += 1
        self.clock.advance_to(when)
        self.steps += 1
        try:
            assert self._at_instant < STEPS_AT_ONE_INSTANT, f"{what}: steps go on and time does not"
            callback()
            self._finish()
        except (AssertionError, InternalError, LookupError, TypeError, ValueError, AttributeError) as problem:
            raise self.failure(problem, what) from problem
        return True

    def _finish(self) -> None:
        """Let the machines that were touched finish the step, and look whether all is well."""
        done: dict[Machine, None] = {}
        while self._touched:
            machine = next(iter(self._touched))
            del self._touched[machine]
            if machine.alive:
                machine.finish_step()
                done[machine] = None
        for machine in done:
            if machine.alive:
                machine.core.check_invariants()
                self._set_timer(machine)
        for checker in self.checkers:
            checker(done)
        self._touched.clear()

    def _set_timer(self, machine: Machine) -> None:
        deadline = machine.core.next_deadline()
        if deadline is None or (machine.timer_at is not None and machine.timer_at <= deadline):
            return
        machine.timer_at = deadline
        late_s = self.random.random() * 100e-6
        self.schedule(Instant(deadline + late_s), machine, "timer", lambda: self._timer(machine, deadline))

    def _timer(self, machine: Machine, was_set_for: Instant) -> None:
        if machine.timer_at != was_set_for:
            return  # an earlier one was set meanwhile and has come first
        machine.timer_at = None
        deadline = machine.core.next_deadline()
        if deadline is not None and deadline <= self.clock.now:
            machine.deliver(DeadlineReached())

    def run(self, missing: Callable[[], str], within_s: float, what: str) -> None:
        """Go on until nothing is missing.

        Args:
            missing: Asked after every step; says what is not so yet, or nothing.
            within_s: How much virtual time it may take.
            what: What is waited for, for who reads the failure.

        Raises:
            SimulationFailure: It did not become so, or something else is wrong.
        """
        limit = Instant(self.clock.now + within_s)
        while still := missing():
            if not self._heap or self._heap[0][0] > limit:
                raise self.failure(AssertionError(f"{what}: not within {within_s:g} s; {still}"), "waiting")
            self.step()

    def run_for(self, duration_s: float) -> None:
        """Go on for some virtual time."""
        limit = Instant(self.clock.now + duration_s)
        while self._heap and self._heap[0][0] <= limit:
            self.step()
        self.clock.advance_to(limit)

    def failure(self, problem: BaseException, what: str) -> SimulationFailure:
        """Return the error that tells what went wrong, how it came to it, and how to see it again."""
        faults = ", ".join(f"{kind}: {count}" for kind, count in sorted(self.faults.items())) or "none"
        return SimulationFailure(
            f"seed {self.seed}, step {self.steps}, at {self.clock.now:.6f} s, in {what}: "
            f"{type(problem).__name__}: {problem}\n"
            f"faults that were injected: {faults}\n"
            f"the last steps:\n{self.transcript.text()}\n"
            f"{type(problem).__name__}: {str(problem).splitlines()[0] if str(problem) else ''}\n"
            f"repeat with: {self.repeat or f'seed {self.seed}'}"
        )
