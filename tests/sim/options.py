"""What a seed makes of the cluster: how many hosts, how large, which work, which faults."""

from __future__ import annotations

import random

import msgspec

from tests.sim.values import Plan

MIB = 2**20

SMALL_STORES_MIB = (1, 2, 3, 3, 6, 16)
"""In the smallest the largest values never have room; in all but the largest two large ones have not."""

CALM = "calm"
PROFILES: dict[str, list[str]] = {
    CALM: [],
    "workers": ["kill worker", "kill worker", "pause worker", "kill zygote", "lose object", "lose object", "fill host"],
    "scheduler": ["kill scheduler", "kill scheduler mid-step", "pause scheduler"],
    "clients": ["kill client", "pause client", "kill worker"],
    "agents": ["kill agent", "pause agent", "kill worker", "lose object", "drain node", "drain node"],
    "network": ["drop direct", "drop uplink", "drop agent", "slow", "partition", "pause worker"],
    "everything": [
        "kill worker",
        "kill scheduler",
        "kill scheduler mid-step",
        "kill client",
        "kill agent",
        "drain node",
        "kill zygote",
        "lose object",
        "lose object",
        "fill host",
        "pause worker",
        "pause client",
        "pause agent",
        "pause scheduler",
        "drop direct",
        "drop uplink",
        "drop agent",
        "slow",
        "partition",
        "partition for long",
    ],
}


class NodeShape(msgspec.Struct, frozen=True):
    """What a node has."""

    cpus: int
    gpus: int


class Options(msgspec.Struct):
    """A world, before anything happens in it.

    Attributes:
        seed: Of everything.
        profile: Which faults there are: a key of `PROFILES`.
        hosts: Names.
        nodes: By host.
        store_bytes: What each store holds.
        drivers: How many notebooks and scripts come.
        cells: How many pieces of work each does.
        faults: How many faults are injected.
        busy_s: Faults are injected in so much time from the start.
    """

    seed: int
    profile: str
    hosts: list[str]
    nodes: dict[str, NodeShape]
    store_bytes: int
    drivers: int
    cells: int
    faults: int
    busy_s: float
    failing_writes: float = 0.0
    failing_zygotes: float = 0.0
    failing_forks: float = 0.0
    failing_segments: float = 0.0
    failing_disk: float = 0.0
    torn_files: float = 0.0

    @property
    def calm(self) -> bool:
        """Whether nothing goes wrong but what plans want to go wrong."""
        return self.profile == CALM

    @property
    def dependable(self) -> bool:
        """Whether what can succeed must: a scheduler may die and come back, and nobody else is to notice (claim R5)."""
        return self.profile in (CALM, "scheduler") and not self.failing_forks and not self.crowded

    @property
    def crowded(self) -> bool:
        """Whether the stores are so small that values wait for room, go to disk, and are refused."""
        return self.store_bytes < 100 * MIB

    def fits_everywhere(self, plan: Plan) -> bool:
        """Whether each node could run a plan."""
        return all(
            shape.cpus * 10_000 >= plan.cpus and shape.gpus * 10_000 >= plan.gpus for shape in self.nodes.values()
        ) and all(self.fits_everywhere(child) for child in plan.children)


def options_for(seed: int) -> Options:
    """Return what a seed stands for."""
    choose = random.Random(f"{seed}/options")
    profile = choose.choices(list(PROFILES), weights=[4, 2, 3, 2, 2, 3, 4])[0]
    hosts = [f"host{number}" for number in range(choose.choices([1, 2, 3, 4], weights=[10, 4, 2, 1])[0])]
    nodes = {host: NodeShape(choose.randint(1, 4), choose.choice([0, 0, 1, 2])) for host in hosts}
    small = profile != CALM and choose.random() < 0.3
    failing = profile == "everything" or (profile != CALM and choose.random() < 0.2)
    return Options(
        seed=seed,
        profile=profile,
        hosts=hosts,
        nodes=nodes,
        store_bytes=(random.Random(f"{seed}/store").choice(SMALL_STORES_MIB) if small else 512) * MIB,
        drivers=choose.choices([1, 2, 3, 4], weights=[2, 4, 3, 1])[0],
        cells=choose.randint(4, 10),
        faults=0 if profile == CALM else choose.randint(1, 10),
        busy_s=choose.choice([0.5, 2.0, 5.0]),
        failing_writes=0.05 if failing or small else 0.0,
        failing_zygotes=0.05 if failing else 0.0,
        failing_forks=0.03 if failing else 0.0,
        failing_segments=0.1 if failing else 0.0,
        failing_disk=0.2 if small else 0.0,
        torn_files=0.2 if small else 0.0,
    )
