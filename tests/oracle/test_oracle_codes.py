"""Oracles other than VASP: the energy that goes with the forces, and refusals instead of guesses."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from atomate2.ase.jobs import AseRelaxMaker, GFNxTBStaticMaker
from atomate2.ase.schemas import AseMoleculeTaskDoc
from atomate2.cp2k.schemas.task import TaskDocument as Cp2kTaskDocument
from atomate2.jdftx.schemas.task import TaskDoc as JDFTxTaskDoc
from emmet.core.qc_tasks import TaskDoc as QChemTaskDoc
from monty.json import MontyDecoder, MontyEncoder

from mlip_autopipec.errors import InvalidInputError, LabelError
from mlip_autopipec.jobs.espresso import EspressoStaticMaker
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.static import AseStaticMaker, CalculatorStaticMaker
from mlip_autopipec.oracle.extract import extract_label

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ase import Atoms
    from jobflow import Maker


def distorted(atoms: Atoms) -> Atoms:
    atoms.set_cell(atoms.cell.array @ [[1.02, 0.03, -0.01], [0, 0.99, 0.02], [0, 0, 1.03]], scale_atoms=True)
    atoms.rattle(0.05, seed=0)
    return atoms


def slope(energy: Callable[[Atoms], float], atoms: Atoms, step: float = 2e-3) -> float:
    """-dE/dx of the first atom in eV/A by central differences."""
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[0, 0] += sign * step
        energies.append(energy(moved))
    return -(energies[0] - energies[1]) / (2 * step)


class SmearedHydrogen(Calculator):
    """
    One orbital per atom, hopping exp(-r), Fermi-Dirac occupations.

    As plane-wave codes do it: ``energy`` is extrapolated to zero smearing, forces derive from ``free_energy``.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces"]
    kT_eV = 0.5

    def calculate(self, atoms=None, properties=None, system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        vectors = self.atoms.get_all_distances(vector=True)
        distances = np.linalg.norm(vectors, axis=-1) + np.eye(len(self.atoms))
        hopping = -5.0 * np.exp(-distances) * (1 - np.eye(len(self.atoms)))
        levels, states = np.linalg.eigh(hopping)
        low, high = levels[0] - 10, levels[-1] + 10
        for _ in range(200):
            mu = 0.5 * (low + high)
            filled = 1 / (1 + np.exp((levels - mu) / self.kT_eV))
            low, high = (mu, high) if 2 * filled.sum() < len(self.atoms) else (low, mu)
        entropy = -2 * sum(f * np.log(f) + (1 - f) * np.log(1 - f) for f in filled)
        internal = 2 * filled @ levels
        free = internal - self.kT_eV * entropy
        density = 2 * (states * filled) @ states.T
        # dF/dr_ij = 2 rho_ij dH_ij/dr_ij, dH/dr = -H; vectors[i, j] points from i to j
        pull = (2 * density * hopping / distances)[:, :, None] * vectors
        self.results = {"energy": 0.5 * (internal + free), "free_energy": free, "forces": -pull.sum(axis=1)}


class EnergyAlone(SmearedHydrogen):
    """The same, by a code that does not say what its energy is."""

    def calculate(self, atoms=None, properties=None, system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        self.results["energy"] = self.results.pop("free_energy")


class ParallelUniverse(SmearedHydrogen):
    """A field that did not converge, from a calculator that only mentions it (as ASE's Vasp does)."""

    converged = False


@dataclass
class HydrogenStaticMaker(AseStaticMaker):
    calculator: type[Calculator] = SmearedHydrogen

    def _get_calculator(self) -> Calculator:
        return self.calculator()


def hydrogen() -> Atoms:
    atoms = bulk("H", "sc", a=1.5) * (2, 2, 1)
    atoms.rattle(0.1, seed=1)
    return atoms


# ---- which energy


def test_label_holds_the_free_energy_not_the_extrapolated_one(tmp_cwd: Path) -> None:
    oracle = OracleMaker(static_maker=HydrogenStaticMaker())
    label = oracle.compute(hydrogen())
    assert label.energy_kind == "free_energy"
    force = label.atoms.get_forces()[0, 0]
    assert force == pytest.approx(slope(lambda a: oracle.compute(a).atoms.get_potential_energy(), hydrogen()), abs=1e-5)

    def extrapolated(atoms: Atoms) -> float:
        calculator = SmearedHydrogen()
        calculator.calculate(atoms)
        return calculator.results["energy"]

    assert abs(force - slope(extrapolated, hydrogen())) > 0.01


def test_document_that_lost_the_free_energy_is_refused(tmp_cwd: Path) -> None:
    """What atomate2's own maker stores of the same calculator."""

    @dataclass
    class PlainMaker(AseRelaxMaker):
        steps: int = 1
        relax_cell: bool = False

        def _get_calculator(self) -> Calculator:
            return SmearedHydrogen()

    with pytest.raises(LabelError, match=r"smearedhydrogen.*AseStaticMaker"):
        OracleMaker(static_maker=PlainMaker()).compute(hydrogen())


def test_energy_of_unknown_kind_has_to_be_stated(tmp_cwd: Path) -> None:
    maker = HydrogenStaticMaker(calculator=EnergyAlone)
    with pytest.raises(LabelError, match=r"energyalone.*energy_kind"):
        OracleMaker(static_maker=maker).compute(hydrogen())
    maker.energy_kind = "free_energy"
    label = OracleMaker(static_maker=maker).compute(hydrogen())
    same = OracleMaker(static_maker=HydrogenStaticMaker()).compute(hydrogen())
    assert label.energy_kind == "free_energy"
    assert label.atoms.get_potential_energy() == same.atoms.get_potential_energy()


@pytest.mark.parametrize("method", ["GFN1-xTB", "GFN2-xTB"])
@pytest.mark.parametrize("makers", ["atomate2", "ours"])
def test_xtb_labels_hold_the_electronic_entropy(method: str, makers: str, tmp_cwd: Path) -> None:
    """At 20000 K the entropy is worth eV; the forces of the label go with it."""
    pytest.importorskip("tblite.ase", reason="tblite is not installed (extra 'xtb')")
    kwargs = {"method": method, "electronic_temperature": 20000.0, "accuracy": 0.01, "verbosity": 0}
    maker: Maker = (
        GFNxTBStaticMaker(calculator_kwargs=kwargs)
        if makers == "atomate2"
        else CalculatorStaticMaker(calculator_class="tblite.ase.TBLite", calculator_kwargs=kwargs)
    )
    oracle = OracleMaker(static_maker=maker)
    atoms = distorted(bulk("Si"))
    label = oracle.compute(atoms)
    assert label.energy_kind == "free_energy"
    cold = OracleMaker(
        static_maker=CalculatorStaticMaker(
            calculator_class="tblite.ase.TBLite", calculator_kwargs={**kwargs, "electronic_temperature": 300.0}
        )
    ).compute(atoms)
    assert label.atoms.get_potential_energy() < cold.atoms.get_potential_energy() - 5
    by_difference = slope(lambda a: oracle.compute(a).atoms.get_potential_energy(), atoms)
    assert label.atoms.get_forces()[0, 0] == pytest.approx(by_difference, abs=2e-4)


# ---- failures


def test_unconverged_xtb_is_a_failed_label(tmp_cwd: Path) -> None:
    pytest.importorskip("tblite.ase", reason="tblite is not installed (extra 'xtb')")
    maker = CalculatorStaticMaker(
        calculator_class="tblite.ase.TBLite",
        calculator_kwargs={"method": "GFN1-xTB", "max_iterations": 2, "verbosity": 0},
    )
    with pytest.raises(LabelError, match=r"tblite.*not converged"):
        OracleMaker(static_maker=maker).compute(distorted(bulk("Si")))


def test_a_calculator_that_mentions_its_failure_is_heard(tmp_cwd: Path) -> None:
    with pytest.raises(LabelError, match="did not converge"):
        OracleMaker(static_maker=HydrogenStaticMaker(calculator=ParallelUniverse)).compute(hydrogen())


def test_calculator_without_forces_is_refused(tmp_cwd: Path) -> None:
    class Forceless(SmearedHydrogen):
        implemented_properties: ClassVar[list[str]] = ["energy", "free_energy"]

        def calculate(self, atoms=None, properties=None, system_changes=all_changes) -> None:
            super().calculate(atoms, properties, system_changes)
            del self.results["forces"]

    with pytest.raises(LabelError, match="no forces"):
        OracleMaker(static_maker=HydrogenStaticMaker(calculator=Forceless)).compute(hydrogen())


class Stressed(SmearedHydrogen):
    """With a stress as 3 x 3 numbers, as some calculators give it."""

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "stress"]
    stress: ClassVar[np.ndarray] = np.array([[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]])

    def calculate(self, atoms=None, properties=None, system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        self.results["stress"] = self.stress


def test_a_stress_of_nine_numbers_is_the_same_as_one_of_six(tmp_cwd: Path) -> None:
    label = OracleMaker(static_maker=HydrogenStaticMaker(calculator=Stressed)).compute(hydrogen())
    np.testing.assert_allclose(label.atoms.get_stress(), [1, 2, 3, 4, 5, 6])


@pytest.mark.parametrize(("stress", "said"), [(np.full(6, np.nan), "finite numbers"), (np.ones(9), r"shape \(9,\)")])
def test_what_is_no_stress_is_refused(stress, said, tmp_cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stressed, "stress", stress)
    with pytest.raises(LabelError, match=said):
        OracleMaker(static_maker=HydrogenStaticMaker(calculator=Stressed)).compute(hydrogen())


# ---- Quantum ESPRESSO without Quantum ESPRESSO; the real one is in tests/dft


@pytest.fixture
def espresso_maker(tmp_cwd: Path, monkeypatch: pytest.MonkeyPatch) -> EspressoStaticMaker:
    """A maker whose pw.x writes what the real one wrote when its field did not converge, and ends as it did."""
    program = tmp_cwd / "pw.py"
    program.write_text(
        "print('     convergence NOT achieved after   7 iterations: stopping\\n\\n   JOB DONE.')\nraise SystemExit(2)\n"
    )
    (tmp_cwd / "Si.UPF").write_text("")
    monkeypatch.setenv("MLIP_AUTOPIPEC_ESPRESSO_CMD", f"{sys.executable} {program}")
    monkeypatch.setenv("MLIP_AUTOPIPEC_ESPRESSO_PSEUDO_DIR", str(tmp_cwd))
    return EspressoStaticMaker(pseudopotentials={"Si": "Si.UPF"}, input_data={"system": {"ecutwfc": 10.0}})


def test_words_of_pw_x_are_the_reason(espresso_maker: EspressoStaticMaker, tmp_cwd: Path) -> None:
    oracle = OracleMaker(static_maker=espresso_maker)
    for n in (1, 2):
        with pytest.raises(LabelError, match=r"convergence NOT achieved after 7 iterations.*espresso\.pwo"):
            oracle.compute(bulk("Si"))
        assert len(list(tmp_cwd.glob("espresso-*/espresso.pwo"))) == n  # nothing of another structure lies there


def test_espresso_input_asks_for_what_labels_need(espresso_maker: EspressoStaticMaker, tmp_cwd: Path) -> None:
    espresso_maker.input_data["electrons"] = {"mixing_beta": 0.3}
    maker = MontyDecoder().process_decoded(json.loads(json.dumps(espresso_maker, cls=MontyEncoder)))  # as jobflow does
    with pytest.raises(LabelError):
        OracleMaker(static_maker=maker).compute(bulk("Si"))
    written = next(tmp_cwd.glob("espresso-*/espresso.pwi")).read_text()
    for keyword in ("tprnfor", "tstress", "nosym"):
        assert re.search(rf"{keyword}\s+= \.true\.", written)
    assert "mixing_beta" in written
    mesh = [int(n) for n in written.split("K_POINTS automatic\n")[1].split()[:3]]
    spacing = np.linalg.norm(bulk("Si").cell.reciprocal(), axis=1) / mesh
    assert (spacing <= espresso_maker.kspacing).all()


def test_espresso_that_cannot_run_is_refused(espresso_maker: EspressoStaticMaker, monkeypatch) -> None:
    def refusal(maker: EspressoStaticMaker, atoms: Atoms) -> str:
        with pytest.raises(InvalidInputError) as caught:
            OracleMaker(static_maker=maker).compute(atoms)
        return str(caught.value)

    assert "['Ge']" in refusal(espresso_maker, bulk("Ge"))
    espresso_maker.pseudopotentials["Si"] = "missing.UPF"
    assert "pseudopotentials.Si" in refusal(espresso_maker, bulk("Si"))
    espresso_maker.pseudopotentials["Si"] = "Si.UPF"
    espresso_maker.input_data = {}
    assert "ecutwfc" in refusal(espresso_maker, bulk("Si"))
    monkeypatch.delenv("MLIP_AUTOPIPEC_ESPRESSO_PSEUDO_DIR")
    assert "MLIP_AUTOPIPEC_ESPRESSO_PSEUDO_DIR" in refusal(espresso_maker, bulk("Si"))


# ---- documents


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (JDFTxTaskDoc, "energy_type"),  # called TaskDoc as VASP's, and without the units of VASP's
        (QChemTaskDoc, "TaskDoc"),
        (AseMoleculeTaskDoc, "no cell"),
    ],
)
def test_documents_are_told_apart_by_more_than_their_name(document: type, reason: str) -> None:
    with pytest.raises(LabelError, match=reason):
        extract_label(document.model_construct(state="successful"))


def cp2k_document(folder: Path) -> Cp2kTaskDocument:
    from atomate2.cp2k.schemas.task import OutputSummary

    output = OutputSummary.model_construct(
        structure=_structure(hydrogen()), energy=-60.0, forces=np.ones((4, 3)).tolist(), stress=np.eye(3).tolist()
    )
    return Cp2kTaskDocument.model_construct(state="successful", dir_name=f"host:{folder}", output=output)


def _structure(atoms: Atoms) -> object:
    from pymatgen.io.ase import AseAtomsAdaptor

    return AseAtomsAdaptor.get_structure(atoms)


def test_units_of_cp2k_are_those_it_printed(tmp_path: Path) -> None:
    """Narrow; numbers of real runs are checked in tests/dft."""
    document = cp2k_document(tmp_path)
    with pytest.raises(LabelError, match=r"cp2k\.out is missing"):
        extract_label(document)
    printed = " ATOMIC FORCES in [a.u.]\n STRESS| Analytical stress tensor [GPa]\n"
    for other, match in ((printed.replace("a.u.", "eV/A"), "forces in 'eV/A'"), (printed.replace("GPa", "bar"), "bar")):
        (tmp_path / "cp2k.out").write_text(other)
        with pytest.raises(LabelError, match=match):
            extract_label(document)
    (tmp_path / "cp2k.out").write_text(printed + " *** WARNING in qs_scf.F:598 :: SCF run NOT converged ***\n")
    with pytest.raises(LabelError, match="SCF run NOT converged"):
        extract_label(document)
    (tmp_path / "cp2k.out").write_text(printed)
    label = extract_label(document)
    assert label.energy_kind == "free_energy"
    assert label.atoms.get_forces()[0, 0] == pytest.approx(units.Hartree / units.Bohr)
    assert label.atoms.get_stress()[0] == pytest.approx(-units.GPa)
