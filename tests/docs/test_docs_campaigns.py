"""The examples of docs/campaigns.md, one after the other, with stand-ins."""

from __future__ import annotations

import re

from ase.build import bulk
from paths import ROOT

from mlip_autopipec.jobs import reuse
from mlip_autopipec.jobs.dataset import read_labels
from mlip_autopipec.schemas.loop import OTFDocument
from mlip_autopipec.testing import Halt, ScriptedDynamicsMaker, StandInOracleMaker, stand_in_loop

PAGE = ROOT / "docs" / "campaigns.md"


def test_every_python_block_of_the_page_runs(memory_jobstore, tmp_cwd, events):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    # three of four labels fail, which is too many until the page mends it
    failing = StandInOracleMaker(physics="emt", failing=[f"label c001 00{i}" for i in range(3)])
    maker = stand_in_loop(events, dynamics_maker=ScriptedDynamicsMaker(halts=[Halt(step=100)]), oracle_maker=failing)
    names = {"store": memory_jobstore, "copper": bulk("Cu", cubic=True), "maker": maker}
    outcomes = []
    for number, block in enumerate(blocks):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)
        if "run_locally(" not in block:
            names["run_locally"](names["flow"], store=memory_jobstore, create_folders=True, log=False)
        found = memory_jobstore.query({"output.kind": "loop"}, ["output"], sort={"completed_at": -1})
        last = OTFDocument.model_validate(next(iter(found))["output"])
        outcomes.append((str(last.status), len(last.walkers)))
    failed = ("ORACLE_FAILING", 2)
    assert outcomes == [failed, failed, ("CONVERGED", 2), ("CONVERGED", 6), ("CONVERGED", 8)]
    assert len(read_labels("copper", store=memory_jobstore)) == last.n_labels


def test_numbers_of_the_page_are_those_of_the_code():
    text = PAGE.read_text()
    assert f"claim every {reuse.BEAT_S:.0f} s" in text
    assert reuse.DEAD_S == 120
    assert "after two minutes without" in text
