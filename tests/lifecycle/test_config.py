"""Settings: every variable is read, and a bad value is one line that says what to write."""

import os
import re
from pathlib import Path

import pytest

import atoll.config
from atoll.config import Settings, settings


def test_defaults_come_from_the_machine() -> None:
    found = settings({})
    assert found.num_cpus == len(os.sched_getaffinity(0))
    assert 0 < found.memory_bytes <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert found.store_capacity_bytes == int(found.memory_bytes * 0.3)
    assert found.simulated_gpus == 0
    assert found.linger_s == 60


def test_every_variable_is_read() -> None:
    found = settings(
        {
            "ATOLL_NUM_CPUS": "3",
            "ATOLL_MEMORY_BYTES": "64G",
            "ATOLL_STORE_CAPACITY_BYTES": "512MiB",
            "ATOLL_SIMULATED_GPUS": "4",
            "ATOLL_SIMULATED_GPU_MEMORY_BYTES": "8G",
            "ATOLL_RESOURCES": "licence=2, tpu=0.5",
            "ATOLL_LABELS": "zone=a,disk=ssd",
            "ATOLL_LOG_BYTES": "1M",
            "ATOLL_LINGER_S": "never",
            "ATOLL_START_TIMEOUT_S": "5",
        }
    )
    assert found == Settings(
        num_cpus=3,
        memory_bytes=64 * 2**30,
        store_capacity_bytes=512 * 2**20,
        simulated_gpus=4,
        simulated_gpu_memory_bytes=8 * 2**30,
        resources={"licence": 2, "tpu": 0.5},
        labels={"zone": "a", "disk": "ssd"},
        log_bytes=2**20,
        linger_s=None,
        start_timeout_s=5.0,
    )


def test_the_store_is_a_share_of_the_memory_that_was_given() -> None:
    assert settings({"ATOLL_MEMORY_BYTES": "10G"}).store_capacity_bytes == 3 * 2**30


def test_settings_survive_the_way_through_the_environment() -> None:
    for linger in ("never", "12.5"):
        found = settings({"ATOLL_SIMULATED_GPUS": "2", "ATOLL_LINGER_S": linger, "ATOLL_RESOURCES": "a=1"})
        assert settings(found.environment()) == found


def test_empty_is_not_set() -> None:
    assert settings({"ATOLL_NUM_CPUS": " "}) == settings({})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ATOLL_NUM_CPUS", "two"),
        ("ATOLL_NUM_CPUS", "0"),
        ("ATOLL_NUM_CPUS", "1.5"),
        ("ATOLL_NUM_CPUS", "-1"),
        ("ATOLL_NUM_CPUS", "²"),
        ("ATOLL_MEMORY_BYTES", "4Q"),
        ("ATOLL_STORE_CAPACITY_BYTES", "0"),
        ("ATOLL_SIMULATED_GPUS", "-1"),
        ("ATOLL_SIMULATED_GPU_MEMORY_BYTES", "nan"),
        ("ATOLL_RESOURCES", "licence"),
        ("ATOLL_RESOURCES", "licence=many"),
        ("ATOLL_RESOURCES", "CPU=2"),
        ("ATOLL_LABELS", "zone="),
        ("ATOLL_LOG_BYTES", """ ' """),
        ("ATOLL_LINGER_S", "soon"),
        ("ATOLL_LINGER_S", "inf"),
        ("ATOLL_START_TIMEOUT_S", "0"),
    ],
)
def test_a_bad_value_is_one_line_with_an_example(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=re.escape(name)) as caught:
        settings({name: value})
    line = str(caught.value)
    assert "\n" not in line
    assert repr(value.strip()) in line
    assert f"write for example {name}=" in line


def test_the_table_names_every_variable() -> None:
    assert atoll.config.__doc__ is not None
    for name in settings({}).environment():
        assert f"\n{name} " in atoll.config.__doc__


def test_simulated_gpus_may_come_from_a_script(tmp_path: Path) -> None:
    script = tmp_path / "gpus.json"
    script.write_text("{}")
    found = settings({"ATOLL_SIMULATED_GPUS": str(script)})
    assert (found.simulated_gpus, found.simulated_gpu_script) == (0, script)
    assert settings(found.environment()) == found
    with pytest.raises(ValueError, match="no file is there"):
        settings({"ATOLL_SIMULATED_GPUS": str(tmp_path / "none.json")})
