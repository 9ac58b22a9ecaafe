"""Spill files on a real disk, and a real agent that spills: no byte is wrong, none is left, nobody waits in vain."""

from __future__ import annotations

import mmap
import os
import resource
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from atoll.client.connection import Connection
from atoll.ids import IdFactory
from atoll.nodeagent.spill import PIECE_BYTES, SpillError, SpillFiles
from atoll.protocol.messages import (
    CreateObject,
    DeleteObjects,
    Failed,
    GetObject,
    NodeSampled,
    ObjectCreated,
    ObjectFound,
    ReleaseObjects,
    SealObject,
)
from atoll.protocol.runtime_directory import remove_session_directory
from tests.nodeagent.running import RunningAgent, ask, check_that_it_answers_meanwhile
from tests.nodeagent.test_store_processes import create, put
from tests.patience import PATIENCE_S, eventually

Start = Callable[..., RunningAgent]
MIB = 2**20


@pytest.fixture
def session(tmp_path: Path) -> Path:
    directory = tmp_path / "atoll-here-01"
    directory.mkdir(mode=0o700)
    return directory


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = os.memfd_create("test", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, 4 * PIECE_BYTES)
    os.pwrite(descriptor, os.urandom(3 * PIECE_BYTES), 0)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def files(session: Path) -> Iterator[SpillFiles]:
    made = SpillFiles(session)
    made.prepare()
    yield made
    made.close()
    assert list(session.iterdir()) == []


SIZES = (PIECE_BYTES + 12345, 1, PIECE_BYTES)


def write(files: SpillFiles, memory: int) -> tuple[list[bytes], list[tuple[int, int, int]], list[bytes]]:
    """Three objects in a file; returns their checksums, where they came from, and their bytes."""
    pieces = [(memory, 100, SIZES[0]), (memory, 17, SIZES[1]), (memory, 2 * PIECE_BYTES - 3, SIZES[2])]
    return files.write(1, pieces), pieces, [os.pread(memory, size, offset) for _fd, offset, size in pieces]


def test_what_is_written_is_read_back(files: SpillFiles, memory: int, session: Path) -> None:
    checksums, pieces, contents = write(files, memory)
    os.pwrite(memory, bytes(4 * PIECE_BYTES), 0)
    offset = 0
    for checksum, (_fd, _offset, size), content in zip(checksums, pieces, contents, strict=True):
        files.read(1, offset, checksum, (memory, 33, size))
        assert os.pread(memory, size, 33) == content
        offset += size
    assert sorted(path.name for path in (session / "spill").iterdir()) == ["00000001.spill", "lock"]
    files.delete(1)
    assert [path.name for path in (session / "spill").iterdir()] == ["lock"]


def test_s10_spill_files_are_ours_alone_under_any_umask(session: Path, memory: int) -> None:
    before = os.umask(0)
    try:
        files = SpillFiles(session)
        files.prepare()
        write(files, memory)
    finally:
        os.umask(before)
    for path in (session / "spill").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE((session / "spill").stat().st_mode) == 0o700
    files.close()


@pytest.mark.parametrize("position", [0, PIECE_BYTES, SIZES[0] + 1 + PIECE_BYTES - 1])
def test_r10_a_flipped_bit_is_found(files: SpillFiles, memory: int, session: Path, position: int) -> None:
    checksums, pieces, _contents = write(files, memory)
    path = session / "spill" / "00000001.spill"
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)
    number = 0 if position < SIZES[0] else 2
    start = sum(SIZES[:number])
    with pytest.raises(SpillError, match="checksum"):
        files.read(1, start, checksums[number], (memory, 0, pieces[number][2]))
    files.read(1, SIZES[0], checksums[1], (memory, 0, 1))


def test_r10_a_torn_or_missing_file_is_found(files: SpillFiles, memory: int, session: Path) -> None:
    checksums, pieces, _contents = write(files, memory)
    path = session / "spill" / "00000001.spill"
    os.truncate(path, sum(SIZES) - 1)
    with pytest.raises(SpillError, match="torn"):
        files.read(1, SIZES[0] + 1, checksums[2], (memory, 0, pieces[2][2]))
    path.unlink()
    with pytest.raises(SpillError, match="cannot be read: No such file"):
        files.read(1, 0, checksums[0], (memory, 0, pieces[0][2]))


def test_r9_a_full_disk_leaves_nothing_of_the_file(session: Path) -> None:
    script = textwrap.dedent(
        """
        import os, resource, sys
        from pathlib import Path
        from atoll.nodeagent.spill import SpillError, SpillFiles
        memory = os.memfd_create("test")
        os.pwrite(memory, bytes(1 << 20), 0)
        files = SpillFiles(Path(sys.argv[1]))
        files.prepare()
        resource.setrlimit(resource.RLIMIT_FSIZE, (5 << 20, 5 << 20))
        try:
            files.write(1, [(memory, 0, 1 << 20)] * 6)
        except SpillError as error:
            print(error)
        print([path.name for path in (Path(sys.argv[1]) / "spill").iterdir()])
        print(len(files.write(2, [(memory, 0, 1 << 20)] * 4)))
        files.close()
        """
    )
    done = subprocess.run([sys.executable, "-c", script, str(session)], check=True, capture_output=True, text=True)
    assert done.stdout == f"the disk of {session}/spill is full (File too large)\n['lock']\n4\n"


def test_a_chosen_directory_goes_with_the_session_directory(session: Path, memory: int, tmp_path: Path) -> None:
    chosen = tmp_path / "large disk"
    chosen.mkdir()
    (chosen / "somebody's").write_text("stays")
    files = SpillFiles(session, chosen)
    files.prepare()
    write(files, memory)
    assert [path.name for path in chosen.glob("*/*.spill")] == ["00000001.spill"]
    remove_session_directory(session)
    assert [path.name for path in chosen.iterdir()] == ["somebody's"], "also when the agent cannot do it any more"
    files.close()


def test_what_an_earlier_agent_left_is_removed_and_what_another_uses_stays(session: Path, tmp_path: Path) -> None:
    chosen = tmp_path / "disk"
    living, dead = (chosen / f"atoll-spill-{name}" for name in ("living", "dead"))
    for directory in (living, dead):
        directory.mkdir(mode=0o700, parents=True)
        (directory / "00000001.spill").write_bytes(b"x")
        (directory / "lock").touch()
    with (living / "lock").open("w") as lock:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX)
        mine = chosen / f"atoll-spill-{session.name}"
        mine.mkdir(mode=0o700)
        (mine / "00000007.spill").write_bytes(b"x")
        files = SpillFiles(session, chosen)
        files.prepare()
        assert sorted(str(path.relative_to(chosen)) for path in chosen.rglob("*.spill")) == [
            "atoll-spill-living/00000001.spill"
        ]
        assert not dead.exists()
        files.close()


def test_a_planted_spill_directory_is_refused(session: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (session / "spill").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SpillError, match="no directory for spill files"):
        SpillFiles(session).prepare()


# ------------------------------------------------------------------------------------------------- with an agent


def spill_files(agent: RunningAgent) -> list[str]:
    return sorted(path.name for path in (agent.directory / "spill").glob("*.*"))  # without the lock


def read(connection: Connection, object_id: bytes) -> bytes | Failed:
    """Return an object's bytes, let go of it at once."""
    found = connection.request(GetObject(connection.next_request(), object_id), timeout_s=PATIENCE_S)
    if isinstance(found, Failed):
        return found
    assert isinstance(found, ObjectFound)
    assert found.has_descriptor
    descriptor = connection.take_descriptor()
    with mmap.mmap(descriptor, found.segment_bytes, prot=mmap.PROT_READ) as mapped:
        data = mapped[found.offset : found.offset + found.size_bytes]
    os.close(descriptor)
    connection.send(ReleaseObjects([object_id]))
    return data


def fill(agent: RunningAgent, writer: Connection, ids: IdFactory, count: int) -> dict[bytes, bytes]:
    contents: dict[bytes, bytes] = {}
    mappings: dict[int, mmap.mmap] = {}
    for number in range(count):
        object_id = ids.object_id()
        contents[object_id] = bytes([number + 1]) * (20 * MIB)
        created, mapped = create(writer, object_id, 20 * MIB)
        if mapped is not None:
            mappings[created.segment_id] = mapped
        mappings[created.segment_id][: 20 * MIB] = contents[object_id]
        writer.request(SealObject(writer.next_request(), object_id, b"layout", pin=False))
    for mapped in mappings.values():
        mapped.close()
    return contents


@pytest.mark.processes
def test_more_than_fits_is_spilled_and_comes_back(start_agent: Start) -> None:
    agent = start_agent(ATOLL_STORE_CAPACITY_BYTES="64M", ATOLL_STORE_PREPARED_BYTES="0")
    with agent.attached() as (writer, ids):
        contents = fill(agent, writer, ids, 6)
        assert len(spill_files(agent)) >= 3
        spilled = 0
        while spilled != 60 * MIB:  # 64 MiB hold three of the six
            spilled = agent.scheduler.expect(NodeSampled).sample.store_spilled_bytes
        for object_id, content in contents.items():
            with agent.attached() as (reader, _ids):  # a new process each time: it gets the descriptor
                assert read(reader, object_id) == content
        writer.send(DeleteObjects(list(contents)))
        writer.request(GetObject(writer.next_request(), ids.object_id()))
        eventually(lambda: not spill_files(agent), "files of objects that are gone are removed")
        fill(agent, writer, ids, 4)
        assert spill_files(agent)
    agent.end()
    assert not (agent.directory / "spill").exists()


@pytest.mark.processes
def test_r10_a_damaged_file_is_a_lost_object_and_never_wrong_bytes(start_agent: Start) -> None:
    agent = start_agent(ATOLL_STORE_CAPACITY_BYTES="64M", ATOLL_STORE_PREPARED_BYTES="0")
    with agent.attached() as (writer, ids):
        contents = fill(agent, writer, ids, 5)
        damaged = 0
        for path in (agent.directory / "spill").glob("*.spill"):
            with path.open("r+b") as file:
                file.seek(-100, os.SEEK_END)
                file.write(b"#")
            damaged += 1
        assert damaged >= 2
        lost = 0
        for object_id, content in contents.items():
            with agent.attached() as (reader, _ids):
                found = read(reader, object_id)
            if isinstance(found, Failed):
                lost += 1
                assert found.kind == "ObjectLostError"
                assert "checksum" in found.text
            else:
                assert found == content
        assert lost == damaged


@pytest.mark.processes
def test_r9_a_full_disk_is_an_error_within_ten_seconds_and_loses_nothing(start_agent: Start) -> None:
    agent = start_agent(ATOLL_STORE_CAPACITY_BYTES="64M", ATOLL_STORE_PREPARED_BYTES="0", ATOLL_STORE_PATIENCE_S="0.5")
    with agent.attached() as (writer, ids):
        contents = fill(agent, writer, ids, 3)
        # A file of that size cannot be written from now on; segments can still be made.
        resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE, (19 * MIB, resource.RLIM_INFINITY))
        refused = writer.request(CreateObject(writer.next_request(), ids.object_id(), 18 * MIB), timeout_s=PATIENCE_S)
        assert isinstance(refused, Failed)
        assert refused.kind == "ObjectStoreFullError"
        assert "is full" in refused.text
        assert spill_files(agent) == []
        for object_id, content in contents.items():
            with agent.attached() as (reader, _ids):
                assert read(reader, object_id) == content
        resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

        def is_there_room() -> bool:
            again = writer.request(CreateObject(writer.next_request(), ids.object_id(), 18 * MIB), timeout_s=PATIENCE_S)
            return isinstance(again, ObjectCreated)

        eventually(is_there_room, "there is room on the disk again")


@pytest.mark.processes
def test_r12_the_loop_goes_on_while_much_is_spilled_and_read_back(start_agent: Start) -> None:
    agent = start_agent(ATOLL_STORE_CAPACITY_BYTES="256M", ATOLL_STORE_PREPARED_BYTES="0")
    with agent.attached() as (writer, ids), agent.attached() as (other, other_ids):
        large = ids.object_id()
        put(writer, large, bytes(200 * MIB))
        usual = [ask(other, other_ids) for _number in range(50)]
        writer.send(CreateObject(writer.next_request(), ids.object_id(), 200 * MIB))
        waits = []
        while not writer.receive(timeout_s=0.0):
            waits.append(ask(other, other_ids))
    assert len(waits) > 10, "it was spilled before anything else could be asked"
    check_that_it_answers_meanwhile(waits, usual)
