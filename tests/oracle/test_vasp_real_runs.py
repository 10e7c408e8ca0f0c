"""Labels and records from documents of real VASP runs."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import ase.io
import numpy as np
import pytest
from emmet.core.tasks import TaskDoc
from paths import SHARED_DATA

from mlip_autopipec.errors import LabelError
from mlip_autopipec.oracle.vasp import label_from_vasp
from mlip_autopipec.oracle.vasp_failures import step_energies

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# reference runs of VASP; not part of the repository
VASP_RUNS = SHARED_DATA / "vasp_runs"
pytestmark = [
    pytest.mark.skipif(not VASP_RUNS.is_dir(), reason=f"there are no VASP reference runs in {VASP_RUNS}"),
    pytest.mark.filterwarnings("ignore"),
]
#: Free energy in eV, of the README of the runs.
FREE_ENERGY_eV = {
    "Si12_hot": -3.57912849,
    "Si6_hot": -11.77388111,
    "Si8_displaced": -45.96473305,
    "Si_atom": -0.08729733,
    "Li_atom": -0.28663766,
}


@pytest.fixture
def document(tmp_path: Path) -> Callable[..., TaskDoc]:
    def read(run: str, *, without: str | None = None) -> TaskDoc:
        folder = tmp_path / run
        shutil.copytree(VASP_RUNS / run / "outputs", folder)
        if without is not None:
            (folder / without).unlink()
        return TaskDoc.from_directory(folder)

    return read


@pytest.mark.parametrize("run", FREE_ENERGY_eV)
def test_energy_forces_stress_and_order(document: Callable[..., TaskDoc], run: str) -> None:
    # without its log, see below
    label = label_from_vasp(document(run, without="custodian.json.gz" if run == "Li_atom" else None))
    reference = ase.io.read(VASP_RUNS / run / "outputs" / "vasprun.xml.gz", index=-1, format="vasp-xml")
    assert label.energy_kind == "free_energy"
    assert label.atoms.get_potential_energy() == pytest.approx(FREE_ENERGY_eV[run], abs=1e-8)
    assert label.atoms.numbers.tolist() == reference.numbers.tolist()
    np.testing.assert_allclose(label.atoms.positions, reference.positions, atol=1e-6)
    np.testing.assert_allclose(label.atoms.get_forces(), reference.get_forces(), atol=1e-8)
    np.testing.assert_allclose(label.atoms.get_stress(), reference.get_stress(), atol=1e-7)
    assert label.corrections == ()


def test_smearing_changed_by_custodian_is_refused(document: Callable[..., TaskDoc]) -> None:
    """It happened: the run was asked for with SIGMA 0.2, met an error and was finished with 0.05."""
    with pytest.raises(LabelError, match=r"custodian set ISMEAR to 0; custodian set SIGMA to 0\.05"):
        label_from_vasp(document("Li_atom"))


def test_records(document: Callable[..., TaskDoc]) -> None:
    records = {}
    for run in ("Si12_hot", "Si6_hot", "Si8_displaced", "Si_atom"):
        record = label_from_vasp(document(run)).record
        assert record is not None
        assert (record.code, record.version) == ("VASP", "6.1.2")
        assert record.potentials == {"Si": "PAW_PBE Si 05Jan2001"}
        records[run] = record
    hot, displaced, atom = records["Si12_hot"], records["Si8_displaced"], records["Si_atom"]
    assert hot.sha256 == records["Si6_hot"].sha256
    assert hot.conflicts(records["Si6_hot"]) == []
    # a mesh that follows from KSPACING is not part of the record, one that was given is
    assert (hot.functional, hot.kspacing_1_A, hot.kpoints) == ("PBE", 0.2, None)
    assert (displaced.functional, displaced.kspacing_1_A, displaced.kpoints) == ("PBEsol", None, "Gamma 9 9 9")
    assert atom.kspacing_1_A == 100
    assert hot.conflicts(atom) == ["kspacing_1_A: 0.2 and 100.0"]
    assert "functional: PBE and PBEsol" in hot.conflicts(displaced)
    assert "ENCUT: 300 and 700" in hot.conflicts(displaced)


def test_the_parts_of_the_last_step_add_up(document: Callable[..., TaskDoc]) -> None:
    steps = document("Si12_hot").calcs_reversed[0].output.ionic_steps[-1].electronic_steps
    plain, summed = step_energies({}, steps), step_energies({"IVDW": 12}, steps)
    assert summed == pytest.approx(plain, abs=1e-5)
    assert step_energies({"IVDW": 12}, [{"e_fr_energy": -1.0}]) == [None]


def test_a_run_that_was_stopped_is_not_converged(document: Callable[..., TaskDoc]) -> None:
    """STOPCAR ends a run before NELM, and emmet looks at the number of steps alone."""
    stopped = document("Si12_hot")
    step = stopped.calcs_reversed[0].output.ionic_steps[-1]
    everything = step.electronic_steps
    step.electronic_steps = everything[:5]
    with pytest.raises(LabelError, match=r"it stopped after 5 of NELM = \d+ .*STOPCAR"):
        label_from_vasp(stopped)
    # with a dispersion correction, which is in the last free energy and in none of its parts
    stopped.calcs_reversed[0].input.incar["IVDW"] = 11
    early = everything[4].model_copy()
    for part in ("alphaZ", "ewald", "hartreedc", "XCdc", "pawpsdc", "pawaedc", "eentropy", "atom"):
        setattr(early, part, 0.0)
    early.bandstr = early.e_fr_energy
    early.e_fr_energy -= 0.5
    step.electronic_steps = [*everything[:4], early]
    with pytest.raises(LabelError, match=r"it stopped after 5 of NELM = \d+ .*STOPCAR"):
        label_from_vasp(stopped)
    step.electronic_steps = everything
    everything[-1].e_fr_energy -= 0.5
    step.e_fr_energy -= 0.5
    assert label_from_vasp(stopped).atoms.get_potential_energy() == pytest.approx(step.e_fr_energy)
    stopped.calcs_reversed[0].input.parameters["NELM"] = len(everything)
    with pytest.raises(LabelError, match=f"NELM = {len(everything)} electronic steps reached"):
        label_from_vasp(stopped)
