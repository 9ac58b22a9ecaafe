"""What is learned of the needs of code, and what is given to those who ask for as much as is needed."""

from __future__ import annotations

import pytest

from atoll.protocol import messages as m
from atoll.protocol.explanation import decode_explanation
from atoll.protocol.machine import Peer
from atoll.protocol.values import MemoryLoss, Span
from atoll.scheduler.core.peaks import KEPT_RUNS, MAXIMUM_CODES, PeakTable
from tests.scheduler.world import World

GIB, MIB, ONE = 2**30, 2**20, 10_000
CODE = b"code of a function"


def span(peak: int, device_peak: int = 0, code: bytes = CODE, state: str = "finished") -> Span:
    return Span(b"worker", b"job", "f", 0.0, 1.0, 1, state, 1, b"", code, peak, device_peak)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def agent(world: World) -> Peer:
    return world.agent(cpus=4, gpus=2, resources={"memory": 32 * GIB * ONE})


@pytest.fixture
def client(world: World, agent: Peer) -> Peer:
    return world.client()


def started(world: World, agent: Peer) -> m.StartLease:
    return world.heard(agent, m.StartLease)[-1]


def want(world: World, client: Peer, count: int = 1, auto: tuple[str, ...] = ("memory",), **more: float) -> None:
    world.demand(client, count, CPU=1, auto=list(auto), code=CODE, **more)  # type: ignore[arg-type]


def peaks(world: World) -> PeakTable:
    return world.core.cluster.peaks


def test_at_first_it_gets_the_part_of_a_node_that_its_cpus_are(world: World, agent: Peer, client: Peer) -> None:
    want(world, client)
    assert started(world, agent).scheduling_class.resources == {"CPU": ONE, "memory": 8 * GIB * ONE}


def test_then_what_most_runs_have_needed_and_some_room(world: World, agent: Peer, client: Peer) -> None:
    world.say(agent, m.SpansRecorded([span(1000 * MIB + number * MIB) for number in range(20)]))
    world.say(agent, m.SpansRecorded([span(30 * GIB, state="running"), span(0)]))
    want(world, client)
    assert started(world, agent).scheduling_class.resources["memory"] == 1536 * MIB * ONE
    known = peaks(world).of(CODE)
    assert known is not None
    assert (known.runs, known.memory_bytes) == (20, 1018 * MIB), "the most unusual of twenty does not count"


def test_old_runs_are_forgotten_and_so_is_code_that_nobody_runs(world: World, agent: Peer) -> None:
    world.say(agent, m.SpansRecorded([span(10 * GIB)] * 5))
    world.say(agent, m.SpansRecorded([span(GIB)] * KEPT_RUNS))
    known = peaks(world).of(CODE)
    assert known is not None
    assert known.memory_bytes == GIB
    world.say(agent, m.SpansRecorded([span(GIB, code=b"%d" % number) for number in range(MAXIMUM_CODES)]))
    assert peaks(world).of(CODE) is None
    assert len(peaks(world)) == MAXIMUM_CODES


def test_who_ran_out_gets_more_next_time(world: World, agent: Peer, client: Peer) -> None:
    world.say(agent, m.SpansRecorded([span(GIB)] * 3))
    want(world, client)
    lease = started(world, agent)
    world.say(agent, m.LeaseStarted(lease.lease_id, b"worker01", "/w", 7))
    loss = MemoryLoss(2 * GIB, 1536 * MIB, 3 * GIB, 3 * GIB)
    world.say(agent, m.LeaseEnded(lease.lease_id, "OutOfMemoryError", "too much", loss))
    lost = world.only(client, m.LeaseLost)
    assert (lost.kind, lost.memory) == ("OutOfMemoryError", loss), "its holder hears how"
    want(world, client)
    assert started(world, agent).scheduling_class.resources["memory"] > 3 * GIB * ONE


def test_what_was_said_is_the_least(world: World, agent: Peer, client: Peer) -> None:
    world.say(agent, m.SpansRecorded([span(GIB)]))
    want(world, client, memory=6.0 * GIB)
    assert started(world, agent).scheduling_class.resources["memory"] == 6 * GIB * ONE


def test_no_more_than_a_node_has(world: World, agent: Peer, client: Peer) -> None:
    world.say(agent, m.SpansRecorded([span(60 * GIB)]))
    want(world, client)
    assert started(world, agent).scheduling_class.resources["memory"] == 32 * GIB * ONE


def test_a_gpu_is_whole_until_it_is_known_how_much_of_it_is_needed(world: World, agent: Peer, client: Peer) -> None:
    want(world, client, auto=("gpu_memory",))
    first = started(world, agent)
    assert [share.units for share in first.devices] == [ONE]
    world.say(agent, m.LeaseStarted(first.lease_id, b"worker01", "/w", 7))
    world.say(client, m.ReturnLease(first.lease_id))
    world.say(agent, m.LeaseEnded(first.lease_id))
    memory = next(iter(world.core.cluster.nodes)).devices[first.devices[0].uuid].device.memory_bytes
    world.say(agent, m.SpansRecorded([span(GIB, memory // 4)]))
    want(world, client, auto=("gpu_memory",))
    shares = started(world, agent).devices
    assert ONE // 4 < shares[0].units < ONE // 2, "and then a share, with some room"


def test_why_says_what_it_has_usually_needed(world: World, agent: Peer, client: Peer) -> None:
    world.say(agent, m.SpansRecorded([span(3 * GIB, 2 * GIB)] * 4))
    world.demand(client, 1, CPU=1, memory=30.0 * GIB)
    world.demand(client, 1, key=2, CPU=1, memory=16.0 * GIB)
    world.say(client, m.Explain(5, demand_key=2, code=CODE))
    found = decode_explanation(world.only(client, m.Explained).explanation)
    assert found.usual == "its last 4 runs used up to 3 GiB of memory and 2 GiB of GPU memory"
    assert found.usual in str(found)


def test_what_would_be_with_as_much_as_is_needed(world: World, agent: Peer, client: Peer) -> None:
    shape = world.shape(CPU=1, auto=["memory"], code=CODE)  # type: ignore[arg-type]
    world.say(client, m.Explain(5, scheduling_class=shape))
    assert "8 GiB memory" in decode_explanation(world.only(client, m.Explained).explanation).request


def test_a_guess_keeps_nobody_waiting_for_who_waits_for_it(world: World, agent: Peer, client: Peer) -> None:
    want(world, client, memory=20.0 * GIB)
    (parent,) = world.granted(client)
    worker = world.connect("worker", parent.worker_id)
    world.say(worker, m.ActForJob(b"job-0001"))
    world.demand(worker, 1, CPU=1, memory=20.0 * GIB)
    assert world.granted(worker) == []
    world.say(worker, m.TaskBlocked(parent.lease_id))
    (child,) = world.granted(worker)
    world.say(worker, m.TaskUnblocked(parent.lease_id))
    node = next(iter(world.core.cluster.nodes))
    assert node.pool.free["memory"] == -8 * GIB * ONE, "who goes on does so at once"
    world.say(worker, m.ReturnLease(child.lease_id))
    world.serve()
    assert node.pool.free["memory"] == 12 * GIB * ONE


def test_what_was_asked_for_is_not_lent(world: World, agent: Peer, client: Peer) -> None:
    world.demand(client, 1, CPU=1, memory=20.0 * GIB)
    (parent,) = world.granted(client)
    worker = world.connect("worker", parent.worker_id)
    world.say(worker, m.TaskBlocked(parent.lease_id))
    assert next(iter(world.core.cluster.nodes)).pool.free == {
        "CPU": 4 * ONE,
        "memory": 12 * GIB * ONE,
        "GPU": 2 * ONE,
    }
