"""Labels: what comes out of a task document is what the code computed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import ase.io
import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from atomate2.ase.jobs import AseMaker, GFNxTBStaticMaker, LennardJonesStaticMaker
from atomate2.utils.testing.vasp import monkeypatch_vasp
from atomate2.vasp.jobs.matpes import MatPesGGAStaticMaker
from jobflow import run_locally
from paths import SHARED_DATA

from mlip_autopipec.errors import InvalidInputError, LabelError
from mlip_autopipec.frames import pack_frames
from mlip_autopipec.jobs.base import load_document
from mlip_autopipec.jobs.label import OracleMaker
from mlip_autopipec.jobs.static import CalculatorStaticMaker, EMTStaticMaker
from mlip_autopipec.oracle.extract import extract_label
from mlip_autopipec.schemas.label import LabelBatch, LabelDocument
from mlip_autopipec.schemas.walk import ProposalDocument

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ase import Atoms
    from ase.calculators.calculator import Calculator
    from jobflow import JobStore, Maker

# reference runs of VASP; not part of the repository
VASP_RUNS = SHARED_DATA / "vasp_runs"
LJ = {"sigma": 2.3, "epsilon": 0.3, "rc": 5.0, "smooth": True}


def distorted(atoms: Atoms, seed: int = 0) -> Atoms:
    """Without any symmetry, so that swapped axes, signs and Voigt orders show."""
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell.array @ [[1.02, 0.03, -0.01], [0, 0.99, 0.02], [0, 0, 1.03]], scale_atoms=True)
    atoms.rattle(0.05, seed=seed)
    return atoms


def shift_between(atoms: Atoms, other: Atoms) -> float:
    """Largest distance in Angstrom of the same atom in both, up to lattice vectors (pymatgen wraps into the cell)."""
    away = atoms.positions - other.positions
    away -= np.round(away @ np.linalg.inv(atoms.cell.array)) @ atoms.cell.array
    return float(np.linalg.norm(away, axis=1).max())


def magnesia() -> Atoms:
    return distorted(bulk("MgO", "rocksalt", a=4.2))


def xtb() -> Calculator:
    return pytest.importorskip("tblite.ase", reason="tblite is not installed (extra 'xtb')").TBLite(
        method="GFN1-xTB", verbosity=0
    )


ORACLES: dict[str, tuple[Callable[[], Maker], Callable[[], Calculator], Callable[[], Atoms]]] = {
    "emt": (EMTStaticMaker, EMT, lambda: distorted(bulk("Cu", cubic=True))),
    "any calculator": (
        lambda: CalculatorStaticMaker(calculator_class="ase.calculators.lj.LennardJones", calculator_kwargs=LJ),
        lambda: LennardJones(**LJ),
        lambda: distorted(bulk("Cu", cubic=True)),
    ),
    "lennard-jones": (
        lambda: LennardJonesStaticMaker(calculator_kwargs=LJ),
        lambda: LennardJones(**LJ),
        lambda: distorted(bulk("Cu", cubic=True)),
    ),
    "gfn1-xtb": (
        lambda: GFNxTBStaticMaker(calculator_kwargs={"method": "GFN1-xTB", "verbosity": 0}),
        xtb,
        magnesia,
    ),
}


@pytest.fixture(params=ORACLES)
def oracle(request: pytest.FixtureRequest) -> tuple[Maker, Calculator, Atoms]:
    maker, calculator, atoms = ORACLES[request.param]
    calculator_now = calculator()  # skips where it is not installed
    return maker(), calculator_now, atoms()


def stress_by_difference(atoms: Atoms, calculator: Calculator, step: float = 1e-4) -> np.ndarray:
    """dE/d(strain) / V in eV/A^3 and Voigt order, by central differences of the energy."""
    stress = np.zeros(6)
    for k, (i, j) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[i, j] += 0.5 * sign * step
            strain[j, i] += 0.5 * sign * step
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            strained.calc = calculator
            energies.append(strained.get_potential_energy())
        stress[k] = (energies[0] - energies[1]) / (2 * step * atoms.get_volume())
    return stress


def test_label_is_what_the_calculator_says(oracle: tuple[Maker, Calculator, Atoms], tmp_cwd: Path) -> None:
    maker, calculator, atoms = oracle
    label = OracleMaker(static_maker=maker).compute(atoms)
    direct = atoms.copy()
    direct.calc = calculator
    assert np.array_equal(label.atoms.numbers, atoms.numbers)
    assert shift_between(label.atoms, atoms) < 1e-10
    assert label.atoms.get_potential_energy() == pytest.approx(direct.get_potential_energy(), abs=1e-6)
    assert np.allclose(label.atoms.get_forces(), direct.get_forces(), rtol=0, atol=1e-5)
    assert np.allclose(label.atoms.get_stress(), direct.get_stress(), rtol=0, atol=1e-6)
    has_electrons = isinstance(maker, GFNxTBStaticMaker)
    assert label.energy_kind == ("free_energy" if has_electrons else "potential_energy")


def test_stress_is_the_derivative_of_the_energy(oracle: tuple[Maker, Calculator, Atoms], tmp_cwd: Path) -> None:
    """Sign and unit, against nothing but the energy."""
    maker, calculator, atoms = oracle
    stress = OracleMaker(static_maker=maker).compute(atoms).atoms.get_stress()
    assert np.abs(stress).max() > 1e-3
    assert np.allclose(stress, stress_by_difference(atoms, calculator), rtol=0, atol=2e-5)


def test_compressed_crystal_has_negative_stress(tmp_cwd: Path) -> None:
    label = OracleMaker(static_maker=EMTStaticMaker()).compute(bulk("Cu", a=3.4, cubic=True))
    assert (label.atoms.get_stress()[:3] < -10 * units.GPa * 0.1).all()


def test_label_survives_its_document(tmp_cwd: Path) -> None:
    label = OracleMaker(static_maker=EMTStaticMaker()).compute(distorted(bulk("Cu", cubic=True)))
    again = LabelDocument.model_validate_json(
        LabelDocument.from_labelled(label.atoms, index=0, origin="halted").model_dump_json()
    ).to_atoms()
    assert again.get_potential_energy() == label.atoms.get_potential_energy()
    assert np.array_equal(again.get_forces(), label.atoms.get_forces())
    assert np.array_equal(again.get_stress(), label.atoms.get_stress())
    assert np.array_equal(again.positions, label.atoms.positions)


# ---- refusals


class StrangeDocument:
    """A task document of a code nobody knows."""


def test_unknown_document_is_refused() -> None:
    with pytest.raises(LabelError, match="StrangeDocument"):
        extract_label(StrangeDocument())


def test_document_without_forces_is_refused(tmp_cwd: Path) -> None:
    class PlainMaker(AseMaker):
        name = "plain"

        def _get_calculator(self) -> Calculator:
            return EMT()

    with pytest.raises(LabelError, match="no forces"):
        OracleMaker(static_maker=PlainMaker()).compute(bulk("Cu", cubic=True))


def test_unknown_calculator_class_is_refused() -> None:
    maker = OracleMaker(static_maker=CalculatorStaticMaker(calculator_class="ase.calculators.emt.NoSuchThing"))
    with pytest.raises(InvalidInputError, match=r"calculator_class.*ase\.calculators\.emt\.NoSuchThing"):
        maker.compute(bulk("Cu", cubic=True))


def test_too_close_atoms_are_not_computed() -> None:
    called = []

    class Watching(EMTStaticMaker):
        def _get_calculator(self) -> Calculator:
            called.append(True)
            return EMT()

    atoms = bulk("Cu", cubic=True)
    atoms.positions[1] = atoms.positions[0] + [0.5, 0, 0]
    with pytest.raises(LabelError, match=r"Cu-Cu distance 0\.500"):
        OracleMaker(static_maker=Watching()).computed(atoms, {}, 0.0)
    assert not called


def test_what_a_candidate_carries_does_not_reach_the_oracle(tmp_cwd: Path) -> None:
    atoms = distorted(bulk("Cu", cubic=True))
    clean = OracleMaker(static_maker=EMTStaticMaker()).compute(atoms)
    atoms.info.update(origin="halted", step=3)
    atoms.arrays["gamma"] = np.ones(len(atoms))
    atoms.set_velocities(np.ones((len(atoms), 3)))
    atoms.set_initial_magnetic_moments([1.0] * len(atoms))
    label = OracleMaker(static_maker=EMTStaticMaker()).compute(atoms)
    assert label.atoms.get_potential_energy() == clean.atoms.get_potential_energy()
    assert set(label.atoms.arrays) == {"numbers", "positions"}
    assert not label.atoms.info


# ---- VASP, through atomate2's own stand-in for the executable


@pytest.fixture
def mock_vasp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    if not VASP_RUNS.is_dir():
        pytest.skip(f"there are no VASP reference runs in {VASP_RUNS}")
    yield from monkeypatch_vasp(monkeypatch, VASP_RUNS)


def label_in_loop(
    candidates: list[Atoms], maker: OracleMaker, store: JobStore, folder: Path
) -> tuple[LabelBatch, list[LabelDocument]]:
    """Label as the loop does: a proposal in the store, one job per structure, one that counts."""
    for atoms in candidates:
        atoms.info = {"origin": "halted"}
    proposal = ProposalDocument(
        uuid="proposal",
        n_candidates=len(candidates),
        origins={"halted": len(candidates)},
        seed=0,
        payload={"candidates": pack_frames(candidates)},
    )
    store.update({"uuid": "proposal", "index": 1, "output": proposal.model_dump(mode="json")})
    job = maker.make(proposal, "campaign", 1)
    run_locally(job, store=store, create_folders=True, root_dir=folder / "jobs", log=False)
    batch = LabelBatch.model_validate(store.get_output(job.uuid))
    found = store.query({"output.kind": "label"}, ["output"], sort={"output.index": 1})
    return batch, [LabelDocument.model_validate(d["output"]) for d in found]


def reference_run(name: str) -> Atoms:
    return ase.io.read(VASP_RUNS / name / "outputs" / "vasprun.xml.gz", index=-1, format="vasp-xml")


# metals-like settings of the reference runs differ from MatPES ones; their inputs are not the point here
NO_INPUT_CHECK: dict[str, Any] = {"check_inputs": ()}
RUNS = ["Si12_hot", "Si6_hot", "Si8_displaced"]


def test_vasp_labels(mock_vasp: Callable[..., None], memory_jobstore: JobStore, tmp_cwd: Path) -> None:
    names = {f"label c001 {i:03d}": run for i, run in enumerate(RUNS)}
    mock_vasp(names, dict.fromkeys(names, NO_INPUT_CHECK))
    references = [reference_run(run) for run in RUNS]
    maker = OracleMaker(static_maker=MatPesGGAStaticMaker())
    batch, labels = label_in_loop([r.copy() for r in references], maker, memory_jobstore, tmp_cwd)
    assert (batch.n_labelled, batch.failed) == (len(RUNS), [])
    for label, reference in zip(labels, references, strict=True):
        assert label.energy_kind == "free_energy"
        assert label.energy_eV == pytest.approx(reference.get_potential_energy(force_consistent=True), abs=1e-7)
        assert np.allclose(label.forces_eV_A, reference.get_forces(), rtol=0, atol=1e-7)
        assert np.allclose(label.stress_eV_A3, reference.get_stress(), rtol=0, atol=1e-6)
        assert label.atoms is not None
        assert label.atoms.numbers == reference.numbers.tolist()
        assert shift_between(label.to_atoms(), reference) < 1e-5
        assert label.oracle == "MatPesGGAStaticMaker"
    # the entropy of the smearing is in the energy whose derivative the forces are
    assert labels[0].energy_eV != pytest.approx(references[0].get_potential_energy(), abs=1e-3)


def test_vasp_label_follows_the_order_of_its_forces(
    mock_vasp: Callable[..., None], memory_jobstore: JobStore, tmp_cwd: Path
) -> None:
    """VASP input sets sort the sites; a label has to keep the order in which the forces came back."""
    reference = reference_run("Si12_hot")
    mock_vasp({"label c001 000": "Si12_hot"}, {"label c001 000": NO_INPUT_CHECK})
    shuffled = reference[np.random.default_rng(0).permutation(len(reference))]
    maker = OracleMaker(static_maker=MatPesGGAStaticMaker())
    _, (label,) = label_in_loop([shuffled], maker, memory_jobstore, tmp_cwd)
    atoms = label.to_atoms()
    for position, force in zip(atoms.positions, atoms.get_forces(), strict=True):
        away = reference.positions - position
        away -= np.round(away @ np.linalg.inv(reference.cell.array)) @ reference.cell.array
        same = int(np.linalg.norm(away, axis=1).argmin())
        assert np.allclose(force, reference.get_forces()[same], atol=1e-7)


def test_vasp_that_fails_is_a_failed_label(
    mock_vasp: Callable[..., None], memory_jobstore: JobStore, tmp_cwd: Path
) -> None:
    """One run has no reference, so its VASP 'fails'; the other is labelled all the same."""
    mock_vasp({"label c001 001": "Si6_hot"}, {"label c001 001": NO_INPUT_CHECK})
    candidates = [reference_run("Si12_hot").copy(), reference_run("Si6_hot").copy()]
    maker = OracleMaker(static_maker=MatPesGGAStaticMaker())
    batch, labels = label_in_loop(candidates, maker, memory_jobstore, tmp_cwd)
    assert (batch.n_asked, batch.n_labelled, batch.oracle_failing) == (2, 1, False)
    assert batch.failed[0].index == 0
    assert "label c001 000" in batch.failed[0].reason
    assert [label.state for label in labels] == ["failed", "successful"]


def test_vasp_result_of_another_composition_is_refused(
    mock_vasp: Callable[..., None], memory_jobstore: JobStore, tmp_cwd: Path
) -> None:
    mock_vasp({"label c001 000": "Si6_hot"}, {"label c001 000": NO_INPUT_CHECK})
    maker = OracleMaker(static_maker=MatPesGGAStaticMaker())
    batch, _ = label_in_loop([reference_run("Si12_hot").copy()], maker, memory_jobstore, tmp_cwd)
    assert batch.oracle_failing
    assert "asked for Si12, got Si6" in batch.failed[0].reason


def test_candidates_are_read_from_the_store(memory_jobstore: JobStore, tmp_cwd: Path) -> None:
    candidates = [distorted(bulk("Cu", cubic=True), seed) for seed in (1, 2)]
    batch, labels = label_in_loop(candidates, OracleMaker(static_maker=EMTStaticMaker()), memory_jobstore, tmp_cwd)
    assert batch.n_labelled == 2
    for label, atoms in zip(labels, candidates, strict=True):
        assert shift_between(label.to_atoms(), atoms) < 1e-10
        assert Path(label.directory).is_dir()


def test_missing_document_is_named(memory_jobstore: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlip_autopipec.jobs.base.current_store", lambda: memory_jobstore)
    with pytest.raises(RuntimeError, match="no-such-uuid"):
        load_document(ProposalDocument, "no-such-uuid")
