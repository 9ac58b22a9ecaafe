"""Makes what a `runtime_env` asks for, then becomes the zygote of that environment.

    python -P -m atoll.nodeagent.environment_setup --control-fd N --extras FILE --packages DIRECTORY

The agent starts it in the zygote's place, with the zygote's control socket. So the agent does not wait for pip, forks
that are asked for meanwhile wait in the socket, and an environment that cannot be made ends as a zygote that cannot be
started: with a `RuntimeEnvSetupError` that says what pip said.

    packages/<digest>.zip         an archive, as a client has put it there
    packages/<digest>/            ... unpacked
    packages/venv-<digest>/       a virtual environment above the base one, for equal requirements

Each is made once, under a lock, and known to be whole: an archive is unpacked beside its place and renamed, a virtual
environment is marked. Everything goes with the cluster.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import signal
import site
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import msgspec

from atoll.nodeagent import processes
from atoll.protocol.values import Extras

EXIT_CODE = 79
"""Says that standard error ends with `MARK` and then why."""

MARK = "=== the environment cannot be made: "

_SHOWN_LINES = 12


class SetupError(Exception):
    """Why the environment cannot be made."""


def main() -> NoReturn:
    """Make the environment and become its zygote."""
    parser = argparse.ArgumentParser(prog="atoll.nodeagent.environment_setup")
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--extras", type=Path, required=True)
    parser.add_argument("--packages", type=Path, required=True)
    arguments = parser.parse_args()
    with contextlib.suppress(ProcessLookupError):  # then the control socket is at its end, too
        processes.die_with_parent(os.getppid(), signal.SIGKILL)
    extras = msgspec.msgpack.decode(arguments.extras.read_bytes(), type=Extras)
    try:
        command = _made(extras, arguments.packages)
    except (SetupError, OSError, zipfile.BadZipFile) as error:
        print(f"\n{MARK}{error}", file=sys.stderr, flush=True)
        sys.exit(EXIT_CODE)
    os.set_inheritable(arguments.control_fd, True)
    os.execv(command[0], [*command, "--control-fd", str(arguments.control_fd)])  # noqa: S606 - arguments of our own


def _made(extras: Extras, packages: Path) -> list[str]:
    """Make everything; return the command of the zygote."""
    executable = sys.executable
    command = ["-P", "-m", "atoll.nodeagent.zygote"]
    directories = [_unpacked(packages, name) for name in extras.module_archives]
    if extras.working_archive:
        working = _unpacked(packages, extras.working_archive)
        directories.insert(0, working)
        os.chdir(working)
    for directory in directories:
        command += ["--before", str(directory)]
    if extras.requirements:
        venv = _virtual_environment(extras, packages)
        executable = str(venv / "bin" / "python")
        command += ["--site", str(_site_packages(venv))]
        os.environ["VIRTUAL_ENV"] = str(venv)
        os.environ["PATH"] = f"{venv / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return [executable, *command]


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Let one process at a time make a thing. The lock ends with the process, whatever happens to it."""
    descriptor = os.open(f"{target}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _once(target: Path, make: Callable[[Path], None]) -> Path:
    """Make a directory, unless it is there."""
    if target.is_dir():
        return target
    with _locked(target):
        if not target.is_dir():
            part = target.with_name(f"{target.name}.{secrets.token_hex(4)}")
            try:
                make(part)
                part.rename(target)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    return target


def _unpacked(packages: Path, name: str) -> Path:
    def unpack(part: Path) -> None:
        with zipfile.ZipFile(packages / name) as archive:
            for entry in archive.infolist():
                # Paths that lead out of the directory are cut by `extract`.
                path = archive.extract(entry, part)
                if entry.external_attr >> 16 & 0o100:
                    Path(path).chmod(0o700)
        part.mkdir(exist_ok=True)

    if not (packages / name).is_file():
        raise SetupError(f"the archive {name} is not among the cluster's packages")
    return _once(packages / name.removesuffix(".zip"), unpack)


def _site_packages(venv: Path) -> Path:
    return venv / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def _virtual_environment(extras: Extras, packages: Path) -> Path:
    """Make a virtual environment that has the base environment's packages and, before them, what was asked for."""
    pip = [extras.requirements, extras.pip_options, extras.pip_version, extras.pip_check]
    # A relative requirement means something else in another directory.
    where = [sys.executable, sys.version, str(Path.cwd())]
    digest = hashlib.blake2b(msgspec.msgpack.encode([pip, where]), digest_size=16).hexdigest()
    target = packages / f"venv-{digest}"
    whole = target / "whole"
    with _locked(target):
        if not whole.exists():  # built in its place, since its scripts name the place
            shutil.rmtree(target, ignore_errors=True)
            _build(target, extras)
            whole.touch()
    return target


def _build(venv: Path, extras: Extras) -> None:
    timeout_s = extras.timeout_s or None
    _run([sys.executable, "-m", "venv", "--without-pip", "--symlinks", str(venv)], timeout_s)
    own = _site_packages(venv)
    bases = [path for path in dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]) if path]
    bases += [path for path in site.getsitepackages() if path not in bases]
    # `addsitedir` reads the .pth files there too, by which packages are installed for development.
    lines = [f"import site; site.addsitedir({path!r})" for path in bases]
    (own / "_base_environment.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")
    python = str(venv / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    if extras.pip_version:
        _run([*pip, "install", "--quiet", f"pip{extras.pip_version}"], timeout_s)
    requirements = venv / "requirements.txt"
    requirements.write_text("\n".join(extras.requirements) + "\n", encoding="utf-8")
    _run([*pip, "install", "--requirement", str(requirements), *extras.pip_options], timeout_s)
    if extras.pip_check:
        _run([*pip, "check"], timeout_s)


def _run(command: list[str], timeout_s: float | None) -> None:
    """Run a program; what it says is the error's text if it fails."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SetupError(
            f"{_named(command)} took longer than {timeout_s:g} s; give runtime_env['config']['setup_timeout_seconds']"
        ) from None
    print(done.stdout, end="", flush=True)
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        told = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")] or lines[-_SHOWN_LINES:]
        raise SetupError(f"{_named(command)} failed: {'; '.join(line.strip() for line in told)}")


def _named(command: list[str]) -> str:
    """Return what a command is, as people say it: `pip install`, without its options."""
    if "pip" not in command:
        return "making the virtual environment"
    return " ".join(["pip", *(word for word in command[command.index("pip") + 1 :] if word in {"install", "check"})])


if __name__ == "__main__":
    main()
