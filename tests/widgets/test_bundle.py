"""The committed bundle is what the sources make, where node is there to make it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

WIDGETS = Path(__file__).parents[2] / "widgets"


@pytest.mark.skipif(
    shutil.which("node") is None or not (WIDGETS / "node_modules" / "esbuild").is_dir(),
    reason="node or widgets/node_modules is missing: `make -C widgets node_modules`",
)
def test_the_bundle_is_what_the_sources_make() -> None:
    made = subprocess.run(["node", "build.mjs", "--check"], cwd=WIDGETS, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr


def test_the_lock_names_no_registry() -> None:
    lock = (WIDGETS / "package-lock.json").read_text()
    assert "://" not in "".join(str(each.get("resolved", "")) for each in json.loads(lock)["packages"].values())
    assert '"resolved"' not in lock
