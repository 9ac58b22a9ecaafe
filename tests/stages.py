"""Every check in its order, the cheap ones first; ends at the first that fails.

python tests/stages.py              all stages
python tests/stages.py lint types   these

lint       ruff: rules and format
contracts  import-linter: who may import whom
types      mypy --strict on the installed package
unit       pytest: unit, property and simulation tests, and those with real processes
browser    pytest: JupyterLab in Chromium
nbval      every notebook in a fresh kernel, with a cluster of its own and simulated GPUs
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TYPED = ROOT / ".build" / "typed"
BIN = Path(sys.executable).parent
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
OUTCOMES = re.compile(r"(\d+) (passed|failed|skipped|errors?|xfailed|xpassed|deselected)")

outcomes: Counter[str] = Counter()


def cpython_sources() -> list[Path]:
    """Return where CPython's own tests of executors may be: in the standard library, or in Debian's."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    roots = [Path(sysconfig.get_path("stdlib")), Path("/usr/lib") / version]
    return [root / "test" / "test_concurrent_futures.py" for root in roots]


class StageFailed(Exception):
    """A stage found something."""


def run(*command: str | Path, environment: dict[str, str] | None = None, directory: Path = ROOT) -> None:
    """Run a command; its output is ours."""
    done = subprocess.run([str(part) for part in command], cwd=directory, env=os.environ | (environment or {}))
    if done.returncode:
        raise StageFailed(f"{Path(command[0]).name} ended with {done.returncode}")


def pytest(*arguments: str | Path, environment: dict[str, str] | None = None) -> None:
    """Run pytest, pass its output on, and count its outcomes."""
    command = [sys.executable, "-m", "pytest", *map(str, arguments)]
    closing = ""
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | (environment or {}), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            closing = line if line.strip() else closing
    for number, outcome in OUTCOMES.findall(closing):
        outcomes["failed" if outcome.startswith("error") else outcome] += int(number)
    if process.returncode:
        raise StageFailed(f"pytest ended with {process.returncode}")


def lint() -> None:
    """Check the rules and the format."""
    run(BIN / "ruff", "check", ".")
    run(BIN / "ruff", "format", "--check", ".")


def install_typed() -> None:
    """Install the package as a user gets it, beside the environment: the folders are mapped, nothing is editable."""
    shutil.rmtree(TYPED, ignore_errors=True)
    # setuptools would put into the package whatever an earlier build left there.
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(*pip, "--no-deps", "--no-build-isolation", "--target", TYPED, ".")
    shutil.rmtree(ROOT / "build", ignore_errors=True)


def contracts() -> None:
    """Check who imports whom."""
    install_typed()
    # From there, since the sources would be found first, and they are mapped only once they are installed.
    run(BIN / "lint-imports", "--config", ROOT / "pyproject.toml", directory=TYPED)


def types() -> None:
    """Check the types of the installed package, and what a type checker knows of a program that uses it."""
    install_typed()
    for checked in (TYPED / "atoll", ROOT / "tests" / "typing"):
        run(BIN / "mypy", "--strict", checked, environment={"MYPYPATH": str(TYPED)})


def unit() -> None:
    """Run all tests but those in a browser and those that are slow by nature. Those that need a GPU skip themselves."""
    if shutil.which("npm"):  # the committed bundle is compared with what its sources make
        run("make", "-C", "widgets", "node_modules")
    if not any(path.is_file() for path in cpython_sources()):
        _install(f"libpython{sys.version_info.major}.{sys.version_info.minor}-testsuite", "CPython's executor tests")
    # Two at once, since mostly they wait for processes. A file stays together, and with it the cluster that it shares.
    pytest("-q", "-m", "not browser and not slow and not alone", "--numprocesses", "2", "--dist", "loadfile")
    pytest("-q", "-m", "alone")


def browser() -> None:
    """Run the tests in a browser; without one they skip themselves."""
    if not any(map(shutil.which, CHROMIUM)):
        _install("chromium", "the tests in a browser", "fonts-dejavu-core")
    pytest("-q", "-m", "browser")


def _install(package: str, what: str, *others: str) -> None:
    """Install a Debian package that some tests need; where that is not possible, they skip themselves."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        print(f"{package} is missing and cannot be installed by this user: {what} are skipped", flush=True)
        return
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        run("apt-get", "update", "-qq")
        run("apt-get", "install", "-qq", "--yes", "--no-install-recommends", package, *others, environment=quiet)
    except StageFailed as error:
        print(f"{package} cannot be installed ({error}): {what} are skipped", flush=True)


def nbval() -> None:
    """Run every notebook and compare what it shows with what is saved in it.

    They have one cluster, as a user's notebooks do: the second takes from its cache what the first has put there.
    """
    runtime = tempfile.mkdtemp(prefix="atoll-nbval-")
    environment = {
        "ATOLL_RUNTIME_DIR": runtime,
        "ATOLL_SIMULATED_GPUS": "2",
        "ATOLL_LINGER_S": "30",
        # The line that says how long a cell takes is shown for slow cells only.
        "ATOLL_STATUS": "off",
    }
    options = ["--nbval", "--nbval-current-env", "--nbval-cell-timeout", "120", "--timeout", "240"]
    options += ["--nbval-sanitize-with", str(ROOT / "notebooks" / "sanitize.cfg")]
    try:
        # Warnings of other people's packages in a notebook are no failure of ours.
        pytest("-q", *options, "-W", "default", *sorted((ROOT / "notebooks").glob("*.ipynb")), environment=environment)
    finally:
        run(sys.executable, "-m", "atoll", "down", environment=environment)
        shutil.rmtree(runtime)


STAGES: dict[str, Callable[[], None]] = {
    "lint": lint,
    "contracts": contracts,
    "types": types,
    "unit": unit,
    "browser": browser,
    "nbval": nbval,
}


def main(names: Sequence[str]) -> int:
    """Run the stages of these names, or all."""
    unknown = [name for name in names if name not in STAGES]
    if unknown:
        print(f"no such stage: {', '.join(unknown)}; there are {', '.join(STAGES)}", file=sys.stderr)
        return 2
    began = time.monotonic()
    took: list[str] = []
    failure = ""
    for name in names or STAGES:
        print(f"\n==> {name}", flush=True)
        start = time.monotonic()
        try:
            STAGES[name]()
        except StageFailed as error:
            failure = f"{name}: {error}"
        took.append(f"  {name:<10} {time.monotonic() - start:6.1f} s  {'FAILED' if failure else 'passed'}")
        if failure:
            break
    print("\n" + "\n".join(took))
    if failure:
        print(f"stopped at {failure}")
    if outcomes or failure:
        failed = outcomes["failed"] or int(bool(failure))
        skipped = f", {outcomes['skipped']} skipped" if outcomes["skipped"] else ""
        print(f"{outcomes['passed']} passed, {failed} failed{skipped} in {time.monotonic() - began:.0f} s")
    return int(bool(failure))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
