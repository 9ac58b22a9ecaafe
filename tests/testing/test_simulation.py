"""The simulator itself: order, time, faults, and what a failure says. The machines here are toys that count."""

from __future__ import annotations

from typing import Any

import pytest

from atoll.exceptions import InternalError
from atoll.protocol.machine import (
    Action,
    ClosePeer,
    DeadlineReached,
    Event,
    Instant,
    Peer,
    PeerConnected,
    PeerLost,
    Received,
    Send,
)
from atoll.testing import Machine, Simulation, SimulationFailure
from atoll.testing.network import DIAL_TIMEOUT_S, TIMEOUT_S


class Note(Action, frozen=True):
    """Something for the adapter."""

    text: str


class Listener:
    """A core that remembers what it heard, answers `ping`, closes at `bye`, and wants to be woken once."""

    def __init__(self, wake_at: float | None = None) -> None:
        self.heard: list[tuple[float, Any]] = []
        self.peers: list[Peer] = []
        self.woken: list[float] = []
        self.broken = False
        self._wake_at = wake_at

    def handle(self, event: Event, now: Instant) -> list[Action]:
        match event:
            case PeerConnected():
                self.peers.append(event.peer)
            case PeerLost():
                self.peers.remove(event.peer)
                self.heard.append((now, f"lost: {event.cause}"))
            case DeadlineReached():
                self.woken.append(now)
                self._wake_at = None
            case Received(peer=peer, message="ping"):
                return [Send(peer, "pong"), Note("answered")]
            case Received(peer=peer, message="bye"):
                self.peers.remove(peer)
                return [Send(peer, "the last"), ClosePeer(peer, "bye")]
            case Received(message="break"):
                self.broken = True
            case Received(message=message):
                self.heard.append((now, message))
        return []

    def next_deadline(self) -> Instant | None:
        return Instant(self._wake_at) if self._wake_at is not None else None

    def check_invariants(self) -> None:
        if self.broken:
            raise InternalError("it is broken")

    def statistics(self) -> int:
        return len(self.heard)


class Toy(Machine):
    """A machine with such a core."""

    core: Listener

    def __init__(self, simulation: Simulation, name: str, host: str, wake_at: float | None = None) -> None:
        super().__init__(simulation, name, Listener(wake_at), role="toy", process_id=name.encode(), host=host)
        self.notes: list[str] = []
        self.refusals: list[str] = []
        simulation.add(self)
        self.network.listen(self, name)

    def carry_out(self, action: Action) -> None:
        if isinstance(action, Note):
            self.notes.append(action.text)
        else:
            super().carry_out(action)

    def refused(self, tag: Any, cause: str) -> None:
        self.refusals.append(cause)

    def texts(self) -> list[Any]:
        return [message for _now, message in self.core.heard]


@pytest.fixture
def simulation() -> Simulation:
    return Simulation(7, repeat="do it again")


def connect(simulation: Simulation, one: Toy, other: Toy) -> Peer:
    one.network.dial(one, other.name, "dialled")
    simulation.run_for(0.1)
    return one.core.peers[-1]


def test_messages_arrive_once_and_in_order(simulation: Simulation) -> None:
    a, b = Toy(simulation, "a", "east"), Toy(simulation, "b", "west")
    peer = connect(simulation, a, b)
    for number in range(50):
        a.network.send(a, peer, number)
        simulation.run_for(1e-4)
    simulation.run_for(0.1)
    assert b.texts() == list(range(50))
    times = [now for now, _message in b.core.heard]
    assert times == sorted(times)


def test_actions_are_carried_out_and_answers_come_back(simulation: Simulation) -> None:
    a, b = Toy(simulation, "a", "east"), Toy(simulation, "b", "east")
    peer = connect(simulation, a, b)
    a.network.send(a, peer, "ping")
    simulation.run_for(0.1)
    assert a.texts() == ["pong"]
    assert b.notes == ["answered"]


def test_what_was_sent_before_the_end_is_read_before_it(simulation: Simulation) -> None:
    a, b = Toy(simulation, "a", "east"), Toy(simulation, "b", "east")
    peer = connect(simulation, a, b)
    a.network.send(a, peer, "bye")
    a.network.send(a, peer, "too late")
    simulation.run_for(0.1)
    assert a.texts() == ["the last", "lost: the other side closed it"]
    assert b.texts() == []


def test_a_crash_ends_timers_and_connections_but_not_what_is_under_way(simulation: Simulation) -> None:
    a, b = Toy(simulation, "a", "east", wake_at=1001.0), Toy(simulation, "b", "east")
    peer = connect(simulation, a, b)
    a.network.send(a, peer, "my last words")
    simulation.crash(a)
    simulation.run_for(2.0)
    assert b.texts() == ["my last words", "lost: the other process is gone"]
    assert a.core.woken == []
    again = Toy(simulation, "a", "east")
    connect(simulation, b, again)
    assert b.refusals == []


def test_nobody_listens(simulation: Simulation) -> None:
    a = Toy(simulation, "a", "east")
    a.network.dial(a, "nobody", "dialled")
    simulation.run_for(0.1)
    assert a.refusals == ["nobody listens at nobody"]


def test_a_deadline_is_met_once_and_not_early(simulation: Simulation) -> None:
    a = Toy(simulation, "a", "east", wake_at=1000.5)
    simulation.schedule(Instant(1000.0), a, "begin", lambda: None)
    simulation.run_for(1.0)
    assert len(a.core.woken) == 1
    assert 1000.5 <= a.core.woken[0] < 1000.501


def test_a_partition_holds_everything_back_and_loses_nothing(simulation: Simulation) -> None:
    a, b, c = Toy(simulation, "a", "east"), Toy(simulation, "b", "west"), Toy(simulation, "c", "east")
    peer = connect(simulation, a, b)
    near = connect(simulation, c, a)
    a.network.send(a, peer, "under way")
    a.network.partition(["east"], ["west"], 5.0)
    a.network.send(a, peer, "held back")
    c.network.send(c, near, "not cut off")
    c.network.dial(c, "b", "dialled")
    simulation.run_for(4.9)
    assert b.texts() == []
    assert a.texts() == ["not cut off"]
    assert c.refusals == ["b does not answer"]
    simulation.run_for(0.2)
    assert b.texts() == ["under way", "held back"]
    assert a.core.peers


def test_a_partition_that_lasts_breaks_the_connection_at_both_ends(simulation: Simulation) -> None:
    a, b = Toy(simulation, "a", "east"), Toy(simulation, "b", "west")
    peer = connect(simulation, a, b)
    a.network.partition(["west"], ["east"], TIMEOUT_S + DIAL_TIMEOUT_S)
    a.network.send(a, peer, "lost")
    simulation.run_for(TIMEOUT_S + 1.1)
    assert a.core.peers == []
    assert b.core.peers == []
    simulation.run_for(10.0)
    assert b.texts() == ["lost: nothing was acknowledged for too long"]


def test_a_dropped_connection_loses_a_tail_and_each_end_notices(simulation: Simulation) -> None:
    lost = 0
    for round_ in range(10):
        a, b = Toy(simulation, f"a{round_}", "east"), Toy(simulation, f"b{round_}", "west")
        peer = connect(simulation, a, b)
        for number in range(10):
            a.network.send(a, peer, number)
        a.network.drop(a, peer, apart_s=0.3)
        a.network.send(a, peer, "after")
        simulation.run_for(0.5)
        assert b.texts()[-1] == "lost: the connection broke"
        assert b.texts()[:-1] == list(range(len(b.texts()) - 1)), "a beginning, without gaps"
        assert a.core.peers == []
        lost += 10 - (len(b.texts()) - 1)
    assert 0 < lost < 100


def test_a_paused_machine_does_nothing_and_then_everything(simulation: Simulation) -> None:
    a, b = Toy(simulation, "a", "east"), Toy(simulation, "b", "east", wake_at=1000.5)
    peer = connect(simulation, a, b)
    simulation.pause(b, 2.0)
    for number in range(5):
        a.network.send(a, peer, number)
    simulation.run_for(1.8)
    assert b.texts() == []
    assert b.core.woken == []
    simulation.run_for(1.0)
    assert b.texts() == [0, 1, 2, 3, 4]
    assert len(b.core.woken) == 1


def test_a_slow_connection_is_slow_for_a_time(simulation: Simulation) -> None:
    a, b = Toy(simulation, "a", "east"), Toy(simulation, "b", "west")
    peer = connect(simulation, a, b)
    a.network.slow("west", "east", 1000.0, 1.0)
    a.network.send(a, peer, "slow")
    simulation.run_for(0.09)
    assert b.texts() == []
    simulation.run_for(2.0)
    a.network.send(a, peer, "fast")
    simulation.run_for(0.01)
    assert b.texts() == ["slow", "fast"]


def test_a_fuse_ends_a_machine_between_two_actions(simulation: Simulation) -> None:
    a, b = Toy(simulation, "a", "east"), Toy(simulation, "b", "east")
    peer = connect(simulation, a, b)
    b.fuse = 1
    a.network.send(a, peer, "ping")
    simulation.run_for(0.1)
    assert a.texts() == ["pong", "lost: the other process is gone"]
    assert b.notes == [], "the second action was not reached"
    assert not b.alive


def test_a_failure_tells_the_seed_the_story_and_how_to_see_it_again(simulation: Simulation) -> None:
    a, b = Toy(simulation, "a", "east"), Toy(simulation, "b", "east")
    peer = connect(simulation, a, b)
    simulation.inject("a fault", "b")
    a.network.send(a, peer, "break")
    with pytest.raises(SimulationFailure) as caught:
        simulation.run_for(0.1)
    text = str(caught.value)
    assert "seed 7" in text
    assert "it is broken" in text
    assert "do it again" in text
    assert "a fault: 1" in text
    assert "Received(peer=1, message='break')" in text


def test_waiting_for_what_never_comes_is_a_failure(simulation: Simulation) -> None:
    Toy(simulation, "a", "east")
    with pytest.raises(SimulationFailure, match="the tide: not within 5 s; still out"):
        simulation.run(lambda: "still out", 5.0, "the tide")


def test_the_same_seed_gives_the_same_transcript() -> None:
    def digest(seed: int) -> str:
        simulation = Simulation(seed)
        a, b = Toy(simulation, "a", "east"), Toy(simulation, "b", "west")
        peer = connect(simulation, a, b)
        for number in range(20):
            a.network.send(a, peer, number)
        simulation.run_for(1.0)
        return simulation.transcript.digest()

    assert digest(1) == digest(1)
    assert digest(1) != digest(2)
