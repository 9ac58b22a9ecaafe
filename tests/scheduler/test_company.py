"""Beside an actor, away from others, not before a time."""

from __future__ import annotations

import pytest

from atoll.protocol import messages as m
from atoll.protocol.explanation import decode_explanation
from atoll.protocol.machine import Peer
from atoll.protocol.values import ACTOR_ID, ACTOR_NAME, JOB_NAME, TASK_NAME, LabelTerm
from atoll.scheduler.policy.company import suits
from tests.scheduler.world import World

ACTOR = b"actor%011d" % 1


def actor_on(world: World, client: Peer, node: int, **more: object) -> None:
    shape = world.shape(CPU=1, node=(b"node%04d" % node).hex())  # type: ignore[arg-type]
    world.say(client, m.CreateActor(5, b"job-0001", world.actor_spec(1, shape=shape, **more)))
    world.serve()


def beside(*actors: bytes) -> list[LabelTerm]:
    return [LabelTerm(ACTOR_ID, "in", [actor.hex() for actor in actors])]


def away(key: str, *names: str) -> list[LabelTerm]:
    return [LabelTerm(key, "not in", list(names))]


def node_names(world: World, client: Peer) -> list[str]:
    return [granted.node_name for granted in world.granted(client)]


def why(world: World, client: Peer) -> str:
    world.say(client, m.Explain(3, 1))
    return decode_explanation(world.only(client, m.Explained).explanation).text


@pytest.mark.parametrize(
    ("operator", "values", "met"),
    [("in", ["a", "x"], True), ("in", ["x"], False), ("not in", ["x"], True), ("not in", ["a"], False)],
)
def test_conditions_hold_for_all_that_is_there(operator: str, values: list[str], *, met: bool) -> None:
    assert suits({TASK_NAME: {"a", "b"}}, [LabelTerm(TASK_NAME, operator, values)]) is met
    assert suits({}, [LabelTerm(TASK_NAME, operator, values)]) is (operator == "not in")


def test_a_task_runs_beside_an_actor_and_waits_for_it() -> None:
    world = World()
    client = world.client()
    for number in (1, 2, 3):
        world.agent(number, cpus=2)
    world.demand(client, 2, CPU=1, labels=beside(ACTOR))  # type: ignore[arg-type]
    assert node_names(world, client) == []
    assert "no node has atoll.io/actor-id in" in why(world, client)
    actor_on(world, client, 2)
    assert node_names(world, client) == ["host-2"], "there is room for one beside it"
    assert why(world, client) == "waits for what others hold"


def test_beside_if_it_can_be() -> None:
    world = World()
    client = world.client()
    for number in (1, 2, 3):
        world.agent(number, cpus=2)
    actor_on(world, client, 3)
    world.demand(client, 2, CPU=1, labels_soft=beside(ACTOR))  # type: ignore[arg-type]
    granted = sorted(world.granted(client), key=lambda lease: lease.lease_id)
    assert [lease.node_name for lease in granted] == ["host-3", "host-1"]


def test_beside_an_actor_that_dies_nothing_can_run() -> None:
    world = World()
    world.agent(cpus=1)
    client = world.client()
    actor_on(world, client, 1)
    world.demand(client, 1, CPU=1, labels=beside(ACTOR))  # type: ignore[arg-type]
    world.say(client, m.KillActor(6, ACTOR, no_restart=True))
    world.serve()
    refused = world.only(client, m.DemandRefused)
    assert (refused.kind, "is dead" in refused.text) == ("TaskUnschedulableError", True)
    world.demand(client, 1, key=2, CPU=1, labels=beside(ACTOR))  # type: ignore[arg-type]
    assert "is dead" in world.only(client, m.DemandRefused).text


def test_tasks_of_a_name_keep_apart() -> None:
    world = World()
    client = world.client()
    for number in (1, 2):
        world.agent(number, cpus=4)
    world.demand(client, 3, CPU=1, label="load", labels=away(TASK_NAME, "load"))  # type: ignore[arg-type]
    granted = world.granted(client)
    assert sorted(lease.node_name for lease in granted) == ["host-1", "host-2"]
    world.say(client, m.ReturnLease(granted[0].lease_id))
    assert node_names(world, client) == [granted[0].node_name], "the third takes the place of the first"


@pytest.mark.parametrize("key", [ACTOR_NAME, JOB_NAME])
def test_away_from_actors_and_notebooks(key: str) -> None:
    world = World()
    one, two = world.client(1), world.client(2)
    for number in (1, 2):
        world.agent(number, cpus=4)
    actor_on(world, one, 1, name="llm")
    name = "llm" if key == ACTOR_NAME else "notebook-1.ipynb"
    world.demand(two, 3, CPU=1, labels=away(key, name))  # type: ignore[arg-type]
    assert set(node_names(world, two)) == {"host-2"}


def test_an_id_that_is_none_is_refused() -> None:
    world = World()
    world.agent()
    client = world.client()
    world.demand(client, 1, CPU=1, labels=[LabelTerm(ACTOR_ID, "in", ["llm"])])  # type: ignore[arg-type]
    assert "written as hex" in world.only(client, m.DemandRefused).text


def test_what_is_to_begin_later_is_not_placed_before() -> None:
    world = World()
    agent, client = world.agent(cpus=2), world.client()
    world.demand(client, 1, CPU=1, earliest_s=5.0)
    world.demand(client, 1, key=2, CPU=1)
    assert [granted.demand_key for granted in world.granted(client)] == [2]
    world.wait(4.9)
    assert world.heard(agent, m.StartLease) == []
    assert why(world, client) == "it is not to begin before 0.1 s from now"
    world.wait(0.2)
    assert [granted.demand_key for granted in world.granted(client)] == [1]


def test_what_is_withdrawn_before_its_time_is_forgotten() -> None:
    world = World()
    agent, client = world.agent(cpus=2), world.client()
    world.demand(client, 1, CPU=1, earliest_s=5.0)
    world.say(client, m.SetDemand(1, world.shape(CPU=1, earliest_s=5.0), 0))
    world.wait(10)
    assert world.heard(agent, m.StartLease) == []
    assert world.core.statistics().demands == 0
