"""Many placement groups that wait for each other's room, and nodes that go: all of them get their turn."""

from __future__ import annotations

import random

import pytest

from atoll.protocol import messages as m
from tests.scheduler.world import World

STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
GROUPS, NODES = 40, 4


@pytest.mark.parametrize("seed", range(4))
def test_groups_that_wait_for_each_other_are_all_created(seed: int) -> None:
    """Several sessions want far more than there is, tasks run in the groups and beside them, and nodes go and come."""
    chooser = random.Random(seed)
    world = World()
    agents = {number: world.agent(number, cpus=4) for number in range(1, NODES + 1)}
    clients = [world.client(number) for number in range(1, 4)]
    tasks = world.client(9)
    world.demand(tasks, 50, CPU=1)
    waiting = {}
    for number in range(GROUPS):
        strategy = chooser.choice(STRATEGIES)
        bundles = [{"CPU": chooser.randint(1, 3)} for _ in range(chooser.randint(1, 4))]
        if strategy == "STRICT_PACK":
            bundles = bundles[:1]
        client = chooser.choice(clients)
        waiting[world.group(client, *bundles, number=number, strategy=strategy)] = client
    held: list[tuple[bytes, int]] = []
    for step in range(60 * GROUPS):
        world.wait(0.1)
        for message in [*world.heard(tasks, m.LeaseRecalled)]:
            world.say(tasks, m.ReturnLease(message.lease_id))
            world.demand(tasks, 50, CPU=1)
        world.serve()
        for group_id, client in [*waiting.items()]:
            if world.find_group(client, group_id).state == "CREATED":
                held.append((group_id, waiting.pop(group_id)))
        if held and (step % 3 == 0 or len(held) > 3):
            group_id, client = held.pop(0)
            world.say(client, m.RemoveGroup(9, group_id))
            world.serve()
        if step in (20, 60) and len(agents) == NODES:
            number = chooser.choice([*agents])
            world.lose(agents.pop(number))
            waiting |= {group_id: client for group_id, client in held if not created(world, client, group_id)}
            held = [(group_id, client) for group_id, client in held if group_id not in waiting]
        if step in (40, 80):
            number = next(number for number in range(1, NODES + 1) if number not in agents)
            agents[number] = world.agent(number, cpus=4)
        if not waiting and step > 80:
            break
    assert not waiting, f"{len(waiting)} groups wait for ever"


def created(world: World, client: object, group_id: bytes) -> bool:
    return world.find_group(client, group_id).state == "CREATED"  # type: ignore[arg-type]
