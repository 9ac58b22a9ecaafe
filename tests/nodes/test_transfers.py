"""Objects go from node to node, and a node that is drained leaves what others need with another one."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

import atoll
from atoll import cli
from atoll.client.session import Session
from atoll.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tests.nodes.conftest import StartNode
from tests.patience import PATIENCE_S

SIZE = 3 * 2**20 + 17


def on(node_id: str) -> dict[str, object]:
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False), "num_cpus": 1}


@atoll.remote
def make(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, SIZE, dtype=np.uint8)


@atoll.remote
def total(array: np.ndarray) -> int:
    return int(array.sum(dtype=np.int64))


def received(session: Session) -> dict[str, int]:
    return {node.name: node.received_bytes for node in session.state().nodes}


def expected(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, SIZE, dtype=np.uint8)


def test_an_object_is_read_on_another_node(session: Session, nodes: StartNode) -> None:
    two, three = nodes("two"), nodes("three")
    ref = make.options(**on(two)).remote(1)
    assert np.array_equal(atoll.get(ref), expected(1)), "here, from node two"
    want = int(expected(1).sum(dtype=np.int64))
    assert atoll.get(total.options(**on(three)).remote(ref)) == want, "from two to three"
    assert atoll.get(total.options(**on(two)).remote(ref)) == want, "where it is"
    put = atoll.put(expected(2))
    assert atoll.get(total.options(**on(three)).remote(put)) == int(expected(2).sum(dtype=np.int64)), "from here"


def test_a_node_that_is_drained_leaves_its_objects_behind(session: Session, nodes: StartNode) -> None:
    two = nodes("two")
    refs = [make.options(**on(two)).remote(seed) for seed in range(3)]
    atoll.wait(refs, num_returns=3, timeout=PATIENCE_S)
    done = atoll.drain("two", deadline_s=20.0, timeout=30.0)
    assert done.phase == "left", done
    assert "3 objects copied" in done.text
    assert [node["NodeName"] for node in atoll.nodes()] != ["two"]
    for seed, ref in enumerate(refs):
        assert np.array_equal(atoll.get(ref), expected(seed))


def test_what_an_owner_wants_no_more_goes_on_the_other_node(session: Session, nodes: StartNode) -> None:
    two = nodes("two")
    ref = make.options(**on(two)).remote(1)
    atoll.wait([ref], timeout=PATIENCE_S)
    del ref
    deadline = time.monotonic() + 10.0
    while any(each.node_id == two for each in session.state().objects) or not any(
        node.node_id == two for node in session.state().nodes
    ):
        assert time.monotonic() < deadline, session.state().objects
        time.sleep(0.05)


def test_an_object_of_a_node_that_died_is_computed_again(session: Session, nodes: StartNode) -> None:
    two = nodes("two")
    strategy = NodeAffinitySchedulingStrategy(two, soft=True)
    ref = make.options(scheduling_strategy=strategy).remote(5)
    atoll.wait([ref], timeout=PATIENCE_S)
    (pid,) = [node.pid for node in session.state().nodes if node.node_id == two]
    os.kill(pid, signal.SIGKILL)
    assert np.array_equal(atoll.get(ref, timeout=PATIENCE_S), expected(5))


def test_sizes_at_the_borders_of_pieces(session: Session, nodes: StartNode) -> None:
    two = nodes("two")
    for size in (200_000, 2**20 - 200, 2**20, 2**20 + 1, 9 * 2**20):
        ref = atoll.put(np.full(size, 7, np.uint8))
        assert atoll.get(total.options(**on(two)).remote(ref)) == 7 * size


def test_the_command_drains_a_node(session: Session, nodes: StartNode, capsys: pytest.CaptureFixture[str]) -> None:
    nodes("two")
    assert cli.main(["drain", "two"]) == 0
    assert "two is gone: 0 objects copied; 0 actors moved" in capsys.readouterr().out
    assert cli.main(["drain", "two"]) == cli.FAILED
    assert "no node is called 'two'" in capsys.readouterr().err
