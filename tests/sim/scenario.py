"""One run: a cluster comes up, works while things break, heals, and is looked at.

up ─▶ work and faults ─▶ nothing more breaks ─▶ everything ends, nothing waits, no lease is held idle
   ─▶ clients let go of their refs: nobody knows an object any more ─▶ clients leave: the stores are empty
"""

from __future__ import annotations

import gc
from collections import Counter
from functools import partial

import msgspec

from tests.sim.checkers import (
    Names,
    actors_lost,
    check_step,
    left_behind,
    names_lost,
    settled,
    uncollected,
    unfreed,
    unreleased,
)
from tests.sim.daemon_processes import AgentProcess
from tests.sim.faults import AGENT_BACK_S, SCHEDULER_BACK_S, Faults
from tests.sim.options import Options, options_for
from tests.sim.workload import Notebook
from tests.sim.world import DriverProcess, World

REST_WITHIN_S = 120.0
"""After the last fault everything must be at rest within this virtual time."""

CROWDED_REST_WITHIN_S = 400.0
"""In a store that is full each value may wait for its patience, and several times, one after the other."""

LET_GO_WITHIN_S = 15.0
"""Less than a worker may be idle: what one of them wrongly keeps must not be hidden by its end."""

FREE_WITHIN_S = 60.0


class Result(msgspec.Struct, frozen=True):
    """How a run went."""

    seed: int
    profile: str
    digest: str
    steps: int
    virtual_s: float
    tasks: int
    faults: Counter[str]
    outcomes: Counter[str]


class Scenario:
    """A run of one seed.

    Args:
        options: What the seed stands for.
    """

    def __init__(self, options: Options) -> None:
        repeat = f"make simulate SEED={options.seed}"
        self.world = World(options, repeat)
        self._options = options
        self._working: dict[str, Notebook] = {}
        world = self.world
        world.names = Names(world)
        world.on_driver = self._driver_started
        world.on_agent_ended = self._agent_ended
        world.simulation.checkers.append(partial(check_step, world))
        world.simulation.checkers.append(self._look_after_scheduler)
        self._random = world.simulation.random_for("scenario")
        self._restarting = False

    # ------------------------------------------------------------------------------------------------ the parts

    def _driver_started(self, driver: DriverProcess) -> None:
        notebook = Notebook(self.world, driver)
        self._working[driver.name] = notebook
        notebook.work(self._options.cells, self._worked)

    def _worked(self, notebook: Notebook) -> None:
        del self._working[notebook.driver.name]
        if self._random.random() < 0.3:  # a script that ends; the others stay, as notebooks do
            self.world.simulation.note(notebook.driver.name, "has done its work")
            notebook.driver.after(0.0, "ends", partial(self.world.simulation.stop, notebook.driver))

    def _look_after_scheduler(self, _touched: object) -> None:
        """What the Jupyter server does: a dead scheduler is started again."""
        scheduler = self.world.scheduler
        if scheduler is not None and not scheduler.alive and not self._restarting:
            self._restarting = True
            self.world.simulation.after(
                self._random.uniform(*SCHEDULER_BACK_S), "scheduler comes back", self._scheduler_back
            )

    def _scheduler_back(self) -> None:
        self._restarting = False
        self.world.start_scheduler()

    def _agent_ended(self, agent: AgentProcess) -> None:
        back_s = self._random.uniform(*AGENT_BACK_S)
        self.world.simulation.after(back_s, "agent comes back", partial(self.world.start_agent, agent.host))

    # ----------------------------------------------------------------------------------------------- the phases

    def run(self) -> Result:
        """Run it.

        Raises:
            SimulationFailure: Something that must never happen has happened.
        """
        simulation, options = self.world.simulation, self._options
        self._bring_up()
        Faults(self.world).plan()
        simulation.run_for(options.busy_s + 0.1)
        rest_within_s = CROWDED_REST_WITHIN_S if options.crowded else REST_WITHIN_S
        simulation.run(self._unrest, rest_within_s, "everything comes to rest")
        simulation.run(self._unreleased, LET_GO_WITHIN_S, "every ref is let go")
        for driver in self.world.drivers():
            simulation.stop(driver)
        simulation.run(self._unfreed, FREE_WITHIN_S, "all bytes are freed")
        simulation.run(lambda: names_lost(self.world) or actors_lost(self.world), 0.0, "what has a name is kept")
        simulation.note("scenario", f"outcomes {sorted(self.world.outcomes.items())}")
        return Result(
            options.seed,
            options.profile,
            simulation.transcript.digest(),
            simulation.steps,
            simulation.clock.now - 1000.0,
            len(self.world.submissions),
            simulation.faults,
            self.world.outcomes,
        )

    def _bring_up(self) -> None:
        world, hosts = self.world, self._options.hosts
        world.start_scheduler()
        for host in hosts:
            world.simulation.after(self._random.uniform(0.0, 0.05), "agent starts", partial(world.start_agent, host))
        for number in range(self._options.drivers):
            host = self._random.choice(hosts)
            early = self._random.uniform(0.0, 0.2) if not self._options.calm else 0.1
            later = self._random.uniform(0.0, 1.5) if number else 0.0
            world.simulation.after(early + later, "driver starts", partial(world.start_driver, host))

    def _unrest(self) -> str:
        working = [name for name, notebook in self._working.items() if notebook.driver.alive]
        if working or len(self.world.came) < self._options.drivers:
            return f"{', '.join(working)} at work; {settled(self.world)}"
        return settled(self.world)

    def _unreleased(self) -> str:
        return unreleased(self.world) or uncollected(self.world)

    def _unfreed(self) -> str:
        return unfreed(self.world) or left_behind(self.world)


def run_seed(seed: int) -> Result:
    """Run one seed."""
    return run_options(options_for(seed))


def run_options(options: Options) -> Result:
    """Run a world of one's own making."""
    # Refs must go when the last variable goes, and never by a collector that counts allocations of the whole process.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return Scenario(options).run()
    finally:
        if was_enabled:
            gc.enable()
