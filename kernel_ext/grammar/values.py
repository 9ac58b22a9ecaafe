"""Readers of options' values: from text, or from the value of an expression, to what the option means."""

from __future__ import annotations

from typing import Any

from atoll.resources import parse_bytes


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


def read_names(value: Any) -> tuple[str, ...]:
    """Read names separated by commas, or a sequence of them. An empty text is no names.

    Raises:
        ValueError: One of them is no Python name.
    """
    parts = value.split(",") if isinstance(value, str) else list(value)
    names = tuple(name.strip() for name in parts if str(name).strip())
    for name in names:
        if not name.isidentifier():
            raise ValueError(f"{name!r} is no Python name")
    return names


def read_word(value: Any) -> str:
    """Read a name that need not be Python's: an actor's.

    Raises:
        ValueError: It is empty.
    """
    text = str(value).strip()
    if not text:
        raise ValueError("is empty")
    return text
