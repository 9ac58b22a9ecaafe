"""What goes wrong, by seed: at some moments something is chosen and broken. All of it heals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from atoll.protocol.machine import Received
from atoll.protocol.messages import DeleteObjects, DrainNode
from atoll.testing import Machine
from tests.sim.options import PROFILES
from tests.sim.world import World

T = TypeVar("T")
AGENT_BACK_S = (0.05, 2.0)
SCHEDULER_BACK_S = (0.02, 3.0)


class Faults:
    """Breaks things.

    Args:
        world: What to break.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._simulation = world.simulation
        self._random = world.faults_random
        self._kinds: dict[str, Callable[[], None]] = {
            "kill worker": self._kill_worker,
            "kill client": self._kill_client,
            "kill agent": self._kill_agent,
            "kill zygote": self._kill_zygote,
            "drain node": self._drain_node,
            "lose object": self._lose_object,
            "fill host": self._fill_host,
            "kill scheduler": self._kill_scheduler,
            "kill scheduler mid-step": self._kill_scheduler_in_a_step,
            "pause worker": lambda: self._pause(world.workers()),
            "pause client": lambda: self._pause(world.drivers()),
            "pause agent": lambda: self._pause(list(world.agents.values())),
            "pause scheduler": lambda: self._pause([world.scheduler] if world.scheduler else []),
            "drop direct": lambda: self._drop("drop direct", ("client", "worker"), ("client", "worker")),
            # The connection to one's own agent is a local one: it never breaks while both live.
            "drop uplink": lambda: self._drop("drop uplink", ("client", "worker"), ("scheduler",)),
            "drop agent": lambda: self._drop("drop agent", ("agent",), ("scheduler",)),
            "slow": self._slow,
            "partition": lambda: self._partition(self._random.uniform(0.05, 5.0)),
            "partition for long": lambda: self._partition(self._random.uniform(16.0, 25.0)),
        }

    def plan(self) -> None:
        """Choose when what goes wrong."""
        options = self._world.options
        for _number in range(options.faults):
            kind = self._random.choice(PROFILES[options.profile])
            self._simulation.after(self._random.uniform(0.0, options.busy_s), kind, self._kinds[kind])

    def _choose(self, from_what: Sequence[T]) -> T | None:
        return self._random.choice(from_what) if from_what else None

    def _inject(self, kind: str, machine: Machine) -> None:
        self._simulation.inject(kind, machine.name)

    def _kill_worker(self) -> None:
        busy = [worker for worker in self._world.workers() if worker.running]
        worker = self._choose(busy or self._world.workers())
        if worker is not None:
            self._inject("kill worker", worker)
            if worker.actor_id:
                self._world.killed_actors[worker.actor_id] = None
            self._simulation.crash(worker)

    def _kill_client(self) -> None:
        driver = self._choose(self._world.drivers())
        if driver is not None:
            self._inject("kill client", driver)
            self._simulation.crash(driver)

    def _kill_zygote(self) -> None:
        agent = self._choose([agent for agent in self._world.agents.values() if agent.zygotes()])
        if agent is not None:
            self._inject("kill zygote", agent)
            agent.zygote_died(agent.zygotes()[0], was_ready=True)

    def _lose_object(self) -> None:
        """Take something out of a store that a task has returned and that nobody reads."""
        found = []
        for agent in self._world.agents.values():
            peers = {each.process_id: peer for peer, each in agent.core.store._attachments.items()}
            for stored in agent.core.store.objects():
                owner = self._world.processes.get(stored.owner)
                if owner is None or stored.owner not in peers or stored.name is not None or stored.pins:
                    continue
                if stored.sealed and stored.object_id in owner.core.objects.origins:
                    found.append((agent, peers[stored.owner], stored.object_id))
        chosen = self._choose(found)
        if chosen is not None:
            agent, peer, object_id = chosen
            self._inject("lose object", agent)
            self._world.lost_in_store[object_id] = None
            agent.deliver(Received(peer, DeleteObjects([object_id])))

    def _fill_host(self) -> None:
        agent = self._choose(list(self._world.agents.values()))
        if agent is not None:
            self._inject("fill host", agent)
            agent.fill(self._random.choice([0.1, 1.0, 4.0]))

    def _kill_agent(self) -> None:
        agent = self._choose(list(self._world.agents.values()))
        if agent is not None:
            self._inject("kill agent", agent)
            self._simulation.crash(agent)

    def _drain_node(self) -> None:
        """A user empties a node, or takes one that is being emptied into use again."""
        agent = self._choose(list(self._world.agents.values()))
        driver = self._choose(self._world.drivers())
        if agent is not None and driver is not None:
            self._inject("drain node", agent)
            deadline_s, undo = self._random.choice([0.0, 0.5, 2.0]), self._random.random() < 0.2
            driver.tell("scheduler", DrainNode(0, agent.process_id.hex(), deadline_s, undo))

    def _kill_scheduler(self) -> None:
        scheduler = self._world.scheduler
        if scheduler is not None and scheduler.alive:
            self._inject("kill scheduler", scheduler)
            self._simulation.crash(scheduler)

    def _kill_scheduler_in_a_step(self) -> None:
        scheduler = self._world.scheduler
        if scheduler is not None and scheduler.alive and scheduler.fuse is None:
            self._inject("kill scheduler mid-step", scheduler)
            if self._random.random() < 0.3:
                scheduler.dies_writing = True
            else:
                scheduler.fuse = self._random.randrange(6)

    def _pause(self, machines: Sequence[Machine]) -> None:
        machine = self._choose(machines)
        if machine is not None:
            self._inject("pause", machine)
            self._simulation.pause(machine, self._random.choice([0.01, 0.2, 1.0, 4.0]))

    def _drop(self, kind: str, dialling: tuple[str, ...], dialled: tuple[str, ...]) -> None:
        found = [
            (machine, peer, other)
            for machine, peer, other in self._simulation.network.connections()
            if machine.role in dialling and other.role in dialled
        ]
        chosen = self._choose(found)
        if chosen is None:
            return
        machine, peer, other = chosen
        self._inject(kind, machine)
        self._world.strain(machine, other)
        self._simulation.network.drop(machine, peer, apart_s=self._random.choice([0.0, 0.001, 0.3]))

    def _slow(self) -> None:
        one, other = self._random.choices(self._world.options.hosts, k=2)
        if one != other:
            self._simulation.inject("slow", f"{one}-{other}")
            self._simulation.network.slow(one, other, self._random.choice([10.0, 100.0]), 3.0)

    def _partition(self, duration_s: float) -> None:
        hosts = self._world.options.hosts
        if len(hosts) < 2:
            return
        alone = self._random.choice(hosts)
        others = [host for host in hosts if host != alone]
        self._simulation.inject("partition" if duration_s < 15 else "partition for long", alone)
        if duration_s > 15:
            self._world.strain_all()
        self._simulation.network.partition([alone], others, duration_s)
