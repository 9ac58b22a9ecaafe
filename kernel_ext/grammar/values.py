"""Readers of options' values: from text, or from the value of an expression, to what the option means.

A reader raises ValueError with a reason that goes on the sentence `gpu=two …`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from atoll.resources import AUTO, parse_bytes

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def read_amount(value: Any) -> float:
    """Read an amount of a resource: `2`, `0.5`.

    Raises:
        ValueError: It is none.
    """
    try:
        amount = float(value)
    except (TypeError, ValueError):
        raise ValueError("is no number") from None
    if not 0 <= amount < float("inf"):
        raise ValueError("must be zero or more, and finite")
    return amount


def read_whole(value: Any) -> int:
    """Read a whole number: `10`, `-1`.

    Raises:
        ValueError: It is none.
    """
    try:
        if isinstance(value, bool) or int(value) != float(value):
            raise ValueError
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("is no whole number") from None


def read_size(value: Any) -> int:
    """Read a size in bytes: `20G`, or a number.

    Raises:
        ValueError: It is none.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not 0 <= value < float("inf"):
            raise ValueError("must be zero or more, and finite")
        return int(value)
    try:
        return parse_bytes(str(value))
    except ValueError:
        raise ValueError("is no size in bytes") from None


def read_size_or_auto(value: Any) -> int | str:
    """As `read_size`, or `auto`.

    Raises:
        ValueError: It is neither.
    """
    return AUTO if value == AUTO else read_size(value)


def read_duration(value: Any) -> float:
    """Read a time in seconds: `90`, `30s`, `10m`, `1h30m`; from an expression also a `timedelta`.

    Raises:
        ValueError: It is none.
    """
    if hasattr(value, "total_seconds"):
        value = value.total_seconds()
    text = str(value).strip()
    if _DURATION.fullmatch(text):
        return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))
    try:
        seconds = float(text)
    except ValueError:
        raise ValueError("is no time") from None
    if not 0 <= seconds < float("inf"):
        raise ValueError("must be zero or more, and finite")
    return seconds


def read_positive_duration(value: Any) -> float:
    """As `read_duration`, but not zero.

    Raises:
        ValueError: It is zero, or no time.
    """
    seconds = read_duration(value)
    if not seconds:
        raise ValueError("must be more than zero")
    return seconds


def read_names(value: Any) -> tuple[str, ...]:
    """Read names separated by commas, or a sequence of them. An empty text is no names.

    Raises:
        ValueError: One of them is no Python name.
    """
    names = read_words(value)
    for name in names:
        if not name.isidentifier():
            raise ValueError(f"{name!r} is no Python name")
    return names


def read_words(value: Any) -> tuple[str, ...]:
    """Read words separated by commas, or a sequence of them."""
    parts = value.split(",") if isinstance(value, str) else list(value)
    return tuple(str(part).strip() for part in parts if str(part).strip())


def read_paths(value: Any) -> tuple[str, ...]:
    """Read paths separated by commas, or a sequence of them; `~` is the home directory.

    Raises:
        ValueError: There is none.
    """
    from pathlib import Path

    parts = value.split(",") if isinstance(value, str) else [value] if isinstance(value, Path) else list(value)
    paths = tuple(str(Path(str(part).strip()).expanduser()) for part in parts if str(part).strip())
    if not paths:
        raise ValueError("names no file")
    return paths


def read_word(value: Any) -> str:
    """Read a name that need not be Python's: an actor's.

    Raises:
        ValueError: It is empty.
    """
    text = str(value).strip()
    if not text:
        raise ValueError("is empty")
    return text


# ------------------------------------------------------------------------------------------------- GPUs and places


@dataclass(frozen=True)
class Gpus:
    """GPUs that are asked for.

    Attributes:
        count: How many; below 1 a share of one.
        models: Those that will do, by any part of their names; empty for all.
    """

    count: float
    models: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """They, as options of tasks."""
        models = {"accelerator_type": list(self.models)} if self.models else {}
        return {"num_gpus": self.count, **models}


def read_gpus(value: Any) -> Gpus:
    """Read `1`, `0.5`, `A100`, `A100:2` or `A100,H100:2`.

    Raises:
        ValueError: It is none of these.
    """
    if isinstance(value, Gpus):
        return value
    if not isinstance(value, str):
        return Gpus(read_amount(value))
    models, _colon, count = value.rpartition(":") if ":" in value else ("", "", value)
    if not models and not _is_number(count):
        models, count = count, "1"
    try:
        amount = read_amount(count)
    except ValueError:
        raise ValueError("does not say how many") from None
    found = read_words(models)
    if models and (not found or not amount):
        raise ValueError("does not say what GPUs")
    return Gpus(amount, found)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return not text
    return True


@dataclass(frozen=True)
class Places:
    """Nodes that are asked for.

    Attributes:
        nodes: Their names, or the beginnings of their ids.
        manner: `only` there, `rather` there, `not` there.
    """

    nodes: tuple[str, ...]
    manner: str = "only"


def read_device(value: Any) -> str:
    """Read which GPU is meant: its number, `node:number`, or its UUID.

    Raises:
        ValueError: It is none of these.
    """
    text = str(value).strip()
    if isinstance(value, bool) or not re.fullmatch(r"[\w./:-]+", text):
        raise ValueError("is no GPU: write its number, NODE:NUMBER, or its UUID, as %gpus shows them")
    return text


def read_places(value: Any) -> Places:
    """Read `big`, `big,small`, `~big` (rather there) or `!big` (not there).

    Raises:
        ValueError: It names no node, or prefers several.
    """
    if isinstance(value, Places):
        return value
    words = read_words(value)
    marks = {word[0] if word[0] in "~!" else "" for word in words}
    nodes = tuple(word.lstrip("~!") for word in words)
    if not words or not all(nodes):
        raise ValueError("names no node")
    if len(marks) > 1 or ("~" in marks and len(nodes) > 1):
        raise ValueError("names several nodes in different ways")
    return Places(nodes, {"~": "rather", "!": "not", "": "only"}[marks.pop()])


# ------------------------------------------------------------------------------------------------------ pairs and more


def _parts(text: str) -> list[str]:
    """Split a text at commas that are not inside of parentheses."""
    return [part.strip() for part in re.split(r",(?![^(]*\))", text) if part.strip()]


def read_pairs(between: str, kind: Callable[[str], Any]) -> Callable[[Any], dict[str, Any]]:
    """Return a reader of `a:1,b:2`, or of a mapping.

    Args:
        between: What stands between a name and its value.
        kind: Reads a value.
    """

    def read(value: Any) -> dict[str, Any]:
        if isinstance(value, Mapping):
            return {str(name): kind(each) for name, each in value.items()}
        pairs = {}
        for part in _parts(str(value)):
            name, found, text = part.partition(between)
            if not found or not name.strip():
                raise ValueError(f"has no {between!r} in {part!r}")
            pairs[name.strip()] = kind(text.strip())
        if not pairs:
            raise ValueError("is empty")
        return pairs

    return read


def read_environment(value: Any) -> dict[str, Any]:
    """Read a `runtime_env`: a dict, `NAME=VALUE,…` for variables, or a file of requirements.

    Raises:
        ValueError: It is none of these, or the dict has a field that there is not.
    """
    from atoll.runtime_env.description import checked

    if isinstance(value, str):
        if value.endswith(".txt"):
            value = {"pip": value}
        elif "=" in value:
            value = {"env_vars": read_pairs("=", str)(value)}
        else:
            raise ValueError("is neither variables (NAME=VALUE), nor a file of requirements (.txt), nor a dict")
    try:
        checked(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"cannot be: {error}") from None
    return dict(value)


def read_strategy(value: Any) -> Any:
    """Read `spread`, `default`, or a strategy that an expression has made."""
    return value.upper() if isinstance(value, str) else value
