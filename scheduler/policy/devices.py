"""Which devices of a node a request gets, and whether a device is of a type that somebody names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol, TypeVar

from atoll.protocol.values import Device
from atoll.scheduler.policy import topology


class HasDevice(Protocol):
    """What knows a device."""

    device: Device


Use = TypeVar("Use", bound=HasDevice)


def choose_devices(whole: Sequence[Use], count: int) -> list[Use] | None:
    """Return so many of the devices that are wholly free, near each other; None if there are too few."""
    if len(whole) < count:
        return None
    return [whole[place] for place in topology.choose([use.device for use in whole], count)]


def is_of_type(model: str, kind: str) -> bool:
    """Whether a model is of the type that somebody names: the words of the type stand in the model's name.

    `A100` fits `NVIDIA A100-SXM4-80GB`, and so does `NVIDIA_A100_80G`; `A10` does not.
    """
    words = _words(model)
    return all(
        any(word == part or (part.endswith("G") and word == part + "B") for word in words) for part in _words(kind)
    )


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[^A-Z0-9.]+", text.upper()) if word]
