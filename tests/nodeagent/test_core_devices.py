"""How leases come to devices in the agent's core, when devices are free again, and which are kept from everybody."""

from __future__ import annotations

import msgspec
import pytest

from atoll.nodeagent.core.device_health import FAULTS_WITHIN_S, QUARANTINE_S
from atoll.nodeagent.core.devices import LOCKED_PATIENCE_S, RELEASE_WITHIN_S, WARM_BYTES
from atoll.nodeagent.core.events import (
    ClaimDevices,
    DeviceFault,
    DeviceMemory,
    DeviceMemoryMeasured,
    DeviceRecord,
    ForgetDevice,
    KillWorker,
    MeasureDeviceMemory,
    NodeObserved,
    ObserveNode,
    ProcessExited,
    RememberDevice,
    UnlockDevices,
    ZygoteDied,
)
from atoll.protocol.messages import (
    DEVICES_TAKEN,
    EndLease,
    LeaseEnded,
    LeaseFailed,
    LeaseStarted,
    NodeSampled,
    ReleaseDevice,
    ReportDeviceFault,
    StopWorker,
)
from atoll.protocol.values import DeviceSample
from tests.nodeagent.core_driver import SCHEDULER, CoreDriver, share

GIB = 2**30
SAMPLES = [DeviceSample(f"GPU-{number}", 0.0, 0) for number in range(2)]


@pytest.fixture
def driver() -> CoreDriver:
    return CoreDriver()


def memory(used: int, worker: int = 0, other: int = 0) -> list[DeviceMemory]:
    return [DeviceMemory("GPU-0", used, worker, other)]


def begin_on_device(driver: CoreDriver, units: int = 10_000, before: int = 0) -> bytes:
    driver.define()
    driver.in_use["GPU-0"] = before
    driver.start_lease(1, devices=[share(0, units)])
    forks = [fork for fork in driver.forks() if fork.devices]
    assert [fork.devices for fork in forks] == [["GPU-0"]]
    driver.run_worker(forks[0].worker_id)
    assert driver.said(LeaseStarted)
    return forks[0].worker_id


def test_a_device_is_bound_to_a_worker_of_its_own(driver: CoreDriver) -> None:
    driver.define(prepare=True)
    driver.run_all()
    driver.start_lease(1, devices=[share(0)])
    assert [fork.devices for fork in driver.forks()] == [["GPU-0"]], "an idle worker never gets a device"


def test_r14_a_lease_ends_only_when_the_memory_of_its_device_is_free(driver: CoreDriver) -> None:
    begin_on_device(driver, before=1 * GIB)
    driver.message(SCHEDULER, EndLease(1, kill=False))
    assert driver.take(MeasureDeviceMemory) == [MeasureDeviceMemory(1, ["GPU-0"], 4000)]
    driver.event(DeviceMemoryMeasured(1, memory(9 * GIB, worker=8 * GIB)))
    assert driver.exit_killed(), "a worker that holds much of its device ends with its lease"
    assert driver.take(MeasureDeviceMemory) == [MeasureDeviceMemory(1, ["GPU-0"], 4000)]
    driver.event(DeviceMemoryMeasured(1, memory(9 * GIB, worker=8 * GIB)))
    assert driver.said(LeaseEnded) == []
    driver.advance(0.06)
    assert driver.take(MeasureDeviceMemory)
    driver.event(DeviceMemoryMeasured(1, memory(3 * GIB)))
    assert driver.said(LeaseEnded) == []
    driver.advance(0.11)
    assert driver.take(MeasureDeviceMemory)
    driver.event(DeviceMemoryMeasured(1, []))
    assert driver.said(LeaseEnded) == [], "what cannot be measured is not free"
    driver.advance(0.25)
    driver.event(DeviceMemoryMeasured(1, memory(1 * GIB)))
    assert driver.said(LeaseEnded) == [LeaseEnded(1)]


def test_memory_that_others_took_meanwhile_does_not_hold_a_device(driver: CoreDriver) -> None:
    worker_id = begin_on_device(driver)
    driver.event(ProcessExited(worker_id, None, 9))
    driver.event(DeviceMemoryMeasured(1, memory(2 * GIB, other=2 * GIB)))
    (ended,) = driver.said(LeaseEnded)
    assert ended.kind == "WorkerCrashedError"


def test_a_share_is_free_when_no_process_of_its_worker_is_left(driver: CoreDriver) -> None:
    worker_id = begin_on_device(driver, units=5_000)
    driver.event(ProcessExited(worker_id, 0, None))
    driver.event(DeviceMemoryMeasured(1, memory(6 * GIB, worker=1)))
    assert driver.said(LeaseEnded) == []
    driver.event(DeviceMemoryMeasured(1, memory(6 * GIB)))
    assert driver.said(LeaseEnded)


def observe(driver: CoreDriver, *faults: DeviceFault) -> list[DeviceSample]:
    """A sample is taken; return what the scheduler is told of the devices."""
    driver.said(NodeSampled)
    driver.event(NodeObserved(0.0, 0, 0, SAMPLES, [], faults))
    return driver.said(NodeSampled)[-1].sample.devices


def test_a_worker_is_forked_only_when_its_devices_are_locked(driver: CoreDriver) -> None:
    driver.define()
    driver.answers_claims = False
    driver.start_lease(1, devices=[share(1), share(0)])
    assert driver.forks() == []
    (claim,) = driver.take(ClaimDevices)
    assert claim.uuids == ["GPU-1", "GPU-0"]
    driver.claim(claim)
    assert [fork.devices for fork in driver.forks()] == [["GPU-1", "GPU-0"]]


def test_r15_a_device_that_another_cluster_has_locked_is_tried_again_then_the_lease_goes_back(
    driver: CoreDriver,
) -> None:
    driver.define()
    driver.answers_claims = False
    observe(driver)
    driver.start_lease(1, devices=[share(0)])
    tries = 0
    began = driver.now
    while not (failed := driver.said(LeaseFailed)):
        for claim in driver.take(ClaimDevices):
            tries += 1
            driver.claim(claim, refused={"GPU-0": "held by another cluster"})
        driver.advance(0.05)
    assert 5 < tries < 15
    assert LOCKED_PATIENCE_S <= driver.now - began < 2 * LOCKED_PATIENCE_S
    assert failed[0].kind == DEVICES_TAKEN
    assert "GPU 0 is held by another cluster" in failed[0].text
    assert driver.said(NodeSampled)[-1].sample.devices[0].trouble == "held by another cluster"
    assert driver.forks() == []
    assert driver.locked == {}


def test_a_device_that_an_agent_before_us_still_had_is_given_as_soon_as_it_is_free(driver: CoreDriver) -> None:
    driver.define()
    driver.answers_claims = False
    driver.start_lease(1, devices=[share(0)])
    (claim,) = driver.take(ClaimDevices)
    driver.claim(claim, refused={"GPU-0": "held by a worker whose node agent has ended"})
    driver.advance(0.06)
    (claim,) = driver.take(ClaimDevices)
    driver.claim(claim)
    assert len(driver.forks()) == 1


def test_a_whole_device_is_not_given_while_others_use_its_memory_and_the_scheduler_is_told_who(
    driver: CoreDriver,
) -> None:
    driver.define()
    driver.answers_claims = False
    observe(driver)
    driver.start_lease(1, devices=[share(0)])
    while not (failed := driver.said(LeaseFailed)):
        for claim in driver.take(ClaimDevices):
            driver.claim(claim, foreign=30 * GIB)
            assert driver.locked == {}, "others may have the device while this lease waits"
        driver.advance(0.05)
    assert failed[0].text == "GPU 0: 30 GiB are in use by process 123 of guest outside of Atoll"
    (told,) = driver.said(NodeSampled)[-1].sample.devices[0].outsiders
    assert (told.pid, told.user) == (123, "guest")


def test_a_share_is_given_beside_others(driver: CoreDriver) -> None:
    driver.define()
    driver.answers_claims = False
    driver.start_lease(1, devices=[share(0, 5_000)])
    (claim,) = driver.take(ClaimDevices)
    driver.claim(claim, foreign=4 * GIB)
    assert len(driver.forks()) == 1


def test_a_lease_that_ends_while_it_waits_for_its_devices_takes_nothing(driver: CoreDriver) -> None:
    driver.define()
    driver.answers_claims = False
    driver.start_lease(1, devices=[share(0)])
    (claim,) = driver.take(ClaimDevices)
    driver.message(SCHEDULER, EndLease(1, kill=False))
    assert driver.said(LeaseEnded) == [LeaseEnded(1)]
    driver.claim(claim)
    assert driver.locked == {}
    assert driver.forks() == []


def end_warmly(driver: CoreDriver) -> None:
    driver.message(SCHEDULER, EndLease(1, kill=False))
    assert driver.said(LeaseEnded) == []
    driver.event(DeviceMemoryMeasured(1, memory(WARM_BYTES, worker=WARM_BYTES)))
    assert driver.said(LeaseEnded) == [LeaseEnded(1)]
    assert driver.take(KillWorker) == []
    assert driver.locked == {"GPU-0": None}


def test_a_worker_that_holds_little_of_its_device_stays_for_the_next_lease_of_its_job(driver: CoreDriver) -> None:
    worker_id = begin_on_device(driver)
    end_warmly(driver)
    driver.forks()
    driver.start_lease(2, devices=[share(0)])
    (started,) = driver.said(LeaseStarted)
    assert (started.lease_id, started.worker_id) == (2, worker_id), "at once"
    assert driver.forks() == []
    driver.event(ProcessExited(worker_id, None, 9))
    driver.event(DeviceMemoryMeasured(2, memory(0)))
    (ended,) = driver.said(LeaseEnded)
    assert (ended.lease_id, ended.kind) == (2, "WorkerCrashedError")
    assert driver.locked == {}


@pytest.mark.parametrize("job", [b"job-0001", b"job-0002"])
def test_who_else_gets_the_device_waits_until_the_warm_worker_and_its_memory_are_gone(
    driver: CoreDriver, job: bytes
) -> None:
    worker_id = begin_on_device(driver)
    end_warmly(driver)
    driver.forks()
    driver.take(MeasureDeviceMemory)
    driver.start_lease(2, devices=[share(0), share(1)] if job == b"job-0001" else [share(0)], job=job)
    assert driver.exit_killed() == [worker_id]
    (look,) = driver.take(MeasureDeviceMemory)
    driver.event(DeviceMemoryMeasured(look.lease_id, memory(GIB, worker=GIB)))
    assert [fork for fork in driver.forks() if fork.devices] == []
    driver.advance(0.3)
    look = driver.take(MeasureDeviceMemory)[-1]
    assert driver.said(LeaseFailed) == []
    driver.event(DeviceMemoryMeasured(look.lease_id, memory(0)))
    driver.advance(0.001)
    assert len([fork for fork in driver.forks() if fork.devices]) == 1, "it is tried at once"


def test_a_warm_worker_is_ended_after_a_while_and_its_memory_looked_at(driver: CoreDriver) -> None:
    worker_id = begin_on_device(driver)
    end_warmly(driver)
    driver.take(MeasureDeviceMemory)
    worker = driver.core.pool.worker(worker_id)
    assert worker is not None
    assert worker.peer is not None
    driver.advance(11.0)
    assert driver.said(StopWorker, worker.peer)
    driver.event(ProcessExited(worker_id, 0, None))
    (look,) = driver.take(MeasureDeviceMemory)
    driver.event(DeviceMemoryMeasured(look.lease_id, memory(0)))
    assert driver.locked == {}
    assert driver.said(LeaseEnded) == []


def test_a_worker_that_becomes_warm_while_the_next_lease_claims_its_share_holds_it_once(driver: CoreDriver) -> None:
    worker_id = begin_on_device(driver, units=5_000)
    driver.message(SCHEDULER, EndLease(1, kill=False))
    driver.answers_claims = False
    driver.start_lease(2, devices=[share(0, 5_000)])
    claim = driver.take(ClaimDevices)[-1]
    driver.event(DeviceMemoryMeasured(1, memory(WARM_BYTES, worker=WARM_BYTES)))
    driver.claim(claim)
    assert [(started.lease_id, started.worker_id) for started in driver.said(LeaseStarted)] == [(2, worker_id)]
    driver.event(ProcessExited(worker_id, None, 9))
    driver.event(DeviceMemoryMeasured(2, memory(0)))
    assert driver.locked == {}, "nobody is left who could let go of it"


def test_a_lease_that_claims_its_share_while_a_worker_cools_gets_that_worker_and_leaves_nothing_behind(
    driver: CoreDriver,
) -> None:
    worker_id = begin_on_device(driver, units=2_500)
    driver.message(SCHEDULER, EndLease(1, kill=False))
    driver.answers_claims = False
    driver.take(ClaimDevices)
    driver.start_lease(2, devices=[share(0, 2_500)])
    (claim,) = driver.take(ClaimDevices)
    driver.event(DeviceMemoryMeasured(1, memory(GIB // 4, worker=GIB // 4)))
    assert driver.said(LeaseEnded) == [LeaseEnded(1)]
    driver.claim(claim)
    (started,) = driver.said(LeaseStarted)
    assert (started.lease_id, started.worker_id) == (2, worker_id)
    driver.message(SCHEDULER, EndLease(2, kill=False))
    driver.event(DeviceMemoryMeasured(2, memory(GIB // 4, worker=GIB // 4)))
    assert driver.said(LeaseEnded) == [LeaseEnded(2)]

    # Whoever wants the whole device gets it, once the one worker has ended.
    driver.answers_claims = True
    driver.start_lease(3, devices=[share(0)], job=b"job-0002")
    assert driver.exit_killed() == [worker_id]
    driver.event(DeviceMemoryMeasured(driver.take(MeasureDeviceMemory)[-1].lease_id, memory(0)))
    driver.advance(0.001)
    assert [fork.devices for fork in driver.forks() if fork.devices] == [["GPU-0"]]


def test_an_actors_worker_and_one_that_is_to_be_killed_are_never_kept(driver: CoreDriver) -> None:
    worker_id = begin_on_device(driver)
    driver.message(SCHEDULER, EndLease(1, kill=False))
    driver.message(SCHEDULER, EndLease(1, kill=True))
    assert driver.exit_killed() == [worker_id]
    driver.event(DeviceMemoryMeasured(1, memory(0)))
    driver.define()
    driver.start_lease(2, devices=[share(0)], dedicated=True)
    worker_id = next(fork.worker_id for fork in driver.forks() if fork.devices)
    driver.run_worker(worker_id)
    driver.message(SCHEDULER, EndLease(2, kill=False))
    assert driver.exit_killed() == [worker_id]


def test_shares_of_one_device_have_one_lock_until_the_last_has_ended(driver: CoreDriver) -> None:
    driver.define()
    for lease_id in (1, 2):
        driver.start_lease(lease_id, devices=[share(0, 5_000)])
    workers = [fork.worker_id for fork in driver.forks()]
    for number, worker_id in enumerate(workers):
        driver.run_worker(worker_id, pid=4000 + number)
    for lease_id, worker_id in enumerate(workers, 1):
        assert driver.take(UnlockDevices) == []
        driver.event(ProcessExited(worker_id, None, 9))
        driver.event(DeviceMemoryMeasured(lease_id, memory(0)))
    assert driver.take(UnlockDevices) == [UnlockDevices(["GPU-0"])]


def test_r14_memory_that_does_not_come_back_costs_the_device_until_it_does(driver: CoreDriver) -> None:
    worker_id = begin_on_device(driver)
    driver.event(ProcessExited(worker_id, None, 9))
    looks, began = 0, driver.now
    while not driver.said(LeaseEnded):
        for _look in driver.take(MeasureDeviceMemory):
            looks += 1
            driver.event(DeviceMemoryMeasured(1, memory(8 * GIB)))
        driver.advance(0.5)
    assert RELEASE_WITHIN_S <= driver.now - began < RELEASE_WITHIN_S + 10
    assert 10 < looks < 30, "it is looked at less and less often"
    stays, other = observe(driver)
    assert stays.quarantined
    assert "memory of the worker 4000, which has ended, is not free: 8 GiB are in use" in stays.trouble
    assert other.trouble == ""
    assert driver.locked == {"GPU-0": None}, "nobody else is to have it"
    driver.advance(10.0)
    driver.event(DeviceMemoryMeasured(1, memory(0)))
    assert observe(driver)[0].trouble == ""
    assert driver.locked == {}


def test_r14_a_fault_replaces_the_worker_and_the_third_within_ten_minutes_quarantines_the_device(
    driver: CoreDriver,
) -> None:
    fault = DeviceFault("GPU-0", "XID 79")
    for number in range(3):
        worker_id = begin_on_device(driver)
        (device, other) = observe(driver, fault)
        assert driver.exit_killed() == [worker_id]
        driver.event(DeviceMemoryMeasured(1, memory(0)))
        (ended,) = driver.said(LeaseEnded)
        assert (ended.kind, ended.text) == ("WorkerCrashedError", "GPU 0 failed: XID 79")
        assert device.quarantined == (number == 2)
        driver.advance(60.0)
    assert device.trouble == "quarantined after 3 faults, the last: XID 79"
    assert other.trouble == ""
    driver.start_lease(2, devices=[share(0)])
    (failed,) = driver.said(LeaseFailed)
    assert (failed.kind, failed.text) == (DEVICES_TAKEN, f"GPU 0 is {device.trouble}")
    driver.start_lease(3, devices=[share(1)])
    assert len(driver.forks()) == 1
    driver.advance(QUARANTINE_S)
    assert observe(driver)[0].trouble == ""


def test_faults_that_lie_far_apart_are_none_of_a_quarantine(driver: CoreDriver) -> None:
    for _number in range(4):
        (device, _other) = observe(driver, DeviceFault("GPU-0", "XID 79"))
        assert device.trouble == ""
        driver.advance(FAULTS_WITHIN_S / 2)


def test_a_quarantine_is_lifted_by_who_has_looked_after_the_device(driver: CoreDriver) -> None:
    device = observe(driver, *[DeviceFault("GPU-0", "XID 79")] * 3)[0]
    assert device.quarantined
    driver.message(SCHEDULER, ReleaseDevice(0, "GPU-0"))
    assert not driver.said(NodeSampled)[-1].sample.devices[0].quarantined
    assert not observe(driver, DeviceFault("GPU-0", "XID 79"))[0].quarantined, "what was before is forgotten"


def written(driver: CoreDriver) -> list[DeviceRecord]:
    """What the next agent would read."""
    records = {action.record.uuid: action.record for action in driver.take(RememberDevice)}
    for forgotten in driver.take(ForgetDevice):
        records.pop(forgotten.uuid, None)
    return list(records.values())


def test_r14_what_a_device_has_failed_at_outlives_the_agent(driver: CoreDriver) -> None:
    observe(driver, DeviceFault("GPU-0", "XID 79"), DeviceFault("GPU-1", "XID 48"), DeviceFault("GPU-1", "XID 48"))
    observe(driver, DeviceFault("GPU-1", "XID 95"))
    records = written(driver)
    assert [(record.uuid, len(record.faults), record.until > 0) for record in records] == [
        ("GPU-0", 1, False),
        ("GPU-1", 3, True),
    ]
    after = CoreDriver(device_records=records)
    after.advance(0.0)
    assert after.take(ObserveNode), "it looks at once, since there is something to tell"
    good, bad = observe(after)
    assert (good.trouble, good.quarantined) == ("", False)
    assert (bad.trouble, bad.quarantined) == ("quarantined after 3 faults, the last: XID 95", True)
    assert bad.quarantined_for_s == pytest.approx(QUARANTINE_S, abs=5.0)
    after.define()
    after.start_lease(1, devices=[share(1)])
    (failed,) = after.said(LeaseFailed)
    assert (failed.kind, after.forks()) == (DEVICES_TAKEN, [])
    assert observe(after, *[DeviceFault("GPU-0", "XID 79")] * 2)[0].quarantined, "the first of three was before"
    after.advance(QUARANTINE_S)
    assert [device.trouble for device in observe(after)] == ["", ""]


def test_a_quarantine_that_was_lifted_or_is_over_is_not_recalled(driver: CoreDriver) -> None:
    observe(driver, *[DeviceFault("GPU-0", "XID 79")] * 3)
    record = driver.take(RememberDevice)[-1].record
    driver.message(SCHEDULER, ReleaseDevice(0, "GPU-0"))
    assert driver.take(ForgetDevice) == [ForgetDevice("GPU-0")]
    later = CoreDriver(device_records=[msgspec.structs.replace(record, until=99.0)])
    assert observe(later)[0].trouble == ""
    assert not observe(later, DeviceFault("GPU-0", "XID 79"))[0].quarantined
    for_ever = CoreDriver(device_records=[msgspec.structs.replace(record, until=1e12)])
    assert 0.0 < observe(for_ever)[0].quarantined_for_s <= QUARANTINE_S


def test_a_lease_whose_worker_is_not_there_yet_does_not_begin_on_a_device_that_is_quarantined_meanwhile(
    driver: CoreDriver,
) -> None:
    observe(driver)
    driver.define()
    driver.start_lease(1, devices=[share(0)])
    driver.start_lease(2, devices=[share(1)])
    first, second = driver.forks()
    driver.actions.clear()
    driver.event(NodeObserved(0.0, 0, 0, SAMPLES, [], (DeviceFault("GPU-0", "XID 79"),) * 3))
    told = [getattr(action, "message", None) for action in driver.actions]
    (failed,) = driver.said(LeaseFailed)
    assert (failed.lease_id, failed.kind) == (1, DEVICES_TAKEN)
    kinds = [type(message) for message in told if isinstance(message, NodeSampled | LeaseFailed)]
    assert kinds == [NodeSampled, LeaseFailed], "else the scheduler would place it there again"
    assert driver.exit_killed() == [first.worker_id]
    driver.run_worker(second.worker_id)
    assert [started.lease_id for started in driver.said(LeaseStarted)] == [2]
    assert list(driver.locked) == ["GPU-1"]


def test_a_device_that_fails_all_the_time_is_written_down_three_times(driver: CoreDriver) -> None:
    for _number in range(20):
        observe(driver, *[DeviceFault("GPU-0", "XID 79")] * 5)
    assert len(driver.take(RememberDevice)) == 3


def test_a_programs_own_fault_costs_its_worker_and_nothing_else(driver: CoreDriver) -> None:
    for _number in range(4):
        worker_id = begin_on_device(driver)
        (device, _other) = observe(driver, DeviceFault("GPU-0", "XID 31", counts=False))
        assert driver.exit_killed() == [worker_id]
        driver.event(DeviceMemoryMeasured(1, memory(0)))
        assert driver.said(LeaseEnded)
    assert device.trouble == ""


def test_r14_a_worker_that_reports_an_error_of_cuda_is_replaced(driver: CoreDriver) -> None:
    worker_id = begin_on_device(driver)
    worker = driver.core.pool.worker(worker_id)
    assert worker is not None
    assert worker.peer is not None
    driver.message(worker.peer, ReportDeviceFault("CUDA error: unspecified launch failure", counts=True))
    assert driver.said(StopWorker, worker.peer), "it may finish what it answers"
    driver.event(ProcessExited(worker_id, 0, None))
    driver.event(DeviceMemoryMeasured(1, memory(0)))
    (ended,) = driver.said(LeaseEnded)
    assert ended.kind == "WorkerCrashedError"
    assert "was replaced after an error of its GPU: CUDA error: unspecified launch failure" in ended.text


def test_nobody_knows_which_of_several_devices_a_worker_speaks_of(driver: CoreDriver) -> None:
    driver.define()
    for _number in range(3):
        driver.start_lease(1, devices=[share(0), share(1)])
        worker_id = driver.forks()[0].worker_id
        peer = driver.run_worker(worker_id)
        driver.message(peer, ReportDeviceFault("CUDA error: uncorrectable ECC error encountered", counts=True))
        driver.event(ProcessExited(worker_id, 0, None))
        driver.event(DeviceMemoryMeasured(1, [*memory(0), DeviceMemory("GPU-1", 0, 0, 0)]))
        assert driver.said(LeaseEnded)
    assert [device.trouble for device in observe(driver)] == ["", ""]


def test_r14_the_cause_is_told_also_when_the_zygote_dies_before_the_worker_has_ended(driver: CoreDriver) -> None:
    worker = driver.core.pool.worker(begin_on_device(driver))
    assert worker is not None
    assert worker.peer is not None
    driver.message(worker.peer, ReportDeviceFault("CUDA error: unspecified launch failure", counts=True))
    driver.event(ZygoteDied("e1", "RuntimeEnvSetupError", "killed", transient=True))
    driver.event(DeviceMemoryMeasured(1, memory(0)))
    (ended,) = driver.said(LeaseEnded)
    assert ended.kind == "WorkerCrashedError"
    assert "was replaced after an error of its GPU: CUDA error: unspecified launch failure" in ended.text
