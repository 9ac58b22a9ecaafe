"""`atoll doctor`: looks at everything that commonly goes wrong on one machine, and says what to do in one line each.

It only looks. It repairs, removes and ends nothing, because what seems left over may be somebody's evidence; each
finding names the command that does it. A check that cannot be made says so instead of passing.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import msgspec
import psutil

from atoll.client.connection import Connection
from atoll.client.daemons import AGENT, MODULES, SCHEDULER, is_daemon_process, pid_of, socket_path
from atoll.config import Settings
from atoll.config import settings as read_settings
from atoll.exceptions import (
    AtollError,
    AuthenticationError,
    ClusterLostError,
    InsecureDirectoryError,
    ProtocolError,
    VersionMismatchError,
)
from atoll.ids import new_process_id
from atoll.plain_text import Painter, counted, printable
from atoll.protocol.cluster_file import ClusterFile, read_cluster_file
from atoll.protocol.handshake import Identity
from atoll.protocol.runtime_directory import PREFIX, check_directory, host_name
from atoll.resources import format_bytes

OK, NOTE, PROBLEM = "ok", "note", "problem"

_NVIDIA_VENDOR = "0x10de"
_LOW_SHARE = 0.05
_LOW_BYTES = 500 * 2**20
_LOW_MEMORY_SHARE = 0.1
_STARTING_S = 60.0


class Finding(msgspec.Struct, frozen=True):
    """What one check found.

    Attributes:
        level: `ok`, `note` (worth knowing) or `problem`.
        area: What was looked at.
        text: What was found.
        advice: What to do, for a problem.
    """

    level: str
    area: str
    text: str
    advice: str = ""


def examine(path: Path) -> list[Finding]:
    """Make all checks.

    Args:
        path: Of the connection file.
    """
    checks: list[Callable[[Path], Iterator[Finding]]] = [
        _versions_installed,
        _settings,
        _runtime_directory,
        _cluster,
        _left_directories,
        _orphans,
        _disks,
        _memory,
        _gpus,
        _jupyter,
    ]
    return [finding for check in checks for finding in check(path)]


def finding_lines(findings: list[Finding], paint: Painter) -> Iterator[str]:
    """Yield the findings as text, a line each, the advice of a problem below it."""
    signs = {OK: paint("ok     ", "green"), NOTE: paint("note   ", "yellow"), PROBLEM: paint("PROBLEM", "red")}
    width = max((len(finding.area) for finding in findings), default=0)
    for finding in findings:
        yield f"{signs[finding.level]}  {finding.area:<{width}}  {printable(finding.text, 400)}"
        if finding.advice:
            yield " " * (9 + width + 2) + paint("→ ", "bold") + finding.advice
    problems = sum(finding.level == PROBLEM for finding in findings)
    yield ""
    yield paint(f"{counted(problems, 'problem')} found", "red" if problems else "green")


def findings_json(findings: list[Finding]) -> str:
    """Return the findings as JSON."""
    return msgspec.json.format(msgspec.json.encode(findings), indent=2).decode()


def _versions_installed(_path: Path) -> Iterator[Finding]:
    cloudpickle = metadata.version("cloudpickle")
    text = f"Atoll {metadata.version('atoll')}, Python {platform.python_version()}, cloudpickle {cloudpickle}"
    yield Finding(OK, "versions here", text)


def _settings(_path: Path) -> Iterator[Finding]:
    try:
        found = read_settings()
    except ValueError as error:
        yield Finding(PROBLEM, "settings", str(error), "change or unset that variable; `atoll.config` lists them all")
        return
    store = format_bytes(found.store_capacity_bytes)
    text = f"{counted(found.num_cpus, 'CPU')}, {format_bytes(found.memory_bytes)} memory, store of {store}"
    yield Finding(OK, "settings", text)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < 1024:
        advice = f"run `ulimit -n {hard if 0 < hard < 4096 else 4096}` before the cluster starts"
        yield Finding(PROBLEM, "settings", f"only {soft} open files a process are allowed", advice)


def _runtime_directory(path: Path) -> Iterator[Finding]:
    try:
        check_directory(path.parent, private=False)
    except FileNotFoundError:
        yield Finding(OK, "runtime directory", f"{path.parent} is made at the first start")
    except InsecureDirectoryError as error:
        yield Finding(PROBLEM, "runtime directory", str(error), "Atoll refuses to start until this is changed")
    else:
        yield Finding(OK, "runtime directory", f"{path.parent} is ours")


def _cluster(path: Path) -> Iterator[Finding]:
    try:
        cluster = read_cluster_file(path)
    except FileNotFoundError:
        yield Finding(OK, "cluster", "none runs; `atoll up`, `jupyter lab` or `%load_ext atoll` starts one")
        return
    except (InsecureDirectoryError, ProtocolError) as error:
        yield Finding(PROBLEM, "connection file", str(error), f"remove {path} and stop what it belonged to")
        return
    found = list(_daemons(cluster, path))
    if all(finding.level == PROBLEM and "nothing listens" in finding.text for finding in found):
        yield Finding(
            PROBLEM,
            "connection file",
            f"{path} is stale: the cluster that it names ({cluster.cluster_id}) does not run any more",
            "run `atoll down`; the next start removes it too",
        )
        return
    yield from found
    yield from _permissions(cluster)


def _daemons(cluster: ClusterFile, path: Path) -> Iterator[Finding]:
    for daemon in (SCHEDULER, AGENT):
        pid = pid_of(cluster, daemon)
        runs = is_daemon_process(pid, daemon, path)
        identity = Identity("client", new_process_id())
        try:
            Connection(socket_path(cluster, daemon), cluster.key_bytes(), identity, shares_values=True).close()
        except ClusterLostError as error:
            text = f"{daemon} runs (pid {pid}) and does not answer" if runs else f"nothing listens: {error}"
            advice = (
                "run `atoll logs`, then `atoll down` and start again" if runs else "run `atoll up`: it starts it again"
            )
            yield Finding(PROBLEM, daemon, text, advice)
        except VersionMismatchError as error:
            advice = "run `atoll down`, then start it from the environment of your kernels"
            yield Finding(PROBLEM, daemon, f"another version than here: {error}", advice)
        except AuthenticationError as error:
            advice = f"remove {path}, and end what listens at {socket_path(cluster, daemon)}"
            yield Finding(PROBLEM, daemon, str(error), advice)
        except AtollError as error:
            yield Finding(PROBLEM, daemon, str(error), "run `atoll down` and start again")
        else:
            yield Finding(OK, daemon, f"answers, pid {pid}, same versions as here")


def _permissions(cluster: ClusterFile) -> Iterator[Finding]:
    directory = Path(cluster.directory)
    try:
        check_directory(directory)
    except (InsecureDirectoryError, FileNotFoundError) as error:
        yield Finding(PROBLEM, "session directory", str(error), "run `atoll down` and start again")
        return
    open_ones = []
    for entry in directory.rglob("*"):
        try:
            status = entry.lstat()
        except FileNotFoundError:
            continue
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            open_ones.append(f"{entry.relative_to(directory)} ({stat.filemode(status.st_mode)})")
    if open_ones:
        text = f"not ours alone: {', '.join(open_ones[:5])}"
        yield Finding(PROBLEM, "session directory", text, f"run `chmod -R go= {directory}`")
    else:
        yield Finding(OK, "session directory", f"{directory} is ours alone")


def _left_directories(path: Path) -> Iterator[Finding]:
    """Find session directories of this host that no connection file names."""
    try:
        used = read_cluster_file(path).directory
    except (AtollError, FileNotFoundError):
        used = ""
    candidates = [*path.parent.glob(f"{PREFIX}{host_name()}-*/"), *Path(tempfile.gettempdir()).glob(f"{PREFIX}*/")]
    for directory in candidates:
        try:
            check_directory(directory)
        except (AtollError, FileNotFoundError):
            continue  # somebody else's, which is none of our business
        ours = (directory / "logs").is_dir() and (directory / "workers").is_dir()
        if ours and str(directory) != used and not _somebody_names(directory):
            yield Finding(PROBLEM, "left over", f"{directory} belongs to no cluster", f"run `rm -r {directory}`")


def _somebody_names(directory: Path) -> bool:
    """Tell whether a running daemon has this session directory: its working directory is there."""
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()) == directory:
                return True
        except psutil.Error:
            continue
    return False


def _orphans(path: Path) -> Iterator[Finding]:
    """Find daemons of ours that no connection file names: nobody can reach them."""
    found = 0
    for process in psutil.process_iter():
        try:
            with process.oneshot():
                command = process.cmdline()
                mine = process.uids().real == os.getuid() and process.status() != psutil.STATUS_ZOMBIE
                young = process.create_time() > time.time() - _STARTING_S
        except psutil.Error:
            continue
        kinds = [daemon for daemon, module in MODULES.items() if module in command and "--cluster-file" in command]
        if not (mine and kinds):
            continue
        found += 1
        named = Path(command[command.index("--cluster-file") + 1])
        if _names(named, kinds[0], process.pid, starting=young):
            continue
        text = f"{kinds[0]} with pid {process.pid} is named by no connection file (it was started for {named})"
        yield Finding(PROBLEM, "orphans", text, f"run `kill {process.pid}`")
    if not found and not path.exists():
        yield Finding(OK, "orphans", "no daemon of ours runs")


def _names(path: Path, daemon: str, pid: int, *, starting: bool) -> bool:
    try:
        named = pid_of(read_cluster_file(path), daemon)
    except (AtollError, OSError):
        return False
    return named == pid or (named == 0 and starting)


def _disks(path: Path) -> Iterator[Finding]:
    places = {"/dev/shm": "remove what fills it; objects in shared memory count against the same memory"}  # noqa: S108
    places[_existing(path.parent)] = "free some space, or set ATOLL_RUNTIME_DIR to a directory elsewhere"
    places[tempfile.gettempdir()] = "free some space, or set TMPDIR to a directory elsewhere"
    full = False
    for place, advice in places.items():
        try:
            usage = shutil.disk_usage(place)
        except OSError as error:
            yield Finding(NOTE, "disks", f"{place}: {error.strerror}")
            continue
        if usage.free < min(_LOW_BYTES, usage.total / 2) or usage.free < _LOW_SHARE * usage.total:
            full = True
            text = f"{place} has {format_bytes(usage.free)} left of {format_bytes(usage.total)}"
            yield Finding(PROBLEM, "disks", text, advice)
    if not full:
        yield Finding(OK, "disks", f"there is room in {', '.join(places)}")


def _existing(path: Path) -> str:
    """Return the path, or the nearest directory above it that exists."""
    while not path.exists():
        path = path.parent
    return str(path)


def _memory(_path: Path) -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    text = f"{format_bytes(memory.available)} available of {format_bytes(memory.total)}"
    if memory.available < _LOW_MEMORY_SHARE * memory.total:
        advice = "end what takes the memory (`atoll status` shows each worker), or set ATOLL_STORE_CAPACITY_BYTES lower"
        yield Finding(PROBLEM, "memory", text, advice)
        return
    yield Finding(OK, "memory", text)
    try:
        found: Settings = read_settings()
    except ValueError:
        return  # said by the check of the settings
    if found.store_capacity_bytes > memory.available:
        store = format_bytes(found.store_capacity_bytes)
        yield Finding(NOTE, "memory", f"a full object store would take {store}, more than is available now")


def _gpus(_path: Path) -> Iterator[Finding]:
    try:
        settings = read_settings()
        simulated = counted(settings.simulated_gpus, "simulated GPU")
        if settings.simulated_gpu_script:
            simulated = "simulated GPUs by a script"
        if settings.simulated_gpu_script or settings.simulated_gpus:
            yield Finding(NOTE, "GPUs", f"{simulated} (ATOLL_SIMULATED_GPUS): they compute nothing")
    except ValueError:
        pass  # said by the check of the settings
    devices = _nvidia_devices()
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if devices:
            text = f"{counted(devices, 'NVIDIA device')} on the PCI bus, and NVML says: {error}"
            advice = (
                "install the NVIDIA driver, or start the container with its GPUs (`--gpus all`); check `nvidia-smi`"
            )
            yield Finding(PROBLEM, "GPUs", text, advice)
        else:
            yield Finding(OK, "GPUs", f"none on this machine ({error})")
        return
    try:
        count, driver = pynvml.nvmlDeviceGetCount(), pynvml.nvmlSystemGetDriverVersion()
        names = sorted({pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(number)) for number in range(count)})
        if count:
            yield Finding(OK, "GPUs", f"{count} x {', '.join(names)}, driver {driver}")
        else:
            advice = "check `nvidia-smi`, and which devices the container was given"
            yield Finding(PROBLEM, "GPUs", f"driver {driver} is here and shows no device", advice)
    except pynvml.NVMLError as error:
        yield Finding(PROBLEM, "GPUs", f"NVML says: {error}", "check `nvidia-smi` and the kernel's log")
    finally:
        pynvml.nvmlShutdown()


def _nvidia_devices(bus: Path = Path("/sys/bus/pci/devices")) -> int:
    """Return how many display or 3D controllers of NVIDIA are on the PCI bus."""
    count = 0
    for device in bus.glob("*"):
        try:
            vendor = (device / "vendor").read_text(encoding="ascii").strip()
            kind = (device / "class").read_text(encoding="ascii").strip()
        except OSError:
            continue
        count += vendor == _NVIDIA_VENDOR and kind.startswith("0x03")
    return count


def _jupyter(_path: Path) -> Iterator[Finding]:
    from jupyter_core.paths import jupyter_config_path

    places = [Path(place) / "jupyter_server_config.d" / "atoll.json" for place in jupyter_config_path()]
    found = [str(place) for place in places if place.exists()]
    if found:
        yield Finding(OK, "Jupyter", f"the server extension is enabled by {found[0]}")
    else:
        text = "the server extension is not enabled, so a Jupyter server does not start the cluster (kernels still do)"
        yield Finding(NOTE, "Jupyter", text, "run `jupyter server extension enable atoll --sys-prefix`")
