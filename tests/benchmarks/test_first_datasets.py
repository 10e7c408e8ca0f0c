"""The benchmark of first datasets stands on that of labels bought."""

from __future__ import annotations

import subprocess
import sys

import pytest
from paths import ROOT


@pytest.mark.long
def test_it_finds_what_it_takes_from_the_other_benchmark() -> None:
    arguments = [sys.executable, str(ROOT / "benchmarks/first_datasets.py"), "--help"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "--sizes" in done.stdout
