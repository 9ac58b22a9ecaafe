"""Devices that an idle actor has given up are others', until it is called; then they are its own before anybody's."""

from __future__ import annotations

import msgspec
import pytest

from atoll.protocol import messages as m
from atoll.protocol.explanation import decode_explanation
from atoll.protocol.leave_messages import DevicesKept, DevicesReleased, DevicesReturned, DevicesWanted
from atoll.protocol.machine import Peer
from tests.scheduler.world import World, registration

ONE = 10_000


class Case:
    """An actor on the only GPU, which has given it up."""

    def __init__(self) -> None:
        self.world = world = World()
        self.agent = world.agent(cpus=8, gpus=1)
        self.client = world.client()
        spec = world.actor_spec(name="llm", shape=world.shape(CPU=1, GPU=1, label="Llm"), detached=True)
        self.actor_id = spec.actor_id
        world.say(self.client, m.CreateActor(3, b"job-0001", spec))
        self.start = next(s for s in world.heard(self.agent, m.StartLease) if s.devices)
        world.inbox[self.agent].append(self.start)
        world.serve()
        self.lease_id = self.start.lease_id

    @property
    def free(self) -> int:
        node = next(iter(self.world.core.cluster.nodes))
        return node.pool.free["GPU"]

    def release(self) -> None:
        self.world.say(self.agent, DevicesReleased(self.lease_id))

    def want(self) -> None:
        self.world.say(self.agent, DevicesWanted(self.lease_id))

    def returned(self) -> list[DevicesReturned]:
        return self.world.heard(self.agent, DevicesReturned)


@pytest.fixture
def case() -> Case:
    return Case()


def test_others_get_the_device_and_the_job_is_charged_for_what_it_holds(case: Case) -> None:
    job = next(iter(case.world.core.cluster.jobs))
    assert (case.free, job.history.held().get("GPU")) == (0, ONE)
    case.release()
    assert (case.free, job.history.held().get("GPU")) == (ONE, None)
    assert job.used["CPU"] == ONE, "its process lives"
    case.world.demand(case.client, 1, GPU=1)
    assert len(case.world.granted(case.client)) == 1


def test_it_is_shown_why_an_actor_keeps_its_devices(case: Case) -> None:
    def shown() -> list[str]:
        return [actor.kept for actor in case.world.state(case.client).actors]

    assert shown() == [""]
    case.world.say(case.agent, DevicesKept(case.lease_id, "offload() raised ValueError: no"))
    assert shown() == ["offload() raised ValueError: no"]


def test_it_is_shown_what_is_given_up_and_wanted_back(case: Case) -> None:
    def shown() -> list[tuple[list[int], list[int], bool]]:
        state = case.world.state(case.client)
        both = [*state.leases, *state.actors]
        return [(each.devices, each.away, each.wanted_back) for each in both if each.devices or each.away]

    assert shown() == [([0], [], False)] * 2
    case.release()
    assert shown() == [([], [0], False)] * 2
    other = case.world.client(2)
    case.world.demand(other, 1, GPU=1)
    (grant,) = case.world.granted(other)
    case.want()
    assert [each for each in shown() if each[1]] == [([], [0], True)] * 2
    case.world.say(other, m.ReturnLease(grant.lease_id))
    case.world.serve()
    assert shown() == [([0], [], False)] * 2


def test_it_is_given_back_at_once_if_nobody_has_it(case: Case) -> None:
    case.release()
    case.want()
    assert case.returned() == [DevicesReturned(case.lease_id)]
    assert case.free == 0
    case.release()
    case.want()
    assert case.returned() == [DevicesReturned(case.lease_id)], "and again"


def test_who_has_it_is_asked_to_drain_and_the_actor_comes_before_others_that_wait(case: Case) -> None:
    world = case.world
    case.release()
    other = world.client(2)
    world.demand(other, 1, GPU=1)
    (grant,) = world.granted(other)
    world.demand(other, 1, key=2, GPU=1)
    case.want()
    assert case.returned() == []
    assert [recalled.lease_id for recalled in world.heard(other, m.LeaseRecalled)] == [grant.lease_id]
    world.say(case.client, m.Explain(5, actor_id=case.actor_id))
    found = decode_explanation(world.only(case.client, m.Explained).explanation)
    assert "waits for GPU 0, which it has given up while it was idle" in found.text
    assert "notebook-2.ipynb" in str(found), "and who has it"
    world.say(other, m.ReturnLease(grant.lease_id))
    world.serve()
    assert case.returned() == [DevicesReturned(case.lease_id)]
    assert world.granted(other) == [], "it waited after the actor had been called"


def test_an_actor_that_ends_while_it_is_away_or_waits_leaves_nothing(case: Case) -> None:
    case.release()
    case.world.demand(case.client, 1, GPU=1)
    (grant,) = case.world.granted(case.client)
    case.want()
    case.world.say(case.agent, m.LeaseEnded(case.lease_id, "WorkerCrashedError", "it died"))
    case.world.say(case.client, m.ReturnLease(grant.lease_id))
    case.world.serve()
    assert case.returned() == []
    assert case.free == ONE


def test_what_an_agent_says_twice_or_late_changes_nothing(case: Case) -> None:
    case.want()
    assert case.returned() == [], "it has them"
    case.release()
    case.release()
    assert case.free == ONE
    case.world.say(case.agent, DevicesReleased(999))
    case.world.say(case.agent, DevicesWanted(999))


@pytest.mark.parametrize("wants", [False, True])
def test_a_restarted_scheduler_learns_who_is_away(case: Case, wants: bool) -> None:
    case.release()
    other = case.world.client(2)
    case.world.demand(other, 1, GPU=1)
    (grant,) = case.world.granted(other)
    again = World(journal=dict(case.world.journal))
    starts = [case.start, case.world.running[grant.lease_id]]
    message = msgspec.structs.replace(
        registration(1, 8, 1),
        leases=[(grant.lease_id, grant.worker_id, grant.address), (case.lease_id, b"work0001", "/run/work0001")],
        actors=[(case.actor_id, case.lease_id)],
        started=starts,
        away=[(case.lease_id, wants)],
    )
    again.client(1)
    again.client(2)
    agent: Peer = again.connect("agent", b"node0001")
    again.say(agent, message)
    held = {lease.lease_id: [share.uuid for share in lease.shares] for lease in again.core.cluster.leases}
    assert held == {case.lease_id: [], grant.lease_id: ["SIM-GPU-0"]}
    again.say(agent, m.LeaseEnded(grant.lease_id))
    assert again.heard(agent, DevicesReturned) == ([DevicesReturned(case.lease_id)] if wants else [])
