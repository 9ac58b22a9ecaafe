"""Sessions that want all there is, on the three real cores: who gets how much over time, for several seeds."""

from __future__ import annotations

import pytest

from atoll.scheduler.policy.fair_share import Rules
from tests.sim.options import NodeShape
from tests.sim.study import Study, Wish, jain


@pytest.mark.parametrize("seed", [1, 2])
def test_four_greedy_sessions_get_the_same(seed: int) -> None:
    study = Study([NodeShape(8, 0)], seed)
    uses = [study.add(Wish((0.2, 1.5), lanes=12)) for _ in range(4)]
    study.run(20.0, count_from_s=1.0)
    shares = [use.held["CPU"] for use in uses]
    assert jain(shares) >= 0.95
    assert sum(shares) >= 0.95 * 8 * 19, "and nothing is left unused for it"


def test_who_has_twice_the_weight_gets_twice_as_much() -> None:
    weights = (1.0, 1.0, 2.0, 4.0)
    study = Study([NodeShape(8, 0)], 3)
    uses = [study.add(Wish((0.2, 1.5), lanes=12, weight=weight)) for weight in weights]
    study.run(30.0, count_from_s=1.0)
    assert jain([use.held["CPU"] / weight for use, weight in zip(uses, weights, strict=True)]) >= 0.95
    assert uses[3].held["CPU"] > 3 * uses[0].held["CPU"]


@pytest.mark.parametrize(("half_life_s", "fair"), [(300.0, True), (0.0, False)])
def test_long_tasks_on_a_device_do_not_get_more_of_it_over_time(half_life_s: float, *, fair: bool) -> None:
    """Turns are as long as their tasks: without a memory, who has the longest gets most."""
    study = Study([NodeShape(4, 1)], 4, Rules(half_life_s))
    uses = [study.add(Wish((15.0, 20.0), gpus=1, lanes=2))]
    uses += [study.add(Wish((0.5, 2.0), gpus=1, lanes=2)) for _ in range(3)]
    study.run(400.0)
    index = jain([use.held["GPU"] for use in uses])
    assert (index >= 0.95) is fair, index
    assert min(use.finished for use in uses) >= 4, "nobody starves either way"


def test_what_was_held_before_the_others_came_counts() -> None:
    study = Study([NodeShape(2, 1)], 5)
    early = study.add(Wish((2.0, 4.0), gpus=1, lanes=2))
    late = [study.add(Wish((2.0, 4.0), gpus=1, lanes=2, begins_s=100.0)) for _ in range(2)]
    study.run(250.0)
    assert max(use.held["GPU"] for use in late) > 60.0, "who had it for a hundred seconds waits for a while"
    assert jain([use.held["GPU"] for use in (early, *late)]) >= 0.95
