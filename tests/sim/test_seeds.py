"""The whole cluster, 200 times: every seed keeps every promise, and the faults that it is about were injected."""

from __future__ import annotations

import gc
from collections import Counter

import pytest

from tests.sim.options import CALM, PROFILES
from tests.sim.scenario import run_seed

SEEDS = 200
A_BATCH = 20

FOUND = {
    5784: "an actor began on another node before its process on a lost node was gone",
    15191: "an actor waited for ever for a process that its node, when it was back, did not name as the actor's",
    12876: "a node that was not back yet after a restart of the scheduler was said to be gone",
}
"""Seeds beyond the first ones that have found a mistake, and which."""

faults: Counter[str] = Counter()
outcomes: Counter[str] = Counter()
profiles: Counter[str] = Counter()


@pytest.mark.parametrize("first", range(0, SEEDS, A_BATCH))
def test_r1_to_r6_r15_r17_r20_a_batch_of_seeds_keeps_every_promise(first: int) -> None:
    for seed in range(first, first + A_BATCH):
        result = run_seed(seed)
        faults.update(result.faults)
        outcomes.update(result.outcomes)
        profiles[result.profile] += 1
    gc.collect()


@pytest.mark.parametrize("seed", FOUND)
def test_a_seed_that_found_something_once_finds_it_no_more(seed: int) -> None:
    run_seed(seed)


def test_the_seeds_were_about_something() -> None:
    if sum(profiles.values()) < SEEDS:
        pytest.skip("only some of the seeds were run")
    assert set(profiles) == set(PROFILES)
    assert profiles[CALM] >= 20
    wanted = {"kill worker", "kill client", "kill agent", "kill zygote", "kill scheduler", "kill scheduler mid-step"}
    wanted |= {"drain node"}
    wanted |= {"pause", "drop direct", "drop uplink", "drop agent", "partition", "slow"}
    wanted |= {"fork fails", "segment fails", "zygote does not start", "torn record"}
    wanted |= {"disk full", "torn spill file"}
    missing = {kind for kind in wanted if not faults[kind]}
    assert not missing, f"never injected: {missing}; there were {dict(faults)}"
    errors = {"TaskError", "TaskCancelledError", "WorkerCrashedError", "ActorDiedError", "ActorUnavailableError"}
    errors |= {"ObjectReconstructionFailedError", "OwnerDiedError", "ObjectStoreFullError", "TaskUnschedulableError"}
    errors |= {"TaskPlacementGroupRemoved"}
    assert errors <= set(outcomes), f"never seen: {errors - set(outcomes)}"
    moving = {"object spilled", "object restored", "pins asked back", "object fetched"}
    assert moving <= set(outcomes), f"never done: {moving - set(outcomes)}"
    assert outcomes["value"] > sum(count for kind, count in outcomes.items() if kind in errors)
