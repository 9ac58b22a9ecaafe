"""Agent, zygote and workers as real processes."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from atoll.nodeagent import processes
from atoll.protocol.messages import (
    ActorFailed,
    ActorStarted,
    EndLease,
    LeaseEnded,
    LeaseFailed,
    LeaseStarted,
    StartActor,
    StopNode,
)
from atoll.protocol.values import ActorSpec, SchedulingClass
from tests.nodeagent.running import HERE, JOB, RunningAgent, is_alive
from tests.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.processes
Start = Callable[..., RunningAgent]


def report(agent: RunningAgent, **options: object) -> list[str]:
    """Let a worker tell about itself."""
    path = agent.directory / f"report-{random.random()}"
    agent.lease(f"report {path}", **options)
    eventually(path.exists, "the worker's report")
    return path.read_text().split("\n")


def test_a_lease_of_a_new_environment_gets_a_worker(start_agent: Start) -> None:
    agent = start_agent()
    agent.define()
    started = agent.lease()
    assert is_alive(started.pid)
    assert Path(started.address).exists()
    assert started.address == f"{agent.directory}/workers/{started.worker_id.hex()}.sock"


def test_a_lease_gets_the_worker_that_was_prepared(start_agent: Start) -> None:
    agent = start_agent()
    agent.define(prepare=True)
    first = agent.lease()
    eventually(lambda: len(list((agent.directory / "workers").glob("*.sock"))) > 1, "a second worker beforehand")
    beforehand = workers_of(agent)
    second = agent.lease()
    assert second.pid != first.pid
    assert second.pid in beforehand, "nothing was started for it"


def test_workers_are_forked_from_the_one_warm_zygote(start_agent: Start) -> None:
    agent = start_agent()
    agent.define()
    first = agent.lease()
    (zygote,) = psutil.Process(agent.process.pid).children()
    for number in range(5):
        # Two CPUs: no idle worker is bound to two threads, so each of these is forked.
        forked = agent.lease(cpus=2, job=b"job-%04d" % number)
        assert psutil.Process(forked.pid).ppid() == psutil.Process(first.pid).ppid() == zygote.pid
    assert psutil.Process(agent.process.pid).children() == [zygote], "nothing was started anew"


def workers_of(agent: RunningAgent) -> list[int]:
    return [
        worker.pid
        for zygote in psutil.Process(agent.process.pid).children()
        for worker in zygote.children()
        if "small_worker" not in worker.name()
    ]


def test_a_worker_is_used_again_by_its_job_only(start_agent: Start) -> None:
    agent = start_agent()
    agent.define()
    first = agent.lease()
    agent.scheduler.send(EndLease(first.lease_id, kill=False))
    agent.scheduler.expect(LeaseEnded, lease_id=first.lease_id, kind="")
    again = agent.lease()
    assert again.pid == first.pid
    agent.scheduler.send(EndLease(again.lease_id, kill=False))
    other = agent.lease(job=b"job-0002")
    assert other.pid != first.pid


def test_a_worker_that_is_killed_for_its_lease_is_gone_before_the_lease_is(start_agent: Start) -> None:
    agent = start_agent()
    agent.define()
    started = agent.lease()
    agent.scheduler.send(EndLease(started.lease_id, kill=True))
    ended = agent.scheduler.expect(LeaseEnded, lease_id=started.lease_id)
    assert (ended.kind, ended.text) == ("", "")
    assert not is_alive(started.pid)
    assert not Path(started.address).exists()


@pytest.mark.parametrize(
    ("label", "words"),
    [("exit 3", "exited with code 3"), ("segfault", "SIGSEGV (signal 11)"), ("kill", "SIGKILL (signal 9)")],
)
def test_r1_a_worker_that_dies_ends_its_lease_with_the_reason(start_agent: Start, label: str, words: str) -> None:
    agent = start_agent()
    agent.define()
    lease_id = agent.start_lease(label)
    started = agent.scheduler.expect(LeaseStarted, lease_id=lease_id)
    ended = agent.scheduler.expect(LeaseEnded, lease_id=lease_id)
    assert ended.kind == "WorkerCrashedError"
    assert words in ended.text
    assert f"pid {started.pid}" in ended.text


def test_what_a_worker_started_ends_with_it(start_agent: Start) -> None:
    agent = start_agent()
    agent.define()
    path = agent.directory / "pids"
    started = agent.lease(f"spawn {path}")
    eventually(path.exists, "the worker's children")
    pids = [int(pid) for pid in path.read_text().split()]
    assert all(is_alive(pid) for pid in pids)
    agent.scheduler.send(EndLease(started.lease_id, kill=True))
    agent.scheduler.expect(LeaseEnded, lease_id=started.lease_id)
    eventually(lambda: not any(is_alive(pid) for pid in pids), f"{pids} are gone")


def test_what_flees_from_its_worker_ends_with_it(start_agent: Start) -> None:
    """Whoever looks for it finds its place empty, and its child somewhere else."""
    agent = start_agent()
    agent.define()
    path = agent.directory / "held"
    started = agent.lease(f"flee {path}")
    eventually(path.exists, "it is off")
    agent.scheduler.send(EndLease(started.lease_id, kill=True))
    agent.scheduler.expect(LeaseEnded, lease_id=started.lease_id)
    with path.open("r+") as held:

        def is_gone() -> bool:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        eventually(is_gone, "nobody has what the worker handed down")


def test_a_daemon_counts_as_its_workers_while_that_lives(start_agent: Start) -> None:
    agent = start_agent()
    agent.define()
    path = agent.directory / "pids"
    started = agent.lease(f"spawn {path}")
    eventually(path.exists, "the worker's children")
    pids = [int(pid) for pid in path.read_text().split()]
    other = agent.lease(cpus=2)
    assert pids[0] == started.pid
    assert set(pids[1:]) <= set(processes.family(started.pid))
    assert processes.family(other.pid) == []
    assert {processes.origin_of(pid) for pid in pids} == {started.pid}
    assert {processes.origin_of(other.pid), processes.origin_of(os.getpid())} == {other.pid, os.getsid(0)}


def test_r4_kill_of_the_agent_takes_workers_and_their_children(start_agent: Start) -> None:
    agent = start_agent()
    agent.define(prepare=True)
    path = agent.directory / "pids"
    agent.lease(f"spawn {path}")
    eventually(path.exists, "the worker's children")
    pids = [int(pid) for pid in path.read_text().split()]
    pids += [child.pid for child in psutil.Process(agent.process.pid).children(recursive=True)]
    agent.process.kill()
    eventually(lambda: not any(is_alive(pid) for pid in pids), f"{pids} are gone")


def test_r4_kill_of_the_agent_ends_a_zygote_in_the_midst_of_an_import(start_agent: Start) -> None:
    agent = start_agent()
    # Stands where the zygote finds it before the real one, and takes its time.
    (agent.directory / "library").mkdir()
    (agent.directory / "library" / "numpy.py").write_text("import time\nfor _ in range(3000): time.sleep(0.01)\n")
    agent.define(prepare=True, sys_path=[str(agent.directory / "library"), *sys.path, str(HERE)])
    started = agent.lease()
    zygote = psutil.Process(agent.process.pid).children()[0]
    time.sleep(0.3)
    agent.process.kill()
    eventually(lambda: not is_alive(zygote.pid) and not is_alive(started.pid), "zygote and worker are gone")


def test_a_zygote_that_is_killed_while_it_starts_is_started_again(start_agent: Start, tmp_path: Path) -> None:
    """That says nothing about the environment: what waits for a worker of it goes on waiting."""
    agent = start_agent()
    begun, slow = tmp_path / "begun", tmp_path / "python"
    slow.write_text(
        f'#!/bin/sh\nif [ ! -e {begun} ]; then touch {begun}; exec sleep 60; fi\nexec {sys.executable} "$@"\n'
    )
    slow.chmod(0o700)
    agent.define(executable=str(slow))
    lease_id = agent.start_lease()
    eventually(begun.exists, "the zygote begins")
    (zygote,) = psutil.Process(agent.process.pid).children()
    zygote.kill()
    agent.scheduler.expect(LeaseStarted, lease_id=lease_id)


def test_kill_of_the_zygote_ends_its_workers_and_the_next_lease_gets_a_new_one(start_agent: Start) -> None:
    agent = start_agent()
    agent.define()
    path = agent.directory / "pids"
    started = agent.lease(f"spawn {path}")
    eventually(path.exists, "the worker's children")
    pids = [int(pid) for pid in path.read_text().split()]
    zygote = psutil.Process(agent.process.pid).children()[0]
    os.kill(zygote.pid, signal.SIGKILL)
    ended = agent.scheduler.expect(LeaseEnded, lease_id=started.lease_id)
    assert ended.kind == "WorkerCrashedError"
    eventually(lambda: not any(is_alive(pid) for pid in pids), f"{pids} are gone")
    assert is_alive(agent.lease().pid)


def test_stop_node_ends_everything(start_agent: Start) -> None:
    agent = start_agent()
    agent.define(prepare=True)
    agent.lease()
    pids = [child.pid for child in psutil.Process(agent.process.pid).children(recursive=True)]
    agent.scheduler.send(StopNode())
    assert agent.process.wait(PATIENCE_S) == 0
    assert not any(is_alive(pid) for pid in pids)
    assert not Path(agent.cluster.agent_socket).exists()
    assert list((agent.directory / "workers").iterdir()) == []


def test_without_a_scheduler_the_agent_registers_again_with_what_lives(start_agent: Start) -> None:
    agent = start_agent()
    agent.define()
    started = agent.lease()
    agent.scheduler.drop()
    again = agent.scheduler.accept()
    assert again.node_id == agent.registered.node_id
    assert again.leases == [(started.lease_id, started.worker_id, started.address)]
    assert is_alive(started.pid)


def test_s11_the_key_is_in_no_argument_and_no_variable(start_agent: Start) -> None:
    agent = start_agent()
    agent.define()
    lines = report(agent)
    key = agent.key.hex()
    assert not any(key in line or agent.key.decode("latin1") in line for line in lines)
    agent_process = psutil.Process(agent.process.pid)
    for process in [agent_process, *agent_process.children(recursive=True)]:
        for file in ("cmdline", "environ"):
            content = Path(f"/proc/{process.pid}/{file}").read_bytes()
            assert agent.key not in content
            assert key.encode() not in content
    for log in (agent.directory / "logs").iterdir():
        assert key not in log.read_text()


def test_s10_logs_are_private_under_any_umask(socket_directory: Path, start_agent: Start) -> None:
    before = os.umask(0)
    try:
        agent = start_agent()
    finally:
        os.umask(before)
    agent.define()
    agent.lease("print hello there")
    files = [path for path in (agent.directory / "logs").iterdir() if path.name != "agent.log"]
    assert len(files) >= 3
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_a_worker_has_the_environment_of_the_kernel(start_agent: Start) -> None:
    agent = start_agent()
    agent.define()
    lines = report(agent)
    assert "FROM_KERNEL=yes" in lines
    assert "CUDA_VISIBLE_DEVICES=" in lines
    assert "OMP_NUM_THREADS=1" in lines
    assert not any(line.startswith(("OPENBLAS_NUM_THREADS", "JE_ARROW", "LC_ALL_OF_AGENT")) for line in lines)
    assert f"cwd {agent.directory}" in lines
    assert "argv ['atoll-worker']" in lines
    # stdin, stdout, stderr, the connection, and the directory that is being listed
    assert len([line for line in lines if line.startswith("fd ")]) <= 5


def test_workers_have_different_randomness_and_more_threads_where_asked(start_agent: Start) -> None:
    agent = start_agent()
    agent.define()
    first, second = report(agent), report(agent, cpus=2)
    seeds = [next(line for line in lines if line.startswith("random ")) for lines in (first, second)]
    assert seeds[0] != seeds[1]
    assert "OMP_NUM_THREADS=2" in second


def test_the_zygote_preloads_and_has_one_thread(start_agent: Start) -> None:
    agent = start_agent()
    agent.define(prepare=True)
    agent.lease()
    eventually(lambda: len(workers_of(agent)) >= 3, "workers that waited for the preload")
    zygote = psutil.Process(agent.process.pid).children()[0]
    assert zygote.num_threads() == 1
    lines = report(agent, cpus=2)
    assert {line for line in lines if line.startswith("module ")} == {
        "module cloudpickle",
        "module numpy",
        "module pyarrow",
    }


def test_output_of_workers_goes_to_their_files(start_agent: Start) -> None:
    agent = start_agent()
    agent.define()
    started = agent.lease("print hello there")
    logs = agent.directory / "logs"
    for kind in ("out", "err"):
        path = logs / f"worker-{started.worker_id.hex()}.{kind}.log"
        eventually(lambda path=path: path.read_text() == "hello there\n", f"{path} has the line")  # type: ignore[misc]


def test_an_environment_without_atoll_says_what_to_install(start_agent: Start, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    python = str(tmp_path / "bare" / "bin" / "python")
    agent = start_agent()
    agent.define(executable=python)
    lease_id = agent.start_lease()
    failed = agent.scheduler.expect(LeaseFailed, lease_id=lease_id)
    assert failed.kind == "RuntimeEnvSetupError"
    assert failed.text == f"the kernel's environment {python} has no Atoll: run `{python} -m pip install atoll`"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"executable": "/nowhere/python"}, "interpreter /nowhere/python cannot be started: No such file"),
        ({"working_directory": "/nowhere"}, "working directory /nowhere is not there"),
        ({"executable": "/bin/false"}, "exited with code 1"),
    ],
)
def test_an_environment_that_cannot_be_had_fails_the_lease(
    start_agent: Start, changes: dict[str, str], words: str
) -> None:
    agent = start_agent()
    agent.define(**changes)
    lease_id = agent.start_lease()
    failed = agent.scheduler.expect(LeaseFailed, lease_id=lease_id)
    assert failed.kind == "RuntimeEnvSetupError"
    assert words in failed.text
    agent.define("e2")
    assert is_alive(agent.lease(digest="e2").pid)


def test_a_worker_that_never_starts_fails_the_lease_with_its_last_words(start_agent: Start) -> None:
    agent = start_agent("broken_worker")
    (agent.directory / "broken_worker.py").write_text("def run_worker(start): raise ValueError('no such luck')")
    agent.define(sys_path=[*sys.path, str(agent.directory)])
    failed = agent.scheduler.expect(LeaseFailed, lease_id=agent.start_lease())
    assert failed.kind == "RuntimeEnvSetupError"
    assert "ValueError: no such luck" in failed.text


def actor(payload: bytes) -> ActorSpec:
    return ActorSpec(b"a" * 16, "", "", "Counter", SchedulingClass({}, "e1"), payload)


def test_actors_are_made_in_the_worker_of_their_lease(start_agent: Start) -> None:
    agent = start_agent()
    agent.define()
    started = agent.lease(dedicated=True)
    agent.scheduler.send(StartActor(started.lease_id, actor(b""), 0))
    agent.scheduler.expect(ActorStarted, actor_id=b"a" * 16, lease_id=started.lease_id)
    agent.scheduler.drop()
    assert agent.scheduler.accept().actors == [(b"a" * 16, started.lease_id)]


def test_an_actor_that_fails_in_its_constructor_says_why(start_agent: Start) -> None:
    agent = start_agent()
    agent.define()
    started = agent.lease(dedicated=True)
    agent.scheduler.send(StartActor(started.lease_id, actor(b"why"), 0))
    failed = agent.scheduler.expect(ActorFailed, lease_id=started.lease_id)
    assert (failed.text, failed.error) == ("why", b"why")


def test_simulated_devices_are_bound_to_a_worker_and_given_back(start_agent: Start) -> None:
    from atoll.protocol.messages import DeviceShare

    agent = start_agent(ATOLL_SIMULATED_GPUS="2")
    devices = agent.registered.devices
    assert [device.simulated for device in devices] == [True, True]
    assert devices[0].model == "Simulated GPU (no device)"
    assert agent.registered.resources["GPU"] == 20_000
    agent.define()
    share = [DeviceShare(devices[1].uuid, 1, 10_000, simulated=True)]
    lines = report(agent, devices=share)
    assert f"CUDA_VISIBLE_DEVICES={devices[1].uuid}" in lines
    started = agent.lease(devices=[DeviceShare(devices[0].uuid, 0, 10_000, simulated=True)])
    agent.scheduler.send(EndLease(started.lease_id, kill=False))
    agent.scheduler.expect(LeaseEnded, lease_id=started.lease_id, kind="")
    first = [DeviceShare(devices[0].uuid, 0, 10_000, simulated=True)]
    again = agent.lease(devices=first)
    assert again.pid == started.pid, "a worker that holds little of its device stays for the next lease of its job"
    agent.scheduler.send(EndLease(again.lease_id, kill=False))
    agent.scheduler.expect(LeaseEnded, lease_id=again.lease_id, kind="")
    other = agent.lease(devices=first, job=b"job-0002")
    assert other.pid != started.pid
    assert not is_alive(started.pid), "another job does not get it"


def test_jobs_end_takes_their_idle_workers(start_agent: Start) -> None:
    from atoll.protocol.messages import JobEnded

    agent = start_agent()
    agent.define()
    started = agent.lease()
    agent.scheduler.send(EndLease(started.lease_id, kill=False))
    agent.scheduler.expect(LeaseEnded, lease_id=started.lease_id)
    agent.scheduler.send(JobEnded(JOB))
    eventually(lambda: not is_alive(started.pid), "the worker of the job is gone")
