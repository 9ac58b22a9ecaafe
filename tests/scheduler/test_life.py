"""Jobs, roles, the state for people, the end of the cluster, and the restart of the scheduler (claim R5)."""

from __future__ import annotations

import pytest

from atoll.protocol import environment_messages as e
from atoll.protocol import messages as m
from atoll.protocol import values
from atoll.protocol.machine import ClosePeer, Peer, PeerLost
from atoll.scheduler.core.events import Exit, StopAsked, Warn
from atoll.scheduler.core.jobs import environment_digest
from tests.scheduler.world import PYTHON, WALL, World, job_id, registration


def exits(world: World) -> list[Exit]:
    return [action for action in world.actions if isinstance(action, Exit)]


# ------------------------------------------------------------------------------------------------------------ jobs


def test_a_job_is_answered_as_soon_as_there_is_a_node_and_agents_prepare_its_environment() -> None:
    world = World()
    client = world.connect("client", job_id(1))
    world.say(client, m.RegisterJob(8, job_id(1), "kernel", "a.ipynb", 1, "", PYTHON))
    assert world.heard(client, m.JobRegistered) == []
    agent = world.agent()
    digest = environment_digest(PYTHON)
    assert world.only(client, m.JobRegistered) == m.JobRegistered(8, digest, b"node0001", "/run/agent-1")
    assert world.only(agent, m.DefineEnvironment) == m.DefineEnvironment(digest, PYTHON, True)
    other = world.connect("client", job_id(2))
    world.say(other, m.RegisterJob(9, job_id(2), "server", "jupyter", 1, "", None))
    assert world.only(other, m.JobRegistered) == m.JobRegistered(9, "", b"node0001", "/run/agent-1")
    assert world.heard(agent, m.DefineEnvironment) == []


def test_environments_are_equal_by_content() -> None:
    one = values.Environment("python", ["a"], "/", {"A": "1", "B": "2"})
    assert environment_digest(one) == environment_digest(values.Environment("python", ["a"], "/", {"B": "2", "A": "1"}))
    assert environment_digest(one) != environment_digest(values.Environment("python", ["b"], "/", {"A": "1", "B": "2"}))


def test_environments_that_nothing_uses_are_forgotten() -> None:
    world = World()
    world.agent()
    client = world.client()
    world.lose(client)
    agent = world.agent(2)
    assert world.heard(agent, m.DefineEnvironment) == []


@pytest.mark.parametrize(
    "message",
    [
        m.RegisterJob(5, b"somebody", "kernel", "", 1, "", None),
        m.RegisterJob(5, job_id(1), "kernel", "", 1, "", None),
        m.RegisterNode(5, b"node0009", "", 1, "", {}, [], {}),
        m.JobRegistered(5, "", b"", ""),
    ],
)
def test_s19_what_a_client_may_not_say_is_answered_and_changes_nothing(message: m.Message) -> None:
    world = World()
    world.agent()
    client = world.client()
    before = world.core.statistics()
    world.say(client, message)
    assert world.only(client, m.Failed).request == 5
    after = world.core.statistics()
    assert (after.jobs, after.nodes, after.peers) == (before.jobs, before.nodes, before.peers)


def test_a_demand_before_a_job_is_refused() -> None:
    world = World()
    world.agent()
    client = world.connect("client", job_id(1))
    world.demand(client, 1)
    assert world.only(client, m.DemandRefused).kind == "ProtocolError"


# ----------------------------------------------------------------------------------------------------------- state


def test_the_state_tells_everything_in_hex_and_wall_clock() -> None:
    world = World()
    agent, client = world.agent(gpus=1), world.client()
    world.demand(client, 1, CPU=1, label="fit")  # type: ignore[arg-type]
    granted = world.granted(client)[0]
    sample = values.NodeSample(
        42.0, 5, 10, 3, 7,
        [values.DeviceSample("SIM-GPU-0", 12.0, 34, 5)],
        [values.WorkerSample(granted.worker_id, 1001, 99.0, 2**20)],
        [values.ObjectInfo(b"o" * 20, 8, 1, "flights", b"")],
    )  # fmt: skip
    world.say(agent, m.NodeSampled(sample))
    world.say(agent, m.SpansRecorded([values.Span(granted.worker_id, job_id(1), "fit", WALL, 0.5, 1, "running", 1)]))
    world.wait(2)
    state = world.state(client)
    assert (state.cluster_id, state.started, state.now) == ("c1", WALL, WALL + 2)
    node, lease = state.nodes[0], state.leases[0]
    assert (node.cpu_percent, node.store_used_bytes, node.devices[0].use_percent) == (42.0, 3, 12.0)
    assert (lease.doing, lease.cpu_percent, lease.memory_bytes, lease.label) == ("fit", 99.0, 2**20, "fit")
    assert state.objects[0].object_id == (b"o" * 20).hex()
    assert state.spans[0].duration_s == pytest.approx(2.0), "it runs on"
    assert state.jobs[0].name == "notebook-1.ipynb"
    world.say(agent, m.LeaseEnded(granted.lease_id, "WorkerCrashedError", "signal 11"))
    assert world.state(client).spans[0].state == "failed"


def test_spans_are_kept_for_five_minutes() -> None:
    world = World()
    agent, client = world.agent(), world.client()
    world.say(agent, m.SpansRecorded([values.Span(b"worker!!", job_id(1), "f", WALL, 1.0, 9, "finished", 1)]))
    assert [span.count for span in world.state(client).spans] == [9]
    world.wait(302)
    assert world.state(client).spans == []
    world.say(agent, m.SpansRecorded([values.Span(b"worker!!", job_id(1), "g", WALL + 302, 1.0, 1, "finished", 2)]))
    assert world.core.statistics().spans == 1


def test_watchers_get_the_state_at_their_own_pace_and_nobody_wakes_the_core_otherwise() -> None:
    world = World()
    world.agent()
    client = world.client()
    world.wait(30)
    assert world.core.next_deadline() is None, "idle means idle"
    world.say(client, m.WatchState(0.5))
    world.wait(2.2)
    assert len(world.heard(client, m.State)) == 5
    world.say(client, m.WatchState(0.0001))
    world.wait(1.0)
    assert 10 <= len(world.heard(client, m.State)) <= 11, "at most ten a second"
    world.say(client, m.WatchState(float("nan")))
    world.wait(5)
    assert world.heard(client, m.State) == []
    assert world.core.next_deadline() is None


# --------------------------------------------------------------------------------------------------------- the end


def test_a_cluster_that_nobody_uses_ends_after_its_linger_time() -> None:
    world = World(linger_s=20)
    agent = world.agent()
    world.wait(19)
    client = world.client()
    world.wait(100)
    assert exits(world) == []
    world.lose(client)
    world.wait(19.9)
    assert exits(world) == []
    world.wait(0.2)
    assert world.only(agent, m.StopNode)
    assert exits(world) == [], "agents end first"
    world.lose(agent)
    assert exits(world) == [Exit("nobody used it")]
    assert world.core.next_deadline() is None


def test_an_agent_that_does_not_end_is_waited_for_a_bounded_time() -> None:
    world = World()
    agent, client = world.agent(), world.client()
    world.say(client, m.StopCluster(3))
    assert world.only(client, m.Done).request == 3
    assert world.only(agent, m.StopNode)
    world.say(client, m.GetState(4))
    assert world.only(client, m.Failed).text == "the cluster is stopping"
    world.wait(5)
    assert len(exits(world)) == 1


def test_a_cluster_in_use_is_not_stopped_if_it_should_not_be() -> None:
    world = World()
    world.agent()
    client, other = world.client(1), world.client(2)
    world.say(client, m.StopCluster(3, only_if_unused=True))
    assert "notebook-2.ipynb is attached" in world.only(client, m.Failed).text
    world.lose(other)
    world.say(client, m.PublishName(1, "n", values.ObjectLocation(b"o" * 20, inline=b"x")))
    world.say(client, m.StopCluster(4, only_if_unused=True))
    assert "its cache has names" in world.only(client, m.Failed).text
    world.say(client, m.DropName(1, "n"))
    world.say(client, m.StopCluster(5, only_if_unused=True))
    assert world.heard(client, m.Done)[-1].request == 5


def test_a_signal_ends_the_cluster() -> None:
    world = World()
    world.event(StopAsked("signal SIGTERM"))
    assert exits(world) == [Exit("signal SIGTERM")]


# -------------------------------------------------------------------------------------------- restart of the scheduler


def reregister(world: World, old: World, agent: Peer | None = None, **more: object) -> Peer:
    """Let the node of an old world come to a new one, with all that runs there."""
    workers = {lease.lease_id: (lease.worker_id, lease.address) for lease in old.core.cluster.leases if lease.worker_id}
    leases = [(lease_id, *workers[lease_id]) for lease_id in old.running]
    actors = [
        (actor.spec.actor_id, actor.lease.lease_id) for actor in old.core.cluster.actors if actor.lease is not None
    ]
    peer = world.connect("agent", b"node0001")
    world.agents[peer] = b"node0001"
    world.running = dict(old.running)
    world.say(peer, registration(1, 4, leases=leases, actors=actors, started=list(old.running.values()), **more))
    return peer


def test_r5_after_a_restart_leases_actors_and_names_go_on() -> None:
    old = World()
    old.agent(cpus=4)
    client = old.client()
    old.demand(client, 1)
    old.say(client, m.CreateActor(1, b"", old.actor_spec(1, name="llm")))
    old.say(client, m.CreateActor(2, b"", old.actor_spec(2)))
    held = old.granted(client)[0]
    old.say(client, m.PublishName(1, "n", values.ObjectLocation(b"o" * 20, b"node0001", 10)))

    world = World(journal=old.journal)
    agent = reregister(world, old)
    kinds = [type(message) for message in world.inbox[agent]]
    assert kinds.index(m.AdoptObject) < kinds.index(m.NodeRegistered), "what is not adopted by then is given up"
    assert world.only(agent, m.AdoptObject).name == "n"
    client = world.client()
    again = world.only(client, m.LeaseGranted)
    assert (again.demand_key, again.lease_id) == (0, held.lease_id), "it may have returned it while nobody listened"
    world.demand(client, 1, key=2)
    new = world.granted(client)[0]
    assert new.lease_id > held.lease_id + 2**31, "ids of two lives never meet"
    for number in (1, 2):
        world.say(client, m.WatchActor(number, old.actor_spec(number).actor_id))
    assert [changed.state for changed in world.heard(client, m.ActorChanged)] == ["alive", "alive"]
    world.wait(30)
    assert world.heard(client, m.LeaseLost) == []
    assert world.state(client).nodes[0].resources_free["CPU"] == 0
    world.say(client, m.ReturnLease(held.lease_id))
    world.serve()
    assert world.state(client).nodes[0].resources_free["CPU"] == 1


def test_r5_an_actor_that_was_not_begun_is_begun_by_the_next_scheduler_and_that_is_no_restart() -> None:
    old = World()
    old.agent(cpus=1)
    client = old.client()
    old.say(client, m.CreateActor(1, b"", old.actor_spec(1, name="first")))
    old.say(client, m.CreateActor(2, b"", old.actor_spec(2, name="second")))
    old.serve()
    assert [actor.state for actor in old.state(client).actors] == ["alive", "pending"]
    old.say(client, m.KillActor(3, old.actor_spec(1).actor_id))

    world = World(journal=old.journal)
    world.agent(cpus=1)
    client = world.client()
    world.say(client, m.GetActor(1, "second", ""))
    world.serve()
    alive = world.heard(client, m.ActorChanged)[-1]
    assert (alive.state, alive.incarnation) == ("alive", 0)


def test_r5_a_job_that_waits_for_a_node_is_registered_before_it_hears_of_its_leases() -> None:
    old = World()
    old.agent(cpus=4)
    client = old.client()
    old.demand(client, 1)
    old.granted(client)

    world = World(journal=old.journal)
    client = world.client()
    reregister(world, old)
    kinds = [type(message) for message in world.inbox[client]]
    assert kinds.index(m.JobRegistered) < kinds.index(m.LeaseGranted)


def test_r5_a_worker_that_waits_says_so_again_and_its_cpu_is_lent_again() -> None:
    old = World()
    old.agent(cpus=1)
    client = old.client()
    old.demand(client, 1)
    outer = old.granted(client)[0]

    world = World(journal=old.journal)
    worker = world.connect("worker", outer.worker_id)
    client = world.client()
    world.say(worker, m.TaskBlocked(outer.lease_id))
    agent = world.connect("agent", b"node0001")
    world.agents[agent] = b"node0001"
    leases = [(outer.lease_id, outer.worker_id, outer.address)]
    world.say(agent, registration(1, 1, leases=leases, started=list(old.running.values())))
    assert world.state(client).nodes[0].resources_free["CPU"] == 1
    world.say(worker, m.TaskUnblocked(outer.lease_id))
    assert world.state(client).nodes[0].resources_free["CPU"] == 0


def test_r5_a_worker_whose_lease_is_over_gets_leases_for_what_it_has_submitted() -> None:
    """Its task has ended, what it has submitted has not: nobody but the worker knows for which job that is."""
    old = World()
    old.agent(cpus=4)
    client = old.client()
    job = old.core.cluster.peers[client].process_id
    old.demand(client, 1)
    outer = old.granted(client)[0]

    world = World(journal=old.journal)
    worker = world.connect("worker", outer.worker_id)
    world.environment = old.environment
    world.say(worker, m.ActForJob(job))
    world.demand(worker, 1, key=8)
    world.agent(cpus=4)
    assert world.granted(worker) == []
    assert world.core.cluster.peers[world.client()].process_id == job
    assert world.heard(worker, m.DemandRefused) == []
    assert [granted.demand_key for granted in world.granted(worker)] == [8]


def test_r5_a_worker_and_its_node_may_come_back_before_the_client_whose_environment_they_name() -> None:
    old = World()
    old.agent(cpus=4)
    client = old.client()
    old.demand(client, 1)
    outer = old.granted(client)[0]

    world = World(journal=old.journal)
    worker = world.connect("worker", outer.worker_id)
    reregister(world, old)
    world.environment = old.environment
    world.demand(worker, 3, key=8)
    world.demand(worker, 2, key=8)
    assert world.heard(worker, m.DemandRefused) == [], "nobody has said yet what the environment is"
    world.client()
    assert [granted.demand_key for granted in world.granted(worker)] == [8, 8], "what it said last counts"


def test_r5_the_order_of_coming_back_does_not_matter() -> None:
    old = World()
    old.agent(cpus=4)
    client = old.client()
    old.demand(client, 1)
    outer = old.granted(client)[0]
    worker = old.connect("worker", outer.worker_id)
    old.demand(worker, 1, key=7)
    inner = old.granted(worker)[0]

    world = World(journal=old.journal)
    worker = world.connect("worker", outer.worker_id)
    client = world.client()
    world.environment = old.environment
    world.demand(worker, 1, key=8)
    assert world.heard(worker, m.DemandRefused) == [], "its lease is not known yet"
    reregister(world, old)
    assert [granted.demand_key for granted in world.granted(worker)] == [0, 8], "what it held, and one more"
    world.wait(30)
    world.say(worker, m.ReturnLease(inner.lease_id))
    world.serve()
    assert len(world.state(client).leases) == 2


def test_r5_what_nobody_comes_back_for_ends() -> None:
    old = World()
    old.agent(cpus=4)
    client = old.client()
    old.demand(client, 1)
    old.say(client, m.CreateActor(1, b"", old.actor_spec(1)))
    old.say(client, m.CreateActor(2, b"", old.actor_spec(2, name="llm", detached=True)))
    old.serve()
    world = World(journal=old.journal)
    reregister(world, old)
    watcher = world.client(9)
    world.wait(9)
    assert len(world.state(watcher).leases) == 3
    world.wait(2)
    world.serve()
    state = world.state(watcher)
    assert [(actor.name, actor.state) for actor in state.actors] == [("llm", "alive"), ("", "dead")]
    assert [lease.actor != "" for lease in state.leases] == [True]


def test_r5_an_actor_whose_process_did_not_survive_is_made_again_or_dead() -> None:
    old = World()
    old.agent(cpus=4)
    client = old.client()
    old.say(client, m.CreateActor(1, b"", old.actor_spec(1, name="again", maximum_restarts=1)))
    old.say(client, m.CreateActor(2, b"", old.actor_spec(2, name="dead")))
    old.serve()
    world = World(journal=old.journal)
    agent = world.agent(cpus=4)
    assert world.only(agent, m.DefineEnvironment).environment == PYTHON, "from the journal: its job is gone"
    client = world.client()
    world.wait(10.1)
    world.serve()
    states = {actor.name: (actor.state, actor.incarnation) for actor in world.state(client).actors}
    assert states == {"again": ("alive", 1), "dead": ("dead", 0)}


def test_r17_an_actor_that_two_nodes_claim_has_one_incarnation() -> None:
    old = World()
    old.agent(cpus=4)
    client = old.client()
    old.say(client, m.CreateActor(1, b"", old.actor_spec(1, name="llm")))
    old.serve()
    world = World(journal=old.journal)
    reregister(world, old)
    start = next(iter(old.running.values()))
    start = m.StartLease(start.lease_id + 1, start.job, start.scheduling_class, [], True)
    second = world.connect("agent", b"node0002")
    leases, actors = [(start.lease_id, b"workerX!", "/run/x")], [(old.actor_spec(1).actor_id, start.lease_id)]
    world.say(second, registration(2, 4, leases=leases, actors=actors, started=[start]))
    assert world.only(second, m.EndLease) == m.EndLease(start.lease_id, True)


def test_a_lease_that_was_declared_lost_is_not_taken_up_again() -> None:
    world = World()
    agent, client = world.agent(cpus=4), world.client()
    world.demand(client, 1)
    granted = world.granted(client)[0]
    start = world.running[granted.lease_id]
    world.event(PeerLost(agent, "broken pipe"))
    assert world.only(client, m.LeaseLost)
    again = world.connect("agent", b"node0001")
    world.say(again, registration(1, 4, leases=[(granted.lease_id, b"worker!!", "/run/w")], started=[start]))
    assert world.only(again, m.EndLease) == m.EndLease(granted.lease_id, True)
    world.say(again, m.LeaseEnded(granted.lease_id))


@pytest.mark.parametrize("ending", [False, True])
def test_r15_what_ends_after_a_reconnection_holds_its_device_until_it_has_ended(ending: bool) -> None:
    world = World()
    agent, client = world.agent(cpus=4, gpus=1), world.client()
    world.demand(client, 1, CPU=1, GPU=1)
    granted = world.granted(client)[0]
    start = world.running[granted.lease_id]
    world.event(PeerLost(agent, "broken pipe"))
    world.demand(client, 1, CPU=1, GPU=1)
    again = world.connect("agent", b"node0001")
    place = (b"", "") if ending else (b"worker!!", "/run/w")
    world.say(again, registration(1, 4, 1, leases=[(granted.lease_id, *place)], started=[start]))
    assert world.only(again, m.EndLease) == m.EndLease(granted.lease_id, True)
    assert world.heard(again, m.StartLease) == [], "its worker still lives, or its memory is not free"
    world.say(again, m.LeaseEnded(granted.lease_id))
    assert world.only(again, m.StartLease).devices == start.devices


def test_a_client_on_a_new_connection_replaces_the_old_one() -> None:
    """It knows that its connection is gone before we do; refused, it would wait for ever."""
    world = World()
    world.agent(cpus=4)
    old = world.client()
    world.demand(old, 1)
    granted = world.granted(old)[0]
    world.say(old, m.ClaimName(5, "flights", True))
    new = world.connect("client", job_id(1))
    world.say(new, m.RegisterJob(1, job_id(1), "kernel", "notebook-1.ipynb", 101, "", PYTHON))
    assert world.only(new, m.JobRegistered)
    assert old not in world.core.cluster.peers
    assert any(isinstance(action, ClosePeer) and action.peer == old for action in world.actions)
    world.serve()
    assert granted.lease_id not in [lease.lease_id for lease in world.state(new).leases]
    world.say(new, m.ClaimName(6, "flights", True))
    assert world.only(new, m.NameClaimed).compute
    world.say(new, m.RegisterJob(7, job_id(1), "kernel", "notebook-1.ipynb", 101, "", PYTHON))
    assert world.only(new, m.Failed).request == 7


def test_a_node_on_a_new_connection_replaces_the_old_one() -> None:
    world = World()
    agent = world.agent()
    world.client()
    again = world.agent()
    assert agent not in world.core.cluster.peers
    assert world.only(again, m.NodeRegistered)
    assert world.core.statistics().nodes == 1


def test_records_that_cannot_be_read_are_dropped_and_said_so() -> None:
    world = World(journal={("names", "n"): b"\xc1", ("actors", "a"): b"", ("future", "x"): b"1"})
    assert len([action for action in world.actions if isinstance(action, Warn)]) == 3
    assert list(world.journal) == [("facts", "epoch")]


def test_an_environment_that_is_added_is_prepared_and_known_as_long_as_its_job() -> None:
    world = World()
    agent = world.agent()
    client = world.client()
    world.heard(agent, m.DefineEnvironment)
    other = values.Environment("python", ["a"], "/", {"A": "1"})
    digest = environment_digest(other)
    world.say(client, e.AddEnvironment(7, other))
    assert world.only(client, e.EnvironmentFound) == e.EnvironmentFound(7, digest, other)
    assert world.only(agent, m.DefineEnvironment) == m.DefineEnvironment(digest, other, True)
    world.say(client, e.GetEnvironment(8, digest))
    assert world.only(client, e.EnvironmentFound) == e.EnvironmentFound(8, digest, other)
    second = world.client(2)
    world.lose(client)
    world.say(second, e.GetEnvironment(9, digest))
    assert world.only(second, m.Failed).kind == "RuntimeEnvSetupError"


def test_an_environment_needs_a_job() -> None:
    world = World()
    world.agent()
    stranger = world.connect("client", job_id(3))
    world.say(stranger, e.AddEnvironment(7, PYTHON))
    assert "register a job" in world.only(stranger, m.Failed).text
