"""Directories as archives: what goes in, and that equal content has one name."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from atoll.exceptions import RuntimeEnvSetupError
from atoll.protocol.values import Environment
from atoll.runtime_env import RuntimeEnv, archives
from atoll.runtime_env.archives import Patterns, pack
from atoll.runtime_env.description import checked
from atoll.runtime_env.environments import extended

BASE = Environment("/usr/bin/python", ["/home/me"], "/home/me", {"HOME": "/home/me"})


@pytest.mark.parametrize(
    ("lines", "path", "directory", "out"),
    [
        (["*.bin"], "a/b.bin", False, True),
        (["*.bin"], "a/b.bins", False, False),
        (["/top"], "top", False, True),
        (["/top"], "below/top", False, False),
        (["build/"], "build", True, True),
        (["build/"], "build", False, False),
        (["a/**/z"], "a/b/c/z", False, True),
        (["data/*.csv"], "data/x.csv", False, True),
        (["data/*.csv"], "more/data/x.csv", False, False),
        (["*.log", "!keep.log"], "keep.log", False, False),
        (["# a comment", "", "x?"], "xy", False, True),
        (["[ab].txt"], "a.txt", False, True),
        (["[!ab].txt"], "a.txt", False, False),
    ],
)
def test_patterns_mean_what_they_mean_in_gitignore(lines: list[str], path: str, directory: bool, out: bool) -> None:
    assert Patterns(lines).match(path, directory=directory) is out


def make(directory: Path) -> Path:
    (directory / "inner").mkdir(parents=True)
    (directory / "inner" / "a.py").write_text("a")
    (directory / "run.sh").write_text("#!/bin/sh")
    (directory / "run.sh").chmod(0o755)
    (directory / ".gitignore").write_text("*.log\n")
    (directory / "x.log").write_text("left out")
    return directory


def test_equal_content_has_one_archive_wherever_it_lies(tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    first = pack(make(tmp_path / "one"), packages, [])
    second = pack(make(tmp_path / "two"), packages, [])
    assert first == second
    with zipfile.ZipFile(packages / first) as archive:
        assert archive.namelist() == [".gitignore", "inner/a.py", "run.sh"]
        assert archive.getinfo("run.sh").external_attr >> 16 & 0o100
    (tmp_path / "two" / "inner" / "a.py").write_text("b")
    assert pack(tmp_path / "two", packages, []) != first
    assert pack(tmp_path / "one", packages, ["*.sh"]) != first
    assert sorted(path.suffix for path in packages.iterdir()) == [".zip"] * 3


def test_a_directory_that_holds_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAXIMUM_BYTES", 4)
    with pytest.raises(RuntimeEnvSetupError, match="excludes"):
        pack(make(tmp_path / "one"), tmp_path / "packages", [])


def test_a_task_replaces_its_jobs_fields_and_adds_to_its_variables(tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    job = extended(
        BASE, {"env_vars": {"A": "1", "B": "1"}, "pip": ["six"], "working_dir": str(make(tmp_path / "one"))}, packages
    )
    task = extended(job, {"env_vars": {"B": "2"}, "pip": ["seven"]}, packages)
    assert task.variables == {"HOME": "/home/me", "A": "1", "B": "2"}
    assert task.extras is not None
    assert job.extras is not None
    assert task.extras.requirements == ["seven"]
    assert task.extras.working_archive == job.extras.working_archive
    assert '"B": "2"' in task.runtime_env
    assert extended(BASE, {"env_vars": {"A": "1"}}, packages).extras is None
    assert extended(BASE, {"config": {"setup_timeout_seconds": 5}}, packages).extras is None


def test_a_requirements_file_is_read_without_its_comments(tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text("# what we need\nsix==1.16\n\n--no-index\n")
    assert checked({"pip": str(file)})["pip"]["packages"] == ["six==1.16", "--no-index"]
    assert RuntimeEnv(pip=["six"], env_vars=None) == checked({"pip": ["six"]})
    assert checked('{"env_vars": {"A": "1"}}') == {"env_vars": {"A": "1"}}
    with pytest.raises(ValueError, match="no JSON"):
        checked("{")
