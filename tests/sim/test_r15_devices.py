"""R15: whatever two notebooks, crashes and restarts of the agent do, no whole device ever has two holders."""

from __future__ import annotations

import pytest

from tests.sim.device_box import DeviceBox

STEPS, SEEDS = 2_500, 4


def run(box: DeviceBox) -> None:
    for _step in range(STEPS):
        box.step()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_r15_ten_thousand_steps_never_give_a_device_to_two(seed: int) -> None:
    box = DeviceBox(seed)
    run(box)
    assert box.counts["began on a whole device"] > 100, box.counts
    assert box.counts["crash"] > 50
    assert box.counts["warm"] > 5
    assert box.counts["agent restart"] > 20
    assert box.counts["held at once"] == 3
    assert box.counts["quarantine"] > 3
    assert box.counts["lift"] > 3


@pytest.mark.parametrize(
    ("safeguards", "found"),
    [
        ({"locks": False}, "is held by"),
        ({"measured": False}, "while memory of"),
        ({"written_down": False}, "is quarantined, and given"),
    ],
)
def test_r15_without_a_safeguard_it_happens(safeguards: dict[str, bool], found: str) -> None:
    box = DeviceBox(0, **safeguards)
    with pytest.raises(AssertionError, match=found):
        run(box)
