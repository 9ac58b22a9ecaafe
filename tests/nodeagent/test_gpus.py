"""What knows devices: both providers keep one interface, and each its own side of it.

The NVIDIA provider runs on a fake of the binding (`recorded_nvml`); with a real driver it runs in `test_real_device`.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from atoll.config import settings
from atoll.nodeagent import device_errors
from atoll.nodeagent.core.events import DeviceFault
from atoll.nodeagent.gpus import NoDevices, Provider, find_provider
from atoll.nodeagent.monitor import Monitor
from atoll.nodeagent.nvml import NvmlProvider
from atoll.nodeagent.simulated_gpus import SimulatedProvider
from atoll.simulated_gpus import Script, ScriptedDevice, ScriptedLink, ScriptFile, read_script
from tests.nodeagent.recorded_nvml import GIB, RecordedNvml

BOARD = Script(
    [
        ScriptedDevice("A100-SXM4-40GB", "40G", numa_node=0),
        ScriptedDevice("A100-SXM4-40GB", "40G", numa_node=0),
        ScriptedDevice("A100-SXM4-40GB", "40G", numa_node=1),
        ScriptedDevice("A100-SXM4-40GB", "40G", numa_node=1, parts=["1g.5gb", "1g.5gb"]),
    ],
    [ScriptedLink((0, 1), "NV4"), ScriptedLink((2, 3), "NV4")],
)


@pytest.fixture
def script(tmp_path: Path) -> ScriptFile:
    file = ScriptFile(tmp_path / "gpus.json")
    file.write(BOARD)
    return file


class Bench:
    """A provider of the same board, and how to make things happen on it."""

    def __init__(self, provider: Provider, nvml: RecordedNvml | None, file: ScriptFile) -> None:
        self.provider, self.nvml, self.file = provider, nvml, file
        self.uuids = [device.uuid for device in provider.devices()]

    def hold(self, number: int, pid: int, size: int) -> None:
        if self.nvml is None:
            self.file.hold(number, pid, str(size))
        else:
            self.nvml.processes[f"GPU-{number}"] = [(pid, size)]
            self.nvml.used[f"GPU-{number}"] = size

    def fail(self, number: int, *, application: bool) -> None:
        if self.nvml is None:
            self.file.fail(number, "XID 31" if application else "XID 79", application=application)
        else:
            self.nvml.events.append((f"GPU-{number}", 8, 31 if application else 79))

    def lose(self, number: int) -> None:
        if self.nvml is None:
            with self.file.change() as script:
                script.unreadable.append(number)
        else:
            self.nvml.fails.add(f"GPU-{number}")


@pytest.fixture(params=["simulated", "nvml"])
def bench(request: pytest.FixtureRequest, script: ScriptFile) -> Iterator[Bench]:
    if request.param == "simulated":
        made = Bench(SimulatedProvider.scripted(script.path), None, script)
    else:
        nvml = RecordedNvml()
        made = Bench(NvmlProvider(nvml), nvml, script)
    yield made
    made.provider.close()


# -------------------------------------------------------------------------------------------- what both keep


def test_devices_are_told_the_same_at_every_call(bench: Bench) -> None:
    devices = bench.provider.devices()
    assert bench.provider.devices() == devices
    assert [device.index for device in devices] == [0, 1, 2, 3, 4]
    assert len({device.uuid for device in devices}) == 5
    assert [device.memory_bytes // GIB for device in devices] == [40, 40, 40, 5, 5]
    assert [device.numa_node for device in devices] == [0, 0, 1, 1, 1]
    assert all("A100" in device.model for device in devices)


def test_a_divided_device_is_offered_in_its_parts(bench: Bench) -> None:
    whole, part, other = (bench.provider.devices()[index] for index in (0, 3, 4))
    assert whole.parent == ""
    assert part.parent == other.parent != ""
    assert part.model.endswith("MIG 1g.5gb")
    assert part.parent not in bench.uuids


def test_distances_are_symmetric_and_tell_links_from_ways_over_the_processor(bench: Bench) -> None:
    first, second, third, part, other = bench.provider.devices()
    assert first.distances[second.uuid] == second.distances[first.uuid] == 6
    assert first.distances[third.uuid] == 50
    assert third.distances[part.uuid] == 6
    assert part.distances[other.uuid] == 0
    assert all(set(device.distances) == set(bench.uuids) - {device.uuid} for device in bench.provider.devices())


def test_a_reading_tells_who_holds_how_much(bench: Bench) -> None:
    bench.hold(0, os.getpid(), 3 * GIB)
    reading = bench.provider.read(bench.uuids[0])
    assert reading is not None
    assert reading.used_bytes == 3 * GIB
    assert reading.processes[os.getpid()].used_bytes == 3 * GIB
    assert reading.processes[os.getpid()].lives
    assert bench.provider.read("GPU-of-another-node") is None


def test_a_device_that_is_lost_cannot_be_read_and_the_others_can(bench: Bench) -> None:
    bench.lose(0)
    assert bench.provider.read(bench.uuids[0]) is None
    assert bench.provider.read(bench.uuids[1]) is not None


def test_r14_each_fault_is_told_once_and_laid_to_the_right_charge(bench: Bench) -> None:
    assert bench.provider.faults() == []
    bench.fail(1, application=False)
    bench.fail(1, application=True)
    found = bench.provider.faults()
    assert [(fault.uuid, fault.counts) for fault in found] == [(bench.uuids[1], True), (bench.uuids[1], False)]
    assert "XID 79" in found[0].text
    assert bench.provider.faults() == []


def test_a_fault_of_a_divided_device_is_one_of_each_part(bench: Bench) -> None:
    bench.fail(3, application=False)
    assert [fault.uuid for fault in bench.provider.faults()] == bench.uuids[3:]


# ----------------------------------------------------------------------------------------------- NVIDIA's own


def test_links_to_a_switch_join_all_devices() -> None:
    provider = NvmlProvider(RecordedNvml(switched=True, divided=False))
    assert all(set(device.distances.values()) == {6} for device in provider.devices())


def test_memory_errors_and_xids_are_named() -> None:
    nvml = RecordedNvml()
    provider = NvmlProvider(nvml)
    assert nvml.listened == [f"GPU-{number}" for number in range(4)]
    nvml.events = [("GPU-0", 2, 0), ("GPU-0", 8, 13)]
    assert provider.faults() == [
        DeviceFault("GPU-0", "uncorrectable memory error (ECC)", True),
        DeviceFault("GPU-0", "XID 13 (the program's fault)", False),
    ]
    provider.close()
    assert not nvml.is_open


def test_a_driver_that_tells_little_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EventSetCreate", "DeviceGetNvLinkState", "DeviceGetMigMode", "DeviceGetTopologyCommonAncestor"):
        monkeypatch.delattr(RecordedNvml, f"nvml{name}")
    provider = NvmlProvider(RecordedNvml())
    assert [device.distances for device in provider.devices()] == [{}] * 4
    assert provider.faults() == []


# -------------------------------------------------------------------------------------------- simulated ones


def test_simulated_devices_say_so(script: ScriptFile) -> None:
    plain = find_provider(settings({"ATOLL_SIMULATED_GPUS": "2"})).devices()
    assert [device.uuid for device in plain] == ["SIM-GPU-00000000", "SIM-GPU-00000001"]
    scripted = find_provider(settings({"ATOLL_SIMULATED_GPUS": str(script.path)})).devices()
    assert all(
        device.simulated and "Simulated" in device.model and "SIM-" in device.uuid for device in plain + scripted
    )


def test_the_driver_frees_the_memory_of_a_process_that_has_ended_unless_it_is_scripted_not_to(
    script: ScriptFile,
) -> None:
    provider = SimulatedProvider.scripted(script.path)
    uuid = provider.devices()[0].uuid
    process = subprocess.Popen(["sleep", "60"])
    script.hold(0, process.pid, "2G")
    assert provider.read(uuid).used_bytes == 2 * GIB  # type: ignore[union-attr]
    process.kill()
    process.wait()
    assert provider.read(uuid).used_bytes == 0  # type: ignore[union-attr]
    script.hold(0, process.pid, "2G", outlives=True)
    reading = provider.read(uuid)
    assert reading is not None
    assert (reading.used_bytes, reading.processes[process.pid].lives) == (2 * GIB, False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read"),
        ('{"devices": [{"memry": "1G"}]}', "memry"),
        ('{"links": [{"between": [0, 1], "kind": "NV0"}]}', "NV1 to NV9"),
    ],
)
def test_a_script_that_is_wrong_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "gpus.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=said) as raised:
        read_script(path)
    assert "\n" not in str(raised.value)


def test_a_script_that_becomes_wrong_leaves_what_was(script: ScriptFile, caplog: pytest.LogCaptureFixture) -> None:
    provider = SimulatedProvider.scripted(script.path)
    script.hold(0, os.getpid(), "1G")
    assert provider.read(provider.devices()[0].uuid).used_bytes == GIB  # type: ignore[union-attr]
    script.path.write_text("{")
    assert provider.read(provider.devices()[0].uuid).used_bytes == GIB  # type: ignore[union-attr]
    assert "cannot be read" in caplog.text


# --------------------------------------------------------------------------------------------- who stands there


def test_a_node_without_device_files_has_no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atoll.nodeagent.gpus._DEVICE_FILES", ("/nowhere",))
    assert isinstance(find_provider(settings({})), NoDevices)


def test_a_driver_that_does_not_answer_means_no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is a driver here")
    monkeypatch.setattr("atoll.nodeagent.gpus._DEVICE_FILES", ("/dev/null",))
    assert isinstance(find_provider(settings({})), NoDevices)


# -------------------------------------------------------------------------------------------------- the monitor


def test_memory_on_a_device_is_told_apart_by_process() -> None:
    provider = SimulatedProvider(1, 2**34)
    uuid = provider.devices()[0].uuid
    gone = subprocess.Popen(["true"])
    gone.wait()
    provider.hold(uuid, os.getpid(), 3000)
    provider.hold(uuid, gone.pid, 500)
    monitor = Monitor(provider)
    (mine,) = monitor.measure(1, [uuid], os.getpid()).devices
    assert (mine.used_bytes, mine.worker_bytes, mine.other_bytes) == (3500, 3000, 0)
    (others,) = monitor.measure(1, [uuid], 2**22).devices
    assert (others.worker_bytes, others.other_bytes) == (0, 3000)
    (sample,) = monitor.observe([(b"worker", os.getpid())]).devices
    assert (sample.memory_used_bytes, sample.foreign_memory_bytes) == (3500, 500)
    assert [outsider.pid for outsider in sample.outsiders] == [gone.pid]
    assert monitor.measure(1, ["GPU-lost"], 0).devices == []


def test_a_colleagues_processes_are_named(script: ScriptFile) -> None:
    script.hold(0, 123, "30G", user="guest")
    script.hold(0, 124, "2G", user="bob")
    sample = Monitor(SimulatedProvider.scripted(script.path)).observe([]).devices[0]
    assert sample.foreign_memory_bytes == 32 * GIB
    assert [str(outsider) for outsider in sample.outsiders] == [
        "process 123 of guest (python)",
        "process 124 of bob (python)",
    ]


def test_memory_that_the_driver_names_nobody_for_is_others_unless_a_lease_holds_the_device() -> None:
    nvml = RecordedNvml()
    monitor = Monitor(NvmlProvider(nvml))
    nvml.used["GPU-0"] = 20 * GIB
    free, held = (monitor.observe([], uuids).devices[0] for uuids in ((), ("GPU-0",)))
    assert (free.foreign_memory_bytes, str(free.outsiders[0])) == (20 * GIB, "a process that the driver does not name")
    assert (held.foreign_memory_bytes, held.outsiders) == (0, [])
    assert monitor.observe([], ()).devices[1].outsiders == [], "what a driver keeps for itself is nobody's"


def test_a_process_whose_session_began_outside_of_this_container_still_holds_its_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.getsid", lambda _pid: 0)  # what Linux says of a leader in an outer namespace
    provider = SimulatedProvider(1, 2**34)
    uuid = provider.devices()[0].uuid
    provider.hold(uuid, os.getpid(), 3000)
    (others,) = Monitor(provider).measure(1, [uuid], 2**22).devices
    assert (others.worker_bytes, others.other_bytes) == (0, 3000)


# ---------------------------------------------------------------------------------------- what CUDA says to workers


@pytest.mark.parametrize(
    ("text", "fatal", "counts"),
    [
        ("CUDA error: an illegal memory access was encountered", True, False),
        ("CUDA error: device-side assert triggered\nCompile with TORCH_USE_CUDA_DSA", True, False),
        ("CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure", True, False),
        ("cudaErrorLaunchTimeout: the launch timed out and was terminated", True, False),
        ("CUDA error: uncorrectable ECC error encountered", True, True),
        ("CUDA error: unknown error", True, True),
        ("cudaErrorDevicesUnavailable: CUDA-capable device(s) is/are busy or unavailable", False, False),
        ("CUDA out of memory. Tried to allocate 20.00 GiB", False, False),
        ("CUDA error: no kernel image is available for execution on the device", False, False),
        ("illegal memory access in a text that is not CUDA's", False, False),
    ],
)
def test_r14_errors_that_leave_a_worker_of_no_use_are_told_from_ordinary_ones(
    text: str, fatal: bool, counts: bool
) -> None:
    found = device_errors.fatal_text(RuntimeError(text))
    assert (found is not None) == fatal
    if found is not None:
        assert found == (f"RuntimeError: {text.splitlines()[0]}", counts)


def test_an_error_of_cuda_is_found_behind_what_it_led_to() -> None:
    error = ValueError("the batch could not be computed")
    error.__cause__ = RuntimeError("CUDA error: misaligned address")
    assert device_errors.fatal_text(error) == ("RuntimeError: CUDA error: misaligned address", False)


def test_errors_are_reported_only_while_devices_are_held() -> None:
    told: list[tuple[str, bool]] = []
    error = RuntimeError("CUDA error: misaligned address")
    device_errors.noticed(error)
    device_errors.watch(lambda text, counts: told.append((text, counts)))
    try:
        device_errors.noticed(error)
        device_errors.noticed(ValueError("no"))
    finally:
        device_errors.watch(None)
    assert len(told) == 1
