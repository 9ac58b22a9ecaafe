"""Connections between machines, and what goes wrong with them.

A connection is a stream, as a Unix or TCP socket is: what is sent in one direction arrives in that order, each
message once, after a delay by seed, until the connection ends. A stream cannot duplicate or reorder messages, so
neither is injected; what it can do is injected:

* it breaks (`drop`): a tail of what was under way, in either direction, never arrives, and the two ends notice at
  different moments;
* it is cut (`partition`): nothing arrives until the cut has healed, then everything does. A cut that lasts longer
  than `TIMEOUT_S` breaks the connection. Who dials through a cut is refused after a while;
* it is slow (`slow`): delays are many times as long, for a time;
* its other end dies: what that has sent arrives, then the end of the stream.

Machines of the same host are never cut off from each other, and are nearer to each other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from atoll.protocol.machine import Instant, Peer

if TYPE_CHECKING:
    from atoll.testing.simulation import Machine, Simulation

LOCAL_DELAY_S = (20e-6, 120e-6)
REMOTE_DELAY_S = (100e-6, 1.5e-3)

TIMEOUT_S = 15.0
"""A connection over which nothing was acknowledged for so long is broken (`TCP_USER_TIMEOUT`)."""

DIAL_TIMEOUT_S = 3.0
"""Who dials through a cut gives up after this."""

_OPENED, _MESSAGE, _CLOSED = 0, 1, 2


class _End:
    """One end of a connection: what is under way to it.

    Attributes:
        machine: Who reads here.
        peer: The number by which it knows the connection.
        coming: (when, kind, content) in the order of arrival.
        last_arrival: Nothing arrives before what was sent earlier.
        open: Whether this end still counts on the connection.
    """

    __slots__ = ("coming", "last_arrival", "machine", "open", "other", "peer", "tag")

    def __init__(self, machine: Machine, peer: Peer, tag: Any) -> None:
        self.machine = machine
        self.peer = peer
        self.tag = tag
        self.coming: deque[tuple[Instant, int, Any]] = deque()
        self.last_arrival = Instant(0.0)
        self.open = True
        self.other: _End


class Network:
    """All connections.

    Args:
        simulation: Whose time and randomness it uses.
    """

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._random = simulation.random_for("network")
        self._listeners: dict[str, Machine] = {}
        self._ends: dict[Machine, dict[Peer, _End]] = {}
        self._cuts: dict[tuple[str, str], Instant] = {}
        self._slow: dict[tuple[str, str], tuple[Instant, float]] = {}

    # ----------------------------------------------------------------------------------------- for machines

    def listen(self, machine: Machine, address: str) -> None:
        """Have a machine reached at an address, until it is gone."""
        self._listeners[address] = machine

    def dial(self, machine: Machine, address: str, tag: Any) -> None:
        """Connect to an address: `connected` or `refused` follows, with the tag."""
        target = self._listeners.get(address)
        blocked = target is not None and self._cut_until(machine, target) > self._simulation.clock.now
        delay_s = DIAL_TIMEOUT_S if blocked else self._delay(machine, target)
        self._simulation.touch(machine)
        if target is None:
            machine.after(delay_s, "refused", lambda: machine.refused(tag, f"nobody listens at {address}"))
        elif blocked:
            machine.after(delay_s, "refused", lambda: machine.refused(tag, f"{address} does not answer"))
        else:
            found = target
            self._simulation.after(delay_s, "dial", lambda: self._accept(machine, found, address, tag))

    def _accept(self, dialler: Machine, target: Machine, address: str, tag: Any) -> None:
        if not dialler.alive:
            return
        if not target.alive or self._listeners.get(address) is not target:
            dialler.after(0.0, "refused", lambda: dialler.refused(tag, f"nobody listens at {address}"))
            return
        near = _End(dialler, dialler.new_peer(), tag)
        far = _End(target, target.new_peer(), None)
        near.other, far.other = far, near
        for end in (far, near):
            self._ends.setdefault(end.machine, {})[end.peer] = end
            self._put(end, _OPENED, None)

    def send(self, machine: Machine, peer: Peer, message: Any) -> None:
        """Send a message; over a connection that is gone it goes nowhere."""
        end = self._ends.get(machine, {}).get(peer)
        if end is not None and end.other.open:
            self._put(end.other, _MESSAGE, message)

    def close(self, machine: Machine, peer: Peer) -> None:
        """Close one's own end. The other end reads what was sent, then the end of the stream."""
        end = self._ends.get(machine, {}).pop(peer, None)
        if end is not None:
            self._close(end, "the other side closed it")

    def _close(self, end: _End, cause: str) -> None:
        end.open = False
        end.coming.clear()
        if end.other.open:
            self._put(end.other, _CLOSED, cause)

    def gone(self, machine: Machine) -> None:
        """A machine is dead."""
        for end in self._ends.pop(machine, {}).values():
            self._close(end, "the other process is gone")
        for address in [address for address, listener in self._listeners.items() if listener is machine]:
            del self._listeners[address]

    # --------------------------------------------------------------------------------------------- delivery

    def _put(self, end: _End, kind: int, content: Any) -> None:
        now = self._simulation.clock.now
        end.last_arrival = Instant(max(end.last_arrival, now + self._delay(end.other.machine, end.machine)))
        end.coming.append((end.last_arrival, kind, content))
        self._simulation.schedule(end.last_arrival, end.machine, "network", lambda: self._arrive(end))

    def _arrive(self, end: _End) -> None:
        now = self._simulation.clock.now
        if not end.coming or end.coming[0][0] > now:
            return  # what was to arrive now was lost when the connection broke
        until = self._cut_until(end.machine, end.other.machine)
        if until > now:
            self._simulation.schedule(until, end.machine, "network", lambda: self._arrive(end))
            return
        _when, kind, content = end.coming.popleft()
        machine = end.machine
        if kind == _MESSAGE:
            machine.received(end.peer, content)
        elif kind == _OPENED:
            other = end.other.machine
            machine.connected(end.peer, other.role, other.process_id, end.tag)
        else:
            end.open = False
            self._ends.get(machine, {}).pop(end.peer, None)
            machine.lost(end.peer, content)

    def _delay(self, one: Machine, other: Machine | None) -> float:
        if other is None or one.host == other.host:
            return self._random.uniform(*LOCAL_DELAY_S)
        delay = self._random.uniform(*REMOTE_DELAY_S)
        slow = self._slow.get(_pair(one.host, other.host))
        return delay * slow[1] if slow is not None and slow[0] > self._simulation.clock.now else delay

    def _cut_until(self, one: Machine, other: Machine) -> Instant:
        if not self._cuts:
            return Instant(0.0)
        return self._cuts.get(_pair(one.host, other.host), Instant(0.0))

    # ----------------------------------------------------------------------------------------------- faults

    def connections(self) -> list[tuple[Machine, Peer, Machine]]:
        """Return all connections that stand, each once: who dialled, its number for it, and the other."""
        return [
            (machine, peer, end.other.machine)
            for machine, ends in self._ends.items()
            for peer, end in ends.items()
            if end.tag is not None and end.open and end.other.open
        ]

    def drop(self, machine: Machine, peer: Peer, *, apart_s: float = 0.0) -> None:
        """Break a connection: what is under way arrives up to some point, and each end notices in its own time.

        Args:
            machine: One end.
            peer: Its number for the connection.
            apart_s: How much later than the other an end may notice.
        """
        end = self._ends[machine][peer]
        for one in (end, end.other):
            if not one.open:
                continue
            arriving = [item for item in one.coming if item[1] == _OPENED]
            rest = [item for item in one.coming if item[1] == _MESSAGE]
            one.coming = deque(arriving + rest[: self._random.randrange(len(rest) + 1)])
            one.last_arrival = Instant(one.last_arrival + self._random.random() * apart_s)
            self._put(one, _CLOSED, "the connection broke")
        # Neither end's messages reach the other any more, though it may not have noticed yet.
        for one in (end, end.other):
            one.open = False

    def partition(self, some: Iterable[str], others: Iterable[str], duration_s: float) -> None:
        """Cut the hosts of one group off from those of another for a time."""
        until = Instant(self._simulation.clock.now + duration_s)
        others = list(others)
        for one in some:
            for other in others:
                pair = _pair(one, other)
                self._cuts[pair] = max(until, self._cuts.get(pair, until))
        if duration_s > TIMEOUT_S:
            self._simulation.after(TIMEOUT_S, "timeouts", self._time_out)
        self._simulation.schedule(until, None, "heal", self._heal)

    def _heal(self) -> None:
        now = self._simulation.clock.now
        self._cuts = {pair: until for pair, until in self._cuts.items() if until > now}

    def _time_out(self) -> None:
        """Break what has been cut for too long. The ends notice although nothing arrives."""
        now = self._simulation.clock.now
        for machine, peer, other in self.connections():
            if self._cut_until(machine, other) > now:
                for end in (self._ends[machine][peer], self._ends[machine][peer].other):
                    self._break(end)

    def _break(self, end: _End) -> None:
        """Have an end notice, in its own time, that its connection is gone; one that never stood was never there."""
        stood = not any(kind == _OPENED for _when, kind, _content in end.coming)
        end.coming.clear()
        end.open = False

        def notice() -> None:
            self._ends.get(end.machine, {}).pop(end.peer, None)
            if stood:
                end.machine.lost(end.peer, "nothing was acknowledged for too long")
            elif end.tag is not None:
                end.machine.refused(end.tag, "nothing was acknowledged for too long")

        end.machine.after(self._random.random(), "timed out", notice)

    def slow(self, one: str, other: str, factor: float, duration_s: float) -> None:
        """Make the connections between two hosts slow for a time."""
        self._slow[_pair(one, other)] = (Instant(self._simulation.clock.now + duration_s), factor)


def _pair(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one < other else (other, one)
