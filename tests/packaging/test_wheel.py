"""The wheel is whole, and installing it is all that a Jupyter server needs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = {"atoll": "atoll", "scheduler": "atoll/scheduler", "nodeagent": "atoll/nodeagent"} | {
    "kernel_ext": "atoll/kernel_ext",
    "widgets": "atoll/widgets",
}

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the sources, so that nothing is left in them."""
    copy = tmp_path_factory.mktemp("sources")
    for name in (*ROOMS, "pyproject.toml", "README.md", "LICENSE"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
        else:
            shutil.copy(source, copy)
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        ".",
    ]
    subprocess.run(command, cwd=copy, check=True, env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def fresh_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of a new environment with the wheel in it, and our dependencies within its reach."""
    environment = tmp_path_factory.mktemp("fresh") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(command, check=True, env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    (packages,) = environment.glob("lib/python*/site-packages")
    # A path in a .pth file makes packages importable and runs no .pth file there, so not our editable installation.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def run(python: Path, *arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "PYTHON"))}
    environment |= {"HOME": str(home), "NO_COLOR": "1"}
    command = [str(python), *arguments]
    return subprocess.run(command, cwd=home, env=environment, text=True, capture_output=True, timeout=60)


def test_the_wheel_has_every_module_and_static_file(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    missing = [
        str(path.relative_to(ROOT))
        for folder, package in ROOMS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
        and not {"node_modules", "labextension"} & {*path.parts}
        and (path.suffix == ".py" or path.name == "py.typed" or path.parent.name == "static")
        and f"{package}/{path.relative_to(ROOT / folder)}" not in inside
    ]
    assert not missing


def test_the_wheel_takes_one_name_only(wheel: Path) -> None:
    version = wheel.name.split("-")[1]
    tops = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"atoll", f"atoll-{version}.data", f"atoll-{version}.dist-info"}


def test_the_wheel_enables_the_server_extension(wheel: Path) -> None:
    inside = zipfile.ZipFile(wheel).namelist()
    assert [name for name in inside if name.endswith("etc/jupyter/jupyter_server_config.d/atoll.json")]


def test_the_wheel_brings_what_jupyterlab_loads(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    described = [name for name in archive.namelist() if name.endswith("share/jupyter/labextensions/atoll/package.json")]
    assert len(described) == 1
    build = json.loads(archive.read(described[0]))["jupyterlab"]["_build"]
    assert described[0].replace("package.json", build["load"]) in archive.namelist()


def test_installing_enables_the_server_extension(fresh_python: Path, tmp_path: Path) -> None:
    listed = run(fresh_python, "-m", "jupyter_server.extension.serverextension", "list", home=tmp_path)
    text = listed.stdout + listed.stderr
    assert listed.returncode == 0, text
    plain = re.sub(r"\x1b\[\d*m", "", text)
    assert re.search(r"^ *atoll enabled$", plain, re.MULTILINE), plain
    assert re.search(r"^ *atoll \S+ OK$", plain, re.MULTILINE), plain


def test_the_command_is_installed(fresh_python: Path, tmp_path: Path) -> None:
    done = subprocess.run([fresh_python.parent / "atoll", "--version"], cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("atoll ")


def test_the_installed_package_is_the_wheels(fresh_python: Path, tmp_path: Path) -> None:
    done = run(fresh_python, "-c", "import atoll, atoll.cli; print(atoll.__file__)", home=tmp_path)
    assert done.stdout.startswith(str(fresh_python.parent.parent)), done.stderr
