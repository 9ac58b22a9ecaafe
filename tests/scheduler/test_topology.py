"""Which of several free devices go to one request: against all sets, on boxes as there are."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from atoll.protocol.values import Device
from atoll.scheduler.policy import topology


def box(distances: dict[tuple[int, int], int], numa_nodes: list[int]) -> list[Device]:
    devices = [Device(f"GPU-{number}", number, "GPU", 2**30, numa_node=node) for number, node in enumerate(numa_nodes)]
    for (one, other), apart in distances.items():
        devices[one].distances[f"GPU-{other}"] = devices[other].distances[f"GPU-{one}"] = apart
    return devices


def islands(*sizes: int, inside: int = 6, across: int = 50) -> list[Device]:
    """Devices in islands that are joined by NVLink, on a processor each."""
    nodes = [number for number, size in enumerate(sizes) for _device in range(size)]
    pairs = combinations(range(len(nodes)), 2)
    return box({(a, b): inside if nodes[a] == nodes[b] else across for a, b in pairs}, nodes)


def numbers(devices: list[Device], count: int) -> list[int]:
    return [devices[place].index for place in topology.choose(devices, count)]


def test_devices_of_one_request_share_an_island() -> None:
    box = islands(2, 2, 4)
    assert numbers(box, 2) == [0, 1]
    assert numbers(box[1:], 2) == [2, 3], "the first is held: its neighbour is left for small requests"
    assert numbers(box, 4) == [4, 5, 6, 7]
    assert numbers(box[:4] + box[5:], 3) == [5, 6, 7]


def test_a_single_device_is_taken_where_it_breaks_nothing() -> None:
    box = islands(2, 2)
    assert numbers(box, 1) == [0]
    assert numbers(box[1:], 1) == [1], "its partner is held already"
    assert numbers([box[0], *box[2:]], 1) == [0]


def test_more_links_are_nearer_and_processors_count_where_links_do_not() -> None:
    mesh = box({(0, 1): 9, (0, 2): 8, (1, 2): 9}, [0, 0, 0])
    assert numbers(mesh, 2) == [0, 2]
    switched = box(dict.fromkeys(combinations(range(4), 2), 1), [0, 1, 0, 1])
    assert numbers(switched, 2) == [0, 2]


def test_what_is_not_known_is_far_unless_the_processor_is_the_same() -> None:
    assert numbers(box({}, [0, 1, 1, 0]), 2) == [0, 3]
    assert numbers(box({}, [-1, -1, -1]), 2) == [0, 1], "nothing is known: by number"


@pytest.mark.parametrize("count", range(1, 9))
def test_on_eight_devices_no_set_is_better(count: int) -> None:
    for seed in range(25):
        chance = random.Random(f"{seed}/{count}")
        nodes = [chance.randrange(2) for _device in range(8)]
        kinds = [1, 6, 8, 10, 20, 40, 50]
        devices = box({pair: chance.choice(kinds) for pair in combinations(range(8), 2)}, nodes)
        chosen = topology.choose(devices, count)
        inside = [
            sum(devices[a].distances[devices[b].uuid] for a, b in combinations(each, 2))
            for each in combinations(range(8), count)
        ]
        mine = sum(devices[a].distances[devices[b].uuid] for a, b in combinations(chosen, 2))
        assert mine == min(inside)


def test_large_boxes_are_not_searched_wholly_and_still_found_well() -> None:
    devices = islands(8, 8, 8)
    assert numbers(devices, 8) == list(range(8))
    chance = random.Random(1)
    for _try in range(5):
        nodes = [number // 8 for number in range(16)]
        pairs = combinations(range(16), 2)
        devices = box({pair: chance.choice([1, 6, 10, 20, 50]) for pair in pairs}, nodes)
        chosen = topology.choose(devices, 6)
        best = min(topology.cost(devices, each)[0] for each in combinations(range(16), 6))
        assert topology.cost(devices, chosen)[0] <= 1.15 * best
