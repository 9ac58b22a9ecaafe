"""What waits, alone: in which order, what is left out, and what is tried again where."""

from __future__ import annotations

import random

from atoll.protocol.machine import Instant
from atoll.protocol.values import SchedulingClass
from atoll.resources import CPU, MEMORY, UNITS_PER_ONE
from atoll.scheduler.core.demand import Demand
from atoll.scheduler.core.jobs import Job
from atoll.scheduler.core.nodes import Node
from atoll.scheduler.core.queues import DemandQueues
from tests.scheduler.world import World

ONE = UNITS_PER_ONE


def nodes(*cpus: float) -> list[Node]:
    world = World()
    for number, each in enumerate(cpus, 1):
        world.agent(number, cpus=each)
    return list(world.core.cluster.nodes)


def demand(queues: DemandQueues, job: Job, arrival: int, *, wanted: int = 1, **amounts: int) -> Demand:
    made = Demand(job, None, arrival, SchedulingClass(amounts or {CPU: ONE}, ""), arrival, Instant(0.0))
    made.wanted = wanted
    queues.update(made)
    return made


def served(queues: DemandQueues, found: Demand) -> None:
    """A lease is started for a demand."""
    found.starting[len(found.starting)] = None
    found.leases += 1
    found.job.served += 1
    queues.update(found)
    queues.taken(found)


def test_what_is_blocked_is_tried_on_the_node_that_was_freed() -> None:
    queues, (small, large) = DemandQueues(), nodes(1, 4)
    little, much = (demand(queues, Job(b"a", Instant(0.0), 1), arrival, CPU=arrival * ONE) for arrival in (1, 2))
    assert queues.next_fitting() == (little, None), "nobody knows yet that it fits nowhere"
    queues.block(little)
    queues.block(much)
    assert not queues.anything_fits()
    queues.freed(small)
    assert queues.anything_fits()
    assert queues.next_fitting() == (little, small)
    queues.block(little)
    assert not queues.anything_fits(), "what is refused is not tried again, and the other one does not fit there"
    queues.freed(large)
    assert queues.anything_fits()
    assert queues.next_fitting() == (little, large)
    queues.check_invariants([little, much])


def test_what_became_full_meanwhile_is_not_tried() -> None:
    queues, (node,) = DemandQueues(), nodes(1)
    wanted = demand(queues, Job(b"a", Instant(0.0), 1), 1)
    queues.block(wanted)
    queues.freed(node)
    node.draining = True
    assert not queues.anything_fits()
    node.draining = False
    queues.freed(node)
    assert queues.anything_fits()
    node.supply.live[CPU] = -ONE  # it was lent, and is wanted back
    assert not queues.anything_fits()


def test_what_nobody_wants_any_more_is_not_tried() -> None:
    queues, (node,) = DemandQueues(), nodes(1)
    wanted = demand(queues, Job(b"a", Instant(0.0), 1), 1)
    queues.block(wanted)
    queues.freed(node)
    wanted.wanted = 0
    queues.update(wanted)
    assert not queues.anything_fits()
    assert not len(queues)


def test_with_two_nodes_freed_it_may_fit_on_either() -> None:
    queues, (one, other) = DemandQueues(), nodes(1, 1)
    wanted = demand(queues, Job(b"a", Instant(0.0), 1), 1)
    queues.block(wanted)
    queues.freed(one)
    queues.freed(other)
    assert queues.anything_fits()
    assert queues.next_fitting() == (wanted, None)


def test_a_turn_goes_before_all_others_once() -> None:
    queues, jobs = DemandQueues(), [Job(b"%d" % number, Instant(0.0), number) for number in (1, 2)]
    first, second = (demand(queues, job, job.number, wanted=3) for job in jobs)
    queues.give_turn(second)
    assert queues.next_fitting()[0] is second
    served(queues, second)
    assert queues.next_fitting()[0] is first


def test_who_is_next_is_the_first_of_all_that_waits() -> None:
    """Beside a sort of everything, through a thousand random changes."""
    chance, queues = random.Random(7), DemandQueues()
    jobs = [Job(b"%d" % number, Instant(0.0), number) for number in range(1, 5)]
    shapes = [{CPU: ONE}, {CPU: 2 * ONE}, {CPU: ONE, MEMORY: ONE}]
    demands = [
        demand(queues, job, 100 * number + job.number, wanted=0, **shape)
        for number, shape in enumerate([*shapes, *shapes])  # two of each session in each line
        for job in jobs
    ]
    for _ in range(1000):
        found = chance.choice(demands)
        match chance.randrange(4):
            case 0:
                found.wanted = len(found.starting) + chance.randrange(3)
                queues.update(found)
            case 1:
                found.leases, found.starting = 0, {}
                queues.update(found)
            case 2:
                found.job.share = chance.randrange(3)
                queues.moved(found.job)
            case _ if found.waits:
                served(queues, found)
        waiting = [each for each in demands if each.waits]
        waiting.sort(key=lambda each: (each.job.share, each.job.served, each.job.number, each.place))
        assert list(queues.waiting()) == waiting
        assert queues.anything_fits() == bool(waiting)
        if waiting:
            assert queues.next_fitting() == (waiting[0], None)
        queues.check_invariants(demands)
