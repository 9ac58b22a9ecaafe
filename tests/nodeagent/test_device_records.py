"""What devices have failed at, written down: what is read again, by whom, and what a damaged file does."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from atoll.nodeagent.core.events import DeviceRecord
from atoll.nodeagent.device_records import DeviceRecords
from atoll.protocol.messages import DEVICES_TAKEN, LeaseFailed, LeaseStarted, NodeSampled, ReleaseDevice
from atoll.protocol.values import DeviceShare
from atoll.simulated_gpus import Script, ScriptedDevice, ScriptFile
from tests.nodeagent.running import RunningAgent

QUARANTINED = DeviceRecord("MIG-GPU-1/2/0", [(1.0, "XID 79"), (2.0, "XID 79"), (3.0, "XID 95")], 3603.0)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = tmp_path / "devices"
    place.mkdir(mode=0o700)
    return place


def test_what_is_written_is_read_until_the_host_is_started_again(place: Path) -> None:
    before = os.umask(0)
    try:
        DeviceRecords(place, lambda: "boot 1").remember(QUARANTINED)
    finally:
        os.umask(before)
    assert DeviceRecords(place, lambda: "boot 1").read([QUARANTINED.uuid, "GPU-0"]) == [QUARANTINED]
    assert DeviceRecords(place, lambda: "boot 2").read([QUARANTINED.uuid]) == []
    (file,) = place.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert DeviceRecords(place).read([QUARANTINED.uuid]) == [], "this is another boot than the first"
    DeviceRecords(place, lambda: "boot 2").forget(QUARANTINED.uuid)
    assert list(place.iterdir()) == []


def test_a_cluster_that_does_not_know_of_a_quarantine_does_not_shorten_it(place: Path) -> None:
    records = DeviceRecords(place)
    records.remember(QUARANTINED)
    records.remember(DeviceRecord(QUARANTINED.uuid, [(10.0, "XID 79")]))
    assert records.read([QUARANTINED.uuid]) == [QUARANTINED]
    longer = DeviceRecord(QUARANTINED.uuid, [(10.0, "XID 79")], 4000.0)
    records.remember(longer)
    assert records.read([QUARANTINED.uuid]) == [longer]


@pytest.mark.parametrize("damage", ["text", "link", "directory", "empty"])
def test_a_file_that_cannot_be_read_is_nothing_and_said(
    place: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = place / "GPU-0.faults"
    if damage == "link":
        file.symlink_to(place / "elsewhere")
    elif damage == "directory":
        file.mkdir()
    else:
        file.write_text({"text": '{"boot": 7}', "empty": ""}[damage])
        file.chmod(0o600)
    records = DeviceRecords(place)
    assert records.read(["GPU-0"]) == []
    assert "does not tell what GPU GPU-0 has failed at" in caplog.text
    records.remember(DeviceRecord("GPU-0", [(1.0, "XID 79")]))
    assert bool(records.read(["GPU-0"])) == (damage != "directory")
    assert not (place / "elsewhere").exists()
    records.forget("GPU-0")


@pytest.mark.processes
def test_r14_a_quarantine_survives_the_kill_of_the_agent_and_is_lifted_by_hand(
    start_agent: Callable[..., RunningAgent], socket_directory: Path
) -> None:
    script = ScriptFile(socket_directory / "gpus.json")
    script.write(Script([ScriptedDevice("A100", "40G") for _number in range(2)]))
    (socket_directory / "locks").mkdir(mode=0o700)
    variables = {
        "ATOLL_SIMULATED_GPUS": str(script.path),
        "ATOLL_DEVICE_LOCKS": str(socket_directory / "locks"),
    }

    def quarantined(agent: RunningAgent) -> tuple[bool, ...]:
        sample = agent.scheduler.expect(NodeSampled).sample
        return tuple(device.quarantined for device in sample.devices)

    first = start_agent(**variables)
    for _fault in range(3):
        script.fail(0, "XID 79: GPU has fallen off the bus")
    while quarantined(first) != (True, False):
        pass
    first.process.kill()
    first.process.wait()
    second = start_agent(**variables)
    assert quarantined(second) == (True, False), "from the first sample on"
    second.define()
    share = DeviceShare("SIM-GPU-00000000", 0, 10_000, simulated=True)
    failed = second.scheduler.expect(LeaseFailed, lease_id=second.start_lease(devices=[share]))
    assert failed.kind == DEVICES_TAKEN
    assert "quarantined after 3 faults" in failed.text
    second.scheduler.send(ReleaseDevice(0, share.uuid))
    while quarantined(second) != (False, False):
        pass
    second.scheduler.expect(LeaseStarted, lease_id=second.start_lease(devices=[share]))
    second.process.kill()
    second.process.wait()
    assert quarantined(start_agent(**variables)) == (False, False), "who lifts it, lifts it for all that come"
