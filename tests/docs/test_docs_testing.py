"""docs/testing.md is the test suite of a small package built on this one; it is run as such."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import defaultdict
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PAGE = ROOT / "docs" / "testing.md"


@pytest.mark.long
def test_every_python_block_of_the_page_runs(tmp_path: Path) -> None:
    files: dict[str, str] = defaultdict(str)
    for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE):
        first, _, code = block.partition("\n")
        named = re.fullmatch(r"# (tests/\w+\.py)", first)
        assert named, f"a block of {PAGE.name} does not begin with the name of its file but with {first!r}"
        files[named[1]] += f"{code}\n"
    for name, code in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = tests\n")
    # as in a new shell: pytest's own options, and settings of VASP, are those of the page
    ours = ("PYTEST_", "ATOMATE2_", "PMG_", "VASP_STAND_IN_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "ignore", "--durations=5", "--junitxml=report.xml"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    ran = {case.get("name") for case in ET.parse(tmp_path / "report.xml").iter("testcase") if not len(case)}
    assert ran == set(re.findall(r"^def (test_\w+)", "".join(files.values()), re.MULTILINE))
