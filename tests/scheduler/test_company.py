"""Beside an actor, away from others, not before a time."""

from __future__ import annotations

import random
from typing import Any

import pytest

from atoll.protocol import messages as m
from atoll.protocol.explanation import decode_explanation
from atoll.protocol.machine import Peer
from atoll.protocol.values import ACTOR_ID, ACTOR_NAME, JOB_NAME, TASK_NAME, LabelTerm
from atoll.scheduler.core.nodes import Node
from atoll.scheduler.core.placement import POLICIES, Shape
from atoll.scheduler.core.supply import wanted_of
from atoll.scheduler.policy import company
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


def test_what_keeps_away_from_others_gets_the_cpu_that_a_task_lends() -> None:
    world = World()
    world.agent(cpus=1)
    client = world.client()
    world.demand(client, 1)
    outer = world.granted(client)[0]
    worker = world.connect("worker", outer.worker_id)
    world.demand(worker, 1, key=7, CPU=1, labels=away(TASK_NAME, "load"))  # type: ignore[arg-type]
    assert world.granted(worker) == []
    world.say(worker, m.TaskBlocked(outer.lease_id))
    assert [granted.demand_key for granted in world.granted(worker)] == [7], "else both wait for each other for ever"


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


TERMS = [
    ([LabelTerm(TASK_NAME, "not in", ["a"])], []),
    ([LabelTerm(TASK_NAME, "in", ["b"])], []),
    ([LabelTerm(JOB_NAME, "not in", ["notebook-1.ipynb"])], [LabelTerm(TASK_NAME, "in", ["c"])]),
    ([], [LabelTerm(TASK_NAME, "not in", ["a", "b"])]),
]


def by_looking_at_all(world: World, shape: Shape) -> list[Node]:
    """The definition: the nodes that will do, in order."""
    score, found = POLICIES[shape.strategy], []
    for node in world.core.cluster.nodes:
        if suits(node.company(), shape.company) and node.fits(shape.wanted):
            missed = int(not suits(node.company(), shape.company_soft))
            rank = score(node.pool.use_after(shape.wanted.amounts), len(node.holdings))
            found.append((missed, rank, node.order, node))
    return [entry[-1] for entry in sorted(found, key=lambda entry: entry[:3])]


@pytest.mark.parametrize("strategy", ["", "SPREAD", "PACK"])
def test_nodes_are_found_as_if_all_were_looked_at(strategy: str) -> None:
    chance, world = random.Random(5), World()
    world.checks = False
    for number in range(1, 9):
        world.agent(number, cpus=3)
    clients = [world.client(1), world.client(2)]
    wanted = wanted_of(world.shape(CPU=1))
    shapes = [Shape(wanted, strategy, hard=hard, soft=soft) for hard, soft in TERMS]
    answers: dict[int, None] = {}
    for _step in range(300):
        held = [lease for lease in world.core.cluster.leases if lease.record is not None]
        if held and chance.random() < 0.5:
            lease = chance.choice(held)
            assert lease.record is not None
            world.say(lease.record.peer, m.ReturnLease(lease.lease_id))
        else:
            client, label = chance.choice(clients), chance.choice("abc")
            world.demand(client, chance.randint(0, 2), "abc".index(label) + 1, CPU=1, label=label)  # type: ignore[arg-type]
        world.serve()
        for shape in shapes:
            expected = by_looking_at_all(world, shape)
            answers[len(expected)] = None
            assert world.core.cluster.placement.best(shape) is (expected[0] if expected else None)
            assert world.core.cluster.placement.several(shape, 3) == expected[:3]
    assert {0, 1, 8} <= answers.keys()


def test_a_place_is_found_without_looking_at_all_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.checks = False
    client = world.client()
    for number in range(1, 201):
        world.agent(number, cpus=4)
    world.demand(client, 100, CPU=1, label="load", labels=away(TASK_NAME, "load"), strategy="SPREAD")  # type: ignore[arg-type]
    granted = world.granted(client)
    assert len({lease.node_name for lease in granted}) == 100
    looked_at = 0
    suits_before = company.suits

    def counted(*arguments: Any) -> bool:
        nonlocal looked_at
        looked_at += 1
        return suits_before(*arguments)

    monkeypatch.setattr(company, "suits", counted)
    world.demand(client, 50, CPU=1, label="load", labels=away(TASK_NAME, "load"), strategy="SPREAD")  # type: ignore[arg-type]
    assert len({lease.node_name for lease in world.granted(client)}) == 50
    assert looked_at < 50 * 10
