"""Devices as a user meets them: a colleague's job, a failing GPU, a lost CUDA context. The GPUs are simulated."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import atoll
from atoll.cli import main
from atoll.client import launch
from atoll.client.current import current_session
from atoll.exceptions import TaskError
from atoll.protocol.state import DeviceState
from atoll.simulated_gpus import Script, ScriptedDevice, ScriptedLink, ScriptFile
from tests.patience import PATIENCE_S, eventually

BOX = Script(
    [ScriptedDevice("A100-SXM4-40GB", "40G") for _number in range(4)],
    [ScriptedLink((0, 2), "NV4"), ScriptedLink((1, 3), "NV4")],
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptFile]:
    directory = tmp_path_factory.mktemp("devices")
    script = ScriptFile(directory / "gpus.json")
    script.write(BOX)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATOLL_RUNTIME_DIR", str(directory / "run"))
        patch.setenv("ATOLL_NUM_CPUS", "4")
        patch.setenv("ATOLL_STORE_CAPACITY_BYTES", "64M")
        patch.setenv("ATOLL_SIMULATED_GPUS", str(script.path))
        running = launch.start_cluster(linger_s=None, started_by="tests")
        yield script
        atoll.shutdown()
        launch.stop_cluster(running)


@pytest.fixture(autouse=True)
def script(cluster: ScriptFile) -> Iterator[ScriptFile]:
    """The script, as it was; the session begins anew with each test."""
    cluster.write(BOX)
    yield cluster
    atoll.shutdown()


def devices() -> list[DeviceState]:
    return current_session().state().nodes[0].devices


@atoll.remote(num_gpus=1)
def where() -> tuple[str, int]:
    return os.environ["CUDA_VISIBLE_DEVICES"], os.getpid()


def test_several_devices_of_a_task_are_joined_by_links() -> None:
    uuids, _pid = atoll.get(where.options(num_gpus=2).remote(), timeout=PATIENCE_S)
    assert uuids in {"SIM-GPU-00000000,SIM-GPU-00000002", "SIM-GPU-00000001,SIM-GPU-00000003"}


def test_a_colleagues_job_on_a_gpu_means_another_and_the_reason_names_it(script: ScriptFile) -> None:
    for gpu in range(3):
        script.hold(gpu, 123 + gpu, "30G", user="guest")
    assert atoll.get(where.remote(), timeout=PATIENCE_S)[0] == "SIM-GPU-00000003"
    eventually(lambda: all(device.outsiders for device in devices()[:3]), "they are seen")
    assert devices()[0].outsiders == ["30 GiB: process 123 of guest (python)"]
    found = atoll.simulate(num_gpus=2)
    assert "GPU 0: 30 GiB of 40 GiB in use by process 123 of guest (python) outside of Atoll" in str(found)
    waiting = where.options(num_gpus=2).remote()
    script.write(BOX)
    assert len(atoll.get(waiting, timeout=PATIENCE_S)[0].split(",")) == 2


def test_r14_a_worker_whose_cuda_context_is_lost_is_replaced_and_its_error_is_the_users() -> None:
    @atoll.remote(num_gpus=1, max_retries=0)
    def lose() -> int:
        raise RuntimeError(f"CUDA error: an illegal memory access was encountered (pid {os.getpid()})")

    with pytest.raises(TaskError, match="illegal memory access") as raised:
        atoll.get(lose.remote(), timeout=PATIENCE_S)
    lost = int(str(raised.value).rpartition("(pid ")[2].partition(")")[0])
    assert atoll.get(where.remote(), timeout=PATIENCE_S)[1] != lost
    eventually(lambda: not Path(f"/proc/{lost}").exists(), "the worker is gone")
    assert not any(device.trouble for device in devices()), "it was the code's own fault"


def test_r14_a_gpu_that_fails_again_and_again_is_quarantined_shown_and_given_again_by_hand(
    script: ScriptFile, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ATOLL_RUNTIME_DIR", str(script.path.parent / "run"))
    atoll.get(where.remote(), timeout=PATIENCE_S)
    for _fault in range(3):
        script.fail(2, "XID 79: GPU has fallen off the bus")
    eventually(lambda: devices()[2].quarantined, "it is quarantined")
    assert "after 3 faults, the last: XID 79" in devices()[2].trouble
    assert main(["status"]) == 0
    shown = capsys.readouterr().out
    assert "quarantined after 3 faults" in shown
    assert "`atoll gpu release SIM-GPU-00000002` gives it again" in shown
    assert "GPU 2 is quarantined" in str(atoll.simulate(num_gpus=4))
    assert "gives it again now, otherwise it is in " in shown
    assert main(["gpu", "release", "SIM-GPU-00000002"]) == 0
    assert atoll.get(where.options(num_gpus=4).remote(), timeout=20), "it is given again, at once"
    assert main(["gpu", "release", "2"]) == 1
    assert "is not quarantined: nothing is wrong with it" in capsys.readouterr().err


def test_memory_that_stays_behind_keeps_its_gpu_from_the_next(script: ScriptFile) -> None:
    @atoll.remote(num_gpus=4)
    def leave(path: str) -> int:
        ScriptFile(path).hold(0, os.getpid(), "8G", outlives=True)
        return os.getpid()

    pid = atoll.get(leave.remote(str(script.path)), timeout=PATIENCE_S)
    after = where.options(num_gpus=4, num_cpus=2).remote()  # another lease, not that of the first
    assert atoll.wait([after], timeout=1.5)[0] == []
    assert not Path(f"/proc/{pid}").exists()
    script.hold(0, pid, "0")
    atoll.get(after, timeout=PATIENCE_S)
