"""One seed is one run: in this process, and in another with other hashes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.scenario import run_seed

ROOT = Path(__file__).resolve().parents[2]
SEEDS = (3, 11, 44)


def digests_elsewhere(hash_seed: str) -> list[str]:
    """Run the seeds in a process of their own and return the digests of what happened."""
    program = "from tests.sim.scenario import run_seed\n" + "\n".join(
        f"print(run_seed({seed}).digest)" for seed in SEEDS
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_is_the_same_run_twice(seed: int) -> None:
    first, second = run_seed(seed), run_seed(seed)
    assert first == second
    assert first.steps > 300


def test_different_seeds_are_different_runs() -> None:
    assert len({run_seed(seed).digest for seed in SEEDS}) == len(SEEDS)


def test_hashes_do_not_matter() -> None:
    here = [run_seed(seed).digest for seed in SEEDS]
    assert digests_elsewhere("1") == here
    assert digests_elsewhere("4711") == here
