"""`runtime_env` on a real cluster: variables, directories, modules, packages; for jobs, tasks and actors."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

import atoll
from atoll.exceptions import RuntimeEnvSetupError

pytestmark = [pytest.mark.processes]


@atoll.remote
def variables(*names: str) -> list[str | None]:
    return [os.environ.get(name) for name in names]


@atoll.remote
def look(module: str) -> dict[str, Any]:
    import importlib

    found = importlib.import_module(module)
    here = Path.cwd()
    listing = sorted(path.name for path in here.iterdir() if path.name != "__pycache__")
    return {"value": found.VALUE, "directory": str(here), "listing": listing}


def project(directory: Path, value: str = "1") -> Path:
    directory.mkdir()
    (directory / "in_the_directory.py").write_text(f"VALUE = {value}\n")
    (directory / "data.txt").write_text("data")
    (directory / "large.bin").write_text("not wanted")
    (directory / "__pycache__").mkdir()
    (directory / "__pycache__" / "x.pyc").write_text("")
    return directory


@pytest.mark.usefixtures("session")
def test_a_tasks_variables_are_its_own() -> None:
    theirs = variables.options(runtime_env={"env_vars": {"COLOUR": "green", "API_TOKEN": "given on purpose"}})
    assert atoll.get(theirs.remote("COLOUR", "API_TOKEN", "HOME")) == ["green", "given on purpose", os.environ["HOME"]]
    assert atoll.get(variables.remote("COLOUR")) == [None]


@pytest.mark.usefixtures("session")
def test_what_a_task_submits_inherits_its_variables_and_adds_to_them() -> None:
    @atoll.remote
    def outer() -> Any:
        inherited = variables.remote("A", "B")
        added = variables.options(runtime_env={"env_vars": {"B": "inner"}}).remote("A", "B")
        return atoll.get([inherited, added])

    env = {"env_vars": {"A": "outer", "B": "outer"}}
    assert atoll.get(outer.options(runtime_env=env).remote()) == [["outer", "outer"], ["outer", "inner"]]


@pytest.mark.usefixtures("session")
def test_an_actor_has_an_environment_too() -> None:
    @atoll.remote
    class Holder:
        def look(self) -> str | None:
            return os.environ.get("COLOUR")

    holder = Holder.options(runtime_env={"env_vars": {"COLOUR": "blue"}}).remote()
    assert atoll.get(holder.look.remote()) == "blue"


def test_a_jobs_environment_is_that_of_all_its_tasks(cluster: Path, tmp_path: Path) -> None:
    assert cluster
    atoll.init(runtime_env={"env_vars": {"A": "job", "B": "job"}, "working_dir": str(project(tmp_path / "project"))})
    try:
        assert atoll.get(variables.remote("A")) == ["job"]
        merged = variables.options(runtime_env={"env_vars": {"B": "task"}})
        assert atoll.get(merged.remote("A", "B")) == ["job", "task"]
        assert atoll.get(look.options(runtime_env={"env_vars": {"B": "x"}}).remote("in_the_directory"))["value"] == 1
    finally:
        atoll.shutdown()


@pytest.mark.usefixtures("session")
def test_a_working_directory_is_sent_by_its_content(tmp_path: Path) -> None:
    directory = project(tmp_path / "project")
    env = {"working_dir": str(directory), "excludes": ["*.bin"]}
    seen = atoll.get(look.options(runtime_env=env).remote("in_the_directory"))
    assert seen["value"] == 1
    assert seen["listing"] == ["data.txt", "in_the_directory.py"]
    assert seen["directory"] != str(directory)
    (directory / "in_the_directory.py").write_text("VALUE = 2\n")
    changed = atoll.get(look.options(runtime_env=env).remote("in_the_directory"))
    assert changed["value"] == 2
    assert changed["directory"] != seen["directory"]


@pytest.mark.usefixtures("session")
def test_a_zip_file_is_a_working_directory_too(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "project.zip", "w") as archive:
        archive.writestr("in_the_zip.py", "VALUE = 'zip'\n")
    env = {"working_dir": str(tmp_path / "project.zip")}
    assert atoll.get(look.options(runtime_env=env).remote("in_the_zip"))["value"] == "zip"


@pytest.mark.usefixtures("session")
def test_modules_are_sent_as_directories_files_and_wheels(tmp_path: Path) -> None:
    package = tmp_path / "a_package"
    package.mkdir()
    (package / "__init__.py").write_text("VALUE = 'package'\n")
    (tmp_path / "a_module.py").write_text("VALUE = 'module'\n")
    wheel = make_wheel(tmp_path, "wheeled", "'wheel'")
    env = {"py_modules": [str(package), tmp_path / "a_module.py", str(wheel)]}
    task = look.options(runtime_env=env)
    values = [atoll.get(task.remote(name))["value"] for name in ("a_package", "a_module", "wheeled")]
    assert values == ["package", "module", "wheel"]


def make_wheel(directory: Path, name: str, value: str) -> Path:
    """Write a wheel by hand: no tool and no network is needed."""
    wheel = directory / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{name}.py", f"VALUE = {value}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return wheel


@atoll.remote
def installed(module: str) -> dict[str, Any]:
    import importlib

    import numpy as np

    shown = subprocess.run(
        [sys.executable, "-c", f"import {module}, numpy; print({module}.VALUE)"], capture_output=True, text=True
    )
    return {
        "value": importlib.import_module(module).VALUE,
        "prefix": sys.prefix,
        "child": shown.stdout.strip() or shown.stderr,
        "base": np.__name__,
        "path": os.environ["PATH"].split(os.pathsep)[0],
    }


@pytest.mark.usefixtures("session")
def test_pip_makes_a_virtual_environment_above_the_base_one_once(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "piped", "'from pip'")
    env = {"pip": {"packages": [str(wheel)], "pip_install_options": ["--no-index"]}}
    seen = atoll.get(installed.options(runtime_env=env).remote("piped"), timeout=60)
    assert seen["value"] == seen["child"] == "from pip"
    assert seen["base"] == "numpy"
    assert seen["prefix"] != sys.prefix
    assert seen["path"] == f"{seen['prefix']}/bin"
    with_more = env | {"env_vars": {"COLOUR": "red"}}
    again = atoll.get(installed.options(runtime_env=with_more).remote("piped"), timeout=60)
    assert again["prefix"] == seen["prefix"]
    with pytest.raises(ModuleNotFoundError):
        atoll.get(look.remote("piped"))


@pytest.mark.usefixtures("session")
def test_pip_that_fails_says_why_and_others_go_on_meanwhile() -> None:
    env = {"pip": {"packages": ["no-such-package==9.9"], "pip_install_options": ["--no-index"]}}
    doomed = variables.options(runtime_env=env).remote("A")
    assert atoll.get(variables.remote("A"), timeout=5) == [None]
    with pytest.raises(RuntimeEnvSetupError, match="No matching distribution found for no-such-package"):
        atoll.get(doomed, timeout=60)


@pytest.mark.usefixtures("session")
def test_setting_up_ends_when_its_time_is_over(tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "slow"\nversion = "1"\n'
    )
    (slow / "backend.py").write_text("import time\ntime.sleep(60)\n")
    env = {
        "pip": {"packages": [str(slow)], "pip_install_options": ["--no-index"]},
        "config": {"setup_timeout_seconds": 3},
    }
    with pytest.raises(RuntimeEnvSetupError, match="longer than 3 s"):
        atoll.get(variables.options(runtime_env=env).remote("A"), timeout=30)


@pytest.mark.usefixtures("session")
@pytest.mark.parametrize(
    ("env", "error", "text"),
    [
        ({"env_var": {}}, ValueError, "Did you mean 'env_vars'"),
        ({"conda": {}}, ValueError, "'conda' of Ray's"),
        ({"env_vars": {"A": 1}}, TypeError, "dict of texts"),
        ({"env_vars": {"A=B": "1"}}, ValueError, "cannot be the name"),
        ({"working_dir": "/no/such/place"}, ValueError, "is not there"),
        ({"working_dir": __file__}, ValueError, "neither a directory"),
        ({"working_dir": "s3://bucket/x.zip"}, ValueError, "is remote"),
        ({"py_modules": "a"}, TypeError, "must be a list"),
        ({"pip": 3}, TypeError, "must be a list, a file or a dict"),
        ({"pip": "no-such-requirements.txt"}, ValueError, "is not there"),
        ({"config": {"setup_timeout_seconds": 0}}, ValueError, "above 0"),
    ],
)
def test_a_mistake_is_told_where_it_is_made(env: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        variables.options(runtime_env=env).remote("A")
