"""Packages that add trainers, oracles and criteria by entry points, installed and used by real commands."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from paths import ROOT

from mlip_autopipec.kinds import CRITERIA, ORACLES, ORIGINS, TRAINERS, OracleKind

if TYPE_CHECKING:
    from pathlib import Path

MODULE = '''
from dataclasses import dataclass

from ase.build import bulk

from mlip_autopipec.jobs.static import EMTStaticMaker
from mlip_autopipec.kinds import Availability, OracleKind, OriginKind, TrainerKind
from mlip_autopipec.potentials.basis import BasisSettings
from mlip_autopipec.training.linear import LinearACETrainer
from mlip_autopipec.validation.criteria import CellCriterion, Quantity


@dataclass
class ToyStaticMaker(EMTStaticMaker):
    """Toy."""

    name: str = "Toy static"
    charge: float = 0.0


@dataclass
class ToyTrainer(LinearACETrainer):
    """
    A toy of a trainer.

    Parameters
    ----------
    patience
        Of a toy.
    """

    patience: int = 3


@dataclass
class ToyCriterion(CellCriterion):
    """
    A toy of a criterion.

    Parameters
    ----------
    tolerance_eV
        Of the energy difference of two cells.
    """

    tolerance_eV: float = 1.0

    def cells(self, atoms):
        return {"small": bulk("Cu", a=3.55, cubic=True), "large": bulk("Cu", a=3.7, cubic=True)}

    def measure(self, labels):
        return {"difference": Quantity(labels["large"].energy - labels["small"].energy, "eV", self.tolerance_eV)}


TRAINER = TrainerKind(
    trainer=ToyTrainer,
    basis=BasisSettings,
    short="a toy",
    about="trains toys.",
    template="  patience: 7                     # of the toy\\n  basis: {number_of_functions_per_element: 10}\\n",
    default_cutoff_A=5.0,
    look=lambda trainer: Availability("no toy box", "fetch it"),
)
ORIGIN = OriginKind(about="pushes toys", moves=lambda base, count: [lambda size: base.atoms.copy()] * count)
ORACLE = OracleKind(
    maker="toy_kinds.ToyStaticMaker",
    about="labels toys",
    cost="seconds",
    template="  maker: {charge: {{ charge }}}\\n",
    values=lambda material: {"charge": 0.5},
    look=lambda: Availability("Toy 1.0"),
    citations={"toy": {"Toy2026": "the toy"}},
    bibtex="@article{Toy2026,\\n  title = {A toy}\\n}\\n",
)
'''
ENTRY_POINTS = """\
[mlip_autopipec.trainers]
toy = toy_kinds:TRAINER
[mlip_autopipec.oracles]
toy-emt = toy_kinds:ORACLE
[mlip_autopipec.criteria]
toy-difference = toy_kinds:ToyCriterion
[mlip_autopipec.origins]
toy-move = toy_kinds:ORIGIN
"""


def install(site: Path, package: str, module: str, entry_points: str) -> None:
    """Write what an installer writes of a package of one module."""
    site.mkdir(exist_ok=True)
    (site / f"{package}.py").write_text(module)
    info = site / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)


def python(site: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script with the packages of ``site`` installed as well."""
    path = os.pathsep.join([str(site), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200"},
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


COMMANDS = """
from typer.testing import CliRunner
from mlip_autopipec.cli import app

def command(line, ok=True):
    done = CliRunner().invoke(app, line.split())
    assert (done.exit_code == 0) is ok, (line, done.exit_code, done.output, done.exception)
    return " ".join(done.output.split())
"""
CAMPAIGN = (
    COMMANDS
    + """
import json, yaml
from pathlib import Path

command("init -e Cu --oracle toy-emt --trainer toy -o toy.yaml")
text = Path("toy.yaml").read_text()
assert "# labels toys" in text and "grace (GRACE-FS), toy (a toy)" in text, text
written = yaml.safe_load(text)
assert written["oracle"] == {"kind": "toy-emt", "maker": {"charge": 0.5}}
assert written["trainer"]["patience"] == 7
small = {
    "name": "toy",
    "structures": [{"bulk": {"name": "Cu", "cubic": True}, "repeat": [2, 2, 2]}],
    "conditions": [{"temperature_K": 100}],
    "oracle": written["oracle"],
    "trainer": {"kind": "toy", "patience": 5, "basis": {"number_of_functions_per_element": 5, "cutoff": 4.0}},
    "dynamics": {"n_steps": 20, "gamma_every": 10, "gamma_hi": 1e6, "gamma_lo": 1e5},
    "first_dataset": {"n_structures": 3, "n_test": 1},
    "stop": {"n_check_labels": 0},
    "candidates": {"shares": {"toy-move": 1.0}},
    "criteria": [{"kind": "toy-difference", "tolerance_eV": 5.0}],
}
Path("small.yaml").write_text(yaml.safe_dump(small))
plan = command("run small.yaml --dry-run")
assert "trainer toy: no toy box: fetch it" in plan and "s a label (measured)" in plan, plan
command("run small.yaml")
command("export runs/toy")
assert "Toy2026" in Path("runs/toy/export/CITATION.bib").read_text()
recorded = json.loads(Path("runs/toy/export/campaign.json").read_text())
assert recorded["maker"]["train_maker"]["trainer"]["patience"] == 5
assert recorded["oracle"] == "ToyStaticMaker"
assert recorded["maker"]["propose_maker"]["generator"]["shares"] == {"toy-move": 1.0}

from mlip_autopipec.cli.base import asked_for
from mlip_autopipec.doctor.machine import check_oracle_programs, check_trainer

campaigns, name = asked_for(Path("runs/toy"), None)
compared = campaigns.status(name).check.properties
assert [(one["kind"], one["name"], one["state"]) for one in compared] == [("ToyCriterion", "difference", "passed")]
assert "Toy 1.0" in check_oracle_programs().found
assert "no toy box; the trainer linear works without" in check_trainer("toy").found
"""
)
BROKEN = (
    COMMANDS
    + """
print(command("init -e Cu -o copper.yaml"))
print(command("init -e Cu --oracle toy-emt -o toy.yaml", ok=False))
"""
)


def test_a_package_adds_a_trainer_an_oracle_and_a_criterion(tmp_cwd):
    install(tmp_cwd / "site", "toy_kinds", MODULE, ENTRY_POINTS)
    python(tmp_cwd / "site", CAMPAIGN)


def test_a_package_that_cannot_be_imported_is_named_and_stops_nothing_else(tmp_cwd):
    broken = ENTRY_POINTS.replace("toy_kinds", "broken_kinds")
    install(tmp_cwd / "site", "broken_kinds", "import no_such_module\n", broken)
    done = python(tmp_cwd / "site", BROKEN)
    warned, refused = done.stdout.splitlines()
    assert "the package broken-kinds" in warned
    assert "No module named 'no_such_module'" in warned
    assert "mend or uninstall it" in refused


def test_names_taken_already_and_names_given_twice(tmp_cwd):
    site = tmp_cwd / "site"
    install(site, "toy_kinds", MODULE, ENTRY_POINTS + "[mlip_autopipec.other]\n")
    install(site, "toy_two", "from toy_kinds import *\n", ENTRY_POINTS.replace("toy_kinds", "toy_two"))
    install(site, "toy_emt", "KIND = 1\n", "[mlip_autopipec.oracles]\nemt = toy_emt:KIND\none = toy_emt:KIND\n")
    ask = (
        "from mlip_autopipec.kinds import ORACLES\n"
        "print(list(ORACLES), ORACLES['emt'].maker)\n"
        "for name in ('toy-emt', 'one'):\n"
        "    try:\n        ORACLES[name]\n    except Exception as error:\n        print(error)"
    )
    done = python(site, ask)
    assert "EMTStaticMaker" in done.stdout
    assert "the package toy-kinds, the package toy-two; uninstall all but one" in done.stdout
    assert "is 1; it has to be of the class OracleKind" in done.stdout
    assert "the package toy-emt adds 'emt'" in done.stderr


@pytest.mark.parametrize("registry", [TRAINERS, ORACLES, CRITERIA, ORIGINS], ids=lambda registry: registry.group)
def test_every_kind_of_this_package_is_there(registry):
    assert set(registry.own) <= set(registry.usable())


def test_every_work_cited_for_an_oracle_has_its_entry():
    entries = (ROOT / "src/mlip_autopipec/export/references.bib").read_text()
    kinds: list[OracleKind] = [ORACLES[name] for name in ORACLES.own]
    keys = [key for kind in kinds for cited in kind.citations.values() for key in cited]
    assert keys
    assert [key for key in keys if f"{{{key}," not in entries] == []
