"""The command `atoll`: what it prints, and its exit codes."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from atoll import cli
from atoll.log_files import LogFollower, log_files
from atoll.plain_text import Painter, counted, duration, printable, table
from atoll.protocol.cluster_file import default_path
from atoll.protocol.state import (
    ActorState,
    ClusterState,
    DemandState,
    DeviceState,
    JobState,
    LeaseState,
    NameState,
    NodeState,
    ObjectState,
)
from atoll.status import status_lines
from tests.lifecycle.conftest import cluster_file

GIB = 2**30


def state(**changes: object) -> ClusterState:
    device = DeviceState("SIM-GPU-0", 0, "Simulated GPU", True, 16 * GIB, GIB, 0, 50.0, 1.0, ["fit"])
    node = NodeState(
        "aa", "here", 7, {"CPU": 2.0, "GPU": 1.0}, {"CPU": 0.5}, 12.0, 4 * GIB, 16 * GIB, GIB, 5 * GIB, [device]
    )
    lease = LeaseState(
        1, "aa", "bb", 11, "j1", "fit", {"CPU": 1.0, "GPU": 1.0}, [0], "", "fit", False, 900.0, 99.0, GIB // 2
    )
    actor = ActorState("cc", "llm", "", "Llm", "alive", 0, "aa", 12, "j1", {"CPU": 0.5}, [], "", 940.0)
    values: dict[str, object] = {
        "cluster_id": "0123abcd",
        "version": "0.1.0",
        "now": 1000.0,
        "started": 400.0,
        "simulated_devices": True,
        "nodes": [node],
        "leases": [lease],
        "actors": [actor],
        "jobs": [JobState("j1", "flights.ipynb", "kernel", 5, "", True, 700.0, 2, 3)],
        "demands": [DemandState("j1", "train", {"GPU": 1.0}, 3, 995.0, "the GPU is held by fit")],
        "objects": [ObjectState("0f" * 20, "aa", "flights", "ff", 40 * 2**20, 1)],
        "names": [NameState("flights", "ready", 40 * 2**20, 880.0)],
        "spans": [],
    }
    return ClusterState(**{**values, **changes})  # type: ignore[arg-type]


def test_status_says_what_of_the_store_is_on_disk() -> None:
    node = msgspec.structs.replace(state().nodes[0], store_spilled_bytes=3 * GIB)
    lines = status_lines(cluster_file(Path("/nowhere")), state(nodes=[node]), Painter(io.StringIO()))
    assert any("1 GiB / 5 GiB + 3 GiB on disk" in line for line in lines)


def test_status_shows_everything_aligned() -> None:
    lines = list(status_lines(cluster_file(Path("/nowhere")), state(), Painter(io.StringIO())))
    assert lines == [
        "Atoll 0.1.0 on here  up 10 min, started by a test, cluster 0123abcd",
        "Its GPUs are simulated (ATOLL_SIMULATED_GPUS): they can be held, and compute nothing.",
        "",
        "1 node",
        "  NODE  FREE CPUS  BUSY          MEMORY          STORE  PID",
        "  here   0.5 of 2  12 %  4 GiB / 16 GiB  1 GiB / 5 GiB    7",
        "",
        "1 GPU",
        "  GPU     MODEL           HELD  BUSY          MEMORY  HELD BY",
        "  here:0  Simulated GPU  100 %  50 %  1 GiB / 16 GiB  fit",
        "",
        "1 job",
        "  JOB            KIND    STATE      SINCE  WORKERS  WAITING  PID",
        "  flights.ipynb  kernel  connected  5 min        2        3    5",
        "",
        "1 worker in use",
        "  RUNS  STATE    JOB            ACTOR  HOLDS         GPUS   CPU   MEMORY  PID",
        "  fit   running  flights.ipynb  -      1 CPU, 1 GPU  0     99 %  512 MiB   11",
        "",
        "1 actor",
        "  ACTOR  CLASS  STATE  HOLDS    GPUS    AGE  PID  CAUSE",
        "  llm    Llm    alive  0.5 CPU  -     1 min   12  -",
        "",
        "3 requests waiting",
        "  WAITS  COUNT  JOB            FOR    SINCE  BECAUSE",
        "  train      3  flights.ipynb  1 GPU    5 s  the GPU is held by fit",
        "",
        "1 name in the cache",
        "  NAME     STATE    SIZE    AGE",
        "  flights  ready  40 MiB  2 min",
        "",
        "1 object in shared memory, 40 MiB",
        "  OBJECT            NAME       SIZE  PINS",
        "  0f0f0f0f0f0f0f0f  flights  40 MiB     1",
    ]


@pytest.mark.parametrize(("wanted", "said"), [(False, "0, 2 given up"), (True, "0, 2 wanted back")])
def test_status_shows_what_an_idle_actor_has_given_up(wanted: bool, said: str) -> None:
    actor = msgspec.structs.replace(state().actors[0], away=[0, 2], wanted_back=wanted)
    lease = msgspec.structs.replace(state().leases[0], devices=[], away=[0, 2], wanted_back=wanted)
    shown = status_lines(cluster_file(Path("/nowhere")), state(actors=[actor], leases=[lease]), Painter(io.StringIO()))
    assert sum(said in line for line in shown) == 2


def test_status_of_an_empty_cluster_is_short() -> None:
    lists = ["nodes", "leases", "actors", "jobs", "demands", "objects", "names"]
    empty: dict[str, object] = {name: [] for name in lists}
    lines = list(
        status_lines(cluster_file(Path("/nowhere")), state(**empty, simulated_devices=False), Painter(io.StringIO()))
    )
    assert len(lines) == 1


def test_s17_a_hostile_name_stays_on_its_line() -> None:
    hostile = JobState("j1", "a\n\x1b[2J\x07b\u202e", "kernel", 5, "", True, 700.0, 0, 0)
    text = "\n".join(
        status_lines(cluster_file(Path("/x")), state(jobs=[hostile], leases=[], demands=[]), Painter(io.StringIO()))
    )
    assert "a��[2J�b�" in text
    assert "\x1b" not in text


def test_colours_are_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    assert Painter(stream)("text", "red") == "text"
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert Painter(stream)("text", "red") == "\x1b[31mtext\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert Painter(stream)("text", "red") == "text"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 ms"), (0.85, "850 ms"), (12, "12 s"), (200, "3 min"), (7500, "2 h 5 min"), (400_000, "4 d")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_words() -> None:
    assert [counted(0, "node"), counted(1, "node"), counted(2, "node")] == ["0 nodes", "1 node", "2 nodes"]
    assert printable("x" * 100, 5) == "xxxx…"
    assert table(["A", ">B"], [["long name", "1"], ["b", "22"]], indent=0) == [
        "A           B",
        "long name   1",
        "b          22",
    ]


def test_exit_codes_without_a_cluster(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status"]) == 3
    assert cli.main(["logs"]) == 3
    assert "`atoll up` starts one" in capsys.readouterr().err
    assert cli.main(["down"]) == 0
    assert capsys.readouterr().out == "no cluster runs\n"
    with pytest.raises(SystemExit, match="2"):
        cli.main(["nonsense"])


def test_an_error_is_one_line(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runtime.chmod(0o777)
    default_path().touch(0o600)
    assert cli.main(["status"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("atoll: ")
    assert error.count("\n") == 1
    runtime.chmod(0o700)
    assert cli.main(["up", "--linger", "-1"]) == 1
    assert "--linger -1" in capsys.readouterr().err


@pytest.mark.processes
class TestCommand:
    """The command as a process, with small daemons."""

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        starter = (
            "import sys; from atoll.client import daemons; daemons.MODULES.update("
            "scheduler='small_scheduler', agent='small_agent'); from atoll.cli import main; sys.exit(main())"
        )
        return subprocess.run([sys.executable, "-c", starter, *arguments], text=True, capture_output=True, timeout=30)

    def test_up_and_down(self, small_daemons: Path) -> None:
        up = self.run("up")
        assert up.returncode == 0, up.stderr
        assert up.stdout.startswith("started in ")
        again = self.run("up")
        assert again.returncode == 0
        assert "runs already" in again.stdout
        assert "started by atoll up" in again.stdout
        assert self.run("logs", "-n", "3").returncode == 0
        down = self.run("down")
        assert down.returncode == 0, down.stderr
        assert down.stdout.startswith("stopped cluster ")
        assert not default_path().exists()

    def test_a_failed_start(self, small_daemons: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SMALL_DAEMON_FAULT", "scheduler:crash")
        up = self.run("up")
        assert up.returncode == 1
        assert "made of cheese" in up.stderr
        assert up.stdout == ""

    def test_up_in_the_foreground_ends_with_a_signal(self, small_daemons: Path) -> None:
        starter = (
            "import sys; from atoll.client import daemons; daemons.MODULES.update("
            "scheduler='small_scheduler', agent='small_agent'); from atoll.cli import main; sys.exit(main())"
        )
        with subprocess.Popen(
            [sys.executable, "-c", starter, "up", "--foreground"], text=True, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("started in ")
            assert default_path().exists()
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        assert not default_path().exists()


class TestLogs:
    """Following files that grow, rotate and go."""

    def test_the_end_then_what_is_new(self, tmp_path: Path) -> None:
        file = tmp_path / "agent.log"
        file.write_text("1\n2\n3\n4")
        follower = LogFollower(lambda: log_files(tmp_path, "agent"), 2)
        assert list(follower.read()) == ["2", "3"]
        with file.open("a") as log:
            log.write("!\n5\n")
        assert list(follower.read()) == ["4!", "5"]
        assert list(follower.read()) == []
        follower.close()

    def test_a_rotated_file_is_read_to_its_end(self, tmp_path: Path) -> None:
        file = tmp_path / "agent.log"
        file.write_text("1\n")
        follower = LogFollower(lambda: log_files(tmp_path, "agent"), 10)
        assert list(follower.read()) == ["1"]
        with file.open("a") as log:
            log.write("2\n")
        file.rename(tmp_path / "agent.log.1")
        file.write_text("3\n")
        assert list(follower.read()) == ["2", "3"]
        file.unlink()
        assert list(follower.read()) == []
        file.write_text("4\n")
        assert list(follower.read()) == ["4"]
        follower.close()

    def test_a_file_that_was_cut_is_read_from_its_beginning(self, tmp_path: Path) -> None:
        file = tmp_path / "agent.log"
        file.write_text("a long line\n")
        follower = LogFollower(lambda: log_files(tmp_path, "agent"), 10)
        list(follower.read())
        os.truncate(file, 0)
        with file.open("a") as log:
            log.write("new\n")
        assert list(follower.read()) == ["new"]
        follower.close()

    def test_lines_of_several_files_say_whose_they_are(self, tmp_path: Path) -> None:
        (tmp_path / "scheduler.log").write_text("s\x1b\n")
        (tmp_path / "worker-1.log").write_text("w\n")
        follower = LogFollower(lambda: log_files(tmp_path, None), 10)
        assert list(follower.read()) == ["scheduler | s�", "worker-1  | w"]
        (tmp_path / "worker-2.log").write_text("later\n")
        assert list(follower.read()) == ["worker-2  | later"]
        follower.close()
        workers = LogFollower(lambda: log_files(tmp_path, "worker"), 0)
        assert list(workers.read()) == []
        workers.close()

    def test_a_huge_log_is_not_read_from_its_beginning(self, tmp_path: Path) -> None:
        with (tmp_path / "agent.log").open("wb") as log:
            log.truncate(2**42)  # a hole: nobody lives to see all of it read
            log.seek(0, os.SEEK_END)
            log.write(b"\n" + (b"y" * 99 + b"\n") * 5)
        follower = LogFollower(lambda: log_files(tmp_path, "agent"), 3)
        assert list(follower.read()) == ["y" * 99] * 3
        follower.close()
