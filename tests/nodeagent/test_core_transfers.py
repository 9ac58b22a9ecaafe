"""Objects of other nodes, as the agent's core sees them: asked for, in pieces, with whatever may go wrong."""

from __future__ import annotations

import pytest

from atoll.nodeagent.core.events import AgentUnreachable, DialAgent, SendPiece, WritePiece
from atoll.protocol import messages as m
from atoll.protocol.machine import Peer
from tests.nodeagent.core_driver import MIB, SCHEDULER, CoreDriver

OTHER, THIRD = b"node-002", b"node-003"
OBJECT = b"client-9" + bytes(12)
MINE = b"client-1" + bytes(12)
SIZE = 5 * MIB + 1


@pytest.fixture
def driver() -> CoreDriver:
    return CoreDriver()


def ask(driver: CoreDriver, reader: Peer, request: int = 7) -> None:
    driver.message(reader, m.GetObject(request, OBJECT, OTHER))


def link(driver: CoreDriver, node: bytes = OTHER) -> Peer:
    """The scheduler says where the other agent is, and it is connected."""
    (locate,) = driver.said(m.LocateNode)
    driver.message(SCHEDULER, m.NodeLocated(locate.node_id, node, "/other.sock"))
    (dial,) = driver.take(DialAgent)
    assert (dial.node_id, dial.path) == (node, "/other.sock")
    return driver.connect("agent", node, attach=False)


def offer(driver: CoreDriver, agent: Peer, size: int = SIZE) -> None:
    (fetch,) = driver.said(m.FetchObject, agent)
    driver.message(agent, m.ObjectOffered(fetch.request, size, b"layout"))
    driver.make_segments()


def pieces(driver: CoreDriver, agent: Peer, objects: int = 1) -> int:
    """Send what is asked for until nothing more is; returns how many bytes that were."""
    sent = 0
    while asked := driver.said(m.ReadPiece, agent):
        assert len(asked) <= 4 * objects
        for piece in asked:
            driver.message(agent, m.ObjectPiece(piece.request, bytes(piece.size_bytes)))
            sent += piece.size_bytes
    return sent


def test_an_object_comes_in_pieces_and_goes_with_its_last_reader(driver: CoreDriver) -> None:
    reader, second = driver.connect(), driver.connect(process_id=b"client-2")
    ask(driver, reader)
    ask(driver, second)
    agent = link(driver)
    offer(driver, agent)
    assert pieces(driver, agent) == SIZE
    writes = driver.take(WritePiece)
    assert sum(len(write.data) for write in writes) == SIZE
    assert [write.offset for write in writes] == list(range(0, SIZE, MIB))
    for peer in (reader, second):
        (found,) = driver.said(m.ObjectFound, peer)
        assert (found.request, found.size_bytes, found.layout) == (7, SIZE, b"layout")
    assert driver.said(m.ReleaseObjects, agent) == [m.ReleaseObjects([OBJECT])]
    assert driver.core.transfers.received_bytes == SIZE
    driver.message(reader, m.ReleaseObjects([OBJECT]))
    driver.lose(second)
    assert driver.core.store.objects() == []
    ask(driver, reader, 8)
    assert len(driver.said(m.FetchObject, agent)) == 1, "it is asked for again, on the connection that there is"


def test_the_other_agent_gives_what_it_has_and_nothing_else(driver: CoreDriver) -> None:
    writer = driver.connect()
    driver.message(writer, m.CreateObject(1, MINE, SIZE))
    driver.make_segments()
    driver.message(writer, m.SealObject(2, MINE, b"layout", False))
    agent = driver.connect("agent", OTHER, attach=False)
    driver.message(agent, m.ReadPiece(3, MINE, 0, 10))
    assert "not pinned" in driver.said(m.Failed, agent)[0].text
    driver.message(agent, m.FetchObject(4, MINE))
    assert driver.said(m.ObjectOffered, agent) == [m.ObjectOffered(4, SIZE, b"layout")]
    driver.message(agent, m.ReadPiece(5, MINE, SIZE - 10, 10))
    (piece,) = driver.take(SendPiece)
    assert (piece.request, piece.offset, piece.size_bytes) == (5, SIZE - 10, 10)
    for offset, size in ((SIZE - 10, 11), (-1, 5), (0, 2 * MIB), (0, -5)):
        driver.message(agent, m.ReadPiece(6, MINE, offset, size))
        assert len(driver.said(m.Failed, agent)) == 1
    driver.message(agent, m.FetchObject(8, OBJECT))
    assert driver.said(m.Failed, agent)[0].kind == "ObjectLostError"
    driver.lose(agent)
    driver.message(writer, m.DeleteObjects([MINE]))
    assert driver.core.store.objects() == []


def test_an_agent_that_dies_in_the_middle_is_an_error_for_who_reads(driver: CoreDriver) -> None:
    reader = driver.connect()
    ask(driver, reader)
    agent = link(driver)
    offer(driver, agent)
    asked = driver.said(m.ReadPiece, agent)
    driver.message(agent, m.ObjectPiece(asked[0].request, bytes(asked[0].size_bytes)))
    driver.lose(agent)
    (failed,) = driver.said(m.Failed, reader)
    assert (failed.request, failed.kind) == (7, "ObjectLostError")
    assert driver.core.store.objects() == []
    assert driver.core.statistics().used_bytes == 0


def test_who_has_left_is_stood_in_for_by_another(driver: CoreDriver) -> None:
    reader = driver.connect()
    ask(driver, reader)
    agent = link(driver)
    driver.lose(agent)  # before it has answered: the scheduler knows who has its objects now
    third = link(driver, THIRD)
    offer(driver, third)
    assert pieces(driver, third) == SIZE
    assert len(driver.said(m.ObjectFound, reader)) == 1


@pytest.mark.parametrize("gone", [True, False])
def test_a_node_that_nobody_can_reach_is_an_error(driver: CoreDriver, gone: bool) -> None:
    reader = driver.connect()
    ask(driver, reader)
    for _attempt in range(1 if gone else 3):
        (locate,) = driver.said(m.LocateNode)
        driver.message(SCHEDULER, m.NodeLocated(locate.node_id, b"" if gone else OTHER, "" if gone else "/other.sock"))
        if not gone:
            driver.event(AgentUnreachable(OTHER, "nobody answers"))
    (failed,) = driver.said(m.Failed, reader)
    assert failed.kind == "ObjectLostError"
    assert not driver.said(m.LocateNode)


def test_a_piece_of_the_wrong_size_is_no_piece(driver: CoreDriver) -> None:
    reader = driver.connect()
    ask(driver, reader)
    agent = link(driver)
    offer(driver, agent)
    asked = driver.said(m.ReadPiece, agent)
    driver.message(agent, m.ObjectPiece(asked[0].request, b"short"))
    assert len(driver.said(m.Failed, reader)) == 1
    assert not driver.take(WritePiece)
    assert driver.said(m.ReleaseObjects, agent) == [m.ReleaseObjects([OBJECT])]


def test_what_is_too_large_for_this_store_says_so(driver: CoreDriver) -> None:
    reader = driver.connect()
    ask(driver, reader)
    agent = link(driver)
    offer(driver, agent, 65 * MIB)
    (failed,) = driver.said(m.Failed, reader)
    assert failed.kind == "ObjectStoreFullError"


def test_who_asks_no_more_has_nothing_fetched(driver: CoreDriver) -> None:
    reader = driver.connect()
    ask(driver, reader)
    agent = link(driver)
    driver.message(reader, m.ReleaseObjects([OBJECT]))
    assert driver.said(m.ReleaseObjects, agent) == [m.ReleaseObjects([OBJECT])]
    (fetch,) = driver.said(m.FetchObject, agent)
    driver.message(agent, m.ObjectOffered(fetch.request, SIZE, b"layout"))
    assert driver.core.store.objects() == []


def test_a_node_that_leaves_has_its_objects_kept(driver: CoreDriver) -> None:
    agent = driver.connect("agent", OTHER, attach=False)
    driver.message(agent, m.KeepObjects(3, [OBJECT, MINE], ["flights", ""]))
    for fetch in driver.said(m.FetchObject, agent):
        driver.message(agent, m.ObjectOffered(fetch.request, SIZE, b"layout"))
    driver.make_segments()
    pieces(driver, agent, objects=2)
    assert driver.said(m.ObjectsKept, agent) == [m.ObjectsKept(3, 2, 2 * SIZE, "")]
    driver.lose(agent)
    kept = {stored.object_id: stored for stored in driver.core.store.objects()}
    assert (kept[OBJECT].name, kept[OBJECT].owned, kept[MINE].name) == ("flights", True, None)


def test_what_waits_for_room_to_be_kept_goes_on_waiting_when_a_reader_gives_up(driver: CoreDriver) -> None:
    """Else the node that leaves would never hear that its objects are taken over."""
    writer, reader = driver.connect(), driver.connect(process_id=b"client-2")
    driver.message(writer, m.CreateObject(1, MINE, 62 * MIB))
    driver.make_segments()
    driver.message(writer, m.SealObject(2, MINE, b"layout", True))
    agent = driver.connect("agent", OTHER, attach=False)
    driver.message(agent, m.KeepObjects(3, [OBJECT], ["flights"]))
    offer(driver, agent)
    assert driver.core.store.waiting == 1, "there is no room for it yet"
    ask(driver, reader)
    driver.message(reader, m.ReleaseObjects([OBJECT]))
    driver.message(writer, m.DeleteObjects([MINE]))
    driver.message(writer, m.ReleaseObjects([MINE]))
    driver.make_segments()
    assert pieces(driver, agent) == SIZE
    assert driver.said(m.ObjectsKept, agent) == [m.ObjectsKept(3, 1, SIZE, "")]
    assert not driver.said(m.Failed, reader)


def test_few_are_taken_over_at_once(driver: CoreDriver) -> None:
    agent = driver.connect("agent", OTHER, attach=False)
    many = [b"client-9" + number.to_bytes(12) for number in range(11)]
    driver.message(agent, m.KeepObjects(3, many, [""] * len(many)))
    while fetches := driver.said(m.FetchObject, agent):
        assert len(fetches) <= 4
        for fetch in fetches:
            driver.message(agent, m.ObjectOffered(fetch.request, MIB, b"layout"))
        driver.make_segments()
        pieces(driver, agent, objects=4)
    assert driver.said(m.ObjectsKept, agent) == [m.ObjectsKept(3, 11, 11 * MIB, "")]


def test_a_node_that_dies_while_it_leaves_is_forgotten(driver: CoreDriver) -> None:
    agent = driver.connect("agent", OTHER, attach=False)
    many = [b"client-9" + number.to_bytes(12) for number in range(11)]
    driver.message(agent, m.KeepObjects(3, many, [""] * len(many)))
    for fetch in driver.said(m.FetchObject, agent)[:2]:
        driver.message(agent, m.ObjectOffered(fetch.request, MIB, b"layout"))
    driver.make_segments()
    driver.lose(agent)
    assert driver.core.store.objects() == []
    assert not driver.said(m.LocateNode), "nobody reads them"


def test_what_cannot_be_kept_is_said(driver: CoreDriver) -> None:
    agent = driver.connect("agent", OTHER, attach=False)
    driver.message(agent, m.KeepObjects(3, [OBJECT, MINE], ["", ""]))
    one, two = driver.said(m.FetchObject, agent)
    driver.message(agent, m.ObjectOffered(one.request, 65 * MIB, b"layout"))
    driver.message(agent, m.Failed(two.request, "ObjectLostError", "it is not there"))
    (kept,) = driver.said(m.ObjectsKept, agent)
    assert kept.objects == 0
    assert "can never fit" in kept.problem


def test_a_node_that_is_told_to_leave(driver: CoreDriver) -> None:
    driver.message(SCHEDULER, m.EvacuateObjects(OTHER))
    assert driver.said(m.ObjectsEvacuated) == [m.ObjectsEvacuated(0, 0, "")]
    writer = driver.connect()
    driver.message(writer, m.CreateObject(1, MINE, SIZE))
    driver.make_segments()
    driver.message(writer, m.SealObject(2, MINE, b"layout", False))
    driver.message(SCHEDULER, m.EvacuateObjects(OTHER))
    agent = link(driver)
    (keep,) = driver.said(m.KeepObjects, agent)
    assert keep.object_ids == [MINE]
    driver.message(agent, m.ObjectsKept(keep.request, 1, SIZE))
    assert driver.said(m.ObjectsEvacuated) == [m.ObjectsEvacuated(1, SIZE, "")]
    driver.message(SCHEDULER, m.EvacuateObjects(OTHER))
    driver.lose(agent)
    (problem,) = driver.said(m.ObjectsEvacuated)
    assert "is gone" in problem.problem
