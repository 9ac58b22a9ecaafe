"""SIMULATED sessions that want more than there is, for studies of who gets what: the three real cores, no faults.

Study(nodes, seed) ─ add(Wish(...)) ... ─ run(seconds) ─▶ Use of each session: held over time, waited
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import msgspec

from atoll.resources import UNITS_PER_ONE
from atoll.scheduler.policy.fair_share import Rules
from tests.sim.checkers import Names
from tests.sim.options import CALM, MIB, NodeShape, Options
from tests.sim.programs import Code, Sleep
from tests.sim.values import Plan
from tests.sim.world import DriverProcess, World

SAMPLE_S = 0.05


class Wish(msgspec.Struct, frozen=True):
    """What one session does.

    Attributes:
        duration_s: The shortest and the longest of its tasks.
        lanes: So many it has under way at a time, each followed by the next.
        thinking_s: The shortest and the longest pause after each.
        cpus, gpus: What a task takes.
        begins_s: When the session comes.
        weight: What it asks for beside others.
        tasks: It ends after so many in each lane; 0 for never.
        holding: It takes what its tasks need once, for the whole session, also while it thinks; needs `tasks`.
    """

    duration_s: tuple[float, float]
    lanes: int = 1
    thinking_s: tuple[float, float] = (0.0, 0.0)
    cpus: float = 1.0
    gpus: float = 0.0
    begins_s: float = 0.0
    weight: float = 1.0
    tasks: int = 0
    holding: bool = False


class Use(msgspec.Struct):
    """What became of one session's wish.

    Attributes:
        held: Seconds of each resource that it held, within the time that is looked at.
        over_time: The same so far, at the end of each second.
        waited_s: For each task, how much longer it took than it ran.
        finished: Tasks that ended.
        ended_s: When they did.
    """

    held: dict[str, float] = msgspec.field(default_factory=dict)
    over_time: list[float] = msgspec.field(default_factory=list)
    waited_s: list[float] = msgspec.field(default_factory=list)
    finished: int = 0
    ended_s: list[float] = msgspec.field(default_factory=list)


class Study:
    """A cluster and its sessions.

    Args:
        nodes: What each node has.
        seed: Of durations and delays.
        rules: Of shares.
    """

    def __init__(self, nodes: Sequence[NodeShape], seed: int, rules: Rules = Rules()) -> None:  # noqa: B008 - a value
        hosts = [f"host{number}" for number in range(len(nodes))]
        options = Options(
            seed=seed,
            profile=CALM,
            hosts=hosts,
            nodes=dict(zip(hosts, nodes, strict=True)),
            store_bytes=512 * MIB,
            drivers=0,
            cells=0,
            faults=0,
            busy_s=0.0,
        )
        self.world = World(options)
        self.world.rules = rules
        self.world.names = Names(self.world)
        self.world.on_driver = self._began
        self._random = self.world.simulation.random_for("study")
        self._wishes: dict[str, Wish] = {}
        self.uses: dict[str, Use] = {}
        self._counted_from = 0.0
        self.world.start_scheduler()
        for host in hosts:
            self.world.start_agent(host)
        self._sample()

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return self.world.simulation.clock.now - 1000.0

    def add(self, wish: Wish) -> Use:
        """Let a session come. Returns what becomes of it."""
        name = f"driver-{len(self._wishes) + 1}"
        self._wishes[name] = wish
        self.uses[name] = Use()
        self.world.weights[name] = wish.weight
        begins_s = max(0.0, 0.2 + wish.begins_s - self.now)
        start = partial(self.world.start_driver, self.world.scheduler_host)
        self.world.simulation.after(begins_s, "session begins", start)
        return self.uses[name]

    def run(self, seconds: float, count_from_s: float = 0.0) -> None:
        """Let time pass.

        Args:
            seconds: So long.
            count_from_s: What is held is counted from here on.
        """
        self._counted_from = count_from_s
        self.world.simulation.run_for(seconds)

    def _sample(self) -> None:
        scheduler = self.world.scheduler
        assert scheduler is not None, "nothing breaks in a study"
        whole_second = int(self.now / SAMPLE_S) % int(1 / SAMPLE_S) == 0
        for job in scheduler.core.cluster.jobs:
            use = self.uses[job.name]
            if self.now >= self._counted_from:
                for name, units in job.used.items():
                    use.held[name] = use.held.get(name, 0.0) + units / UNITS_PER_ONE * SAMPLE_S
        if whole_second:
            for use in self.uses.values():
                use.over_time.append(use.held.get("GPU", use.held.get("CPU", 0.0)))
        self.world.simulation.after(SAMPLE_S, "look", self._sample)

    # -------------------------------------------------------------------------------------------------- sessions

    def _began(self, driver: DriverProcess) -> None:
        wish = self._wishes[driver.name]
        for number in range(wish.lanes):
            lane = self._holding if wish.holding else self._lane
            driver.run(f"lane {number}", lane(driver, wish, self.uses[driver.name]))

    def _holding(self, driver: DriverProcess, wish: Wish, use: Use) -> Code:
        """Everything in one task, with the pauses."""
        parts = [
            (self._random.uniform(*wish.duration_s), self._random.uniform(*wish.thinking_s)) for _ in range(wish.tasks)
        ]
        plan = Plan(
            duration_s=sum(map(sum, parts)),
            cpus=round(wish.cpus * UNITS_PER_ONE),
            gpus=round(wish.gpus * UNITS_PER_ONE),
        )
        asked = self.now
        (outcome,) = yield from driver.get(driver.submit(plan))
        assert not outcome.error, f"nothing fails in a study: {outcome}"
        began = at = self.now - plan.duration_s
        for number, (runs_s, thinks_s) in enumerate(parts):
            use.waited_s.append(max(0.0, began - asked) if not number else 0.0)
            use.ended_s.append(at + runs_s)
            at += runs_s + thinks_s
        use.finished = len(parts)

    def _lane(self, driver: DriverProcess, wish: Wish, use: Use) -> Code:
        cpus, gpus = round(wish.cpus * UNITS_PER_ONE), round(wish.gpus * UNITS_PER_ONE)
        done = 0
        while not wish.tasks or done < wish.tasks:
            plan = Plan(duration_s=self._random.uniform(*wish.duration_s), cpus=cpus, gpus=gpus)
            began = self.now
            (outcome,) = yield from driver.get(driver.submit(plan))
            assert not outcome.error, f"nothing fails in a study: {outcome}"
            done += 1
            use.finished += 1
            use.ended_s.append(self.now)
            use.waited_s.append(max(0.0, self.now - began - plan.duration_s))
            if wish.thinking_s[1]:
                yield Sleep(self._random.uniform(*wish.thinking_s))


def jain(amounts: Sequence[float]) -> float:
    """Return Jain's index of fairness: 1 if all have the same, 1/n if one has everything."""
    return sum(amounts) ** 2 / (len(amounts) * sum(amount * amount for amount in amounts))
