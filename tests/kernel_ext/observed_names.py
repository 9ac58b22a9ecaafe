"""Runs in the kernels of the corpus test: what the notebook's names are, as text that two kernels can be compared by.

Values are described with all that is in them. An object that was met before is shown by its number, so that two names
for one object differ from two equal objects, however deep they are.
"""

from __future__ import annotations

import types
from typing import Any

HIDDEN = {"In", "Out", "exit", "quit", "get_ipython", "open", "display"}
_LEAVES = (int, float, complex, str, bytes, bool, type(None), range, types.ModuleType)


class Describer:
    """Describes values, numbering what could be met again."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._alive: list[Any] = []

    def describe(self, value: Any, depth: int = 0) -> str:
        if isinstance(value, _LEAVES):
            return repr(value)[:2000]
        if depth > 12:
            return f"<deep {type(value).__name__}>"
        if not isinstance(value, tuple):
            number = self._numbers.get(id(value))
            if number is not None:
                return f"<#{number}>"
            self._numbers[id(value)] = len(self._numbers)
            self._alive.append(value)
        return f"{type(value).__qualname__}({self._inside(value, depth + 1)})"

    def _inside(self, value: Any, depth: int) -> str:
        if isinstance(value, (list, tuple)):
            inside = self._long([self.describe(item, depth) for item in value])
        elif isinstance(value, dict):
            pairs = [f"{self.describe(key, depth)}: {self.describe(item, depth)}" for key, item in value.items()]
            inside = self._long(pairs)
        elif isinstance(value, (set, frozenset)):
            inside = self._long(sorted(self.describe(item, depth) for item in value))
        elif isinstance(value, types.FunctionType):
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
            inside = self.describe(
                [value.__qualname__, value.__module__, value.__defaults__, cells, vars(value)], depth
            )
        elif isinstance(value, type):
            own = {
                name: item
                for name, item in sorted(vars(value).items())
                if not name.startswith(("__", "_abc_")) and not isinstance(item, types.MemberDescriptorType)
            }
            inside = f"{value.__module__}.{value.__qualname__}" + (
                self.describe(own, depth) if value.__module__ == "__main__" else ""
            )
        else:
            inside = self._instance(value, depth)
        if isinstance(value, (list, dict, set, tuple)) and getattr(value, "__dict__", None):
            inside += self.describe(vars(value), depth)
        return inside

    def _instance(self, value: Any, depth: int) -> str:
        module = type(value).__module__.partition(".")[0]
        if module == "numpy":
            text = f"{value!r}"
            if hasattr(value, "flags") and hasattr(value, "ndim") and value.ndim:
                text += f" {value.dtype} writeable={value.flags.writeable} sum={_sum(value)}"
            if getattr(getattr(value, "dtype", None), "hasobject", False) and getattr(value, "ndim", 0):
                text += self.describe(value.tolist(), depth)
            return text
        if module == "pandas":
            return f"{value!r} {getattr(value, 'dtypes', '')!s}"
        if type(value).__repr__ is object.__repr__ or type(value).__module__ == "__main__":
            state = dict(vars(value)) if hasattr(value, "__dict__") else {}
            state.update({name: getattr(value, name, None) for name in getattr(type(value), "__slots__", ())})
            return self.describe(state, depth)
        return repr(value)

    @staticmethod
    def _long(parts: list[str]) -> str:
        if len(parts) <= 60:
            return ", ".join(parts)
        import zlib

        return f"{len(parts)} items {', '.join(parts[:3])} … {', '.join(parts[-3:])} {zlib.crc32(repr(parts).encode())}"


def _sum(array: Any) -> Any:
    try:
        return array.sum()
    except TypeError:
        return "?"


def observe(shell: Any) -> dict[str, str]:
    """Return the notebook's names, described, and empty the notebook."""
    names = {
        name: value
        for name, value in sorted(shell.user_ns.items())
        if name not in HIDDEN and not (name.startswith("_") and name not in ("_secret", "_other", "_exit_code"))
    }
    describer = Describer()
    found = {name: describer.describe(value) for name, value in names.items()}
    last = shell.user_ns.get("_")
    found["_"] = describer.describe(last if last is not shell.user_ns.get("Out", {}).get("before") else None)
    found["Out"] = repr(len(shell.user_ns["Out"]))
    for name in names:
        del shell.user_ns[name]
    for name in [name for name in shell.user_ns if name.startswith("_") and name.strip("_").isdigit()]:
        del shell.user_ns[name]
    shell.user_ns["Out"].clear()
    for name in ("_", "__", "___"):
        shell.user_ns[name] = shell.user_ns_hidden[name] = ""
        setattr(shell.displayhook, name, "")
    shell.user_ns.pop("_exit_code", None)
    shell.user_ns.pop("__annotations__", None)
    return found
