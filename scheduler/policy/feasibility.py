"""Why a request could never be placed, in one line that says the largest there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from atoll.protocol.values import Device
from atoll.resources import GPU, describe, format_bytes
from atoll.scheduler.policy.devices import is_of_type

WITHOUT_GPUS = (
    ". `atoll doctor` says why; to try it without one, begin the cluster again with simulated ones: "
    "`atoll down`, then `ATOLL_SIMULATED_GPUS=1 atoll up`"
)
"""What to do where no node has any GPU. Whoever meets Atoll first does so on a laptop."""


class Offer(NamedTuple):
    """What a node has when nothing of it is held."""

    name: str
    total: Mapping[str, int]
    devices: Sequence[Device] = ()


def why_infeasible(
    wanted: Mapping[str, int], device_bytes: int, device_types: Sequence[str], offers: Sequence[Offer]
) -> str:
    """Return why none of the nodes could ever give what is wanted. The caller knows that none could.

    Args:
        wanted: Units by resource.
        device_bytes: Memory of one device.
        device_types: Models of devices that will do; empty for all.
        offers: At least one node.
    """
    for name, units in sorted(wanted.items()):
        largest = max(offers, key=lambda offer: offer.total.get(name, 0))
        most = largest.total.get(name, 0)
        if most < units:
            if most == 0:
                advice = WITHOUT_GPUS if name == GPU else ""
                return f"no node has {describe({name: units})}; none has any {name}{advice}"
            return f"no node has {describe({name: units})}; the largest has {_amount(name, most)} ({largest.name})"
    return _why_no_device(device_bytes, device_types, offers) or _nothing_at_once(wanted, offers)


def _why_no_device(device_bytes: int, device_types: Sequence[str], offers: Sequence[Offer]) -> str:
    devices = [(offer.name, device) for offer in offers for device in offer.devices]
    if device_types:
        of_type = [(n, d) for n, d in devices if any(is_of_type(d.model, kind) for kind in device_types)]
        if not of_type:
            wanted = f"no node has a GPU of type {' or '.join(device_types)}"
            if not devices:
                return f"{wanted}; none has any GPU{WITHOUT_GPUS}"
            return f"{wanted}; there are: {', '.join(dict.fromkeys(device.model for _name, device in devices))}"
        devices = of_type
    if device_bytes and not any(device.memory_bytes >= device_bytes for _name, device in devices):
        if not devices:
            return f"no node has a GPU with {format_bytes(device_bytes)}; none has any GPU{WITHOUT_GPUS}"
        name, largest = max(devices, key=lambda found: found[1].memory_bytes)
        size = format_bytes(largest.memory_bytes)
        return f"no GPU has {format_bytes(device_bytes)} of memory; the largest has {size} ({name})"
    return ""


def _nothing_at_once(wanted: Mapping[str, int], offers: Sequence[Offer]) -> str:
    return f"no node has all of {describe(wanted)} at once; " + "; ".join(
        f"{offer.name} has {describe({name: offer.total.get(name, 0) for name in wanted})}" for offer in offers
    )


def _amount(name: str, units: int) -> str:
    return describe({name: units}).removesuffix(f" {name}")
