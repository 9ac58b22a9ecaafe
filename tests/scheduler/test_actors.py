"""Actors: made, found by name, restarted, killed; and what goes with a job and what stays."""

from __future__ import annotations

from atoll.protocol import messages as m
from atoll.protocol import values
from atoll.protocol.machine import Peer, Send
from atoll.scheduler.core.actors import CREATED_WITHIN_S
from atoll.scheduler.core.events import PersistRecord
from atoll.scheduler.core.strays import GONE_WITHIN_S
from tests.scheduler.world import World


def create(
    world: World, peer: Peer, number: int = 1, *, get_if_exists: bool = False, **more: object
) -> values.ActorSpec:
    spec = world.actor_spec(number, **more)  # type: ignore[arg-type]
    world.say(peer, m.CreateActor(50 + number, b"", spec, get_if_exists))
    return spec


def test_an_actor_is_written_down_before_it_is_acknowledged_and_then_made() -> None:
    world = World()
    agent, client = world.agent(), world.client()
    create(world, client, name="llm")
    kinds = [action for action in world.actions if isinstance(action, PersistRecord) and action.table == "actors"]
    answer = next(
        action for action in world.actions if isinstance(action, Send) and isinstance(action.message, m.ActorChanged)
    )
    assert world.actions.index(kinds[0]) < world.actions.index(answer)
    pending = world.only(client, m.ActorChanged)
    assert (pending.request, pending.state, pending.name) == (51, "pending", "llm")
    start = world.only(agent, m.StartLease)
    assert start.dedicated
    world.say(agent, m.LeaseStarted(start.lease_id, b"worker!!", "/run/w", 7))
    construct = world.only(agent, m.StartActor)
    assert (construct.lease_id, construct.incarnation) == (start.lease_id, 0)
    world.say(agent, m.ActorStarted(construct.spec.actor_id, start.lease_id))
    alive = world.only(client, m.ActorChanged)
    assert (alive.request, alive.state, alive.address, alive.worker_id) == (0, "alive", "/run/w", b"worker!!")
    assert not alive.interface.methods, "news do not repeat what the answer has said"


def test_a_name_finds_its_actor_and_a_taken_name_is_refused() -> None:
    world = World()
    world.agent(cpus=4)
    first, second = world.client(1), world.client(2)
    spec = create(world, first, 1, name="llm")
    world.serve()
    create(world, second, 2, name="llm")
    refused = world.only(second, m.Failed)
    assert "taken by an actor of class Counter (alive)" in refused.text
    create(world, second, 3, name="llm", get_if_exists=True)
    assert world.only(second, m.ActorChanged).actor_id == spec.actor_id
    world.say(second, m.GetActor(9, "llm", ""))
    assert world.only(second, m.ActorChanged).actor_id == spec.actor_id
    world.say(second, m.GetActor(9, "lm", ""))
    assert "there are llm" in world.only(second, m.Failed).text
    world.say(second, m.GetActor(9, "llm", "elsewhere"))
    assert world.only(second, m.Failed).kind == "ActorError"


def test_a_killed_actor_frees_its_name_at_once_and_is_remembered() -> None:
    world = World()
    agent, client = world.agent(), world.client()
    spec = create(world, client, name="llm", maximum_restarts=-1)
    world.serve()
    world.heard(client, m.ActorChanged)
    world.say(client, m.KillActor(5, spec.actor_id))
    assert world.only(agent, m.EndLease).kill
    assert world.only(client, m.Done).request == 5
    assert world.only(client, m.ActorChanged).state == "dead"
    assert not any(table == "actors" for table, _key in world.journal)
    world.say(client, m.WatchActor(6, spec.actor_id))
    assert world.only(client, m.ActorChanged).cause == "it was killed"
    create(world, client, 2, name="llm")
    assert world.only(client, m.ActorChanged).state == "pending"


def test_r3_an_actor_is_restarted_as_often_as_it_may_be() -> None:
    world = World()
    agent, client = world.agent(), world.client()
    create(world, client, maximum_restarts=2)
    for incarnation in range(3):
        world.serve()
        states = world.heard(client, m.ActorChanged)
        assert (states[-1].state, states[-1].incarnation) == ("alive", incarnation)
        lease_id = next(iter(world.running))
        del world.running[lease_id]
        world.say(agent, m.LeaseEnded(lease_id, "WorkerCrashedError", "killed by signal 9"))
    dead = world.heard(client, m.ActorChanged)[-1]
    assert (dead.state, dead.cause) == ("dead", "WorkerCrashedError: killed by signal 9")
    assert world.core.statistics().leases == 0


def test_kill_without_no_restart_makes_a_new_process() -> None:
    world = World()
    world.agent()
    client = world.client()
    spec = create(world, client, maximum_restarts=1)
    world.serve()
    world.say(client, m.KillActor(5, spec.actor_id, no_restart=False))
    world.serve()
    assert [(changed.state, changed.incarnation) for changed in world.heard(client, m.ActorChanged)][-1] == ("alive", 1)


def test_a_handle_may_be_faster_than_the_creation_of_its_actor() -> None:
    world = World()
    world.agent()
    client, other = world.client(1), world.client(2)
    spec = world.actor_spec(1)
    world.say(other, m.WatchActor(9, spec.actor_id))
    assert world.heard(other, m.Failed) == []
    world.wait(1)
    world.say(client, m.CreateActor(1, b"", spec))
    assert world.only(other, m.ActorChanged).request == 9
    world.serve()
    assert world.heard(other, m.ActorChanged)[-1].state == "alive"


def test_an_actor_that_nobody_creates_is_waited_for_only_so_long() -> None:
    world = World()
    world.agent()
    client, other = world.client(1), world.client(2)
    spec = world.actor_spec(1)
    world.say(client, m.WatchActor(9, spec.actor_id))
    world.say(other, m.WatchActor(9, spec.actor_id))
    world.lose(other)
    world.wait(CREATED_WITHIN_S * 1.01)
    failed = world.only(client, m.Failed)
    assert (failed.request, failed.kind) == (9, "ActorDiedError")


def test_the_next_process_of_an_actor_begins_when_the_killed_one_is_gone() -> None:
    world = World()
    agent, client = world.agent(cpus=4), world.client()
    spec = create(world, client, maximum_restarts=3)
    world.serve()
    world.say(client, m.KillActor(5, spec.actor_id, no_restart=False))
    end = world.only(agent, m.EndLease)
    assert world.heard(agent, m.StartLease) == [], "the process that is being killed still lives"
    world.say(client, m.KillActor(6, spec.actor_id, no_restart=False))
    assert world.heard(agent, m.StartLease) == []
    world.say(agent, m.LeaseEnded(end.lease_id))
    assert len(world.heard(agent, m.StartLease)) == 1
    world.serve()


def test_a_constructor_that_raises_is_the_end_and_its_error_is_passed_on() -> None:
    world = World()
    agent, client = world.agent(), world.client()
    spec = create(world, client, maximum_restarts=5)
    start = world.only(agent, m.StartLease)
    world.say(agent, m.LeaseStarted(start.lease_id, b"worker!!", "/run/w", 7))
    world.say(agent, m.ActorFailed(spec.actor_id, start.lease_id, "ValueError: no", b"pickled error"))
    dead = world.heard(client, m.ActorChanged)[-1]
    assert (dead.state, dead.error) == ("dead", b"pickled error")
    assert dead.cause == "its constructor raised ValueError: no"
    assert world.only(agent, m.EndLease).kill


def test_an_actor_that_its_node_refuses_is_said_to_be_refused_and_not_to_have_raised() -> None:
    world = World()
    agent, client = world.agent(), world.client()
    spec = create(world, client, maximum_restarts=5)
    start = world.only(agent, m.StartLease)
    world.say(agent, m.LeaseStarted(start.lease_id, b"worker!!", "/run/w", 7))
    world.say(agent, m.ActorFailed(spec.actor_id, start.lease_id, "it cannot give its GPUs up", b""))
    assert world.heard(client, m.ActorChanged)[-1].cause == "it cannot give its GPUs up"


def test_an_actor_that_can_never_be_placed_is_refused() -> None:
    world = World()
    world.agent(gpus=1)
    client = world.client()
    create(world, client, shape=world.shape(GPU=3))
    assert world.only(client, m.Failed).text == "no node has 3 GPU; the largest has 1 (host-1)"
    assert world.core.statistics().actors == 0


def test_an_actor_whose_worker_cannot_start_dies_with_the_cause() -> None:
    world = World()
    world.agent()
    client = world.client()
    create(world, client)
    world.serve(failing=True)
    dead = world.heard(client, m.ActorChanged)[-1]
    assert dead.state == "dead"
    assert "no process could be made for it" in dead.cause


def test_r6_what_is_not_detached_goes_with_its_job() -> None:
    world = World()
    world.agent(cpus=4)
    first, second = world.client(1), world.client(2)
    anonymous = create(world, first, 1)
    named = create(world, first, 2, name="llm", detached=True)
    detached = create(world, first, 3, detached=True)
    world.serve()
    for spec in (anonymous, named, detached):
        world.say(second, m.WatchActor(1, spec.actor_id))
    world.heard(second, m.ActorChanged)
    world.lose(first)
    world.serve()
    gone = world.only(second, m.ActorChanged)
    assert (gone.actor_id, gone.cause) == (anonymous.actor_id, "its job has ended")
    state = world.state(second)
    assert sorted(actor.actor_id for actor in state.actors if actor.state == "alive") == sorted(
        spec.actor_id.hex() for spec in (named, detached)
    )
    assert [job.connected for job in state.jobs] == [False, True], "its job is kept for their sake"
    for spec in (named, detached):
        world.say(second, m.KillActor(1, spec.actor_id))
    world.serve()
    assert len(world.state(second).jobs) == 1


def test_a_detached_actor_keeps_what_it_has_asked_for_when_its_job_goes() -> None:
    world = World()
    world.agent(cpus=4)
    first, second = world.client(1), world.client(2)
    create(world, first, 1, name="coordinator", detached=True)
    world.demand(first, 1)
    world.serve()
    plain = world.only(first, m.LeaseGranted)
    home = world.state(second).actors[0]
    lease = next(lease for lease in world.state(second).leases if lease.actor == home.actor_id)
    worker = world.connect("worker", bytes.fromhex(lease.worker_id))
    stray = world.connect("worker", plain.worker_id)
    world.demand(worker, 1, key=4)
    world.demand(stray, 1, key=4)
    assert len(world.granted(worker)) == 1
    world.lose(first)
    world.serve()
    assert len(world.state(second).leases) == 2, "its home and its task; nothing of the notebook's own"
    assert world.heard(worker, m.LeaseLost) == []


def test_a_pending_actor_of_a_job_that_goes_is_forgotten() -> None:
    world = World()
    world.agent(cpus=1)
    first = world.client(1)
    world.client(2)
    create(world, first, 1, shape=world.shape(CPU=1))
    create(world, first, 2, shape=world.shape(CPU=1))
    world.lose(first)
    world.serve()
    statistics = world.core.statistics()
    assert (statistics.actors, statistics.leases, statistics.demands) == (0, 0, 0)


def test_a_lost_node_restarts_its_actors_elsewhere() -> None:
    world = World()
    agent = world.agent(1)
    client = world.client()
    create(world, client, 1, maximum_restarts=1)
    create(world, client, 2)
    world.serve()
    world.lose(agent)
    world.agent(2)
    world.wait(GONE_WITHIN_S)
    world.serve()
    states = {changed.actor_id[-1:]: changed for changed in world.heard(client, m.ActorChanged)}
    assert (states[b"1"].state, states[b"1"].incarnation) == ("alive", 1)
    assert states[b"2"].state == "dead"
