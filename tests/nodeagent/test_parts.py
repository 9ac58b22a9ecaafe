"""The shell's smaller parts: environments, devices, samples, logs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from atoll.environment import capture_environment, digest, filter_variables
from atoll.nodeagent.gpus import NoDevices
from atoll.nodeagent.logs import WorkerLogs, last_line
from atoll.nodeagent.monitor import Monitor
from atoll.protocol.messages import DefineEnvironment, decode, encode
from atoll.protocol.values import Environment

# -------------------------------------------------------------------------------------------------- environments


@pytest.mark.parametrize(
    "name",
    [
        "GITHUB_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "OPENAI_API_KEY",
        "MY_PASSWORD",
        "JPY_PARENT_PID",
        "JPY_SESSION_NAME",
        "JUPYTERHUB_API_URL",
        "JUPYTER_TOKEN",
        "ATOLL_KEY",
        "ATOLL_SIMULATED_GPUS",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "SSH_AUTH_SOCK",
        "CUDA_VISIBLE_DEVICES",
    ],
)
def test_s11_secrets_and_what_is_of_the_kernel_alone_stay_behind(name: str) -> None:
    assert filter_variables({name: "x", "PATH": "/bin"}) == {"PATH": "/bin"}


@pytest.mark.parametrize("name", ["PATH", "HOME", "LANG", "KEYBOARD", "MONKEYS", "PYTHONPATH", "VIRTUAL_ENV", "TZ"])
def test_usual_variables_go_along(name: str) -> None:
    assert filter_variables({name: "x"}) == {name: "x"}


def test_an_environment_is_captured_as_it_is_and_travels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "lib", "/usr/lib/python3"])
    monkeypatch.setenv("FLAVOUR", "salt")
    monkeypatch.setitem(os.environb, b"NOT_UTF8", b"\xff")
    environment = capture_environment()
    assert environment.sys_path == [str(tmp_path), str(tmp_path / "lib"), "/usr/lib/python3"]
    assert environment.working_directory == str(tmp_path)
    assert environment.executable == sys.executable
    assert environment.variables["FLAVOUR"] == "salt"
    assert "NOT_UTF8" not in environment.variables
    message = DefineEnvironment("x", environment, prepare=False)
    assert decode(encode(message)) == message


def test_a_working_directory_that_was_deleted_is_replaced_by_home(tmp_path: Path) -> None:
    script = (
        "import os, sys; os.chdir(sys.argv[1]); os.rmdir(sys.argv[1]);"
        "from atoll.environment import capture_environment; print(capture_environment().working_directory)"
    )
    gone = tmp_path / "gone"
    gone.mkdir()
    command = [sys.executable, "-P", "-c", script, str(gone)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert output.strip() == str(Path.home())


def test_equal_environments_have_equal_digests() -> None:
    one = Environment("/python", ["/a", "/b"], "/", {"A": "1", "B": "2"})
    same = Environment("/python", ["/a", "/b"], "/", {"B": "2", "A": "1"})
    others = [
        Environment("/python3", ["/a", "/b"], "/", {"A": "1", "B": "2"}),
        Environment("/python", ["/b", "/a"], "/", {"A": "1", "B": "2"}),
        Environment("/python", ["/a", "/b"], "/x", {"A": "1", "B": "2"}),
        Environment("/python", ["/a", "/b"], "/", {"A": "1", "B": "3"}),
    ]
    assert digest(one) == digest(same)
    assert len({digest(environment) for environment in (one, *others)}) == 5


# ------------------------------------------------------------------------------------------------------- samples


def test_workers_are_sampled_and_those_that_are_gone_left_out() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    observed = Monitor(NoDevices()).observe([(b"here", os.getpid()), (b"gone", gone.pid)])
    assert [worker.worker_id for worker in observed.workers] == [b"here"]
    assert observed.workers[0].memory_bytes > 2**20
    assert 0 < observed.memory_used_bytes < observed.memory_total_bytes


# ---------------------------------------------------------------------------------------------------------- logs


def test_a_log_is_cut_while_its_worker_writes_on(tmp_path: Path) -> None:
    logs = WorkerLogs(tmp_path / "logs", maximum_bytes=1000)
    path = Path(logs.worker_paths(b"w" * 8)[0])
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, b"a" * 900)
    logs.rotate()
    assert path.stat().st_size == 900
    os.write(descriptor, b"b" * 900)
    logs.rotate()
    os.write(descriptor, b"c" * 10)
    os.close(descriptor)
    assert path.read_bytes() == b"c" * 10
    kept = path.with_name(path.name + ".1")
    assert kept.read_bytes() == b"a" * 100 + b"b" * 900, "the last piece, no longer than a log may be"
    assert kept.stat().st_mode & 0o777 == 0o600


def test_logs_of_workers_that_ended_are_bounded_in_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atoll.nodeagent.logs.KEPT_FILES", 3)
    logs = WorkerLogs(tmp_path / "logs", maximum_bytes=1000)
    for number in range(6):
        path = Path(logs.worker_paths(b"worker%02d" % number)[0])
        path.write_text("said something" if number != 4 else "")
        os.utime(path, (number, number))
    logs.prune({b"worker00".hex()})
    left = sorted(bytes.fromhex(p.name.split("-")[1].split(".")[0]).decode() for p in (tmp_path / "logs").iterdir())
    assert left == ["worker00", "worker02", "worker03", "worker05"]


def test_the_last_line_is_the_last_that_says_anything(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert last_line(path) == ""
    path.write_bytes(b"first\n" + b"x" * 9000 + b"\nValueError: no\n\n  \n")
    assert last_line(path) == "ValueError: no"
    assert last_line(path, begin=path.stat().st_size) == ""
