"""The cluster's cache: two who ask at once compute once, and whoever dies leaves no name undecided."""

from __future__ import annotations

from atoll.protocol import messages as m
from atoll.protocol import values
from atoll.protocol.machine import Peer, Send
from atoll.scheduler.core.events import PersistRecord
from tests.scheduler.world import World

NODE = b"node0001"


def stored(number: int) -> values.ObjectLocation:
    return values.ObjectLocation(b"object-%013d" % number, NODE, 4096)


def claim(world: World, peer: Peer, *, compute: bool = True) -> m.NameClaimed | None:
    world.say(peer, m.ClaimName(3, "flights", compute))
    found = world.heard(peer, m.NameClaimed)
    return found[0] if found else None


def test_two_who_ask_at_once_compute_once() -> None:
    world = World()
    agent, first, second, third = world.agent(), world.client(1), world.client(2), world.client(3)
    assert claim(world, first) == m.NameClaimed(3, None, True)
    assert claim(world, second) is None, "it waits"
    assert claim(world, third, compute=False) is None
    world.say(first, m.PublishName(4, "flights", stored(1)))
    world.say(agent, m.ObjectAdopted(stored(1).object_id))
    assert world.only(first, m.Done).request == 4
    for waiting in (second, third):
        assert world.only(waiting, m.NameClaimed) == m.NameClaimed(3, stored(1), False)
    assert world.only(agent, m.AdoptObject) == m.AdoptObject(stored(1).object_id, "flights")
    assert claim(world, second) == m.NameClaimed(3, stored(1), False)
    written = next(
        i for i, action in enumerate(world.actions) if isinstance(action, PersistRecord) and action.table == "names"
    )
    done = next(
        i for i, action in enumerate(world.actions) if isinstance(action, Send) and isinstance(action.message, m.Done)
    )
    assert written < done


def test_a_name_that_nobody_computes_is_none() -> None:
    world = World()
    client = world.client()
    assert claim(world, client, compute=False) == m.NameClaimed(3, None, False)
    world.say(client, m.DropName(5, "flights"))
    assert world.only(client, m.Failed).request == 5


def test_the_death_of_the_one_who_computes_passes_the_duty_on() -> None:
    world = World()
    first, second, third, fourth = (world.client(number) for number in (1, 2, 3, 4))
    claim(world, first)
    claim(world, second, compute=False)
    claim(world, third)
    claim(world, fourth)
    world.lose(first)
    assert world.only(third, m.NameClaimed) == m.NameClaimed(3, None, True)
    assert world.heard(second, m.NameClaimed) == world.heard(fourth, m.NameClaimed) == []
    world.say(third, m.AbandonName("flights"))
    assert world.only(fourth, m.NameClaimed).compute
    world.say(second, m.AbandonName("flights"))
    world.say(fourth, m.AbandonName("flights"))
    assert world.only(second, m.NameClaimed) == m.NameClaimed(3, None, False), "nobody is left who would"
    assert world.core.statistics().names == 0


def test_a_claim_that_waits_can_be_given_up() -> None:
    world = World()
    first, second, third = (world.client(number) for number in (1, 2, 3))
    claim(world, first)
    claim(world, second)
    claim(world, third)
    world.say(second, m.AbandonName("flights", 3))
    assert world.only(second, m.NameClaimed) == m.NameClaimed(3, None, False)
    world.say(first, m.AbandonName("flights", 99))
    assert world.heard(third, m.NameClaimed) == [], "another claim of the one who computes is not this one"
    world.say(first, m.AbandonName("flights", 3))
    assert world.only(third, m.NameClaimed) == m.NameClaimed(3, None, True)
    assert world.heard(second, m.NameClaimed)[1:] == []


def test_one_who_waits_and_dies_is_forgotten() -> None:
    world = World()
    agent = world.agent()
    first, second = world.client(1), world.client(2)
    claim(world, first)
    claim(world, second)
    world.lose(second)
    world.say(first, m.PublishName(4, "flights", stored(1)))
    world.say(agent, m.ObjectAdopted(stored(1).object_id))
    assert world.only(first, m.Done)


def test_a_publication_is_acknowledged_when_the_node_has_taken_the_object_over() -> None:
    """Whoever hears `Done` lets go of the object, on another connection, which may be faster than ours to the node."""
    world = World()
    agent, client = world.agent(), world.client()
    world.say(client, m.PublishName(1, "a", stored(1)))
    assert world.only(agent, m.AdoptObject)
    assert world.heard(client, m.Done) == []
    world.say(agent, m.ObjectAdopted(stored(1).object_id))
    assert world.only(client, m.Done).request == 1
    world.say(agent, m.ObjectAdopted(stored(1).object_id))
    assert world.heard(client, m.Done) == []


def test_a_publication_of_an_object_that_is_gone_fails() -> None:
    world = World()
    agent, client = world.agent(), world.client()
    world.say(client, m.PublishName(1, "a", stored(1)))
    world.say(agent, m.ObjectGone(stored(1).object_id))
    assert world.only(client, m.Failed).kind == "ObjectLostError"
    assert claim(world, client, compute=False) == m.NameClaimed(3, None, False)


def test_a_publication_that_was_overtaken_is_acknowledged() -> None:
    world = World()
    world.agent()
    first, second = world.client(1), world.client(2)
    world.say(first, m.PublishName(1, "a", stored(1)))
    world.say(second, m.PublishName(2, "a", stored(2)))
    assert world.only(first, m.Done).request == 1
    world.lose(second)


def test_a_replaced_object_is_given_up_unless_it_has_another_name() -> None:
    world = World()
    agent, client = world.agent(), world.client()
    world.say(client, m.PublishName(1, "a", stored(1)))
    world.say(client, m.PublishName(1, "b", stored(1)))
    world.say(client, m.PublishName(1, "a", stored(2)))
    assert world.heard(agent, m.DropObject) == []
    world.say(client, m.PublishName(1, "b", stored(2)))
    assert world.only(agent, m.DropObject) == m.DropObject(stored(1).object_id)
    world.say(client, m.PublishName(1, "b", stored(2)))
    assert world.heard(agent, m.DropObject) == [], "the same again changes nothing"
    for name in ("a", "b"):
        world.say(client, m.DropName(2, name))
    assert world.only(agent, m.DropObject) == m.DropObject(stored(2).object_id)
    assert not any(table == "names" for table, _key in world.journal)


def test_small_values_are_kept_in_the_name_itself() -> None:
    world = World()
    client = world.client()
    inline = values.ObjectLocation(b"o" * 20, inline=b"small")
    world.say(client, m.PublishName(1, "n", inline))
    assert world.only(client, m.Done)
    world.say(client, m.ListNames(2))
    names = world.only(client, m.NameList).names
    assert [(info.name, info.state, info.size_bytes) for info in names] == [("n", "ready", 5)]
    again = World(journal=world.journal)
    other = again.client(2)
    again.say(other, m.ClaimName(1, "n"))
    assert again.only(other, m.NameClaimed).location == inline


def test_an_object_on_a_node_that_is_not_here_cannot_be_named() -> None:
    world = World()
    client = world.client()
    world.say(client, m.PublishName(1, "n", stored(1)))
    assert world.only(client, m.Failed).kind == "ObjectLostError"


def test_an_object_that_its_node_has_lost_takes_its_names_with_it() -> None:
    world = World()
    agent, client = world.agent(), world.client()
    world.say(client, m.PublishName(1, "a", stored(1)))
    world.say(client, m.PublishName(1, "b", stored(1)))
    world.say(agent, m.ObjectGone(stored(1).object_id))
    assert world.core.statistics().names == 0
    assert not any(table == "names" for table, _key in world.journal)


def test_r4_a_node_that_comes_back_within_ten_seconds_keeps_its_names() -> None:
    world = World()
    agent, client, other = world.agent(), world.client(1), world.client(2)
    world.say(client, m.PublishName(1, "flights", stored(1)))
    world.lose(agent)
    world.wait(5)
    assert claim(world, other) is None, "it waits for the node"
    agent = world.agent()
    assert world.only(agent, m.AdoptObject).name == "flights"
    assert world.only(other, m.NameClaimed).location == stored(1)
    world.lose(agent)
    assert claim(world, other) is None
    world.wait(10.1)
    assert world.only(other, m.NameClaimed) == m.NameClaimed(3, None, True), "lost, so it is to be computed"
