"""Whatever happens in whatever order, the core's invariants hold: hypothesis plays all peers, and restarts the core.

`World` checks the invariants after every event: free + leased = total, every demand in exactly one queue, one live
incarnation of an actor, no device with two whole holders, charges as held, nobody who is gone holds anything.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from atoll.protocol import messages as m
from atoll.protocol import values
from atoll.protocol.machine import Peer
from atoll.resources import UNITS_PER_ONE
from atoll.scheduler.core.supply import wanted_of
from tests.scheduler.world import World, job_id, registration

SHAPES: list[dict[str, Any]] = [
    {"CPU": 1},
    {"CPU": 2},
    {"CPU": 0.5, "GPU": 0.5},
    {"GPU": 1},
    {"GPU": 2},
    {"CPU": 1, "GPU": 0.3},
    {"CPU": 1, "priority": 3},
    {"CPU": 1, "strategy": "SPREAD"},
    {"CPU": 99},
    {},
]
numbers = st.integers(1, 4)


class SchedulerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.clients: dict[int, Peer] = {}
        self.nodes: dict[int, Peer] = {}
        self.workers: list[Peer] = []
        self.actors = 0

    # ------------------------------------------------------------------------------------------- who comes and goes

    @rule(number=numbers)
    def client_comes(self, number: int) -> None:
        if number not in self.clients:
            self.clients[number] = self.world.client(number)

    @rule(number=numbers)
    def client_goes(self, number: int) -> None:
        if number in self.clients:
            self.world.lose(self.clients.pop(number))

    @rule(number=st.integers(1, 2), gpus=st.sampled_from([2, 0, 1]))
    def node_comes(self, number: int, gpus: int) -> None:
        if number not in self.nodes:
            self.nodes[number] = self.world.agent(number, cpus=2, gpus=gpus)

    @rule(number=st.integers(1, 2))
    def node_goes(self, number: int) -> None:
        self._goes(number)

    def _goes(self, number: int) -> None:
        if number in self.nodes:
            peer = self.nodes.pop(number)
            for lease in list(self.world.core.cluster.leases):
                if lease.node.peer == peer:
                    self.world.running.pop(lease.lease_id, None)
            self.world.lose(peer)

    @rule(number=st.integers(1, 2), deadline_s=st.sampled_from([0.0, 1.0]), undo=st.booleans())
    def a_node_is_drained(self, number: int, deadline_s: float, undo: bool) -> None:
        stranger = next(iter(self.clients.values()), None)
        if stranger is not None:
            self.world.say(stranger, m.DrainNode(9, f"host-{number}", deadline_s, undo))

    @rule(number=st.integers(1, 2), problem=st.sampled_from(["", "no room"]))
    def objects_are_evacuated(self, number: int, problem: str) -> None:
        if number in self.nodes:
            self.world.say(self.nodes[number], m.ObjectsEvacuated(1, 10, problem))
            if self.world.heard(self.nodes[number], m.StopNode):
                assert not self.world.core.cluster.nodes.get(b"node%04d" % number).holdings  # type: ignore[union-attr]
                self._goes(number)

    @rule(data=st.data())
    def worker_comes(self, data: st.DataObject) -> None:
        leases = [lease for lease in self.world.core.cluster.leases if lease.worker_id]
        if leases:
            lease = data.draw(st.sampled_from(leases))
            self.workers.append(self.world.connect("worker", lease.worker_id))

    @rule(data=st.data())
    def worker_goes(self, data: st.DataObject) -> None:
        if self.workers:
            peer = data.draw(st.sampled_from(self.workers))
            self.workers.remove(peer)
            self.world.lose(peer)

    # ---------------------------------------------------------------------------------------------------- requests

    def _speaker(self, data: st.DataObject) -> Peer | None:
        peers = [*self.clients.values(), *self.workers]
        return data.draw(st.sampled_from(peers)) if peers else None

    @rule(data=st.data(), shape=st.sampled_from(SHAPES), count=st.integers(-1, 5), key=st.integers(1, 3))
    def demand(self, data: st.DataObject, shape: dict[str, Any], count: int, key: int) -> None:
        peer = self._speaker(data)
        if peer is not None:
            self.world.say(peer, m.SetDemand(key, self.world.shape(**shape), count))

    @rule(data=st.data(), discard=st.booleans())
    def give_back(self, data: st.DataObject, discard: bool) -> None:
        leases = [lease for lease in self.world.core.cluster.leases if lease.record is not None]
        if leases:
            lease = data.draw(st.sampled_from(leases))
            assert lease.record is not None
            self.world.say(lease.record.peer, m.ReturnLease(lease.lease_id, discard))

    @rule(data=st.data(), blocked=st.booleans())
    def block(self, data: st.DataObject, blocked: bool) -> None:
        if self.workers:
            peer = data.draw(st.sampled_from(self.workers))
            lease = self.world.core.cluster.leases.of_worker(self.world.core.cluster.peers[peer].process_id)
            if lease is not None:
                kind = m.TaskBlocked if blocked else m.TaskUnblocked
                self.world.say(peer, kind(lease.lease_id))

    @rule(data=st.data(), named=st.booleans(), restarts=st.integers(-1, 1), shape=st.sampled_from(SHAPES))
    def create_actor(self, data: st.DataObject, named: bool, restarts: int, shape: dict[str, Any]) -> None:
        peer = self._speaker(data)
        if peer is not None:
            self.actors += 1
            spec = self.world.actor_spec(
                self.actors, "llm" if named else "", shape=self.world.shape(**shape), maximum_restarts=restarts
            )
            self.world.say(peer, m.CreateActor(1, b"", spec, data.draw(st.booleans())))

    @rule(data=st.data(), no_restart=st.booleans())
    def kill_actor(self, data: st.DataObject, no_restart: bool) -> None:
        peer, actors = self._speaker(data), list(self.world.core.cluster.actors)
        if peer is not None and actors:
            actor = data.draw(st.sampled_from(actors))
            self.world.say(peer, m.KillActor(1, actor.spec.actor_id, no_restart))

    @rule(
        data=st.data(), what=st.sampled_from(["claim", "ask", "publish", "abandon", "drop"]), name=st.sampled_from("ab")
    )
    def name(self, data: st.DataObject, what: str, name: str) -> None:
        peer = self._speaker(data)
        if peer is None:
            return
        number = data.draw(st.integers(1, 2))
        location = values.ObjectLocation(b"object-%013d" % number, b"node%04d" % number, 10)
        messages = {
            "claim": m.ClaimName(1, name, True),
            "ask": m.ClaimName(1, name),
            "publish": m.PublishName(1, name, location),
            "abandon": m.AbandonName(name),
            "drop": m.DropName(1, name),
        }
        self.world.say(peer, messages[what])

    # ------------------------------------------------------------------------------------------------- what agents do

    @rule(failing=st.booleans())
    def agents_work(self, failing: bool) -> None:
        self.world.serve(failing=failing)

    @rule(data=st.data())
    def one_lease_starts(self, data: st.DataObject) -> None:
        starts = [
            (peer, message)
            for peer in self.nodes.values()
            for message in self.world.inbox[peer]
            if isinstance(message, m.StartLease | m.EndLease | m.StartActor)
        ]
        if starts:
            peer, message = data.draw(st.sampled_from(starts))
            self.world._serve(peer, message, failing=False)

    @rule(data=st.data())
    def a_worker_dies(self, data: st.DataObject) -> None:
        leases = [lease for lease in self.world.core.cluster.leases if lease.node.peer is not None]
        if leases:
            lease = data.draw(st.sampled_from(leases))
            self.world.running.pop(lease.lease_id, None)
            assert lease.node.peer is not None
            self.world.say(lease.node.peer, m.LeaseEnded(lease.lease_id, "WorkerCrashedError", "signal 9"))

    @rule(seconds=st.sampled_from([0.01, 0.06, 1.0, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.wait(seconds)

    @rule()
    def the_scheduler_is_restarted(self) -> None:
        """Everybody comes back in another order, with what lives on."""
        old = self.world
        self.world = World(journal=old.journal)
        self.world.now = type(old.now)(max(self.world.now, old.now))
        self.world.environment = old.environment
        self.world._last_worker = old._last_worker
        self.world.running = dict(old.running)
        self.workers = []
        for number in sorted(self.clients, reverse=True):
            self.clients[number] = self.world.client(number)
        for number in sorted(self.nodes):
            node_id = b"node%04d" % number
            leases = [
                (lease.lease_id, lease.worker_id, lease.address)
                for lease in old.core.cluster.leases
                if lease.node.node_id == node_id and lease.lease_id in old.running
            ]
            actors = [
                (actor.spec.actor_id, actor.lease.lease_id)
                for actor in old.core.cluster.actors
                if actor.lease is not None and actor.lease.lease_id in old.running
            ]
            node = old.core.cluster.nodes.get(node_id)
            peer = self.world.connect("agent", node_id)
            self.world.agents[peer] = node_id
            gpus = len(node.devices) if node is not None else 0
            started = [old.running[lease_id] for lease_id, _worker, _address in leases]
            self.world.say(peer, registration(number, 2, gpus, leases=leases, actors=actors, started=started))
            self.nodes[number] = peer

    # ----------------------------------------------------------------------------------------------------- afterwards

    @invariant()
    def nothing_fits_that_waits(self) -> None:
        """Work conservation: no demand waits for what is free, unless that is promised to one that needs more."""
        for demand in self.world.core.cluster.demands.queues.waiting():
            wanted = wanted_of(demand.scheduling_class)
            for node in self.world.core.cluster.nodes:
                promise = self.world.core.cluster.reservations.on(node)
                if promise is None or getattr(promise.owner, "class_key", None) == demand.class_key:
                    assert not node.fits(wanted), f"{wanted} fits on {node.name} and waits"

    def teardown(self) -> None:
        """Once everybody has gone and all agents have answered, nothing is held any more."""
        for peer in [*self.workers, *self.clients.values()]:
            self.world.lose(peer)
        stranger = self.world.connect("client", job_id(77))
        for actor in list(self.world.core.cluster.actors):
            self.world.say(stranger, m.KillActor(1, actor.spec.actor_id))
        self.world.serve()
        self.world.wait(25)
        self.world.serve()
        statistics = self.world.core.statistics()
        assert (statistics.leases, statistics.demands, statistics.actors, statistics.jobs) == (0, 0, 0, 0)
        for node in self.world.core.cluster.nodes:
            assert node.pool.free == node.total
            assert all(use.free == UNITS_PER_ONE for use in node.devices.values())


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(max_examples=80, stateful_step_count=60)


def test_decisions_do_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    """The same events give the same actions, byte for byte, whatever the order of sets and hashes would be."""
    script = tmp_path / "transcript.py"
    script.write_text(_TRANSCRIPT)
    root = str(Path(__file__).parents[2])
    outputs = [
        subprocess.run(
            [sys.executable, str(script)],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": root},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert len(outputs[0]) > 5_000
    assert outputs[0] == outputs[1]


_TRANSCRIPT = """
import random
from atoll.protocol import messages as m
from atoll.scheduler.core.supply import wanted_of
from tests.scheduler.world import World
world = World()
chance = random.Random(7)
agents = [world.agent(1, 3, 2), world.agent(2, 4, 1)]
clients = [world.client(number) for number in (1, 2, 3)]
shapes = [{"CPU": 1}, {"CPU": 0.5, "GPU": 0.5}, {"GPU": 1}, {"CPU": 2, "memory": 2**30}]
for turn in range(200):
    client = chance.choice(clients)
    world.say(client, m.SetDemand(chance.randint(1, 5), world.shape(**chance.choice(shapes)), chance.randint(0, 4)))
    if chance.random() < 0.1:
        world.say(client, m.CreateActor(1, b"", world.actor_spec(turn, shape=world.shape(CPU=0.5))))
    world.serve()
    for lease in list(world.core.cluster.leases):
        if lease.record is not None and chance.random() < 0.3:
            world.say(lease.record.peer, m.ReturnLease(lease.lease_id))
    world.wait(0.02)
for action in world.actions:
    print(action)
"""
