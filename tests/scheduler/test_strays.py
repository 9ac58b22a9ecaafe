"""What a lost node leaves of an actor: the next incarnation begins when the last one is gone."""

from __future__ import annotations

import pytest

from atoll.protocol import messages as m
from atoll.protocol.machine import Peer
from atoll.scheduler.core.strays import GONE_WITHIN_S
from tests.scheduler.world import World, registration


class Pair:
    """Two nodes; an actor lives on the first, whose process speaks to the scheduler too."""

    def __init__(self, **more: object) -> None:
        world = self.world = World()
        self.first = world.agent(1)
        self.client = world.client()
        self.spec = world.actor_spec(1, maximum_restarts=-1, **more)
        world.say(self.client, m.CreateActor(1, b"", self.spec))
        world.serve()
        self.alive = world.heard(self.client, m.ActorChanged)[-1]
        self.worker = world.connect("worker", self.alive.worker_id)
        self.second = world.agent(2)

    def begins(self) -> bool:
        """Whether the actor is begun on the second node."""
        self.world.serve()
        return any(changed.state == "alive" for changed in self.world.heard(self.client, m.ActorChanged))

    def home(self) -> tuple[int, m.StartLease]:
        return next((lease_id, start) for lease_id, start in self.world.running.items() if start.dedicated)

    def lose_first(self) -> Peer:
        self.world.lose(self.first)
        return self.first


def test_r17_an_actor_begins_elsewhere_when_its_old_process_is_gone() -> None:
    pair = Pair()
    pair.lose_first()
    assert not pair.begins(), "its old process has not noticed that its agent is dead"
    pair.world.lose(pair.worker)
    assert pair.begins()


def test_r17_an_old_process_that_cannot_tell_is_waited_for_until_it_must_be_gone() -> None:
    pair = Pair()
    pair.lose_first()
    pair.world.wait(0.9 * GONE_WITHIN_S)
    assert not pair.begins()
    pair.world.wait(0.2 * GONE_WITHIN_S)
    assert pair.begins()


def test_an_old_connection_of_a_living_process_is_no_word_of_its_end() -> None:
    pair = Pair()
    again = pair.world.connect("worker", pair.alive.worker_id)
    pair.lose_first()
    pair.world.lose(pair.worker)
    assert not pair.begins()
    pair.world.lose(again)
    assert pair.begins()


def test_a_process_that_was_being_killed_when_its_node_was_lost_is_waited_for_too() -> None:
    pair = Pair()
    pair.world.say(pair.client, m.KillActor(2, pair.spec.actor_id, no_restart=False))
    pair.lose_first()
    assert not pair.begins()
    pair.world.lose(pair.worker)
    assert pair.begins()


@pytest.mark.parametrize("constructed", [True, False])
def test_a_node_that_comes_back_ends_the_old_process_before_another_begins(constructed: bool) -> None:
    """It says which actors live there, and nothing of one whose constructor still runs."""
    pair = Pair()
    lease_id, start = pair.home()
    place = (lease_id, pair.alive.worker_id, pair.alive.address)
    pair.lose_first()
    world = pair.world
    back = world.connect("agent", b"node0001")
    actors = [(pair.spec.actor_id, lease_id)] if constructed else []
    world.say(back, registration(1, leases=[place], started=[start], actors=actors))
    assert world.only(back, m.EndLease) == m.EndLease(lease_id, kill=True)
    world.wait(2 * GONE_WITHIN_S)
    assert not pair.begins(), "the node says when it has ended"
    world.say(back, m.LeaseEnded(lease_id))
    assert pair.begins()


def test_an_actor_that_dies_meanwhile_waits_for_nothing() -> None:
    pair = Pair()
    pair.lose_first()
    pair.world.say(pair.client, m.KillActor(2, pair.spec.actor_id))
    pair.world.lose(pair.worker)
    pair.world.wait(2 * GONE_WITHIN_S)
    assert not pair.begins()
