"""Sessions that share what is scarce: the three real cores on a virtual clock, no faults (`tests/sim/study.py`)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from atoll.scheduler.policy.fair_share import Rules
from tests.sim.options import NodeShape
from tests.sim.study import Study, Use, Wish, jain

WEIGHTS = (1.0, 1.0, 2.0, 4.0)
CELLS, NOTEBOOKS = 12, 4
RUNS_S, THINKS_S = (10.0, 30.0), (90.0, 270.0)
"""A cell takes 20 s on average and is thought about for 180: the GPU of one notebook rests for 90 % of the time."""


class Fairness(NamedTuple):
    """Four greedy sessions.

    Attributes:
        held_s: Seconds of what is scarce that each held, over its weight.
        fairness: Jain's index of that.
        over_time: The same, each second.
    """

    held_s: list[float]
    fairness: float
    over_time: list[list[float]]


def _fairness(uses: Sequence[Use], resource: str, weights: Sequence[float] = (1.0,) * 4) -> Fairness:
    held = [use.held.get(resource, 0.0) / weight for use, weight in zip(uses, weights, strict=True)]
    return Fairness(held, jain(held), [use.over_time for use in uses])


def greedy(weights: Sequence[float] = (1.0,) * 4, seed: int = 1) -> Fairness:
    """Four sessions, each with more tasks than the eight CPUs could run."""
    study = Study([NodeShape(8, 0)], seed)
    uses = [study.add(Wish((0.2, 1.5), lanes=12, weight=weight)) for weight in weights]
    study.run(60.0)
    return _fairness(uses, "CPU", weights)


def long_and_short(half_life_s: float, seed: int = 1) -> Fairness:
    """One GPU; one session has tasks of 15 to 20 s, three have tasks of 0.5 to 2 s."""
    study = Study([NodeShape(4, 1)], seed, Rules(half_life_s))
    uses = [study.add(Wish((15.0, 20.0), gpus=1, lanes=2))]
    uses += [study.add(Wish((0.5, 2.0), gpus=1, lanes=2)) for _ in range(3)]
    study.run(600.0)
    return _fairness(uses, "GPU")


class Sharing(NamedTuple):
    """Four notebooks and one GPU.

    Attributes:
        median_s, longest_s: Waiting of a cell.
        last_s: When the last of the notebooks was done.
        ended_s: When each cell had ended.
        busy: The part of the GPU's time in which a cell ran, until the last was done.
    """

    median_s: float
    longest_s: float
    last_s: float
    ended_s: list[float]
    busy: float


def sharing(*, holding: bool, seed: int = 1) -> Sharing:
    """A lease for each cell, or one for each session.

    Args:
        holding: Whether each notebook takes the GPU once and keeps it until its last cell.
        seed: Of durations and pauses.
    """
    study = Study([NodeShape(8, 1)], seed)
    wish = Wish(RUNS_S, thinking_s=THINKS_S, gpus=1, tasks=CELLS, holding=holding)
    uses = [study.add(wish) for _ in range(NOTEBOOKS)]
    while any(use.finished < CELLS for use in uses):
        study.run(100.0)
    waited = [waited_s for use in uses for waited_s in use.waited_s]
    ended = sorted(ended_s for use in uses for ended_s in use.ended_s)
    busy_s = len(ended) * sum(RUNS_S) / 2
    return Sharing(statistics.median(waited), max(waited), ended[-1], ended, busy_s / ended[-1])
