"""The scheduler's figures: small runs of what docs/scheduling.md is written from."""

from __future__ import annotations

import gc

import pytest

from benchmarks.scheduling import packing, throughput
from benchmarks.scheduling.packing import value_of


def test_small_clusters_are_used_nearly_as_well_as_by_brute_force() -> None:
    found = packing.run(8)
    assert found.of_best >= 0.95, found
    assert found.longest_s < found.longest_best_s, "and nothing waits for ever for it"


def test_brute_force_tries_everything() -> None:
    side = packing._Forced([(4, 0), (4, 2)], 0.5)
    _value, chosen = side._best(((4, 0), (4, 2)), ((1, (1, 0)), (2, (4, 0)), (3, (1, 2)), (4, (3, 0))))
    assert {key for key, _node in chosen} == {2, 3, 4}, "the first would be in the way of more"
    assert value_of([(4, 0), (1, 2), (3, 0)], [(4, 0), (4, 2)]) == 1.0


def test_placements_are_counted() -> None:
    found = throughput.run(10, 500)
    assert found.placements >= 500
    assert found.rate > 0


def test_what_is_over_is_freed_without_a_collection_of_cycles() -> None:
    cluster = throughput.Cluster(3, 1)
    cluster.settle()
    gc.collect()
    gc.disable()
    try:
        cluster.ask(100)
        for _ in range(10):
            cluster.give_back(100)
        assert cluster.placed > 100, "leases have begun and ended"
        assert gc.collect() == 0, "the daemon collects seldom, since there is nothing to collect"
    finally:
        gc.enable()


def test_placement_groups_are_made_and_removed() -> None:
    created_s, removed_s = throughput.groups()
    assert created_s > 0
    assert removed_s > 0


@pytest.mark.slow
def test_a_placement_costs_no_more_on_a_thousand_nodes_than_the_logarithm_allows() -> None:
    small, large = throughput.measure([10, 1000], 20_000, 3)
    assert small.rate / large.rate < 5.6
