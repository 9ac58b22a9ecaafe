"""What a cell was seen to read while it ran in its worker: files, directories, variables, modules.

Python tells what is opened, listed, connected and started (audit events). What a cell reads of it is kept with its
result, and the result is used again only while it looks the same. A file's look is taken where the cell opens it and
again at the cell's end; one that changed between the two cannot be kept.

What libraries of other languages open themselves is not told. So texts in the code that name files count as well (see
`dependencies`), and for the rest there is `files=`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import types
from collections.abc import Iterator
from typing import Any

import msgspec

from atoll.client import names
from atoll.kernel_ext.cached.files import ABSENT, FileLooks, Identity, TooManyFiles, identity_of
from atoll.kernel_ext.cached.modules import ModuleFinder, is_own

NETWORK = "network"
PROGRAMS = "programs"
RANDOM = "random"

TICK_NS = 10_000_000
"""Two writes to a file within so short a time may leave the same times: a tick of the system's clock."""

_SYSTEM = ("/proc/", "/sys/", "/dev/", "/etc/", "/usr/lib/", "/usr/share/", "/lib/")
_CODE = (".py", ".pyc", ".so", ".pyi")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_STARTS = frozenset({"subprocess.Popen", "os.system", "os.posix_spawn", "os.exec", "os.spawn", "pty.spawn"})
_CHANGES = frozenset({"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"})


class Observed(msgspec.Struct):
    """What a cell has read.

    Attributes:
        files: Paths as the cell has named them, and what they look like.
        lists: Directories whose lists it has read, likewise.
        modules: The user's own modules that it has loaded, or found loaded as machine code, and their digests.
        variables: Environment variables that it has asked for.
        names: Names of the cluster that it has asked for, and which objects had them, in hex; empty for none.
        written: Paths that it has written to, absolute.
        notes: What it has done whose result no look at files tells: `network`, `programs`, `random`.
        unsure: Why its result cannot be kept; empty if it can.
    """

    files: dict[str, str] = {}
    lists: dict[str, str] = {}
    modules: dict[str, str] = {}
    variables: list[str] = []
    names: dict[str, str] = {}
    written: list[str] = []
    notes: list[str] = []
    unsure: str = ""


class _RecordingVariables(dict[Any, Any]):
    """The table behind `os.environ`; notes what is asked for."""

    asked: dict[Any, None]

    def __getitem__(self, key: Any) -> Any:
        self.asked[key] = None
        return super().__getitem__(key)

    def __iter__(self) -> Iterator[Any]:
        self.asked |= dict.fromkeys(self.keys())
        return super().__iter__()


class Observer:
    """Watches one cell.

    Args:
        own_directory: The cluster's own, whose files do not count.
    """

    def __init__(self, own_directory: str = "") -> None:
        self._ignored = _ignored_places(own_directory)
        self._opened: dict[str, Identity | None] = {}
        self._listed: dict[str, str] = {}
        self._written: dict[str, None] = {}
        self._notes: dict[str, None] = {}
        self._unsure = ""
        self._files = FileLooks()
        self._loaded: set[str] = set()
        self._variables: dict[Any, None] = {}
        self._names: dict[str, str] = {}

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """While the context lasts, what this process reads is the cell's."""
        _install()
        environ: Any = os.environ
        plain = environ._data
        recording = _RecordingVariables(plain)
        recording.asked = self._variables
        environ._data = recording
        random_before = _random_states()
        self._loaded = {name for name, module in list(sys.modules.items()) if _is_python(module)}
        names.Watch.tell = self.see_name
        _Hook.observer = self
        try:
            yield
        finally:
            _Hook.observer = None
            names.Watch.tell = None
            plain.clear()
            plain.update(dict.items(recording))
            environ._data = plain
            after = _random_states()
            if any(after[name] != state for name, state in random_before.items()):
                self._notes[RANDOM] = None

    def see_name(self, name: str, object_id: bytes) -> None:
        """Take a name of the cluster, and which object has it."""
        self._names[name] = object_id.hex()

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take an audit event."""
        if event == "open":
            self._see_open(*arguments[:3])
        elif event in ("os.listdir", "os.scandir"):
            path = _text_of(arguments[0] if arguments and arguments[0] is not None else ".")
            if path is not None and path not in self._listed and not self._is_ignored(path) and not _caller_is_import():
                self._listed[path] = ""  # looking at the list is seen, too
                self._listed[path] = self._files.names(path)
        elif event == "sqlite3.connect":
            self._see_open(arguments[0], "r", 0)
        elif event == "socket.connect":
            if not isinstance(arguments[1], (str, bytes)):  # those are sockets of this machine
                self._notes[NETWORK] = None
        elif event in _STARTS:
            self._notes[PROGRAMS] = None
        elif event in _CHANGES:
            for argument in arguments[:2]:
                path = _text_of(argument)
                if path is not None:
                    self._written[os.path.abspath(path)] = None  # noqa: PTH100

    def _see_open(self, path: Any, mode: Any, flags: Any) -> None:
        text = _text_of(path)
        if text is None or text == ":memory:" or self._is_ignored(text) or _caller_is_import():
            return
        writing = bool(flags & _WRITING) if isinstance(flags, int) else False
        if writing or (isinstance(mode, str) and set(mode) & set("wax+")):
            if text in self._opened:
                self._unsure = self._unsure or f"it changes {text}, which it reads"
            self._written[os.path.abspath(text)] = None  # noqa: PTH100
        elif text not in self._opened and os.path.abspath(text) not in self._written:  # noqa: PTH100
            self._opened[text] = self._identity(text)

    def _identity(self, path: str) -> Identity | None:
        """Return what a file is that is about to be opened, when every later write will show."""
        try:
            status = os.stat(path)  # noqa: PTH116
            age_ns = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns)
            if 0 <= age_ns < TICK_NS:
                time.sleep((TICK_NS - age_ns) / 1e9)
                status = os.stat(path)  # noqa: PTH116
        except (OSError, ValueError):
            return None
        return identity_of(status)

    def _is_ignored(self, path: str) -> bool:
        if "__pycache__" in path:
            return True
        place = os.path.abspath(path)  # noqa: PTH100
        if place.startswith(self._ignored):
            return True
        return place.endswith(_CODE) and not is_own(place)

    def result(self) -> Observed:
        """Return what the cell has read, as it looks at the cell's end."""
        loaded = {
            name: file
            for name, module in list(sys.modules.items())
            if isinstance(file := getattr(module, "__file__", None), str)
        }
        sources = set(loaded.values())
        files: dict[str, str] = {}
        for path, identity in self._opened.items():
            if os.path.abspath(path) in sources:  # noqa: PTH100
                continue
            if self._identity_now(path) != identity:
                self._unsure = self._unsure or f"{path} changed while the cell ran"
            with contextlib.suppress(TooManyFiles):
                files[path] = self._files.look(path) if identity is not None else ABSENT
        own = [
            name
            for name, file in loaded.items()
            if name not in self._loaded and is_own(file) and name.partition(".")[0] not in _NEVER
        ]
        modules = ModuleFinder(self._files).look(own).own
        lists = {path: look for path, look in self._listed.items() if not self._wrote_into(path)}
        variables = sorted(os.fsdecode(name) for name in self._variables)
        written, notes = list(self._written), list(self._notes)
        return Observed(files, lists, modules, variables, self._names, written, notes, self._unsure)

    def _identity_now(self, path: str) -> Identity | None:
        try:
            return identity_of(os.stat(path))  # noqa: PTH116
        except (OSError, ValueError):
            return None

    def _wrote_into(self, directory: str) -> bool:
        place = os.path.abspath(directory)  # noqa: PTH100
        return any(os.path.dirname(path) == place for path in self._written)  # noqa: PTH120


_NEVER = frozenset({"__main__", "__mp_main__", "atoll"})


def _is_python(module: object) -> bool:
    return str(getattr(module, "__file__", None)).endswith(".py")


def forget_own_modules() -> None:
    """Have the user's own modules imported anew: what an earlier cell did to them is no part of this one."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and file.endswith(".py") and name.partition(".")[0] not in _NEVER and is_own(file):
            del sys.modules[name]


class _Hook:
    """Python's audit hooks cannot be removed: this one does nothing while nobody observes."""

    installed = False
    observer: Observer | None = None


def _install() -> None:
    if not _Hook.installed:
        _Hook.installed = True
        sys.addaudithook(_hear)


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    observer = _Hook.observer
    if observer is not None:
        observer.see(event, arguments)


def _caller_is_import() -> bool:
    """Whether Python's import system, or what shows source lines, asked for it."""
    frame: types.FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__") == __name__:
        frame = frame.f_back
    name = frame.f_code.co_filename if frame is not None else ""
    return name.startswith("<frozen importlib") or name.endswith(("/tokenize.py", "/linecache.py"))


def _text_of(path: Any) -> str | None:
    try:
        return os.fsdecode(path)
    except TypeError:  # a descriptor
        return None


def _ignored_places(own_directory: str) -> tuple[str, ...]:
    home = os.path.expanduser("~")  # noqa: PTH111
    places = [own_directory, os.path.join(home, ".cache"), os.path.join(home, ".config")]  # noqa: PTH118
    places += [os.environ.get("MPLCONFIGDIR", ""), os.environ.get("IPYTHONDIR", "")]
    return (*_SYSTEM, *(f"{place.rstrip(os.sep)}{os.sep}" for place in places if place))


def _random_states() -> dict[str, Any]:
    """Return the states of the generators that belong to the process and not to a program."""
    states: dict[str, Any] = {}
    if "random" in sys.modules:
        states["random"] = sys.modules["random"].getstate()
    numpy: Any = sys.modules.get("numpy.random")
    if numpy is not None:
        state = numpy.get_state(legacy=True)
        states["numpy"] = (state[1].tobytes(), state[2])
    return states
