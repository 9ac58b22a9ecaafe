"""`atoll doctor` finds each thing that goes wrong, says what to do, and touches nothing."""

from __future__ import annotations

import io
import os
import resource
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import msgspec
import pytest

from atoll import doctor
from atoll.client import daemons
from atoll.client.launch import start_cluster, stop_cluster
from atoll.doctor import NOTE, PROBLEM, Finding, examine, finding_lines, findings_json
from atoll.plain_text import Painter
from atoll.protocol.cluster_file import ClusterFile, default_path, write_cluster_file
from atoll.protocol.handshake import Versions, our_versions
from atoll.protocol.runtime_directory import host_name
from tests.lifecycle.conftest import cluster_file

pytestmark = pytest.mark.alone

Usage = namedtuple("Usage", "total used free")


def problems() -> list[Finding]:
    """Return the problems that are found, those of the machine that runs the tests left out."""
    return [found for found in examine(default_path()) if found.level == PROBLEM and found.area not in MACHINE]


MACHINE = ("disks", "memory", "GPUs", "Jupyter")


def one_problem() -> Finding:
    found = problems()
    assert len(found) == 1, found
    assert found[0].advice
    assert "\n" not in found[0].advice
    return found[0]


def test_nothing_is_wrong_where_nothing_runs(runtime: Path) -> None:
    assert problems() == []
    assert list(runtime.iterdir()) == []


def test_a_stale_connection_file(runtime: Path) -> None:
    write_cluster_file(default_path(), cluster_file(runtime / "atoll-here", scheduler_pid=os.getpid()))
    assert "stale" in one_problem().text
    assert default_path().exists()


def test_a_file_that_is_no_connection_file(runtime: Path) -> None:
    default_path().touch(0o600)
    found = one_problem()
    assert found.area == "connection file"
    assert f"remove {default_path()}" in found.advice


def test_wrong_permissions(runtime: Path) -> None:
    runtime.chmod(0o770)
    found = problems()
    assert found[0].area == "runtime directory"
    assert "chmod 0750" in found[0].text


def test_a_session_directory_of_no_cluster(runtime: Path) -> None:
    left = runtime / f"atoll-{host_name()}-0123abcd"
    for directory in (left, left / "logs", left / "workers"):
        directory.mkdir(mode=0o700)
    assert one_problem() == Finding(PROBLEM, "left over", f"{left} belongs to no cluster", f"run `rm -r {left}`")
    assert left.exists()


def test_a_bad_setting(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOLL_SIMULATED_GPUS", "some")
    assert "ATOLL_SIMULATED_GPUS='some'" in one_problem().text


def test_too_few_open_files(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (256, 4096))
    assert "ulimit -n 4096" in one_problem().advice


@pytest.mark.parametrize("place", ["/dev/shm", "runtime", "tmp"])
def test_a_full_disk(runtime: Path, monkeypatch: pytest.MonkeyPatch, place: str, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor.tempfile, "tempdir", str(tmp_path))
    full = {"/dev/shm": "/dev/shm", "runtime": str(runtime), "tmp": str(tmp_path)}[place]
    monkeypatch.setattr(
        doctor.shutil, "disk_usage", lambda path: Usage(2**40, 0, 2**20 if str(path) == full else 2**39)
    )
    found = [one for one in examine(default_path()) if one.area == "disks"]
    assert [(one.level, one.text) for one in found] == [(PROBLEM, f"{full} has 1 MiB left of 1 TiB")]


def test_low_memory(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Memory = namedtuple("Memory", "total available")
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: Memory(16 * 2**30, 2**30))
    assert [one.level for one in examine(default_path()) if one.area == "memory"] == [PROBLEM]
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: Memory(16 * 2**30, 3 * 2**30))
    monkeypatch.setenv("ATOLL_STORE_CAPACITY_BYTES", "4G")
    assert [one.level for one in examine(default_path()) if one.area == "memory"] == [doctor.OK, NOTE]


def test_a_gpu_without_its_driver(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pynvml

    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    monkeypatch.setattr(doctor, "_nvidia_devices", lambda: 2)
    (found,) = [one for one in examine(default_path()) if one.area == "GPUs"]
    assert found.level == PROBLEM
    assert "2 NVIDIA devices on the PCI bus" in found.text
    monkeypatch.setattr(doctor, "_nvidia_devices", lambda: 0)
    monkeypatch.setenv("ATOLL_SIMULATED_GPUS", "2")
    levels = [one.level for one in examine(default_path()) if one.area == "GPUs"]
    assert levels == [NOTE, doctor.OK]


def test_devices_are_counted_by_vendor_and_class(tmp_path: Path) -> None:
    for name, vendor, kind in [
        ("a", "0x10de", "0x030200"),
        ("b", "0x10de", "0x030000"),
        ("sound", "0x10de", "0x040300"),
        ("other", "0x8086", "0x030000"),
    ]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(vendor + "\n")
        (tmp_path / name / "class").write_text(kind + "\n")
    (tmp_path / "empty").mkdir()
    assert doctor._nvidia_devices(tmp_path) == 2


def test_findings_as_text_and_as_json() -> None:
    findings = [Finding("ok", "memory", "much"), Finding(PROBLEM, "GPUs", "gone\x1b[31m", "buy one")]
    lines = list(finding_lines(findings, Painter(io.StringIO())))
    assert lines == [
        "ok       memory  much",
        "PROBLEM  GPUs    gone�[31m",
        "                 → buy one",
        "",
        "1 problem found",
    ]
    assert msgspec.json.decode(findings_json(findings), type=list[Finding]) == findings


@pytest.mark.processes
class TestWithDaemons:
    @pytest.fixture
    def cluster(self, small_daemons: Path) -> ClusterFile:
        return start_cluster(linger_s=None, started_by="a test")

    @pytest.fixture(autouse=True)
    def stopped(self, cluster: ClusterFile):  # type: ignore[no-untyped-def]
        yield
        write_cluster_file(default_path(), cluster)
        stop_cluster(cluster)

    def test_nothing_is_wrong(self, cluster: ClusterFile) -> None:
        assert problems() == []

    def test_a_dead_daemon(self, cluster: ClusterFile) -> None:
        os.kill(cluster.agent_pid, signal.SIGKILL)
        daemons.wait_for_end([cluster.agent_pid], 5)
        found = one_problem()
        assert found.area == "agent"
        assert "atoll up" in found.advice

    def test_a_wrong_key(self, cluster: ClusterFile) -> None:
        write_cluster_file(default_path(), msgspec.structs.replace(cluster, key="00" * 32))
        found = problems()
        assert [one.area for one in found] == ["scheduler", "agent"]
        assert all("does not know this cluster's key" in one.text for one in found)

    @pytest.mark.parametrize("field", ["atoll", "python", "cloudpickle"])
    def test_other_versions(self, cluster: ClusterFile, monkeypatch: pytest.MonkeyPatch, field: str) -> None:
        other = msgspec.structs.replace(our_versions(), **{field: "9.9"})
        assert isinstance(other, Versions)
        monkeypatch.setattr("atoll.protocol.handshake.our_versions", lambda: other)
        found = problems()
        assert [one.area for one in found] == ["scheduler", "agent"]
        assert all(f"{field} 9.9" in one.text and "atoll down" in one.advice for one in found)

    def test_a_socket_open_to_others(self, cluster: ClusterFile) -> None:
        Path(cluster.agent_socket).chmod(0o666)
        found = one_problem()
        assert "agent.sock (srw-rw-rw-)" in found.text
        subprocess.run(found.advice.split("`")[1], shell=True, check=True)
        assert problems() == []

    def test_an_orphan(self, cluster: ClusterFile) -> None:
        default_path().unlink()
        found = problems()
        assert sorted(one.area for one in found) == ["orphans", "orphans"]
        assert {one.advice for one in found} == {
            f"run `kill {pid}`" for pid in (cluster.scheduler_pid, cluster.agent_pid)
        }


@pytest.mark.processes
def test_the_command_says_it_by_its_exit_code(runtime: Path) -> None:
    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "atoll", "doctor", "--json"], text=True, capture_output=True)

    default_path().touch(0o600)
    done = run()
    assert done.returncode == 1, done.stderr
    assert any(found["area"] == "connection file" for found in msgspec.json.decode(done.stdout))
