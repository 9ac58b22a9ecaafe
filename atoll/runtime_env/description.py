"""What people write: checked where it is given, so that a mistake is an error there and not in a worker."""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FIELDS = ("env_vars", "working_dir", "py_modules", "pip", "excludes", "config")

_OTHERS = ("conda", "container", "image_uri", "uv", "worker_process_setup_hook", "py_executable", "nsight", "mpi")
"""Fields of Ray's that are not here: said so, not ignored."""

_PIP_FIELDS = ("packages", "pip_check", "pip_version", "pip_install_options")
_CONFIG_FIELDS = ("setup_timeout_seconds", "eager_install")

DEFAULT_TIMEOUT_S = 600.0


class RuntimeEnv(dict[str, Any]):
    """A `runtime_env` with named arguments; a plain dict does the same.

    Args:
        env_vars: Environment variables.
        working_dir: A directory or zip file: the working directory, from which modules are imported too.
        py_modules: Directories, `.py`, `.zip` or `.whl` files, or modules, that can be imported.
        pip: Requirements, a requirements file, or a dict with `packages`, `pip_check`, `pip_version` and
            `pip_install_options`.
        excludes: What of the directories is left out, in the patterns of `.gitignore`.
        config: `setup_timeout_seconds`.

    Raises:
        TypeError: A value is of another type.
        ValueError: There is no such field, or its value makes no sense.
    """

    def __init__(self, **fields: Any) -> None:
        super().__init__(checked({name: value for name, value in fields.items() if value is not None}))


class RuntimeEnvConfig(dict[str, Any]):
    """How an environment is made.

    Args:
        setup_timeout_seconds: So long it may take; -1 for as long as it takes.
        eager_install: Ray's; an environment is made as soon as it is named.
    """

    def __init__(self, setup_timeout_seconds: int = int(DEFAULT_TIMEOUT_S), eager_install: bool = True) -> None:
        super().__init__(setup_timeout_seconds=setup_timeout_seconds, eager_install=eager_install)


def checked(given: Mapping[str, Any] | str) -> dict[str, Any]:
    """Return a `runtime_env` whose every field is of the right type, modules replaced by their paths.

    Raises:
        TypeError: A value is of another type.
        ValueError: There is no such field, or its value makes no sense; names the near one.
    """
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            raise ValueError("runtime_env is a text that is no JSON: give a dict") from None
    if not isinstance(given, Mapping):
        raise TypeError(f"runtime_env must be a dict, not {type(given).__name__}")
    made = {}
    for name, value in given.items():
        if name not in FIELDS:
            raise ValueError(_unknown(name))
        if value is not None:
            made[name] = _CHECKS[name](value)
    return made


def _unknown(name: str) -> str:
    if name in _OTHERS:
        return f"the field {name!r} of Ray's runtime_env is not in Atoll; there are {', '.join(FIELDS)}"
    near = difflib.get_close_matches(str(name), FIELDS, n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(FIELDS)}."
    return f"runtime_env has no field {name!r}. {hint}"


def _env_vars(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise TypeError(f"runtime_env['env_vars'] must be a dict of texts, not {type(value).__name__}")
    for name, text in value.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise TypeError(f"runtime_env['env_vars'] must be a dict of texts, and {name!r}: {text!r} is none")
        if not name or "=" in name or "\0" in name + text:
            raise ValueError(f"{name!r} cannot be the name of an environment variable")
    return dict(value)


def _working_dir(value: Any) -> str:
    if not isinstance(value, str | Path):
        raise TypeError(f"runtime_env['working_dir'] must be a path, not {type(value).__name__}")
    path = _local(value, "working_dir")
    if not path.is_dir() and path.suffix != ".zip":
        raise ValueError(f"runtime_env['working_dir']: {path} is neither a directory nor a .zip file")
    return str(path)


def _py_modules(value: Any) -> list[str]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"runtime_env['py_modules'] must be a list, not {type(value).__name__}")
    return [_py_module(item) for item in value]


def _py_module(value: Any) -> str:
    if isinstance(value, types.ModuleType):
        places = list(getattr(value, "__path__", ())) or [getattr(value, "__file__", None)]
        if not places[0]:
            raise ValueError(f"runtime_env['py_modules']: the module {value.__name__} is no file")
        return str(places[0])
    if not isinstance(value, str | Path):
        raise TypeError(f"runtime_env['py_modules'] must hold paths and modules, not a {type(value).__name__}")
    path = _local(value, "py_modules")
    if not path.is_dir() and path.suffix not in (".py", ".zip", ".whl"):
        raise ValueError(f"runtime_env['py_modules']: {path} is neither a directory nor a .py, .zip or .whl file")
    return str(path)


def _local(value: str | Path, field: str) -> Path:
    if "://" in str(value):
        raise ValueError(f"runtime_env[{field!r}]: {value} is remote; give the path of a local directory or file")
    path = Path(value).expanduser().absolute()
    if not path.exists():
        raise ValueError(f"runtime_env[{field!r}]: {path} is not there")
    return path


def _pip(value: Any) -> dict[str, Any]:
    if isinstance(value, str | Path):
        file = Path(value).expanduser()
        if not file.is_file():
            raise ValueError(f"runtime_env['pip']: the requirements file {file} is not there; or give a list")
        value = {"packages": file.read_text(encoding="utf-8").splitlines()}
    if isinstance(value, list | tuple):
        value = {"packages": value}
    if not isinstance(value, Mapping):
        raise TypeError(f"runtime_env['pip'] must be a list, a file or a dict, not {type(value).__name__}")
    for name in value:
        if name not in _PIP_FIELDS:
            raise ValueError(f"runtime_env['pip'] has no {name!r}; there are {', '.join(_PIP_FIELDS)}")
    if "packages" not in value:
        raise ValueError("runtime_env['pip'] needs 'packages'")
    version = value.get("pip_version") or ""
    if not isinstance(version, str):
        raise TypeError("runtime_env['pip']['pip_version'] must be a text such as '==24.0'")
    return {
        "packages": _texts(value["packages"], "packages"),
        "pip_check": bool(value.get("pip_check", False)),
        "pip_version": version,
        "pip_install_options": _texts(value.get("pip_install_options") or [], "pip_install_options"),
    }


def _texts(value: Any, what: str) -> list[str]:
    if isinstance(value, str) and Path(value).is_file():
        value = Path(value).read_text(encoding="utf-8").splitlines()
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise TypeError(f"runtime_env['pip'][{what!r}] must be a list of texts")
    return [item.strip() for item in value if item.strip() and not item.strip().startswith("#")]


def _excludes(value: Any) -> list[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise TypeError("runtime_env['excludes'] must be a list of patterns as in .gitignore")
    return list(value)


def _config(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"runtime_env['config'] must be a dict, not {type(value).__name__}")
    for name in value:
        if name not in _CONFIG_FIELDS:
            raise ValueError(f"runtime_env['config'] has no {name!r}; there are {', '.join(_CONFIG_FIELDS)}")
    seconds = value.get("setup_timeout_seconds", DEFAULT_TIMEOUT_S)
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or (seconds <= 0 and seconds != -1):
        raise ValueError(f"setup_timeout_seconds={seconds!r}: give seconds above 0, or -1 for as long as it takes")
    return dict(value)


_CHECKS = {
    "env_vars": _env_vars,
    "working_dir": _working_dir,
    "py_modules": _py_modules,
    "pip": _pip,
    "excludes": _excludes,
    "config": _config,
}
