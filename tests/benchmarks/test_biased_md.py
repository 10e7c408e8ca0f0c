"""The benchmarks of biased walks and of first datasets stand on that of labels bought."""

from __future__ import annotations

import subprocess
import sys

import pytest
from paths import ROOT


@pytest.mark.long
@pytest.mark.parametrize(("script", "option"), [("biased_md", "--strength"), ("first_datasets", "--sizes")])
def test_it_finds_what_it_takes_from_the_other_benchmark(script: str, option: str) -> None:
    arguments = [sys.executable, str(ROOT / f"benchmarks/{script}.py"), "--help"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert option in done.stdout
